"""Groups of commands that other packages bring, by the entry points `heimdall.commands`: loaded when they are used.

The server package brings `certs`, `config` and `tokens`. Their one-line help stands here, because loading them for
`heimdall --help` would take longer than all the rest.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from heimdall_client.cli.console import err
from heimdall_client.cli.exits import ExitCode

GROUP: Final = "heimdall.commands"
SERVER_PACKAGE: Final = "heimdall_server"
KNOWN: Final = {
    "certs": "Mint, renew and show the certificates of mutual TLS.",
    "config": "Check and show a server's configuration.",
    "tokens": "Make, list and take back the tokens of callers without a certificate.",
}
PANEL: Final = "On the server's machine"


class LazyGroup(TyperCommand):
    """Stands in for a group of commands until it is used.

    Args:
        point: Where the group is.
    """

    def __init__(self, point: EntryPoint) -> None:
        super().__init__(point.name, help=KNOWN.get(point.name, f"Commands of {point.module.partition('.')[0]}."))
        self.rich_help_panel = PANEL
        self._point = point

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:  # noqa: ANN401
        """Load the group and let it go on; completion and `--help` come this way, too."""
        return self._load().make_context(info_name, args, parent=parent, **extra)

    def _load(self) -> Any:  # noqa: ANN401 - Typer's command classes have no public name
        try:
            found = self._point.load()
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            package = self._point.module.partition(".")[0]
            why = f"{missing} isn't installed" if missing else str(error)
            cure = (
                "pip install 'heimdall-mesh[server]'" if package == SERVER_PACKAGE else f"install what {package} needs"
            )
            err().print(f"error: heimdall {self.name} needs the server package: {why}", style="red", soft_wrap=True)
            err().print(f"  {cure}", soft_wrap=True)
            raise typer.Exit(ExitCode.USAGE) from error
        return get_group(found) if isinstance(found, typer.Typer) else found


def join(root: TyperGroup) -> None:
    """Add the groups that are installed; a name that is taken stays whose it is."""
    points = {point.name: point for point in entry_points(group=GROUP)}
    for name in sorted(points):
        if name not in root.commands:
            root.add_command(LazyGroup(points[name]), name)

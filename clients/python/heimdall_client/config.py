"""Where a client connects and with which certificate: files, environment, arguments.

`.heimdall/client.toml` is looked for in the working directory and upward; where there is none,
`~/.config/heimdall/client.toml` counts. One file is read, never two, so that an identity isn't put together from two
installations. The variables `HEIMDALL_ADDRESS`, `HEIMDALL_CA_FILE`, `HEIMDALL_CERT_FILE`, `HEIMDALL_KEY_FILE` replace
what the file says, and arguments replace both.
"""

from __future__ import annotations

import os
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from heimdall_client.errors import ConfigError

KEYS: Final = ("address", "ca_file", "cert_file", "key_file")
PROJECT_FILE: Final = Path(".heimdall") / "client.toml"
USER_FILE: Final = Path("heimdall") / "client.toml"


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """A connection: where to, and with which certificate."""

    address: str
    """`host:port`, any gRPC target (`dns:///host:port`), or several `host:port` with commas between."""
    ca_file: Path
    """PEM: the CA that signed the server's certificate."""
    cert_file: Path
    """PEM: the client's certificate and what leads to its CA."""
    key_file: Path
    """PEM: the certificate's private key."""
    origin: str = ""
    """Where the values came from, for people."""
    keepalive_s: float = 30.0
    """While calls run, a connection on which nothing comes is asked for a sign of life this often. Servers disconnect who
    asks much more often than they allow (`limits.client_ping_interval_s_min`, 10 s)."""
    keepalive_timeout_s: float = 10.0
    """One that doesn't answer for so long counts as broken, and its calls are resumed on another."""


def load_config(
    *,
    address: str | None = None,
    ca_file: str | Path | None = None,
    cert_file: str | Path | None = None,
    key_file: str | Path | None = None,
    config_file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> ClientConfig:
    """Find the connection's configuration and check it.

    Args:
        address: As `ClientConfig.address`; replaces what file and environment say.
        ca_file: As `ClientConfig.ca_file`; relative to `cwd`, as are the other arguments and the variables.
        cert_file: As `ClientConfig.cert_file`.
        key_file: As `ClientConfig.key_file`.
        config_file: Read this file instead of looking for one.
        environ: Instead of the process's environment.
        cwd: Instead of the process's working directory.

    Returns:
        A configuration whose files exist, are PEM, and fit one another.

    Raises:
        ConfigError: Something is missing, unknown or unusable: all problems at once, or that the file can't be read.

    Example:
        >>> from heimdall_client import ConfigError, load_config
        >>> try:
        ...     load_config(address="127.0.0.1:7443", ca_file="no.pem", cert_file="no.pem", key_file="no.pem")
        ... except ConfigError as error:
        ...     print(error.problems[0])
        ca_file: no.pem doesn't exist
    """
    environ = os.environ if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd
    problems: list[str] = []
    places = _places(cwd, environ)
    found = next((path for path in places if path.is_file()), None) if config_file is None else Path(config_file)
    values: dict[str, str] = {}
    origins: list[str] = []
    if found is not None:
        values = _read_file(found, problems)
        origins.append(str(found))
    for key in KEYS:
        variable = f"HEIMDALL_{key.upper()}"
        if environ.get(variable):
            values[key] = environ[variable] if key == "address" else str(cwd / environ[variable])
            origins.append(variable)
    for key, argument in (("address", address), ("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)):
        if argument is not None:
            values[key] = str(argument) if key == "address" else str(cwd / argument)
            origins.append(key)
    if not values and not problems:
        raise ConfigError((_nothing_found(places),))
    problems += [f"{key} is missing: set it in the file, as HEIMDALL_{key.upper()}, or pass it" for key in KEYS
                 if not values.get(key)]  # fmt: skip
    _check_files(values, cwd, problems)
    if problems:
        raise ConfigError(tuple(problems))
    return ClientConfig(
        address=values["address"],
        ca_file=Path(values["ca_file"]),
        cert_file=Path(values["cert_file"]),
        key_file=Path(values["key_file"]),
        origin=", ".join(origins),
    )


def _places(cwd: Path, environ: Mapping[str, str]) -> list[Path]:
    user = Path(environ["XDG_CONFIG_HOME"]) if environ.get("XDG_CONFIG_HOME") else _home(environ) / ".config"
    return [*(folder / PROJECT_FILE for folder in (cwd, *cwd.parents)), user / USER_FILE]


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def _read_file(path: Path, problems: list[str]) -> dict[str, str]:
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    # Alone: that the keys are missing then is no news.
    except FileNotFoundError as error:
        raise ConfigError((f"{path} doesn't exist",)) from error
    except OSError as error:
        raise ConfigError((f"{path} can't be read: {error.strerror}",)) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError((f"{path} can't be read: {error}",)) from error
    values = {}
    for key, value in raw.items():
        if key not in KEYS:
            problems.append(f"{path}: unknown key {key!r}; the keys are {', '.join(KEYS)}")
        elif not isinstance(value, str) or not value:
            problems.append(f"{path}: {key} must be a text that isn't empty")
        else:
            values[key] = value if key == "address" else str(path.parent / value)
    return values


def _nothing_found(places: list[Path]) -> str:
    looked = "\n".join(f"  {path}" for path in (places[0], places[-1]))
    variables = ", ".join(f"HEIMDALL_{key.upper()}" for key in KEYS)
    return (
        "no configuration of a Heimdall server found; looked for\n"
        f"{looked}\n"
        f"  the first also in every folder above it; then for {variables}\n"
        "`make up` starts a server here and writes the first; for a server elsewhere, let its operator run "
        "`heimdall certs issue` and name its files"
    )


def _check_files(values: dict[str, str], cwd: Path, problems: list[str]) -> None:
    before = len(problems)
    for key in KEYS[1:]:
        path = values.get(key)
        if path and not Path(path).is_file():
            problems.append(f"{key}: {_shown(path, cwd)} doesn't exist")
    if len(problems) > before or not all(values.get(key) for key in KEYS[1:]):
        return
    # gRPC says of a bad PEM file no more than "handshaker factory creation failed", and only at the first call.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(values["ca_file"])
    except (OSError, ssl.SSLError) as error:
        problems.append(f"ca_file: {_shown(values['ca_file'], cwd)} can't be read as PEM certificates: {error}")
    try:
        context.load_cert_chain(values["cert_file"], values["key_file"], password=_no_password)
    except (OSError, ValueError, ssl.SSLError) as error:
        pair = f"{_shown(values['cert_file'], cwd)} and {_shown(values['key_file'], cwd)}"
        problems.append(f"cert_file and key_file: {pair} aren't a PEM certificate and its key: {error}")


def _no_password() -> str:
    """An encrypted key must fail, not ask on the terminal."""
    return ""


def _shown(path: str, cwd: Path) -> str:
    return str(Path(path).relative_to(cwd)) if Path(path).is_relative_to(cwd) else path

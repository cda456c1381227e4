"""`heimdall certs`: mint, renew and show certificates. Needs no running server."""

from __future__ import annotations

import datetime as dt
import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from heimdall_server.crypto.certificate_files import (
    CertificateFolder,
    key_path,
    read_certificates,
    write_atomically,
)
from heimdall_server.crypto.certificates import (
    LEAF_DAYS,
    KeyPair,
    LeafNames,
    authority_trust_domain,
    fingerprint,
    leaf_names,
    mint_leaf,
    parse_ips,
    remaining_share,
)
from heimdall_server.domain.errors import ConfigurationError, InvalidArgumentError
from heimdall_server.domain.identity import SpiffeId
from heimdall_server.rpc.command_answers import Output, OutputOption, answer, errors_told

app = typer.Typer(
    name="certs",
    help="Mint, renew and show the certificates of mutual TLS.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DEFAULT_DIRECTORY: Final = Path(".heimdall/certs")
DEFAULT_TRUST_DOMAIN: Final = "heimdall.local"
DEFAULT_ADDRESS: Final = "127.0.0.1:7443"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SERVER_NAMES: Final = ("localhost",)
_SERVER_IPS: Final = ("127.0.0.1", "::1")


class Kind(StrEnum):
    """What a certificate is for."""

    CLIENT = "client"
    SERVER = "server"
    INSTANCE = "instance"


Directory = Annotated[Path, typer.Option("--dir", help="Folder of the certificates.", file_okay=False)]
Days = Annotated[int, typer.Option(min=1, max=3650, help="Days that it is valid.")]
Dns = Annotated[list[str] | None, typer.Option("--dns", help="Host name of a server; may be repeated.")]
Ip = Annotated[list[str] | None, typer.Option("--ip", help="IP address of a server; may be repeated.")]
Address = Annotated[str, typer.Option(help="Server address that goes into client.toml.")]


@app.command()
def init(
    directory: Directory = DEFAULT_DIRECTORY,
    trust_domain: Annotated[
        str, typer.Option(help="Trust domain of a new authority; one that exists keeps its own.")
    ] = DEFAULT_TRUST_DOMAIN,
    client_config: Annotated[
        Path | None, typer.Option(help="Where to write client.toml.  [default: beside the folder]")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    dns: Dns = None,
    ip: Ip = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make what is missing: the authority, the server's certificate and the admin's; renew what gets old.

    Run it as often as you like.

    Example: heimdall certs init --dns heimdall.example.org --ip 10.0.0.7
    """
    with errors_told():
        folder = CertificateFolder(directory)
        authority, made = folder.ensure_authority(trust_domain)
        domain = authority_trust_domain(authority.certificate)
        server = LeafNames(
            SpiffeId(domain, Kind.SERVER, "heimdall"),
            (*_SERVER_NAMES, *(dns or ())),
            parse_ips((*_SERVER_IPS, *(ip or ()))),
        )
        admin = LeafNames(SpiffeId(domain, Kind.CLIENT, "admin"))
        written = [folder.authority_path] if made else []
        for path, names in ((directory / "server.pem", server), (directory / "client.pem", admin)):
            if folder.ensure_leaf(path, authority, names):
                written.append(path)
        toml = client_config or directory.parent / "client.toml"
        _write_client_toml(toml, address, directory / "ca.pem", directory / "client.pem", overwrite=False)
    answer(
        output,
        {"trust_domain": domain, "written": [str(path) for path in written], "client_config": str(toml)},
        [f"{path}: written" for path in written] or [f"{directory}: all there, nothing to do"],
    )


@app.command()
def issue(
    name: Annotated[str, typer.Argument(help="Name of the holder: a-z 0-9 . _ -", show_default=False)],
    kind: Annotated[Kind, typer.Option(help="What it is for.")] = Kind.CLIENT,
    directory: Directory = DEFAULT_DIRECTORY,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to.  [default: <dir>/issued/<name>]", show_default=False)
    ] = None,
    days: Days = LEAF_DAYS,
    dns: Dns = None,
    ip: Ip = None,
    address: Address = DEFAULT_ADDRESS,
    output: OutputOption = Output.TEXT,
) -> None:
    """Issue a certificate: a folder with NAME.pem, NAME-key.pem, ca.pem and, for a client, client.toml.

    What the holder may do is up to the server's configuration (access.grants), by the URI that is shown.

    Examples: heimdall certs issue shipper · heimdall certs issue eu-1 --kind server --dns eu-1.example.org
    """
    with errors_told():
        field = "NAME"
        if not _NAME.fullmatch(name):
            raise InvalidArgumentError(field, "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first")
        if name == "ca" or name.endswith("-key"):
            raise InvalidArgumentError(field, "must not be 'ca' or end in '-key': files of those names are others")
        if kind is not Kind.CLIENT and not (dns or ip):
            field = "--dns"
            raise InvalidArgumentError(field, f"a certificate for a {kind} needs a --dns or an --ip")
        folder = CertificateFolder(directory)
        authority = _authority(folder)
        identity = SpiffeId(authority_trust_domain(authority.certificate), kind, name)
        leaf = mint_leaf(authority, LeafNames(identity, tuple(dns or ()), parse_ips(ip or ())), lifetime_days=days)
        target = out or folder.issued_path(name)
        path = target / f"{name}.pem"
        folder.write_leaf(path, leaf)
        root = target / "ca.pem"
        if root.resolve() != folder.authority_path.resolve():
            write_atomically(root, authority.certificate_pem)
        files = [path, key_path(path), root]
        if kind is Kind.CLIENT:
            files.append(target / "client.toml")
            _write_client_toml(files[-1], address, root, path, overwrite=True)
    answer(
        output,
        {"uri": str(identity), "files": [str(file) for file in files], **_facts(leaf.certificate)},
        [f"{identity}", *(f"  {file}" for file in files), f"valid until {leaf.certificate.not_valid_after_utc:%F}"],
    )


@app.command()
def renew(
    directory: Directory = DEFAULT_DIRECTORY,
    force: Annotated[bool, typer.Option("--force", help="All of them, however young.")] = False,  # noqa: FBT002 - typer
    output: OutputOption = Output.TEXT,
) -> None:
    """Renew the leaves that have less than a third of their life left. A running server takes them up by itself."""
    with errors_told():
        renewed = CertificateFolder(directory).renew(force=force)
    answer(
        output,
        {"renewed": [str(path) for path in renewed]},
        [f"{path}: renewed" for path in renewed] or ["nothing to renew"],
    )


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="PEM file of one or more certificates.", show_default=False)],
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what certificates say: holder, serial number (for the deny list), addresses, end."""
    with errors_told():
        facts = [_facts(certificate) for certificate in read_certificates(file)]
    lines = []
    for number, fact in enumerate(facts):
        if number:
            lines.append("")
        lines.extend(
            f"{key:<12} {', '.join(value) if isinstance(value, list) else value}" for key, value in fact.items()
        )
    answer(output, {"certificates": facts}, lines)


def _authority(folder: CertificateFolder) -> KeyPair:
    """The authority that signs; where there is none, the folder is probably another one."""
    missing = [path for path in (folder.authority_path, key_path(folder.authority_path)) if not path.exists()]
    if missing:
        problem = (
            f"{missing[0]}: No such file or directory; name the folder of the authority with --dir, or make one with "
            "`heimdall certs init`"
        )
        raise ConfigurationError((problem,))
    return folder.authority()


def _facts(certificate: x509.Certificate) -> dict[str, Any]:
    facts: dict[str, Any] = {"subject": certificate.subject.rfc4514_string()}
    try:
        names = leaf_names(certificate)
    except InvalidArgumentError:
        facts["uri"] = ""
    else:
        facts["uri"] = str(names.identity)
        facts["dns"] = list(names.dns)
        facts["ip"] = [str(address) for address in names.ips]
    key = certificate.public_key()
    facts["key"] = f"ECDSA {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else "not ECDSA"
    facts["serial"] = f"{certificate.serial_number:x}"
    facts["fingerprint"] = fingerprint(certificate)
    facts["issuer"] = certificate.issuer.rfc4514_string()
    facts["begin"] = certificate.not_valid_before_utc.isoformat()
    facts["end"] = certificate.not_valid_after_utc.isoformat()
    facts["left"] = f"{remaining_share(certificate, now=dt.datetime.now(dt.UTC)):.0%}"
    return facts


def _write_client_toml(path: Path, address: str, root: Path, certificate: Path, *, overwrite: bool) -> None:
    """Write the settings that a client starts from; its paths are relative to the file."""
    if path.exists() and not overwrite:
        return
    values = {
        "address": address,
        "ca_file": _relative(root, path.parent),
        "cert_file": _relative(certificate, path.parent),
        "key_file": _relative(key_path(certificate), path.parent),
    }
    # A JSON string is a TOML string.
    text = "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    write_atomically(path, text.encode())


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)

"""The configuration: one validated root over the leaves that stand beside the code they configure.

From, the later winning: defaults, the profile, a TOML file, `HEIMDALL_` variables (`__` nests:
`HEIMDALL_JOURNAL__BYTES_MAX`). Everything that is wrong is told at once. Secrets come by file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tomli_w
from cryptography import x509
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from heimdall_server.crypto.certificates import authority_trust_domain
from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.domain.datasets import DEFAULT_DATASETS, Dataset
from heimdall_server.domain.errors import ConfigurationError, HeimdallError
from heimdall_server.edge.config import HttpConfig
from heimdall_server.edge.syslog.config import SyslogConfig
from heimdall_server.projections.graph.config import GraphConfig, WarninglistsConfig
from heimdall_server.projections.graph.hunt_config import HuntConfig
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.protect.names_config import NamesConfig
from heimdall_server.protect.policy import ALL_ACTIONS, DEFAULT_PREFIXES, PrivacyPolicy
from heimdall_server.rpc.limits import RpcLimits
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.rpc.server import ListenConfig
from heimdall_server.rpc.tls_files import TlsConfig
from heimdall_server.services.ingest.logic.pipeline import PipelineLimits
from heimdall_server.services.privacy.logic.limits import PrivacyLimits
from heimdall_server.services.query.logic.admission import AdmissionLimits
from heimdall_server.storage.journal.config import JournalConfig
from heimdall_server.storage.postgres.config import PostgresConfig

DATA_DIR: Final = Path(".heimdall")
CONFIG_FILE: Final = "heimdall.toml"
SERVICES: Final = ("ingest", "query", "admin", "privacy")
REDACTED: Final = "[redacted]"
_PROFILES: Final[Mapping[str, Mapping[str, Any]]] = {
    "dev": {"journal": {"disk_reserve_bytes": 512 * 1024 * 1024}},
    "staging": {},
    "prod": {"log_level": "INFO"},
}


def _told(value: Any, check: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - whatever the file holds
    """Let a leaf's own error join the others."""
    try:
        return check(value)
    except ConfigurationError as error:
        raise ValueError("\n".join(error.problems)) from error
    except HeimdallError as error:
        raise ValueError(str(error)) from error


_Told: Final = WrapValidator(_told)


@dataclasses.dataclass(frozen=True, slots=True)
class IngestConfig:
    """Ingest."""

    pipeline: PipelineLimits = dataclasses.field(default_factory=PipelineLimits)
    """How much is decoded together."""
    source_count_max: int = 10_000
    """Sources whose state is remembered; the one that was quiet longest is forgotten first."""
    dead_letter_bytes: Literal["keep", "drop"] = "keep"
    """Whether bytes of what can't be decoded are kept (protected, encrypted, in the journal) so that it can be retried."""
    otlp_dataset: str = "logs"
    """Dataset of records that come by OTLP."""


@dataclasses.dataclass(frozen=True, slots=True)
class WarmConfig:
    """The warm store."""

    engine: Literal["chdb", "clickhouse"] = "chdb"
    """`chdb`: inside this process, in `data_dir`. `clickhouse`: a server, over HTTP."""
    database: str = "heimdall"
    memory_bytes_max: int = 4 * 1024 * 1024 * 1024
    """All that chDB may use, caches and merges included."""
    encrypted: bool = True
    """chDB encrypts what it writes (AES-256-CTR under a key of the keyring), where the folder is made with it: an older one stays as it
    is. False where the volume is encrypted anyway."""
    query_connections: int = 10
    """Queries that run at once in the engine: no fewer than `admission` lets in, history included."""
    text_index: bool = True
    """Index the words of bodies. False: no dataset does, whatever its own setting says. An existing table is changed at
    the start: an index is dropped at once, a new one is built in the background."""
    host: str = ""
    """Of a ClickHouse server."""
    port: int = 8443
    username: str = "default"
    password_file: Path | None = None
    """File with the password and nothing else."""
    secure: bool = True
    """TLS to the ClickHouse server."""
    ca_file: str = ""
    read: ReadLimits = dataclasses.field(default_factory=ReadLimits)
    """How large the pieces are that go into the store, and how long one waits to be full."""

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            ConfigurationError: A server is wanted and none is named.
        """
        if self.engine == "clickhouse" and not self.host:
            raise ConfigurationError(("warm.host: names the ClickHouse server that warm.engine asks for",))


@dataclasses.dataclass(frozen=True, slots=True)
class RetentionConfig:
    """How datasets are forgotten."""

    check_s: float = 300.0
    """How often."""


@dataclasses.dataclass(frozen=True, slots=True)
class KeysConfig:
    """The key that everything at rest is encrypted under."""

    file: Path | None = None
    """Key file; default: `keys/root.key` in `data_dir`, made at the first start and never again."""
    value: SecretStr | None = None
    """The key itself, for secret stores that give variables (`HEIMDALL_KEYS__VALUE`); wins over the file."""
    kek: Annotated[KekConfig, _Told] | None = None
    """The key-encryption key where it is neither of the above: a service's."""
    next: Annotated[KekConfig, _Told] | None = None
    """The key-encryption key that `heimdall keys rotate kek` goes over to."""

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            ConfigurationError: The key is named twice, or the next one is the present one.
        """
        problems = []
        if self.value is not None and self.kek is not None:
            problems.append("keys.value: keys.kek names the key; leave one of them out")
        if self.next is not None and self.next == self.in_use:
            problems.append("keys.next: is the key of now; name another one or leave it out")
        if problems:
            raise ConfigurationError(tuple(problems))

    @property
    def in_use(self) -> KekConfig:
        """The key-encryption key of now."""
        if self.kek is not None:
            return self.kek
        return KekConfig("env", value=self.value) if self.value is not None else KekConfig("file", file=self.file)


# A key that a leaf doesn't know is a mistake of the operator's, not something to pass over.
for _leaf in (
    AccessPolicy,
    AdmissionLimits,
    Dataset,
    GraphConfig,
    HttpConfig,
    HuntConfig,
    IngestConfig,
    JournalConfig,
    KekConfig,
    KeysConfig,
    ListenConfig,
    NamesConfig,
    PipelineLimits,
    PostgresConfig,
    PrivacyLimits,
    ReadLimits,
    RetentionConfig,
    RpcLimits,
    SyslogConfig,
    TlsConfig,
    WarmConfig,
    WarninglistsConfig,
):
    setattr(_leaf, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010 - pydantic's hook, not the leaf's


_PRIVACY_KEYS: Final = frozenset({"version", "rules", "thorough", "ip_prefixes"})


def _read(text: str) -> Any:  # noqa: ANN401 - whatever it holds
    try:
        return json.loads(text)
    except ValueError:
        return text


def _tables_read(value: Any) -> Any:  # noqa: ANN401 - whatever the file or the environment holds
    """Lists and tables of variables, as HEIMDALL_GRAPH__SOURCES: they are JSON."""
    if isinstance(value, Mapping):
        return {key: _tables_read(one) for key, one in value.items()}
    return _read(value) if isinstance(value, str) and value[:1] in ("[", "{") else value


def _privacy(value: Any) -> Any:  # noqa: ANN401 - whatever the file holds
    if isinstance(value, PrivacyPolicy):
        return value
    if not isinstance(value, Mapping) or set(value) - _PRIVACY_KEYS:
        raise ValueError("takes `version`, `rules`, `thorough` and `ip_prefixes`")
    # Variables of the environment, as HEIMDALL_PRIVACY__THOROUGH, are JSON here as elsewhere.
    value = {key: _read(one) if isinstance(one, str) else one for key, one in value.items()}
    if not isinstance(value.get("thorough", False), bool):
        raise ValueError("thorough: must be true or false")  # noqa: TRY004 - what pydantic tells with all the others
    return _told(
        value,
        lambda raw: PrivacyPolicy.parse(
            raw.get("rules", []),
            version=int(raw.get("version", 1)),
            actions=ALL_ACTIONS,
            thorough=raw.get("thorough", True),
            ip_prefixes=raw.get("ip_prefixes", DEFAULT_PREFIXES),
        ),
    )


class Config(BaseSettings):
    """The whole configuration of a server process."""

    model_config = SettingsConfigDict(
        env_prefix="HEIMDALL_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        toml_file=None,
    )

    profile: Literal["dev", "staging", "prod"] = "dev"
    """Which set of defaults to start from."""
    data_dir: Path = DATA_DIR
    """Where everything is kept: journal, store, keys, certificates."""
    services: tuple[Literal["ingest", "query", "admin", "privacy", "graph"], ...] = SERVICES
    """Services that this process runs. Without `privacy`, which needs PostgreSQL (started as a child unless one is configured),
    personal values are masked for good instead of tokenised. `graph` needs `privacy`: what records hold becomes entities and sightings."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    metrics_address: str = "127.0.0.1:9464"
    """`host:port` on loopback; empty: no metrics."""
    listen: Annotated[ListenConfig, _Told] = Field(default_factory=ListenConfig)
    tls: Annotated[TlsConfig, _Told]
    access: Annotated[AccessPolicy, _Told]
    http: Annotated[HttpConfig, _Told] = Field(default_factory=HttpConfig)
    syslog: Annotated[SyslogConfig, _Told] = Field(default_factory=SyslogConfig)
    limits: Annotated[RpcLimits, _Told] = Field(default_factory=RpcLimits)
    keys: Annotated[KeysConfig, _Told] = Field(default_factory=KeysConfig)
    journal: Annotated[JournalConfig, _Told]
    ingest: Annotated[IngestConfig, _Told] = Field(default_factory=IngestConfig)
    warm: Annotated[WarmConfig, _Told] = Field(default_factory=WarmConfig)
    admission: Annotated[AdmissionLimits, _Told] = Field(default_factory=AdmissionLimits)
    retention: Annotated[RetentionConfig, _Told] = Field(default_factory=RetentionConfig)
    privacy_limits: Annotated[PrivacyLimits, _Told] = Field(default_factory=PrivacyLimits)
    privacy_names: Annotated[NamesConfig, _Told] = Field(default_factory=NamesConfig)
    privacy: Annotated[PrivacyPolicy, BeforeValidator(_privacy)] = Field(default_factory=PrivacyPolicy)
    postgres: Annotated[PostgresConfig, _Told] = Field(default_factory=PostgresConfig)
    graph: Annotated[GraphConfig, _Told, BeforeValidator(_tables_read)] = Field(default_factory=GraphConfig)
    datasets: dict[str, Annotated[Dataset, _Told]]

    @field_validator("services")
    @classmethod
    def _graph_has_keys(cls, services: tuple[str, ...]) -> tuple[str, ...]:
        if "graph" in services and "privacy" not in services:
            raise ValueError('"graph" needs "privacy" beside it, which has the keys and the PostgreSQL')
        return services

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Add what follows from other values: paths from `data_dir`, names from keys, the profile's defaults."""
        raw = dict(raw)
        for section, values in _PROFILES.get(str(raw.get("profile", "dev")), {}).items():
            raw[section] = (
                {**values, **raw.get(section, {})} if isinstance(values, Mapping) else raw.get(section, values)
            )
        data_dir = Path(raw.get("data_dir", DATA_DIR))
        certs = data_dir / "certs"
        raw["journal"] = {"path": data_dir / "journal", **raw.get("journal", {})}
        tls = {
            "certificate_file": certs / "server.pem",
            "key_file": certs / "server-key.pem",
            **raw.get("tls", {}),
        }
        if "trust" not in tls and (certs / "ca.pem").is_file():
            tls["trust"] = {_trust_domain(certs / "ca.pem"): certs / "ca.pem"}
        raw["tls"] = tls
        if "access" not in raw:
            domains = list(tls.get("trust", {})) or ["heimdall.local"]
            default = AccessPolicy.default(domains[0])
            raw["access"] = {"grants": dict(default.grants), "roles": dict(default.roles)}
        named = raw.get("datasets", {})
        datasets = {one.name: dataclasses.asdict(one) for one in DEFAULT_DATASETS}
        if isinstance(named, Mapping):
            for name, values in named.items():
                datasets[name] = {**datasets.get(name, {}), "name": name, **values}
        raw["datasets"] = datasets
        return raw

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables win over the file, whose values are given to the constructor."""
        return env_settings, init_settings

    @property
    def key_file(self) -> Path:
        """Where the root key is."""
        return self.keys.file or self.data_dir / "keys" / "root.key"

    def to_toml(self) -> str:
        """The configuration in force, secrets redacted."""
        values = _plain(self.model_dump(mode="python"))
        for rule in values["privacy"]["rules"]:
            rule["class"] = rule.pop("data_class")
        return tomli_w.dumps(values)


def _trust_domain(path: Path) -> str:
    return authority_trust_domain(x509.load_pem_x509_certificate(path.read_bytes()))


def load(path: Path | None = None, **overrides: object) -> tuple[Config, tuple[str, ...]]:
    """Read the configuration.

    Args:
        path: TOML file; None: `HEIMDALL_CONFIG`, else `heimdall.toml` in the data folder if there is one.
        overrides: Values of the command line; they win over the file, variables win over them. None: not given.

    Returns:
        The configuration, and the files it was read from.

    Raises:
        ConfigurationError: With every problem.
    """
    named = path or (Path(os.environ["HEIMDALL_CONFIG"]) if "HEIMDALL_CONFIG" in os.environ else None)
    given = {name: value for name, value in overrides.items() if value is not None}
    data_dir = Path(os.environ.get("HEIMDALL_DATA_DIR", str(given.get("data_dir", DATA_DIR))))
    file = named or data_dir / CONFIG_FILE
    values: dict[str, Any] = {}
    if named is not None or file.is_file():
        try:
            values = tomllib.loads(file.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError((f"{file}: {error}",)) from error
    strangers = _unknown_variables()
    try:
        config = Config(**{**values, **given})
    except ValidationError as error:
        raise ConfigurationError((*_problems(error), *strangers)) from error
    except HeimdallError as error:
        raise ConfigurationError((str(error),)) from error
    if strangers:
        raise ConfigurationError(tuple(strangers))
    return config, (str(file),) if values else ()


def _unknown_variables() -> list[str]:
    """Nested variables whose section doesn't exist: a slip of the pen that would otherwise change nothing."""
    prefix, separator = "HEIMDALL_", "__"
    return [
        f"{name}: there is no section {section.lower()!r}; sections are {', '.join(sorted(Config.model_fields))}"
        for name in sorted(os.environ)
        if name.startswith(prefix) and separator in name
        for section in [name.removeprefix(prefix).split(separator, 1)[0]]
        if section.lower() not in Config.model_fields
    ]


def _problems(error: ValidationError) -> list[str]:
    problems = []
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        place = ".".join(str(part) for part in one["loc"] if not str(part).startswith("function-"))
        text = one["msg"].removeprefix("Value error, ")
        problems += [line if line.startswith(place) else f"{place}: {line}" for line in text.splitlines()]
    return problems


def _plain(value: Any) -> Any:  # noqa: ANN401 - any leaf
    """What TOML can say; None is left out."""
    if isinstance(value, SecretStr):
        return REDACTED
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value if one is not None]
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, bool | int | float | str) else str(value)

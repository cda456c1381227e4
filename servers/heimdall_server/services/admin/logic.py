"""What an operator sees: how the instance is, what its datasets hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from heimdall_server.domain.datasets import Dataset
from heimdall_server.domain.errors import HeimdallError
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Journal
from heimdall_server.ports.log_store import LogStore
from heimdall_server.services.admin.model import (
    DatasetState,
    Health,
    IngestState,
    ProjectionState,
    Status,
    StoreState,
)


class Instance(Protocol):
    """The running process, as this service sees it."""

    version: str
    start_time_ns: int

    def services(self) -> Mapping[str, Health]:
        """Each service and its health."""
        ...

    def projections(self) -> Sequence[ProjectionState]:
        """Each projection."""
        ...

    def ingest(self) -> IngestState | None:
        """Ingest's counts, if it runs here."""
        ...

    def watch_count(self) -> int:
        """Watches that run."""
        ...

    def resident_bytes(self) -> int:
        """Memory of the process."""
        ...

    def certificate_expire_ns(self) -> int:
        """When the server's certificate ends."""
        ...

    def notices(self) -> Sequence[str]:
        """What is off, and why."""
        ...


class AdminUseCase:
    """See the module."""

    def __init__(
        self,
        *,
        instance: Instance,
        journal: Journal,
        store: LogStore,
        engine: str,
        datasets: Mapping[str, Dataset],
        clock: Clock,
        config_toml: Callable[[], tuple[str, int, Sequence[str]]],
    ) -> None:
        self._instance = instance
        self._journal = journal
        self._store = store
        self._engine = engine
        self._datasets = datasets
        self._clock = clock
        self.config_toml = config_toml
        """The configuration in force (secrets redacted), its version, and the files it was read from."""

    async def status(self) -> Status:
        """How the instance is; a part that can't answer is reported, not raised."""
        instance = self._instance
        return Status(
            instance_id=self._journal.journal_id,
            version=instance.version,
            start_time_ns=instance.start_time_ns,
            services=instance.services(),
            stores=[await self._store_state()],
            journal=self._journal.state(),
            projections=instance.projections(),
            ingest=instance.ingest(),
            watch_count=instance.watch_count(),
            resident_bytes=instance.resident_bytes(),
            certificate_expire_ns=instance.certificate_expire_ns(),
            notices=instance.notices(),
        )

    async def _store_state(self) -> StoreState:
        try:
            usage = await self._store.usage()
        except HeimdallError:
            return StoreState(self._store.name, self._engine, Health.NOT_SERVING, "it doesn't answer", 0, 0)
        return StoreState(
            self._store.name,
            self._engine,
            Health.SERVING,
            "",
            sum(one.record_count for one in usage),
            sum(one.size_bytes for one in usage),
        )

    async def datasets(self) -> list[DatasetState]:
        """Every configured dataset, by name.

        Raises:
            StoreError: The store can't say what it holds.
        """
        usage = {one.dataset: one for one in await self._store.usage()}
        return [DatasetState(self._datasets[name], usage.get(name)) for name in sorted(self._datasets)]

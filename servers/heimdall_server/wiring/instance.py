"""The running process, as the admin service and the metrics see it."""

from __future__ import annotations

import enum
import resource
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from prometheus_client import Gauge

from heimdall_server.ports.journal import Journal
from heimdall_server.projections.warm import WarmProjection
from heimdall_server.rpc.tls_files import TlsFiles
from heimdall_server.services.admin.model import Health, IngestState, ProjectionState
from heimdall_server.services.ingest.logic.append import AppendUseCase
from heimdall_server.services.ingest.logic.state import IngestState as IngestControl
from heimdall_server.services.query.logic.watch.stream import WatchUseCase

if TYPE_CHECKING:
    from heimdall_server.storage.postgres.opening import Postgres

LAG_DEGRADED_S: Final = 30.0
"""A projection that is further behind makes the query service degraded."""

_LAG_SECONDS: Final = Gauge("heimdall_projection_lag_seconds", "Age of the oldest frame not applied", ["projection"])
_LAG_FRAMES: Final = Gauge("heimdall_projection_lag_frames", "Durable frames not applied", ["projection"])
_APPLIED: Final = Gauge("heimdall_projection_applied_position", "Last position applied", ["projection"])
_HEAD: Final = Gauge("heimdall_journal_head_position", "Last durable position")
_JOURNAL_BYTES: Final = Gauge("heimdall_journal_bytes", "Bytes of the journal on disk")
_JOURNAL_FRAMES: Final = Gauge("heimdall_journal_frames", "Frames that the journal holds")
_LETTERS: Final = Gauge("heimdall_ingest_dead_letters", "Dead letters held")
_WATCHES: Final = Gauge("heimdall_watches", "Watches that run")
_RESIDENT: Final = Gauge("heimdall_process_resident_bytes", "Resident memory of the process")


class Progress(Protocol):
    """How far a projection has come that may be left behind."""

    @property
    def state(self) -> enum.StrEnum:
        """Whether it runs."""
        ...

    @property
    def applied(self) -> int:
        """Last position that it has applied, of shard 0."""
        ...

    @property
    def lag_positions(self) -> int:
        """Durable frames that it hasn't applied."""
        ...

    @property
    def lag_s(self) -> float:
        """Age of the oldest of them."""
        ...

    @property
    def problem(self) -> str:
        """Its last failure; empty: it works."""
        ...

    @property
    def notice(self) -> str:
        """What an operator should know; empty: nothing."""
        ...


class RunningInstance:
    """See the module; implements the admin service's `Instance`."""

    def __init__(
        self,
        *,
        start_time_ns: int,
        services: Callable[[], Sequence[str]],
        journal: Journal,
        warm: WarmProjection,
        control: IngestControl,
        append: AppendUseCase | None,
        watch: WatchUseCase | None,
        tls: TlsFiles,
        optional: Mapping[str, Callable[[], Progress]],
        postgres: Postgres | None,
        notices: Sequence[str],
    ) -> None:
        self.version = version("heimdall-mesh")
        self.start_time_ns = start_time_ns
        self._services = services
        self._journal = journal
        self._warm = warm
        self._control = control
        self._append = append
        self._watch = watch
        self._tls = tls
        self._optional = optional
        self._postgres = postgres
        self._notices = notices

    def services(self) -> Mapping[str, Health]:
        """See `Instance`."""
        progress = self._warm.progress
        degraded = progress.state.value == "failed" or progress.lag_s > LAG_DEGRADED_S or progress.records_gone
        return {
            name: Health.DEGRADED if degraded and "QueryService" in name else Health.SERVING
            for name in self._services()
        }

    def projections(self) -> Sequence[ProjectionState]:
        """See `Instance`."""
        progress = self._warm.progress
        states = [
            ProjectionState(
                name="warm",
                required=True,
                state=progress.state.value,
                applied=progress.visible_through,
                lag_frames=progress.lag_positions,
                lag_s=progress.lag_s,
                problem=progress.problem,
            )
        ]
        for name, progress_of in self._optional.items():
            other = progress_of()
            states.append(
                ProjectionState(
                    name=name,
                    required=False,
                    state=other.state.value,
                    applied={0: other.applied},
                    lag_frames=other.lag_positions,
                    lag_s=other.lag_s,
                    problem=other.problem,
                )
            )
        return states

    def ingest(self) -> IngestState | None:
        """See `Instance`."""
        if self._append is None:
            return None
        return IngestState(
            accepted_count=self._control.counts.accepted,
            rejected_count=self._control.counts.rejected,
            dead_letter_count=len(self._control.letters),
            stream_count=self._append.stream_count,
            source_count=len(self._control.sources),
        )

    def watch_count(self) -> int:
        """See `Instance`."""
        return self._watch.watch_count if self._watch is not None else 0

    def resident_bytes(self) -> int:
        """See `Instance`."""
        return resident_bytes()

    def certificate_expire_ns(self) -> int:
        """See `Instance`."""
        return int(self._tls.current.certificate.not_valid_after_utc.timestamp()) * 1_000_000_000

    def notices(self) -> Sequence[str]:
        """See `Instance`."""
        found = [self._warm.progress.notice, *(progress_of().notice for progress_of in self._optional.values())]
        if self._postgres is not None:
            found.append(self._postgres.notice)
        return [*self._notices, *filter(None, found)]

    def publish_gauges(self) -> None:
        """Let the metrics read from here; they are computed when they are asked for."""
        warm, journal = self._warm, self._journal
        _LAG_SECONDS.labels("warm").set_function(lambda: warm.progress.lag_s)
        _LAG_FRAMES.labels("warm").set_function(lambda: warm.progress.lag_positions)
        _APPLIED.labels("warm").set_function(lambda: warm.visible_through.get(0, 0))
        for name, progress_of in self._optional.items():
            _publish(name, progress_of)
        _HEAD.set_function(lambda: journal.head().get(0, 0))
        _JOURNAL_BYTES.set_function(lambda: journal.state().size_bytes)
        _JOURNAL_FRAMES.set_function(lambda: journal.state().frame_count)
        _LETTERS.set_function(lambda: len(self._control.letters))
        _WATCHES.set_function(self.watch_count)
        _RESIDENT.set_function(resident_bytes)


def _publish(name: str, progress_of: Callable[[], Progress]) -> None:
    _LAG_SECONDS.labels(name).set_function(lambda: progress_of().lag_s)
    _LAG_FRAMES.labels(name).set_function(lambda: progress_of().lag_positions)
    _APPLIED.labels(name).set_function(lambda: progress_of().applied)


def resident_bytes() -> int:
    """Resident memory of this process; where the system doesn't tell, the highest it ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()

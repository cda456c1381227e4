"""What a server costs that nobody asks anything, and what its store weighs when the merges are done."""

from __future__ import annotations

import time
from typing import Final

from heimdall.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from tests.bench.instance import Instance

_CALM_SHARE: Final = 0.02
_STEP_S: Final = 1.0


def idle_share(instance: Instance, seconds: float, *, calm_within_s: float) -> float:
    """Share of a core, once what was left to merge is merged."""
    _wait_until_calm(instance, calm_within_s)
    cpu_s, started = instance.cpu_s(), time.monotonic()
    time.sleep(seconds)
    return (instance.cpu_s() - cpu_s) / (time.monotonic() - started)


def settled_bytes_per_row(instance: Instance, calm_within_s: float) -> float:
    """Bytes at rest of a record in the warm store, merges done if they are done in time."""
    _wait_until_calm(instance, calm_within_s)
    with instance.channel() as channel:
        status = admin_service_pb2_grpc.AdminServiceStub(channel).GetStatus(
            admin_service_pb2.GetStatusRequest(), timeout=30
        )
    (store,) = status.stores
    return store.size_bytes / max(store.record_count, 1)


def _wait_until_calm(instance: Instance, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        cpu_s = instance.cpu_s()
        time.sleep(_STEP_S)
        if (instance.cpu_s() - cpu_s) / _STEP_S < _CALM_SHARE:
            return

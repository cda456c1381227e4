"""The engine's allocator is told before the engine is loaded, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import chdb  # noqa: F401 - so that it is loaded here
import pytest

from heimdall_server.wiring import allocators


def test_it_is_told_before_the_engine_is_loaded_or_not_at_all() -> None:
    with pytest.raises(RuntimeError, match="before chdb"):
        allocators.prepare({})
    program = (
        "from heimdall_server.wiring import allocators; import os, sys; allocators.prepare(); "
        "print('chdb' in sys.modules, os.environ[allocators.VARIABLE])"
    )
    clean = {key: value for key, value in os.environ.items() if key != allocators.VARIABLE}
    clean["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", program], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", allocators.SETTINGS]


def test_what_an_operator_set_stays() -> None:
    environment = {allocators.VARIABLE: "dirty_decay_ms:0"}
    allocators.prepare(environment)
    assert environment == {allocators.VARIABLE: "dirty_decay_ms:0"}

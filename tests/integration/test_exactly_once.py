"""kill -9 of the projection into the warm store: between every two steps, and in the middle of inserts."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STEPS_MAX = 60


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.warm_process", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=60)
    return output.splitlines()


def assert_exactly_once(found: dict[str, Any], expected: int) -> None:
    assert found == {
        "expected": expected,
        "records": expected,
        "distinct": expected,
        "rollups_match": True,
        "counted": expected,
    }


@pytest.mark.timeout(240)
def test_kill_between_any_two_steps_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    assert finish(start("fill", str(tmp_path), "3", "200")) == []
    seen: set[str] = set()
    # Each process dies one step later than the one before it, so whatever a step leaves behind is found by a
    # recovery that itself is cut short somewhere else.
    for last_step in range(1, STEPS_MAX):
        process = start("run", str(tmp_path), str(last_step))
        lines = finish(process)
        seen.update(line.removeprefix("step ") for line in lines if line.startswith("step "))
        if process.returncode == 0:
            break
        assert process.returncode == -9, lines
    else:
        pytest.fail("the projection never got to its end")
    assert_exactly_once(json.loads(lines[-1]), 600)
    for name in ("logs", "dumps"):
        assert {f"insert records {name} 0", f"insert rollup {name} by_host", f"clear rollup {name} by_host"} <= seen
        assert any(step.startswith(f"delete records {name}") for step in seen)
    assert {"intent", "insert", "recover", "checkpoint", "advanced"} <= seen


@pytest.mark.timeout(240)
def test_kill_in_the_middle_of_an_insert_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    assert finish(start("fill", str(tmp_path), "8", "10000")) == []
    chance = random.SystemRandom()
    for _ in range(4):
        process = start("run", str(tmp_path))
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step insert records"):
                break
        killer = threading.Timer(chance.uniform(0.0, 0.4), process.kill)
        killer.start()
        finish(process)
        killer.join()
    lines = finish(start("run", str(tmp_path)))
    assert_exactly_once(json.loads(lines[-1]), 80_000)

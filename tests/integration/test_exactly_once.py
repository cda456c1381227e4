"""kill -9 of the projection into the warm store: between every two steps, and in the middle of inserts."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STEPS_MAX = 60


# Arrow looks at pandas where that is installed, which takes longer than everything else a process does here.
PROGRAM = """
import runpy, sys
class WithoutPandas:
    def find_spec(self, name, *_):
        if name == "pandas":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, WithoutPandas())
runpy.run_module("tests.support.warm_process", run_name="__main__")
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
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


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of one batch: both datasets, two days."""
    directory = tmp_path_factory.mktemp("filled")
    assert finish(start("fill", str(directory), "3", "200")) == []
    return directory


def die_and_recover(directory: Path, last_step: int) -> tuple[int, list[str]]:
    """Die at a step; start again and tell what is there."""
    process = start("run", str(directory), str(last_step))
    steps = finish(process)
    if process.returncode == 0:
        return 0, steps
    again = start("run", str(directory))
    lines = finish(again)
    assert again.returncode == 0
    assert_exactly_once(json.loads(lines[-1]), 600)
    return process.returncode, steps


@pytest.mark.timeout(240)
def test_kill_between_any_two_steps_of_a_batch_loses_nothing_and_doubles_nothing(tmp_path: Path, journal: Path) -> None:
    process = start("run", str(shutil.copytree(journal, tmp_path / "whole")))
    steps = [line for line in finish(process) if line.startswith("step ")]
    assert {"step intent", "step insert records logs 0", "step insert rollup dumps by_host", "step advanced"} <= set(
        steps
    )
    with ThreadPoolExecutor(2) as pool:
        copies = [shutil.copytree(journal, tmp_path / str(number)) for number in range(len(steps))]
        outcomes = list(pool.map(die_and_recover, copies, range(1, len(steps) + 1)))
    for number, (returncode, seen) in enumerate(outcomes, 1):
        assert (returncode, seen) == (-9, steps[:number])


@pytest.mark.timeout(240)
def test_kill_between_steps_of_a_recovery_loses_nothing_and_doubles_nothing(tmp_path: Path, journal: Path) -> None:
    directory = shutil.copytree(journal, tmp_path / "journal")
    seen: set[str] = set()
    # Each process dies some steps later than the one before it, so that what one leaves behind is found by a
    # recovery that is itself cut short somewhere else.
    for last_step in range(4, STEPS_MAX, 3):
        process = start("run", str(directory), str(last_step))
        lines = finish(process)
        seen.update(line.removeprefix("step ") for line in lines if line.startswith("step "))
        if process.returncode == 0:
            break
        assert process.returncode == -9, lines
    else:
        pytest.fail("the projection never got to its end")
    assert_exactly_once(json.loads(lines[-1]), 600)
    assert {"recover", "count logs", "clear rollup logs by_host", "count rollup dumps by_service"} <= seen
    assert any(step.startswith("delete records logs") for step in seen)


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


@pytest.mark.parametrize(
    ("how", "last_step", "told"),
    [("believes_its_intent", "insert", "records"), ("inserts_again", "checkpoint", "records")],
)
def test_a_projection_is_found_out_that(tmp_path: Path, journal: Path, how: str, last_step: str, told: str) -> None:
    directory = shutil.copytree(journal, tmp_path / "journal")
    finish(start("run", str(directory), last_step))
    found = json.loads(finish(start("run", str(directory), "0", how))[-1])
    with pytest.raises(AssertionError, match=told):
        assert_exactly_once(found, 600)
    assert (found["records"] < 600) == (how == "believes_its_intent")

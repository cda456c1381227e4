"""Fuzz: `python -m tests.fuzz [--seconds 120] [target …]`. Each target has its share of the time, in a process of its own.

What breaks a target is written into `corpus/<target>/`, to be committed with its mend; `.fuzz/<target>/` keeps what
reaches new code, so that the next run goes on from there.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CORPUS: Final = Path(__file__).parent / "corpus"
SCRATCH: Final = ROOT / ".fuzz"
HANG_S: Final = 10
"""One input takes no longer."""
INPUT_BYTES_MAX: Final = 4096
MEMORY_MB: Final = 4096
START_S: Final = 300
"""Loading everything with the fuzzer's counters in it, on a machine that does other things, too."""


def fuzz(target: str, seconds: int, seed: int) -> None:
    """Fuzz one target in this process; libFuzzer ends the process."""
    atheris = importlib.import_module("atheris")
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["heimdall_server", "heimdall_client"]):
        targets = importlib.import_module("tests.fuzz.targets")
    found, scratch = CORPUS / target, SCRATCH / target
    found.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    dictionary = Path(__file__).parent / f"{target}.dict"
    arguments = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-timeout={HANG_S}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
        *([f"-dict={dictionary}"] if dictionary.exists() else []),
        str(scratch),
        str(found),
    ]
    atheris.Setup([target, *arguments], targets.TARGETS[target])
    atheris.Fuzz()


def main() -> int:
    """See the module; returns how many targets broke."""
    names = sorted(path.name for path in CORPUS.iterdir())
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0, help="of the same inputs again, in their order; 0: new ones")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", help=f"some of: {', '.join(names)}")
    arguments = parser.parse_args()
    targets = arguments.targets or names
    if arguments.one:
        fuzz(targets[0], arguments.seconds, arguments.seed)
        return 0
    share = max(5, arguments.seconds // len(targets))
    broken = []
    for target in targets:
        print(f"{target}: {share} s", flush=True)  # noqa: T201 - a command
        options = ["--seconds", str(share), "--seed", str(arguments.seed)]
        command = [sys.executable, "-m", "tests.fuzz", "--one", *options, target]
        # Small inputs: waking a pool of threads for each would take longer than they do.
        environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, check=False, timeout=3 * share + START_S
        )
        lines = done.stderr.decode("utf-8", "replace").splitlines()
        if done.returncode:
            broken.append(target)
            print("\n".join(line for line in lines if not line.startswith(("#", "INFO", "stat::"))))  # noqa: T201
        else:
            print("\n".join(line for line in lines if "number_of_executed_units" in line))  # noqa: T201
    if broken:
        print(f"broken: {', '.join(broken)}; the inputs are in {CORPUS.relative_to(ROOT)}/")  # noqa: T201
    return len(broken)


if __name__ == "__main__":
    sys.exit(main())

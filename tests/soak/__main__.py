"""Soak: `python -m tests.soak [--minutes 15] [--rows-per-s 50000]`. See `verdict.py` for what passes.

Results are written to `bench-results/soak/`: `samples.csv`, `soak.svg`, `soak.txt`. It ends with a shutdown under load.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import psutil

from tests.soak.load import SoakLoad
from tests.soak.verdict import Sample, judge_all, write_csv, write_svg
from tests.support.server_process import ServerProcess

RESULTS: Final = Path(__file__).parents[2] / "bench-results" / "soak"
SAMPLE_S: Final = 3.0
STOP_S_MAX: Final = 10.0
SAMPLES_MIN: Final = 5
MIB: Final = 1024 * 1024
RECORDS_SHARE_MIN: Final = 0.9
"""Of what was offered, at least so much must have been taken."""


def soak(minutes: float, rows_per_s: int) -> list[str]:
    """Run; returns the table's lines, and writes everything. A line that begins with FAILED is one."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="heimdall-soak-"))
    server = ServerProcess(folder, environment={"HEIMDALL_JOURNAL__RETAIN_BYTES": "0"})
    try:
        with server:
            load = SoakLoad(server, rows_per_s)
            process = psutil.Process(server.pid)
            load.start()
            samples = _sample(process, load, minutes * 60)
            load.stopping_soon()
            started_s = time.monotonic()
            code = server.stop(timeout_s=60)
            stop_s = time.monotonic() - started_s
            load.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if len(samples) < SAMPLES_MIN:
        return [f"FAILED after {len(samples)} samples, of which it takes {SAMPLES_MIN}", *load.problems]
    write_csv(RESULTS / "samples.csv", samples)
    write_svg(RESULTS / "soak.svg", samples)
    lines = _table(samples, load, rows_per_s, stop_s, code)
    (RESULTS / "soak.txt").write_text("\n".join(lines) + "\n")
    return lines


def _sample(process: psutil.Process, load: SoakLoad, seconds: float) -> list[Sample]:
    samples = []
    started_s = time.monotonic()
    while time.monotonic() - started_s < seconds and not load.problems:
        time.sleep(SAMPLE_S)
        times = process.cpu_times()
        samples.append(
            Sample(
                round(time.monotonic() - started_s, 1),
                round(process.memory_info().rss / MIB, 1),
                process.num_fds(),
                process.num_threads(),
                round(times.user + times.system, 1),
                load.counts["records"],
            )
        )
    return samples


def _table(samples: list[Sample], load: SoakLoad, rows_per_s: int, stop_s: float, code: int) -> list[str]:
    last = samples[-1]
    rate = last.records / last.time_s
    cores = (last.cpu_s - samples[0].cpu_s) / (last.time_s - samples[0].time_s)
    lines = [
        f"{last.time_s:.0f} s, {rate:,.0f} records/s taken of {rows_per_s:,} offered, {cores:.2f} cores",
        ", ".join(f"{count:,} {what}" for what, count in sorted(load.counts.items())),
    ]
    for curve in judge_all(samples):
        verdict = "ok" if curve.flat else "FAILED"
        lines.append(
            f"{verdict} {curve.name}: median {curve.median:.0f}, highest {curve.highest:.0f}, "
            f"gained {curve.gain:+.1f} (at most {curve.allowed:.1f}) after the warm-up"
        )
    enough = rate >= RECORDS_SHARE_MIN * rows_per_s
    lines.append(f"{'ok' if enough else 'FAILED'} load: {rate / rows_per_s:.0%} of what was offered")
    clean = stop_s < STOP_S_MAX and code == 0
    lines.append(f"{'ok' if clean else 'FAILED'} shutdown under load: {stop_s:.1f} s, exit code {code}")
    return lines + [f"FAILED {problem}" for problem in load.problems]


def main() -> int:
    """See the module; 1 if something isn't as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--rows-per-s", type=int, default=50_000)
    arguments = parser.parse_args()
    lines = soak(arguments.minutes, arguments.rows_per_s)
    print("\n".join(lines))  # noqa: T201 - a command
    return int(any(line.startswith("FAILED") for line in lines))


if __name__ == "__main__":
    sys.exit(main())

"""`heimdall samples`: made-up logs for a first look."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from heimdall_client.cli.console import err, plural, span, write_line
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples

DATASET: Final = "samples"
SEED: Final = 1
SPAN_S: Final = 24 * 3600.0


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=examples("heimdall samples --count 200000"))(samples)


@connected
def samples(
    link: Link,
    *,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000_000, help="So many.")] = 200_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, other logs.")] = SEED,
    output: Output = TextOutput.TABLE,
) -> None:
    """Take sample logs in, for a first look.

    A made-up shop's services over the last 24 hours, into the dataset `samples`; once for each seed.
    """
    from heimdall_client.samples import sample_ndjson

    source_id = "samples/shop" if seed == SEED else f"samples/shop-{seed}"
    with link.client() as client:
        source = client.get_source(source_id)
        if source.finished:
            _answer(output, source.accepted_count, 0.0, new=False)
            return
        with err().status("making sample logs"):
            lines = b"".join(sample_ndjson(count, seed=seed, end_time_ns=time.time_ns(), span_s=SPAN_S))
        begin_s = time.monotonic()
        # All lines are as long whatever the time, so a run that was cut off goes on in the same place.
        with client.ingester(source_id, format="ndjson", dataset=DATASET) as ingester:
            ingester.write(memoryview(lines)[ingester.offset :])
            ingester.finish()
        _answer(output, count, time.monotonic() - begin_s, new=True)


def _answer(output: TextOutput, count: int, elapsed_s: float, *, new: bool) -> None:
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json

        print_json({"record_count": count, "new": new, "elapsed_s": round(elapsed_s, 3)})
    elif new:
        write_line(f"{plural(count, 'sample log')} acknowledged in {span(elapsed_s)}")
    else:
        write_line(f"{plural(count, 'sample log')} are there already; another --seed makes others")

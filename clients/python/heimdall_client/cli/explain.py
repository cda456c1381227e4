"""`heimdall explain`: which path a query takes, what it costs, how fresh it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from heimdall_client.cli.console import count, out, size, span, write_line
from heimdall_client.cli.options import (
    Datasets,
    Link,
    Output,
    Since,
    TextOutput,
    Until,
    connected,
    examples,
)
from heimdall_client.cli.query import QueryText, Sql, question

if TYPE_CHECKING:
    from heimdall.query.v1 import query_service_pb2


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    lines = (
        "heimdall explain 'severity:>=ERROR | stats count() by service'",
        "heimdall explain 'timeout AND service:api' --since 1h --analyze",
        "heimdall explain 'sighted_in:forum-2026-03 AND service:auth'",
    )
    app.command(epilog=examples(*lines))(explain)


@connected
def explain(
    link: Link,
    *,
    text: QueryText,
    since: Since = None,
    until: Until = None,
    dataset: Datasets = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="As the query would have it.")] = 0,
    analyze: Annotated[bool, typer.Option("--analyze", help="Run it, and show what it used.")] = False,
    sql: Sql = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Show how a query would be answered: path, cost, freshness.

    With -v also the statement, and the engine's own lines.
    """
    with link.client() as client:
        answer = client.explain(
            question(text, sql=sql), since=since, until=until, datasets=dataset or [], limit=limit, analyze=analyze
        )
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json, to_plain

        print_json(to_plain(answer))
    else:
        _show(answer, verbose=link.verbose)


def _show(answer: query_service_pb2.ExplainResponse, *, verbose: bool) -> None:
    from rich.text import Text

    def line(label: str, text: str) -> None:
        out().print(Text.assemble((f"{label:<10} ", "bold"), text), soft_wrap=True)

    line("query", answer.canonical_text)
    for plan in answer.plans:
        line("path", f"{path_name(plan)} ({plan.tier})")
        line("because", plan.reason)
        if plan.notice:
            line("notice", plan.notice)
        line("estimated", f"{count(plan.estimated_row_count)} rows, {size(plan.estimated_bytes_count)}")
        if verbose:
            line("statement", plan.statement)
            for detail in plan.details:
                line("", detail)
    for used_set in answer.entity_sets:
        behind_s = used_set.graph_lag_duration.ToNanoseconds() / 1e9
        aside = (
            f", {count(used_set.unsearched_count)} of them of types that aren't looked for"
            if used_set.unsearched_count
            else ""
        )
        line(
            used_set.field, f"{used_set.value}: {count(used_set.entity_count)} entities{aside}; {used_set.pushed_down}"
        )
        fresh = "has every record" if behind_s <= 0 else f"is {span(behind_s)} behind"
        line("", f"the graph {fresh} (position {used_set.graph_through.shards.get(0, 0)})")
    if answer.HasField("actual"):
        used = answer.actual
        took = span(used.elapsed_duration.ToNanoseconds() / 1e9)
        read = f"{count(used.read_row_count)} rows, {size(used.read_bytes_count)} read"
        line("actual", f"{read}, {count(used.result_row_count)} rows of result, {took}")
    behind_s = answer.freshness_duration.ToNanoseconds() / 1e9
    line("fresh", "everything acknowledged is visible" if behind_s <= 0 else f"{span(behind_s)} behind")
    if not answer.plans:
        write_line("no store takes part")


def path_name(plan: query_service_pb2.Plan) -> str:
    """A path as people say it."""
    from heimdall.query.v1 import query_service_pb2

    return query_service_pb2.Plan.Path.Name(plan.path).removeprefix("PATH_").lower().replace("_", " ")

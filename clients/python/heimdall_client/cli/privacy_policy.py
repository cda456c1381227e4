"""`heimdall privacy policy`: show, try and set what becomes of personal data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from heimdall_client.cli.console import count, note, out, plural, write_line
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from heimdall.privacy.v1 import policy_pb2

SAMPLE_BYTES_MAX: Final = 1024 * 1024
_STDIN: Final = "-"
_RULE_KEYS: Final = frozenset({"class", "source", "field", "action"})
_FORM: Final = (
    "A policy file is TOML: \\[\\[rules]] tables with action and, each optional, class, source, field (globs)."
)

app = typer.Typer(name="policy", help="What becomes of personal data.", no_args_is_help=True)

PolicyFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="TOML with rules, as in the server's configuration; - reads stdin.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; stays in the audit log.", show_default=False)]


@app.command(epilog=examples("heimdall privacy policy show", "heimdall privacy policy show -o json | jq .policy.rules"))
@connected
def show(
    link: Link,
    *,
    versions: Annotated[bool, typer.Option("--versions", help="All that were in force, the newest first.")] = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Show the policy in force: the first rule that fits a value decides."""
    from heimdall_client.cli.plain import print_json, to_plain, to_text

    with link.client() as client:
        if versions:
            found = client.privacy_policy_versions(limit=1000)
            if output is TextOutput.JSON:
                for one in found:
                    print_json(to_plain(one))
                return
            rows = [[p.version, to_text(p.change_time)[:19], p.changed_by, len(p.rules), p.reason] for p in found]
            show_table(table(["version", "since", "set by", "rules", "reason"], rows, fold="reason"))
            return
        answer = client.privacy_policy()
    if output is TextOutput.JSON:
        print_json(to_plain(answer))
        return
    show_rules(answer.policy)
    note(f"version {answer.policy.version}, set by {answer.policy.changed_by}; actions: {', '.join(answer.actions)}")


@app.command(
    "test",
    epilog=examples(
        "heimdall privacy policy test policy.toml --sample app.log",
        "tail -n 100 app.log | heimdall privacy policy test policy.toml --sample -",
        "heimdall privacy policy test --sample app.log   # the policy in force",
        "heimdall privacy policy test --sample customers.csv --names",
        more=_FORM,
    ),
)
@connected
def try_(
    link: Link,
    *,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Rules to try, - reads stdin; none: those in force.")
    ] = None,
    sample: Annotated[str, typer.Option("--sample", metavar="FILE", help="Records to try it on; - reads stdin.")],
    read_as: Annotated[str, typer.Option("--format", help="Of the sample; else told from its content.")] = "",
    source: Annotated[str, typer.Option("--source", metavar="ID", help="Source that it pretends to come from.")] = "",
    rows: Annotated[int, typer.Option("--rows", min=0, max=1000, help="Protected records to show.")] = 5,
    dump: Annotated[bool, typer.Option("--dump", help="As a data dump: columns are told by their cells, too.")] = False,
    names: Annotated[
        bool, typer.Option("--names", help="As a dump in whose text a model looks for names, addresses, organisations.")
    ] = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Say what a policy would do to a sample, before it is live. Nothing is stored."""
    from heimdall_client.cli.plain import print_json, to_plain

    if str(file) == sample == _STDIN:
        msg = "stdin can be the rules or the sample, not both"
        raise typer.BadParameter(msg, param_hint="--sample")
    data = _sample(sample)
    with link.client() as client:
        answer = client.test_privacy_policy(
            data,
            read_rules(file) if file else (),
            read_as=read_as,
            source_id=source,
            row_count=rows,
            as_dump=dump,
            find_names=names,
        )
    if output is TextOutput.JSON:
        print_json(to_plain(answer))
        return
    found = [
        [one.data_class, one.field, one.action, one.value_count, one.rule_index if one.rule_index >= 0 else "none fits"]
        for one in answer.findings
    ]
    if found:
        show_table(table(["class", "field", "action", "values", "rule"], found))
    for row in answer.rows[:rows]:
        write_line(row)
    rejected = f", {count(answer.rejected_count)} couldn't be read" if answer.rejected_count else ""
    note(f"{plural(answer.record_count, 'record')}{rejected}")


@app.command(
    "set",
    epilog=examples(
        "heimdall privacy policy set policy.toml --reason 'hosts are personal since the audit'", more=_FORM
    ),
)
@connected
def set_(
    link: Link,
    *,
    file: PolicyFile,
    reason: Reason,
    etag: Annotated[str, typer.Option("--etag", help="Only if this one is in force (see show -o json).")] = "",
    output: Output = TextOutput.TABLE,
) -> None:
    """Put a policy in force for what comes in from now on."""
    rules = read_rules(file)
    with link.client() as client:
        policy = client.set_privacy_policy(rules, reason=reason, etag=etag)
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json, to_plain

        print_json(to_plain(policy))
        return
    out().print(f"policy version {policy.version} is in force")


def show_rules(policy: policy_pb2.PrivacyPolicy) -> None:
    """Print rules in their order."""
    rows: list[list[Any]] = [
        [index, rule.data_class, rule.source, rule.field, rule.action] for index, rule in enumerate(policy.rules)
    ]
    rows.append(["else", "", "", "", policy.fallback_action])
    show_table(table(["rule", "class", "source", "field", "action"], rows))


def read_rules(file: Path) -> list[dict[str, str]]:
    """The rules of a policy file; `-`: of standard input.

    Raises:
        typer.BadParameter: It can't be read, or isn't one; with every problem.
    """
    import tomllib

    try:
        content = tomllib.loads(sys.stdin.buffer.read().decode() if str(file) == _STDIN else file.read_text("utf-8"))
    except OSError as error:
        msg = f"{file}: {error.strerror}"
        raise typer.BadParameter(msg, param_hint="FILE") from error
    except ValueError as error:
        msg = f"{file}: not TOML: {error}"
        raise typer.BadParameter(msg, param_hint="FILE") from error
    # A whole `heimdall.toml` has them one level down, beside what isn't a policy's.
    whole = "privacy" in content
    rules = content["privacy"].get("rules") if whole and isinstance(content["privacy"], dict) else content.get("rules")
    if not isinstance(rules, list) or not rules or not all(isinstance(rule, dict) for rule in rules):
        msg = f"{file}: has no [[rules]]"
        raise typer.BadParameter(msg, param_hint="FILE")
    problems = (
        [] if whole else [f"unknown key {key!r}; a policy file has [[rules]] only" for key in content if key != "rules"]
    )
    for index, rule in enumerate(rules):
        flaws = [f"unknown key {key!r}" for key in sorted(set(rule) - _RULE_KEYS)]
        flaws += [f"{key} must be text" for key in sorted(_RULE_KEYS & set(rule)) if not isinstance(rule[key], str)]
        flaws += [] if "action" in rule else ["has no action"]
        problems += [f"rules[{index}]: {flaw}; use class, source, field and action" for flaw in flaws]
    if problems:
        raise typer.BadParameter(f"{file}: " + "\n  ".join(problems), param_hint="FILE")
    return rules


def _sample(name: str) -> bytes:
    try:
        data = sys.stdin.buffer.read(SAMPLE_BYTES_MAX + 1) if name == _STDIN else Path(name).read_bytes()
    except OSError as error:
        msg = f"{name}: {error.strerror}"
        raise typer.BadParameter(msg, param_hint="--sample") from error
    if not 0 < len(data) <= SAMPLE_BYTES_MAX:
        msg = f"a sample has 1 byte to {SAMPLE_BYTES_MAX:,}; this one has {len(data):,}"
        raise typer.BadParameter(msg, param_hint="--sample")
    return data

"""Rules on questions that the grammar can't tell."""

from __future__ import annotations

import pytest

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.tree import Limit, TimeRange
from heimdall_server.language.parser import parse
from heimdall_server.services.query.logic.question import check_datasets, check_time_range, check_watchable, understand
from heimdall_server.services.query.model import Form, Question, Understood


def understood(text: str) -> Understood:
    return understand(Question(Form.TEXT, text), now_ns=0)


@pytest.mark.parametrize(
    "text",
    [
        "error",
        "* | where severity:>=17 | extract body /(?P<ms>\\d+)/ | fields ms | limit 5",
        "* | stats count() by service | where count:>1 | sort -count | limit 3",
        "* | top 5 service",
        "* | timechart 1m count() by service",
        "* | stats count() by bucket(time, 1m), host | fields time, count",
    ],
)
def test_what_has_a_meaning_on_a_stream_can_be_watched(text: str) -> None:
    check_watchable(parse(text, now_ns=0))


@pytest.mark.parametrize(
    "text",
    [
        "* | sort -severity",
        "* | limit 5 | where severity:>=17",
        "* | limit 5 | stats count()",
        "* | stats count() by host | stats max(count)",
        "* | stats count() by bucket(time, 1m) | limit 3",
        "* | stats count() by bucket(time, 1m) | where count:>3",
    ],
)
def test_what_has_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_watchable(parse(text, now_ns=0))


def test_only_records_in_store_order_can_be_resumed() -> None:
    assert understood("a | where b:1 | fields host | limit 3").resumable
    assert not understood("a | sort host").resumable
    assert not understood("a | stats count()").resumable
    assert not understood("a | limit 3 | where b:1").resumable


def test_a_limit_replaces_those_of_a_query_that_goes_on() -> None:
    resumed = understood("a | limit 9 | fields host | limit 3").limited(2)
    assert [stage for stage in resumed.stages if isinstance(stage, Limit)] == [Limit(2)]
    table = understood("a | stats count() by host | limit 3").limited(2)
    assert table.stages[-2:] == (Limit(3), Limit(2))


def test_datasets_are_those_configured() -> None:
    assert check_datasets([], {"b": 1, "a": 2}) == ["a", "b"]
    assert check_datasets(["b", "b"], ("a", "b")) == ["b"]
    with pytest.raises(InvalidArgumentError, match="no dataset named x; configured: a, b"):
        check_datasets(["x"], ("a", "b"))


def test_a_time_range_holds_an_instant_and_fits_into_64_bits() -> None:
    assert check_time_range(TimeRange(-5, 2**70)) == TimeRange(0, 2**63 - 1)
    assert check_time_range(TimeRange()) == TimeRange()
    with pytest.raises(InvalidArgumentError):
        check_time_range(TimeRange(5, 5))

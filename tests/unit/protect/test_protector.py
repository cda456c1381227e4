from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from heimdall_server.ports.protector import Protector
from heimdall_server.protect.actions import ACTIONS, Effects, Forms, Origin
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from tests.unit.protect.corpus import Corpus
from tests.unit.protect.reference import Row, batch_of, rows_of

CARD = 4111111111111111


def protect(row: Row, *rules: PrivacyRule) -> Row:
    policy = PrivacyPolicy(rules=rules) if rules else PrivacyPolicy()
    return rows_of(PolicyProtector(policy).protect(batch_of([row])).batch)[0]


def test_batch_without_records_stays_empty() -> None:
    protected = PolicyProtector().protect(batch_of([]))
    assert protected.batch.num_rows == 0
    assert not protected.hits


def test_version_is_stamped_and_hits_are_counted() -> None:
    protector: Protector = PolicyProtector(PrivacyPolicy(version=7))
    protected = protector.protect(batch_of([{"body": "a@b.org c@d.org"}, {"body": "x"}, {"attributes": {"pwd": "p"}}]))
    assert protector.policy_version == 7
    assert protected.batch["policy_version"].to_pylist() == [7, 7, 7]
    assert protected.hits == {"email": 1, "secret": 1}
    assert not protected.sidecars


def test_a_protector_that_was_warmed_up_does_what_another_does() -> None:
    warm, batch = PolicyProtector(), batch_of([{"body": "a@b.org"}, {"body": "somebody@example.com"}])
    warm.warm_up()
    done, expected = warm.protect(batch), PolicyProtector().protect(batch)
    assert (done.batch, done.hits, done.sidecars) == (expected.batch, expected.hits, expected.sidecars)


def test_untouched_columns_are_the_same_buffers() -> None:
    batch = batch_of([{"body": "nothing here", "attributes": {"a": "b"}}])
    protected = PolicyProtector().protect(batch).batch
    for name in set(batch.schema.names) - {"policy_version"}:
        assert protected[name].buffers()[-1] is None or protected[name].buffers()[-1].address == (
            batch[name].buffers()[-1].address
        )


def test_every_text_of_a_record_is_protected() -> None:
    value = "a@b.org"
    names = ("body", "overflow", "service", "host", "severity_text", "event_name", "scope_name")
    row = protect(dict.fromkeys(names, value) | {"attributes": {"k": value}, "resource": {"k": value}})
    assert [row[name] for name in names] == ["[email]"] * len(names)
    assert row["attributes"] == row["resource"] == [("k", "[email]")]


@pytest.mark.parametrize(
    ("rules", "host"),
    [
        ((), "10.0.0.1 2001:db8::7"),
        ((PrivacyRule("mask"),), "[ipv4] [ipv6]"),
        ((PrivacyRule("mask", "ip*", field="host"), PrivacyRule("keep")), "[ipv4] [ipv6]"),
        ((PrivacyRule("keep", "ip*", field="host"), PrivacyRule("mask")), "10.0.0.1 2001:db8::7"),
    ],
)
def test_addresses_that_name_the_host_are_treated_as_the_policy_says(rules: Sequence[PrivacyRule], host: str) -> None:
    assert protect({"host": "10.0.0.1 2001:db8::7"}, *rules)["host"] == host


def test_name_gives_a_value_away() -> None:
    row = protect({"attributes": {"password": "swordfish", "note": "swordfish", "user.ssn": ""}})
    assert row["attributes"] == [("note", "swordfish"), ("password", "[secret]"), ("user.ssn", "")]


def test_card_among_numbers_becomes_text() -> None:
    row = protect({"attributes_number": {"pay": float(CARD), "order": float(CARD + 1), "ssn": 123456789.0}})
    assert row["attributes_number"] == [("order", float(CARD + 1))]
    assert row["attributes"] == [("pay", "[card]"), ("ssn", "[ssn]")]


def test_dropped_field_is_gone() -> None:
    row = protect(
        {
            "body": f"paid {CARD}",
            "attributes": {"a": f"{CARD}", "b": "fine", "password": "x"},
            "attributes_number": {"n": float(CARD)},
        },
        PrivacyRule("drop"),
    )
    assert (row["body"], row["attributes"], row["attributes_number"]) == ("", [("b", "fine")], [])


def test_kept_class_is_left_where_the_policy_says_so() -> None:
    rules = (PrivacyRule("keep", "email", "crm", "attributes.owner"), PrivacyRule("mask"))
    row: Row = {"source": "crm", "body": "a@b.org", "attributes": {"owner": "a@b.org", "other": "a@b.org"}}
    assert protect(row, *rules)["attributes"] == [("other", "[email]"), ("owner", "a@b.org")]
    assert protect(row | {"source": "web"}, *rules)["attributes"] == [("other", "[email]"), ("owner", "[email]")]
    assert protect(row, *rules)["body"] == "[email]"


def test_records_of_many_sources_keep_their_order() -> None:
    rules = (PrivacyRule("keep", source="a*"), PrivacyRule("drop", source="b*"), PrivacyRule("mask"))
    sources = ["a1", "b1", "c1", "b2", "a2", "c2"]
    batch = batch_of([{"source": source, "body": f"{source} x@y.org"} for source in sources])
    bodies = PolicyProtector(PrivacyPolicy(rules=rules)).protect(batch).batch["body"].to_pylist()
    assert bodies == ["a1 x@y.org", "", "c1 [email]", "", "a2 x@y.org", "c2 [email]"]


def test_threads_share_a_protector() -> None:
    lines = [line for *_, line in Corpus(1).personal(400)]
    batches = [batch_of([{"source": f"s{part}", "body": line} for line in lines[part::8]]) for part in range(8)]
    rules = (PrivacyRule("keep", source="s1"), PrivacyRule("drop", source="s2", field="body"), PrivacyRule("mask"))
    alone = [rows_of(PolicyProtector(PrivacyPolicy(rules=rules)).protect(batch).batch) for batch in batches]
    shared = PolicyProtector(PrivacyPolicy(rules=rules))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda batch: rows_of(shared.protect(batch).batch), batches * 3))
    assert together == alone * 3


@dataclass(frozen=True)
class Number:
    """An action that writes something else for each value."""

    rewrites: bool = True
    drops: bool = False
    masks: bool = False
    alike: bool = True
    classes: frozenset[str] | None = None

    def forms(self, data_class: str, values: Sequence[str], origins: Sequence[Origin], effects: Effects) -> Forms:
        del origins
        effects.settlers.append(lambda: None)
        return Forms([f"<{data_class} {value[::-1]}>" for value in values])


def test_action_that_is_added_to_the_table_writes_its_own() -> None:
    policy = PrivacyPolicy(rules=(PrivacyRule("number", "email"), PrivacyRule("mask")))
    protector = PolicyProtector(policy, {**ACTIONS, "number": Number()})
    protected = protector.protect(batch_of([{"body": "a@b.org to c@d.org", "attributes": {"email": "c"}}]))
    assert protected.batch["body"].to_pylist() == ["<email gro.b@a> to <email gro.d@c>"]
    assert protected.batch["attributes"].to_pylist() == [[("email", "<email c>")]]
    assert protected.hits == {"email": 2}
    assert len(protected.settlers) == 1


@pytest.mark.parametrize("size", [1 << 20])
def test_megabyte_of_text_is_masked(size: int) -> None:
    row = protect({"body": "x" * size + " a@b.org " + "9" * size + " password=" + "y" * size})
    assert row["body"] == "x" * size + " [email] " + "9" * size + " password=[secret]"


def test_names_of_structured_data_are_no_addresses_although_mail_goes_to_digits() -> None:
    names = {
        "exampleSDID@32473.eventSource": "a",
        "timeQuality@1.2.3.tzKnown": "b",
        "bob@163.com": "c",
        "al@example.com": "d",
    }
    protected = PolicyProtector().protect(batch_of([{"attributes": names}]))
    keys = [key for key, _ in protected.batch["attributes"][0].as_py()]
    assert keys == ["exampleSDID@32473.eventSource", "timeQuality@1.2.3.tzKnown", "[email]", "[email]"]

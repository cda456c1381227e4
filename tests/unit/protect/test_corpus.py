from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from tests.unit.protect.corpus import Corpus
from tests.unit.protect.reference import batch_of


def masked(lines: list[str]) -> list[str]:
    policy = PrivacyPolicy(rules=(PrivacyRule("mask"),))
    bodies: list[str] = (
        PolicyProtector(policy).protect(batch_of([{"body": line} for line in lines])).batch["body"].to_pylist()
    )
    return bodies


def test_precision_and_recall_on_a_generated_corpus_are_high(
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    corpus = Corpus(seed=3)
    personal, clean = corpus.personal(2_100), corpus.near_misses(3_000)
    found, missed, wrong = Counter[str](), Counter[str](), Counter[str]()
    for (data_class, value, line), result in zip(personal, masked([line for *_, line in personal]), strict=True):
        right = result == line.replace(value, f"[{data_class}]")
        (found if right else missed)[data_class] += 1
    for line, result in zip(clean, masked(clean), strict=True):
        wrong[line if line != result else ""] += 1
    del wrong[""]
    recall = found.total() / len(personal)
    precision = found.total() / (found.total() + wrong.total())
    report = f"recall {recall:.4f} (missed {dict(missed)}), precision {precision:.4f} (wrong {wrong.most_common(5)})"
    record_testsuite_property("privacy_corpus", report)
    assert recall >= 0.995, report
    assert precision >= 0.995, report
    assert min(found.values()) >= 290, report

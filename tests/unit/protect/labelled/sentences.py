"""Running text with names that no label gives away, and text without: what the model of names is measured by."""

from __future__ import annotations

import random
from dataclasses import dataclass

from heimdall_server.protect.names_model import NamesModel
from tests.unit.protect.labelled.near import near_misses

_PEOPLE = ("John Smith", "Maria Garcia", "Angela Merkel", "Peter Novak", "Aisha Khan", "Jean-Luc Picard", "Emily Watson", "Ravi Patel",
           "Søren Larsen", "Katarzyna Nowak", "Liam O'Brien", "Yuki Tanaka")  # fmt: skip
_FIRMS = (
    "Acme Corporation",
    "Siemens",
    "Deutsche Bank",
    "Red Cross",
    "Oxford University",
    "General Motors",
    "Toyota",
    "Unilever",
)
_PLACES = ("Berlin", "New York", "Lyon", "Kraków", "São Paulo", "Kyoto", "Dublin", "Cape Town")
_TEMPLATES = (
    "{name} called about the invoice from {organisation}.",
    "Spoke with {name} on Monday; will move to {address} next month.",
    "{organisation} asked whether {name} still lives in {address}.",
    "Please send the contract to {name}, who works for {organisation} in {address}.",
    "Customer {name} complained about the delivery to {address}.",
)


@dataclass(frozen=True, slots=True)
class Found:
    """How well the model finds a class."""

    recall: float
    """Of the names in sentences."""
    precision: float
    """Of what it found in sentences and in as many lines of logs."""


def model_scores(count: int, seed: int = 11) -> dict[str, Found]:
    """Read sentences, and as many lines without names.

    Args:
        count: Of each.
        seed: Of both.
    """
    draw, model = random.Random(seed), NamesModel()
    truths, texts = [], []
    for _ in range(count):
        names = {"name": draw.choice(_PEOPLE), "organisation": draw.choice(_FIRMS), "address": draw.choice(_PLACES)}
        template = draw.choice(_TEMPLATES)
        truths.append({kind: name for kind, name in names.items() if f"{{{kind}}}" in template})
        texts.append(template.format(**names))
    lines = [line for line, _ in near_misses("name", count, seed)]
    there, right, found = (dict.fromkeys(("name", "organisation", "address"), 0) for _ in range(3))
    for truth in truths:
        for kind in truth:
            there[kind] += 1
    for span in model.find(texts + lines):
        found[span.data_class] += 1
        if span.row < count:
            value = texts[span.row][span.start : span.end]
            right[span.data_class] += truths[span.row].get(span.data_class, "\0") in value
    return {kind: Found(right[kind] / there[kind], right[kind] / max(1, found[kind])) for kind in there}

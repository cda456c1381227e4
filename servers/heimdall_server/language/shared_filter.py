"""Many filters over the same batches: whatever they have in common is looked at once.

Equal subexpressions become one node, and a node's answer about a batch is kept for whoever needs it next. What an
index answers comes first: equality with a constant (the column's dictionary, made once a batch, says whether the
constant is there at all) and words (`word_table`). Whoever has nothing there costs no more than that look. Then come
comparisons of numbers, and only then, on the rows that are left, what must go through texts: patterns, networks.

The answers are those of `compile_predicate`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.expression.fields import CORE_FIELDS, FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    All,
    And,
    Cidr,
    Compare,
    Exists,
    Expression,
    Holds,
    Not,
    Operator,
    Or,
    Regex,
    Wildcard,
    Words,
)
from heimdall_server.language.lookup import Mask, Rows
from heimdall_server.language.predicate import compile_evaluate
from heimdall_server.language.shared_fields import Coded, SharedFields
from heimdall_server.language.word_table import WordLookup

_NOTHING: Final = np.empty(0, np.int64)
_INDEXED, _CHEAP, _COMPOUND, _COSTLY = range(4)
_WHOLE_SHARE: Final = 4
"""A costly leaf is asked about the whole batch rather than some rows once those are more than one in so many."""


class Node:
    """An expression that filters share. Thread-safe: what is known of a batch is in its `Evaluation`."""

    rank = _CHEAP

    def __init__(self, expression: Expression) -> None:
        self.expression = expression

    def operands(self) -> Iterator[Node]:
        """Nodes right below."""
        return iter(())

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for operand in self.operands():
            yield from operand.walk()

    def rows(self, batch: Evaluation) -> Rows:
        """The rows that match, ascending."""
        found = batch.rows.get(self)
        if found is None:
            found = batch.rows[self] = self._rows(batch)
        return found

    def mask(self, batch: Evaluation) -> Mask:
        """Whether each row matches."""
        found = batch.masks.get(self)
        if found is None:
            found = batch.masks[self] = self._mask(batch)
        return found

    def narrow(self, batch: Evaluation, rows: Rows) -> Rows:
        """Those of some rows (ascending) that match."""
        return rows[self.mask(batch)[rows]]

    def _rows(self, batch: Evaluation) -> Rows:
        return np.flatnonzero(self.mask(batch))

    def _mask(self, batch: Evaluation) -> Mask:
        mask = np.zeros(batch.fields.count, np.bool_)
        mask[self.rows(batch)] = True
        return mask


class _AllNode(Node):
    rank = _INDEXED

    def _rows(self, batch: Evaluation) -> Rows:
        return np.arange(batch.fields.count)

    def narrow(self, batch: Evaluation, rows: Rows) -> Rows:  # noqa: ARG002 # all match
        return rows


class EqualNode(Node):
    """A text field that equals a constant, which isn't the empty text."""

    rank = _INDEXED

    def __init__(self, expression: Compare) -> None:
        super().__init__(expression)
        self.field = expression.field
        self.constant = str(expression.value)

    def _rows(self, batch: Evaluation) -> Rows:
        coded, code = batch.code_of(self)
        return _NOTHING if code is None else np.flatnonzero(coded.codes == code)


class WordsNode(Node):
    """Words in a text field."""

    rank = _INDEXED

    def __init__(self, expression: Words) -> None:
        super().__init__(expression)
        self.field = expression.field
        self.words = expression.words

    def _rows(self, batch: Evaluation) -> Rows:
        return batch.fields.words(self.field, batch.plan.lookups[self.field]).rows(self.words)


class _Leaf(Node):
    def __init__(self, expression: Expression) -> None:
        super().__init__(expression)
        self._evaluate = compile_evaluate(expression)

    def _mask(self, batch: Evaluation) -> Mask:
        return self._evaluate(batch.fields)


class _CostlyLeaf(_Leaf):
    rank = _COSTLY

    def narrow(self, batch: Evaluation, rows: Rows) -> Rows:
        if self in batch.masks or len(rows) * _WHOLE_SHARE > batch.fields.count:
            return super().narrow(batch, rows)
        return rows[self._evaluate(batch.fields.subset(rows))] if len(rows) else rows


class _AndNode(Node):
    def __init__(self, expression: And, operands: Collection[Node]) -> None:
        super().__init__(expression)
        # A sort that keeps equals in order: the parser's order is as good as any.
        self._operands = sorted(operands, key=lambda each: each.rank)
        self.rank = max(_COMPOUND, self._operands[-1].rank)

    def operands(self) -> Iterator[Node]:
        return iter(self._operands)

    def _rows(self, batch: Evaluation) -> Rows:
        fewest: Rows | None = None
        first: Node | None = None
        for operand in self._operands:
            if operand.rank != _INDEXED:
                break
            rows = operand.rows(batch)
            if fewest is None or len(rows) < len(fewest):
                fewest, first = rows, operand
            if not len(rows):
                return rows
        if fewest is None:
            first = self._operands[0]
            fewest = first.rows(batch)
        return self._narrowed(batch, fewest, but=first)

    def narrow(self, batch: Evaluation, rows: Rows) -> Rows:
        return self._narrowed(batch, rows, but=None)

    def _narrowed(self, batch: Evaluation, rows: Rows, *, but: Node | None) -> Rows:
        for operand in self._operands:
            if not len(rows):
                break
            if operand is not but:
                rows = operand.narrow(batch, rows)
        return rows


class _OrNode(Node):
    def __init__(self, expression: Or, operands: Collection[Node]) -> None:
        super().__init__(expression)
        self._operands = sorted(operands, key=lambda each: each.rank)
        last = self._operands[-1].rank
        # What indexes answer, they answer for all alternatives together, too.
        self.rank = _INDEXED if last == _INDEXED else max(_COMPOUND, last)

    def operands(self) -> Iterator[Node]:
        return iter(self._operands)

    def _rows(self, batch: Evaluation) -> Rows:
        if self.rank != _INDEXED:
            return super()._rows(batch)
        return np.unique(np.concatenate([operand.rows(batch) for operand in self._operands]))

    def _mask(self, batch: Evaluation) -> Mask:
        if self.rank == _INDEXED:
            return super()._mask(batch)
        mask = self._operands[0].mask(batch).copy()
        for operand in self._operands[1:]:
            if mask.all():
                break
            mask |= operand.mask(batch)
        return mask

    def narrow(self, batch: Evaluation, rows: Rows) -> Rows:
        if self.rank != _COSTLY or self in batch.masks:
            return super().narrow(batch, rows)
        matches = np.zeros(len(rows), np.bool_)
        for operand in self._operands:
            left = rows[~matches]
            if not len(left):
                break
            matches[np.searchsorted(rows, operand.narrow(batch, left))] = True
        return rows[matches]


class _NotNode(Node):
    def __init__(self, expression: Not, operand: Node) -> None:
        super().__init__(expression)
        self._operand = operand
        self.rank = max(_COMPOUND, operand.rank)

    def operands(self) -> Iterator[Node]:
        yield self._operand

    def _mask(self, batch: Evaluation) -> Mask:
        return ~self._operand.mask(batch)

    def narrow(self, batch: Evaluation, rows: Rows) -> Rows:
        if self.rank != _COSTLY:
            return super().narrow(batch, rows)
        stays = np.ones(len(rows), np.bool_)
        stays[np.searchsorted(rows, self._operand.narrow(batch, rows))] = False
        return rows[stays]


class Interner:
    """Makes nodes; equal expressions are one node for as long as someone holds it. One thread at a time."""

    def __init__(self) -> None:
        self._nodes: WeakValueDictionary[str, Node] = WeakValueDictionary()

    def node(self, expression: Expression) -> Node:
        """The node of an expression that `check_query` accepts."""
        # Not by equality: to Python, 1.0 and True are the same literal, and so are 0.0 and -0.0.
        key = repr(expression)
        found = self._nodes.get(key)
        if found is None:
            found = self._nodes[key] = self._make(expression)
        return found

    def _make(self, expression: Expression) -> Node:
        match expression:
            case All():
                return _AllNode(expression)
            case And(operands):
                return _AndNode(expression, [self.node(each) for each in operands])
            case Or(operands):
                return _OrNode(expression, [self.node(each) for each in operands])
            case Not(operand):
                return _NotNode(expression, self.node(operand))
            case Words():
                return WordsNode(expression)
            case Compare(field, Operator.EQ, str(value)) if value and _is_text(field):
                return EqualNode(expression)
            case Wildcard() | Regex() | Cidr() | Holds():
                return _CostlyLeaf(expression)
            case Compare() | Exists():
                return _Leaf(expression)


def _is_text(field: FieldRef) -> bool:
    """Whether equality with a text is about the field's own text, for every record alike."""
    if field.scope is Scope.COMPUTED:
        return False
    return field.scope is not Scope.CORE or CORE_FIELDS[field.name] in (FieldKind.KEYWORD, FieldKind.ID)


class Plan:
    """What some filters will ask about every batch. Immutable; thread-safe."""

    def __init__(self, roots: Collection[Node]) -> None:
        nodes = {node for root in roots for node in root.walk()}
        words: dict[FieldRef, set[str]] = {}
        constants: dict[FieldRef, set[str]] = {}
        for node in nodes:
            if isinstance(node, WordsNode):
                words.setdefault(node.field, set()).update(node.words)
            elif isinstance(node, EqualNode):
                constants.setdefault(node.field, set()).add(node.constant)
        self.lookups = {field: WordLookup(wanted) for field, wanted in words.items()}
        self.constants = {field: sorted(wanted) for field, wanted in constants.items()}


class Evaluation:
    """What is known of one batch so far. Not thread-safe."""

    def __init__(self, plan: Plan, fields: SharedFields) -> None:
        """Begin with nothing.

        Args:
            plan: Made of every filter that will be asked.
            fields: Of the batch.
        """
        self.plan = plan
        self.fields = fields
        self.rows: dict[Node, Rows] = {}
        self.masks: dict[Node, Mask] = {}
        self._codes: dict[FieldRef, tuple[Coded, dict[str, int]]] = {}

    def code_of(self, node: EqualNode) -> tuple[Coded, int | None]:
        """The column of an equality, and the code of its constant; None: no row has it."""
        found = self._codes.get(node.field)
        if found is None:
            coded = self.fields.coded(node.field)
            constants = self.plan.constants[node.field]
            places = pc.index_in(pa.array(constants, pa.string()), value_set=coded.values).to_pylist()
            codes = {constant: place for constant, place in zip(constants, places, strict=True) if place is not None}
            found = self._codes[node.field] = coded, codes
        return found[0], found[1].get(node.constant)

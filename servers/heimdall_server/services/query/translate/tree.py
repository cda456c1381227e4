"""The expression tree as a Protobuf message, both ways."""

from __future__ import annotations

from heimdall.types.v1 import expression_pb2 as pb
from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression import tree
from heimdall_server.domain.expression.check import check_query
from heimdall_server.domain.expression.fields import FieldRef, Scope, resolve
from heimdall_server.domain.expression.patterns import extract_pattern

_SCOPES = {
    pb.FieldRef.SCOPE_CORE: Scope.CORE,
    pb.FieldRef.SCOPE_ATTRIBUTES: Scope.ATTRIBUTES,
    pb.FieldRef.SCOPE_RESOURCE: Scope.RESOURCE,
    pb.FieldRef.SCOPE_ANY: Scope.ANY,
    pb.FieldRef.SCOPE_COMPUTED: Scope.COMPUTED,
    pb.FieldRef.SCOPE_GRAPH: Scope.GRAPH,
}
_WIRE_SCOPES = {domain: wire for wire, domain in _SCOPES.items()}
_OPERATORS = {
    pb.Expression.Compare.OPERATOR_EQ: tree.Operator.EQ,
    pb.Expression.Compare.OPERATOR_LT: tree.Operator.LT,
    pb.Expression.Compare.OPERATOR_LE: tree.Operator.LE,
    pb.Expression.Compare.OPERATOR_GT: tree.Operator.GT,
    pb.Expression.Compare.OPERATOR_GE: tree.Operator.GE,
}
_WIRE_OPERATORS = {domain: wire for wire, domain in _OPERATORS.items()}
_FUNCTIONS = {
    pb.Aggregate.FUNCTION_COUNT: tree.Function.COUNT,
    pb.Aggregate.FUNCTION_COUNT_DISTINCT: tree.Function.COUNT_DISTINCT,
    pb.Aggregate.FUNCTION_SUM: tree.Function.SUM,
    pb.Aggregate.FUNCTION_MIN: tree.Function.MIN,
    pb.Aggregate.FUNCTION_MAX: tree.Function.MAX,
    pb.Aggregate.FUNCTION_AVG: tree.Function.AVG,
    pb.Aggregate.FUNCTION_QUANTILE: tree.Function.QUANTILE,
}
_WIRE_FUNCTIONS = {domain: wire for wire, domain in _FUNCTIONS.items()}
_DEPTH_MAX = 64


def query_in(message: pb.Query) -> tree.Query:
    """A tree from the wire, checked like one that was parsed.

    Raises:
        QuerySyntaxError, InvalidArgumentError: It breaks a rule of the language.
    """
    filter_ = _expression_in(message.filter, 0) if message.HasField("filter") else tree.All()
    query = tree.Query(filter_, tuple(_stage_in(stage) for stage in message.stages))
    check_query(query)
    return query


def query_out(query: tree.Query) -> pb.Query:
    """A tree for the wire."""
    return pb.Query(filter=_expression_out(query.filter), stages=[_stage_out(stage) for stage in query.stages])


def _field_in(message: pb.FieldRef) -> FieldRef:
    scope = _SCOPES.get(message.scope)
    return resolve(message.name) if scope is None else FieldRef(scope, message.name)


def _field_out(field: FieldRef) -> pb.FieldRef:
    return pb.FieldRef(scope=_WIRE_SCOPES[field.scope], name=field.name)


def _literal_in(message: pb.Literal) -> tree.Literal | tree.TimeLiteral:
    which = message.WhichOneof("value")
    if which == "time_ns":
        return tree.TimeLiteral(message.time_ns)
    value: tree.Literal = getattr(message, which or "text")
    return value


def _literal_out(value: tree.Literal | tree.TimeLiteral) -> pb.Literal:
    if isinstance(value, tree.TimeLiteral):
        return pb.Literal(time_ns=value.ns)
    if isinstance(value, bool):
        return pb.Literal(boolean=value)
    if isinstance(value, str):
        return pb.Literal(text=value)
    return pb.Literal(number=value)


def _expression_in(message: pb.Expression, depth: int) -> tree.Expression:
    if depth > _DEPTH_MAX:
        raise InvalidArgumentError("question.tree.filter", f"must not nest deeper than {_DEPTH_MAX} levels")
    which = message.WhichOneof("kind")
    if which in ("conjunction", "disjunction"):
        operands = tuple(_expression_in(operand, depth + 1) for operand in getattr(message, which).operands)
        return tree.And(operands) if which == "conjunction" else tree.Or(operands)
    if which == "negation":
        return tree.Not(_expression_in(message.negation, depth + 1))
    if which == "words":
        return tree.Words(_field_in(message.words.field), tuple(message.words.words))
    if which == "compare":
        compare = message.compare
        return tree.Compare(_field_in(compare.field), _OPERATORS[compare.operator], _literal_in(compare.value))
    if which == "wildcard":
        return tree.Wildcard(_field_in(message.wildcard.field), message.wildcard.pattern)
    if which == "regex":
        return tree.Regex(_field_in(message.regex.field), message.regex.pattern)
    if which == "cidr":
        return tree.Cidr(_field_in(message.cidr.field), message.cidr.pattern)
    if which == "exists":
        return tree.Exists(_field_in(message.exists))
    return tree.All()


def _expression_out(expression: tree.Expression) -> pb.Expression:
    match expression:
        case tree.All():
            return pb.Expression(all=pb.Expression.All())
        case tree.And(operands):
            return pb.Expression(conjunction=pb.Expression.Operands(operands=[_expression_out(o) for o in operands]))
        case tree.Or(operands):
            return pb.Expression(disjunction=pb.Expression.Operands(operands=[_expression_out(o) for o in operands]))
        case tree.Not(operand):
            return pb.Expression(negation=_expression_out(operand))
        case tree.Words(field, words):
            return pb.Expression(words=pb.Expression.Words(field=_field_out(field), words=words))
        case tree.Compare(field, operator, value):
            compare = pb.Expression.Compare(
                field=_field_out(field), operator=_WIRE_OPERATORS[operator], value=_literal_out(value)
            )
            return pb.Expression(compare=compare)
        case tree.Wildcard(field, pattern):
            return pb.Expression(wildcard=pb.Expression.Pattern(field=_field_out(field), pattern=pattern))
        case tree.Regex(field, pattern):
            return pb.Expression(regex=pb.Expression.Pattern(field=_field_out(field), pattern=pattern))
        case tree.Cidr(field, network):
            return pb.Expression(cidr=pb.Expression.Pattern(field=_field_out(field), pattern=network))
        case tree.Exists(field):
            return pb.Expression(exists=_field_out(field))
        case tree.Holds(field, value):
            # What was asked; the set stays here.
            return _expression_out(tree.Compare(field, tree.Operator.EQ, value))


def _stage_in(message: pb.Stage) -> tree.Stage:
    which = message.WhichOneof("kind")
    if which == "where":
        return tree.Where(_expression_in(message.where, 0))
    if which == "extract":
        try:
            pattern, names = extract_pattern(message.extract.pattern)
        except ValueError as error:
            raise InvalidArgumentError("question.tree.stages.extract.pattern", str(error)) from error
        return tree.Extract(_field_in(message.extract.field), pattern, names)
    if which == "stats":
        return tree.Stats(
            tuple(_aggregate_in(a) for a in message.stats.aggregates), tuple(_key_in(k) for k in message.stats.by)
        )
    if which == "sort":
        return tree.Sort(tuple(tree.SortKey(_field_in(k.field), k.descending) for k in message.sort.keys))
    if which == "limit":
        return tree.Limit(message.limit)
    return tree.Fields(tuple(_field_in(f) for f in message.fields.fields))


def _stage_out(stage: tree.Stage) -> pb.Stage:
    match stage:
        case tree.Where(expression):
            return pb.Stage(where=_expression_out(expression))
        case tree.Extract(field, pattern, _):
            return pb.Stage(extract=pb.Stage.Extract(field=_field_out(field), pattern=pattern))
        case tree.Stats(aggregates, by):
            return pb.Stage(
                stats=pb.Stage.Stats(
                    aggregates=[_aggregate_out(a) for a in aggregates], by=[_key_out(key) for key in by]
                )
            )
        case tree.Sort(keys):
            return pb.Stage(
                sort=pb.Stage.Sort(
                    keys=[pb.Stage.Sort.Key(field=_field_out(k.field), descending=k.descending) for k in keys]
                )
            )
        case tree.Limit(count):
            return pb.Stage(limit=count)
        case tree.Fields(fields):
            return pb.Stage(fields=pb.Stage.Fields(fields=[_field_out(f) for f in fields]))


def _aggregate_in(message: pb.Aggregate) -> tree.Aggregate:
    field = _field_in(message.field) if message.HasField("field") else None
    return tree.Aggregate(_FUNCTIONS[message.function], field, message.name, message.quantile)


def _aggregate_out(aggregate: tree.Aggregate) -> pb.Aggregate:
    return pb.Aggregate(
        function=_WIRE_FUNCTIONS[aggregate.function],
        field=_field_out(aggregate.field) if aggregate.field else None,
        name=aggregate.name,
        quantile=aggregate.quantile,
    )


def _key_in(message: pb.GroupKey) -> tree.GroupKey:
    if message.WhichOneof("kind") == "bucket":
        return tree.Bucket(message.bucket.interval_ns, message.bucket.name or "time")
    return _field_in(message.field)


def _key_out(key: tree.GroupKey) -> pb.GroupKey:
    if isinstance(key, tree.Bucket):
        return pb.GroupKey(bucket=pb.GroupKey.Bucket(interval_ns=key.interval_ns, name=key.name))
    return pb.GroupKey(field=_field_out(key))

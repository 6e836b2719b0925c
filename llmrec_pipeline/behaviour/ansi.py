"""Which part of a domain's SQL would end the job at the first value that does not fit: under ANSI rules it raises instead of giving null."""

import re
from collections.abc import Iterator
from textwrap import shorten
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame

from llmrec_pipeline.errors import InputError
from llmrec_pipeline.session import java_class

LONGEST = 200  # characters of SQL in a message
OF_DOUBLES = ("Abs", "Add", "Multiply", "Subtract", "UnaryMinus")  # cannot fail where they give a double
# those that can raise and have no word for it
PARTIAL = ("AssertTrue", "MillisToTimestamp", "RaiseError", "SecondsToTimestamp", "Sequence", "StringToMap", "ToNumber")
# what the machine or the moment says, not the record: a second run would give another event
CLOCK = ("CurrentDate", "CurrentTime", "CurrentTimestamp", "LocalTimestamp", "Now")
CHANCE = ("MonotonicallyIncreasingID", "Rand", "Randn", "Shuffle", "Uuid")
OUTSIDE = (*CLOCK, *CHANCE, "CurrentUser")
INSTANTS = ("date", "timestamp", "timestamp_ntz")
INSTEAD = {
    "Cast": "try_cast(value AS type)",
    "ElementAt": "try_element_at(array, place)",
    "GetArrayItem": "get(array, index)",
    "Add": "try_add(a, b)",
    "Subtract": "try_subtract(a, b)",
    "Multiply": "try_multiply(a, b)",
    "Divide": "try_divide(a, b)",
}


def check_total(key: str, text: str, made: DataFrame, *, query: bool = False) -> None:
    """Raises InputError where SQL can raise in the middle of a job, or asks the clock, chance or who runs it.

    An implicit conversion counts like one that is written: `quantity > 0` casts the text of a raw column.

    Args:
        key: where in the YAML it stands.
        text: the SQL.
        made: what selects it, and nothing else.
        query: the SQL is all that made it, down to the views that it reads.
    """
    plan = made._jdf.queryExecution().analyzed()
    casts = java_class(made.sparkSession, "org.apache.spark.sql.catalyst.expressions.Cast")
    roots = list(_expressions(plan) if query else _each(plan.expressions()))
    # to look at each node costs a call of the JVM
    if re.search("cur|user|now|local|rand|uuid|shuffle|monotonic|unix_timestamp", text, re.IGNORECASE):
        for node in (found for root in roots for found in _all(root)):
            if node.getClass().getSimpleName() in OUTSIDE:
                raise InputError(
                    f"{key}: {shorten(text, LONGEST)!r} asks {node.sql()}, which another run would answer otherwise; use the record's columns"
                )
    for node in (found for root in roots for found in _nodes(root)):
        if _raises(node, casts):
            better = INSTEAD.get(node.getClass().getSimpleName(), "a form that gives null")
            raise InputError(
                f"{key}: {shorten(text, LONGEST)!r} ends the whole job at the first value that does not fit {node.sql()}; write {better} there"
            )


def _each(sequence: Any) -> Iterator[Any]:
    """Elements of a Scala sequence."""
    return (sequence.apply(place) for place in range(sequence.size()))


def _expressions(plan: Any) -> Iterator[Any]:
    """The expressions of a query's own plan, down to the views that it reads."""
    if plan.getClass().getSimpleName() != "View":
        yield from _each(plan.expressions())
        for child in _each(plan.children()):
            yield from _expressions(child)


def _nodes(expression: Any) -> Iterator[Any]:
    """As `_all`, without what is known before the first row, or gives null by itself."""
    if expression.foldable() or expression.getClass().getSimpleName() == "TryEval":
        return
    yield expression
    replaced = _asked(expression, "replacement")
    for child in [replaced] if replaced is not None else _inside(expression):
        yield from _nodes(child)


def _all(expression: Any) -> Iterator[Any]:
    """An expression and those that it is made of, subqueries too."""
    yield expression
    for child in _inside(expression):
        yield from _all(child)


def _inside(expression: Any) -> Iterator[Any]:
    """What an expression is made of, and the expressions of its query where it is a subquery."""
    yield from _each(expression.children())
    if (query := _asked(expression, "plan")) is not None:
        yield from _expressions(query)


def _raises(node: Any, casts: Any) -> bool:
    kind = node.getClass().getSimpleName()
    if kind == "Cast":
        return str(node.evalMode()) == "ANSI" and not _fits(node.child().dataType(), node.dataType(), casts)
    if kind in PARTIAL:
        return True
    if _asked(node, "failOnError") is not True or str(_asked(node, "evalMode")) == "TRY":
        return False
    of_doubles = kind in OF_DOUBLES or (kind == "Divide" and node.right().foldable())
    return not (of_doubles and node.dataType().simpleString() == "double")


def _fits(source: Any, target: Any, casts: Any) -> bool:
    """True where each value of the one type has one of the other."""
    given, wanted = source.simpleString(), target.simpleString()
    if given == "boolean" or (given in INSTANTS and wanted in INSTANTS) or (given.startswith("decimal") and wanted == "double"):
        return True
    return bool(casts.canUpCast(source, target))


def _asked(node: Any, method: str) -> Any:
    """What a method gives; null where the class has none of that name."""
    try:
        return getattr(node, method)()
    except Py4JError:
        return None

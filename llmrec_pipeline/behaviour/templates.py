"""Templates: sentences with named fields, compiled to Spark expressions.

`{title}[, brand {brand}]`: braces name a field of the item; a bracketed part goes away when a field in it is missing.
Data is a column of the expression, never part of a pattern, so whatever a title holds stands in the text letter by letter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F

from llmrec_pipeline.errors import ConfigError, nearest

FIELDS = ("title", "summary", "description", "brand", "category", "price_band", "item_id")
_TOKEN = re.compile(r"\{([^{}\[\]]*)\}|([^{}]+)")


@dataclass(frozen=True)
class Part:
    """A run of literals and fields that stands or falls together; `optional`: in brackets."""

    pieces: tuple[tuple[str, str], ...]  # ("text", literal) or ("field", name)
    optional: bool


def parse_template(template: str) -> tuple[Part, ...]:
    """The parts of a template.

    Raises:
        ConfigError: brackets or braces do not match, or a field is unknown.
    """
    parts = []
    for i, chunk in enumerate(re.split(r"\[([^\[\]]*)\]", template)):
        if "[" in chunk or "]" in chunk:
            raise ConfigError(
                f"template {template!r}: brackets must match and not nest; write [..] around what goes away with its field"
            )
        if chunk:
            parts.append(Part(_pieces(chunk, template), optional=i % 2 == 1))
    if not parts:
        raise ConfigError("a template is empty; expected a sentence such as '{title}[, brand {brand}]'")
    return tuple(parts)


def _pieces(chunk: str, template: str) -> tuple[tuple[str, str], ...]:
    pieces, end = [], 0
    for match in _TOKEN.finditer(chunk):
        if match.start() != end:
            break
        end = match.end()
        if match.group(1) is None:
            pieces.append(("text", match.group(2)))
        elif match.group(1) in FIELDS:
            pieces.append(("field", match.group(1)))
        else:
            raise ConfigError(f"template {template!r} names unknown field {match.group(1)!r}; {nearest(match.group(1), FIELDS)}")
    if end != len(chunk):
        raise ConfigError(f"template {template!r}: brace at {chunk[end:]!r} does not match; write {{field}}")
    return tuple(pieces)


def render(template: str, max_chars: int, values: Mapping[str, Column] | None = None) -> Column:
    """The sentence of a row; null when it would hold no field's value.

    Spaces that a missing field leaves behind are taken out at the ends only: inside, text stays as it is.

    Args:
        template: as `parse_template` takes it.
        max_chars: longest sentence.
        values: field -> its value; absent: the row's columns FIELDS.
    """
    values = values or {name: F.col(name) for name in FIELDS}
    parts = parse_template(template)
    sentence = F.concat(*[_render_part(part, values) for part in parts])
    fields = [values[value] for part in parts for kind, value in part.pieces if kind == "field"]
    any_value = F.coalesce(*fields).isNotNull() if fields else F.lit(True)
    return F.when(any_value, F.substring(F.trim(sentence), 1, max_chars))


def _render_part(part: Part, values: Mapping[str, Column]) -> Column:
    columns = [F.lit(value) if kind == "text" else values[value] for kind, value in part.pieces]
    if part.optional:
        return F.coalesce(F.concat(*columns), F.lit(""))  # concat is null when any piece is
    return F.concat(*[F.coalesce(column, F.lit("")) for column in columns])

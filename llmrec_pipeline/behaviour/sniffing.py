"""The first records of a local file, and how they are written: format, charset, separators, header, numbers, times. No Spark here."""

import bz2
import codecs
import csv
import glob
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import orc, parquet

from llmrec_pipeline.config import EPOCHS
from llmrec_pipeline.errors import InputError

LIMIT, RECORDS = 65_536, 200  # bytes of text (unpacked) and records that are looked at
PACKED = {b"\x1f\x8b": ".gz", b"BZh": ".bz2"}
REFUSED = {
    b"PK\x03\x04": "a zip archive or a spreadsheet; expected text, Parquet or ORC; unpack it, or save the sheet as CSV",
    b"PK\x05\x06": "an empty zip archive; expected text, Parquet or ORC; deliver the log itself",
    b"7z\xbc\xaf": "a 7z archive; expected text, Parquet or ORC; unpack it, or use gzip or bzip2",
    b"Rar!": "a rar archive; expected text, Parquet or ORC; unpack it, or use gzip or bzip2",
    b"\xfd7zXZ": "packed with xz; expected gzip, bzip2 or nothing; pack it anew",
    b"\x28\xb5\x2f\xfd": "packed with zstd; a draft unpacks gzip and bzip2 alone; draft from an unpacked piece of it",
    b"Obj\x01": "Avro; a draft looks into text, Parquet and ORC; write the YAML by hand, conf/domains has two examples",
}
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
ENOUGH = 0.8  # share of a column's values that must be what the column is taken for
SEPARATORS = (
    (".", ""),
    (".", ","),
    (",", ""),
    (",", "."),
    (".", " "),
    (",", " "),
    (".", "'"),
    (",", "\u00a0"),
)  # likeliest first
EARLIEST, LATEST = 631_152_000, 4_102_444_800  # 1990 and 2100 in seconds: other integers are numbers or ids
COMPACT = {8: "yyyyMMdd", 14: "yyyyMMddHHmmss"}
STAMP = re.compile(
    r"(?P<a>\d{1,4})(?P<s>[-/.])(?P<b>\d{1,2})(?P=s)(?P<c>\d{1,4})"
    r"(?:(?P<t>[T ])(?P<h>[01]?\d|2[0-3]):[0-5]\d(?P<sec>:[0-5]\d(?:(?P<point>[.,])(?P<f>\d{1,9}))?)?"
    r"(?P<half> ?[AaPp][Mm])?(?P<zone> ?(?:Z|UTC|GMT|[+-]\d\d(?::?\d\d)?))?)?",
    re.ASCII,
)
ORDERS = ("abc", "cba", "cab")  # which of the stamp's groups are year, month, day


@dataclass(frozen=True)
class Dialect:
    """How lines are cut into fields."""

    delimiter: str
    quote: str | None
    multiline: bool


DIALECTS = [Dialect(mark, quote, lines) for lines in (False, True) for quote in ('"', None, "'") for mark in ",;\t|"]


@dataclass(frozen=True)
class Sample:
    """A file's first records, all values texts, with the keys of `source` that they need."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    format: str
    charset: str = "utf-8"
    dialect: Dialect | None = None
    header: bool = True
    instants: tuple[str, ...] = ()  # columns of a type that is a time with a zone; Spark spells them in UTC
    suffix: str = ""  # that the file's name lacks: Spark unpacks by suffix

    def values(self, column: str) -> list[str]:
        place = self.columns.index(column)
        return [row[place] for row in self.rows]


def read_sample(path: str, known: frozenset[str]) -> Sample:
    """The first records of a file, or of the first file in a folder or glob.

    Args:
        known: names that columns often have, as `normal` spells them; they tell a header from data.

    Raises:
        InputError: nothing lies there, it is empty or damaged, or it is of a kind that a draft does not look into.
    """
    local = path.removeprefix("file://")
    file = _first_file(local)
    with file.open("rb") as stream:
        magic = stream.read(8)
    if kind := next((kind for start, kind in REFUSED.items() if magic.startswith(start)), None):
        raise InputError(f"file {str(file)!r} is {kind}")
    try:
        if magic.startswith(b"PAR1"):
            return _typed("delta" if (Path(local) / "_delta_log").is_dir() else "parquet", _parquet(file))
        return _typed("orc", _orc(file)) if magic.startswith(b"ORC") else _text(file, magic, known)
    except (EOFError, OSError, zlib.error, pa.ArrowException) as error:
        raise InputError(f"file {str(file)!r} is damaged ({error}); expected one that can be read; deliver it again") from None


def _first_file(path: str) -> Path:
    if "://" in path:
        raise InputError(f"path {path!r} is not local; a draft looks at a local file; copy a piece of the log here")
    roots = [Path(path)] if Path(path).exists() else [Path(found) for found in sorted(glob.glob(path, recursive=True))]
    if not roots:
        raise InputError(
            f"path {path!r} does not exist (working directory {Path.cwd()}); expected a file, a folder or a glob; correct it"
        )
    inside = [(file, root) for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*")))]
    filled = [file for file, root in inside if file.is_file() and file.stat().st_size and not _is_hidden(file, root)]
    if not filled:
        raise InputError(
            f"path {path!r} is empty: no file in it has content (those that start with . or _ are hidden); expected records; deliver the file again"
        )
    return next((file for file in filled if file.suffix.lower() not in (".zip", ".7z", ".rar")), filled[0])


def _is_hidden(file: Path, root: Path) -> bool:
    inner = file.relative_to(root).parts or (file.name,)
    return any(part.startswith((".", "_")) and "=" not in part for part in inner)


def _parquet(file: Path) -> pa.Table:
    with parquet.ParquetFile(file) as opened:
        batch = next(opened.iter_batches(batch_size=RECORDS), None)
        return pa.Table.from_batches([batch] if batch else [], opened.schema_arrow)


def _orc(file: Path) -> pa.Table:
    opened = orc.ORCFile(str(file))
    stripes = [opened.read_stripe(0)] if opened.nstripes else []
    return pa.Table.from_batches(stripes, opened.schema).slice(0, RECORDS)


def _typed(kind: str, table: pa.Table) -> Sample:
    """Typed columns as the texts that Spark makes of them."""
    times = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    plain = [column.cast(pa.timestamp("us"), safe=False) if pa.types.is_timestamp(column.type) else column for column in table]
    texts = [[_spelt(value) for value in column.to_pylist()] for column in plain]
    zoned = tuple(name for name in times if table.schema.field(name).type.tz)
    return Sample(tuple(table.column_names), list(zip(*texts, strict=True)), kind, instants=zoned)


def _spelt(value: Any) -> str:
    if isinstance(value, bool | dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _text(file: Path, magic: bytes, known: frozenset[str]) -> Sample:
    packed = next((suffix for start, suffix in PACKED.items() if magic.startswith(start)), "")
    if file.suffix in PACKED.values() and file.suffix != packed:
        raise InputError(f"file {str(file)!r} is not packed as {file.suffix} says; rename it, or deliver it again")
    data = _unpacked(file, packed)
    text, charset = _decoded(data[:LIMIT], len(data) <= LIMIT)
    if "\0" in text or sum(char < " " and char not in "\t\n\r\f" for char in text) > len(text) / 50:
        raise InputError(
            f"file {str(file)!r} is binary of an unknown kind (it starts with {data[:8]!r}); expected text, Parquet or ORC; export it anew"
        )
    if not text.strip():
        raise InputError(f"file {str(file)!r} is empty: there is no record in it; expected some; deliver it again")
    whole = len(data) <= LIMIT or "\n" not in text
    lines = [line.removesuffix("\r").replace("\r", " ") for line in text.split("\n")[: None if whole else -1] if line.strip()]
    suffix = packed.removeprefix(file.suffix)
    if re.match(r"\s*(\{|\[\s*[{\]])", text):
        return _json(file, lines, charset, suffix)
    return _csv(lines, charset, suffix, known)


def _unpacked(file: Path, packed: str) -> bytes:
    """The first LIMIT bytes, and one more where the file is longer."""
    opener = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File}.get(packed)
    with opener(file) if opener else file.open("rb") as stream:
        return stream.read(LIMIT + 1)


def _decoded(data: bytes, whole: bool) -> tuple[str, str]:
    """The text, without byte-order mark, and its charset."""
    if data.startswith(UTF16):
        return codecs.getincrementaldecoder("utf-16")("replace").decode(data, whole), "utf-16"
    for charset in ("utf-8", "gbk"):
        try:
            text = codecs.getincrementaldecoder(charset)().decode(data, whole)
        except UnicodeDecodeError:
            continue
        runs = re.findall(rb"[\x80-\xff]+", data)  # a letter of Latin-1 mostly stands alone, one of GBK is a pair
        if charset == "utf-8" or 2 * sum(len(run) == 1 for run in runs) < len(runs):
            return text.removeprefix("\ufeff"), charset
    return data.decode("iso-8859-1"), "iso-8859-1"


def _json(file: Path, lines: list[str], charset: str, suffix: str) -> Sample:
    records = [record for line in lines[:RECORDS] if (record := _object(line))]
    if not records:
        raise InputError(
            f"file {str(file)!r} looks like JSON, but no line of it is an object; expected one on each; rewrite it: jq -c . FILE (an array: jq -c '.[]' FILE)"
        )
    names = list(dict.fromkeys(name for record in records for name in record))
    fields = tuple(name for name in names if not any(other.startswith(f"{name}.") for other in names))
    return Sample(fields, [tuple(record.get(name, "") for name in fields) for record in records], "json", charset, suffix=suffix)


def _object(line: str) -> dict[str, str]:
    """The scalars of a line's JSON object by path, lists as JSON; empty where the line is no object."""
    try:
        found = json.loads(line, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return {}
    return dict(_leaves(found, "")) if isinstance(found, dict) else {}


def _leaves(value: dict[str, Any], above: str) -> Iterator[tuple[str, str]]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, f"{above}{name}.")
        elif name and "." not in name:  # a dot in a name cannot be told from a path
            yield above + name, _spelt(inner)


def _csv(lines: list[str], charset: str, suffix: str, known: frozenset[str]) -> Sample:
    cut = {dialect: _records(lines, dialect) for dialect in DIALECTS}
    dialect = max(DIALECTS, key=lambda dialect: _score(lines, dialect, cut[dialect]))
    records = cut[dialect]
    header = _is_header(records[0], records[1:], known)
    names = [(name.strip() or f"_c{i}") if header else f"c{i + 1}" for i, name in enumerate(records[0])]
    rows = [tuple(record) for record in records[header : RECORDS + header] if len(record) == len(names)]
    kind = "tsv" if dialect.delimiter == "\t" else "csv"
    return Sample(tuple(names), rows, kind, charset, dialect, header, suffix=suffix)


def _records(lines: list[str], dialect: Dialect) -> list[list[str]]:
    """The lines' fields; by whole lines, or with quotes that reach over them."""
    parts = [io.StringIO("\n".join(lines))] if dialect.multiline else [io.StringIO(line) for line in lines[: RECORDS + 1]]
    mark, quote = dialect.delimiter, dialect.quote or '"'
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE
    return [record for part in parts for record in csv.reader(part, delimiter=mark, quotechar=quote, quoting=quoting)]


def _score(lines: list[str], dialect: Dialect, records: list[list[str]]) -> tuple[float, int, float]:
    """How well a dialect explains the lines: share of equally wide records, their width, share of cells in its quotes."""
    if dialect.multiline and not any("\n" in cell for record in records for cell in record):
        return -1, 0, 0
    width, count = Counter(map(len, records)).most_common(1)[0]
    cells = [cell for line in lines for cell in line.split(dialect.delimiter)]
    enclosed = sum(len(cell) > 1 and cell[0] == cell[-1] == dialect.quote for cell in cells) / len(cells)
    return round(count / len(records), 1) if width > 1 else 0, width, round(enclosed, 1)


def _is_header(first: list[str], rest: list[list[str]], known: frozenset[str]) -> bool:
    """True where the first record names columns: distinct names, none a number or time, known or above numbers or times."""
    named = [name.strip() for name in first if name.strip()]
    distinct = len(named) * 2 > len(first) and len(set(named)) == len(named)
    if not distinct or any(is_number(name) or time_patterns([name]) for name in named):
        return False
    below = [[cell for cell in column if cell] for column in zip(*rest, strict=False)]
    return sum(normal(name) in known for name in named) > 1 or any(
        mostly(is_number, column) or time_patterns(column) for column in below
    )


def normal(name: str) -> str:
    """A name without case and separators: `Customer ID` and `customer_id` are one."""
    return re.sub(r"[\W_]+", "", name.casefold())


def mostly(holds: Callable[[str], bool], values: Sequence[str]) -> bool:
    return bool(values) and sum(map(holds, values)) >= ENOUGH * len(values)


def number_pattern(decimal: str, thousands: str) -> str:
    """What a number looks like with these separators, as `values.parse_number` reads it."""
    point, group = re.escape(decimal), re.escape(thousands)
    whole = rf"(?:\d{{1,3}}(?:{group}\d{{3}})+|\d+)" if thousands else r"\d+"
    return rf"\s*[+-]?(?:{whole}(?:{point}\d*)?|{point}\d+)\s*"


NUMBERS = {pair: re.compile(number_pattern(*pair), re.ASCII) for pair in SEPARATORS}


def is_number(text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in NUMBERS.values())


def separators(numbers: Sequence[str]) -> tuple[str, str]:
    """The decimal and the thousands separator that read most of the numbers."""
    return max(SEPARATORS, key=lambda pair: sum(bool(NUMBERS[pair].fullmatch(number)) for number in numbers))


def time_patterns(values: Sequence[str]) -> tuple[str, ...]:
    """Spark's pattern for most of the values; two where either part may be the day; none where the values are no times."""
    enough = max(ENOUGH * len(values), 1)
    for name, unit in EPOCHS.items():
        if sum(EARLIEST * unit <= _integer(value) < LATEST * unit for value in values) >= enough:
            return (name,)
    for width, pattern in COMPACT.items():
        days = [value for value in values if len(value) == width and _integer(value[:8]) >= 19900101]
        if sum(_is_day(day[:4], day[4:6], day[6:8]) for day in days) >= enough:
            return (pattern,)
    kinds: dict[tuple[object, ...], list[re.Match[str]]] = {}
    for match in filter(None, map(STAMP.fullmatch, values)):
        kinds.setdefault(_kind(match), []).append(match)
    alike = max(kinds.values(), key=len, default=[])
    orders = ORDERS[:2] if alike and alike[0]["s"] == "." else ORDERS  # with dots the day comes first
    reads = {order: sum(_is_day(*(match[part] for part in order)) for match in alike) for order in orders}
    best = max(reads.values())
    return tuple(_pattern(alike, order) for order in orders if reads[order] == best) if best >= enough else ()


def _integer(value: str) -> int:
    found = re.fullmatch(r"(\d{8,16})(?:\.\d+)?", value, re.ASCII)
    return int(found[1]) if found else 0


def _is_day(year: str, month: str, day: str) -> bool:
    try:
        date(int(year) + 2000 * (len(year) == 2), int(month), int(day))
    except ValueError:
        return False
    return len(year) in (2, 4) and len(month) < 3 and len(day) < 3


def _kind(match: re.Match[str]) -> tuple[object, ...]:
    """What all values of one pattern share."""
    half = match["half"] and match["half"][:-2]
    return len(match["a"]) > 2, len(match["c"]) > 2, match["s"], match["t"], bool(match["sec"]), half, _zone(match)


def _zone(match: re.Match[str]) -> str:
    zone = (match["zone"] or "").strip()
    letters = f"'{zone}'" if zone in ("UTC", "GMT") else {0: "", 1: "XXX", 3: "X", 5: "XX", 6: "XXX"}[len(zone)]
    return letters if zone == match["zone"] else f" {letters}" if zone else ""


def _pattern(matches: list[re.Match[str]], order: str) -> str:
    """Letters for matches of one kind. One that pads no day, month or hour pads none; one letter reads two digits, too."""
    first = matches[0]
    padded = not any(len(match[part] or "00") == 1 for match in matches for part in "abch")
    letters = dict(
        zip(order, ("yyyy" if len(first[order[0]]) == 4 else "yy", "MM" if padded else "M", "dd" if padded else "d"), strict=True)
    )
    pattern = first["s"].join(letters[part] for part in "abc")
    if first["t"]:
        hour = "h" if first["half"] else "H"
        pattern += {"T": "'T'"}.get(first["t"], " ") + hour * (1 + padded) + ":mm" + (":ss" if first["sec"] else "")
    fractions = [match for match in matches if match["f"]]
    if fractions:
        part = fractions[0]["point"] + "S" * max(len(match["f"]) for match in fractions)
        pattern += part if len(fractions) == len(matches) else f"[{part}]"
    return pattern + (first["half"][:-2] + "a" if first["half"] else "") + _zone(first)

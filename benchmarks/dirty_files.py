"""Seeded files with every kind of dirt, and how many records each of them holds, counted without any parser of ours."""

import gzip
import json
import random
import re
from pathlib import Path

NAMES = ("user", "item", "action", "time", "price")
FORMATS = ("csv", "tsv", "json")
USERS = ("u1", "007", "7", "", " ", "u\x00", "مرحبا", "\u202eu", "\U0001f600", "null", "u" * 5_000)
ITEMS = ("i1", "i2", "1e3", "", '5" pipe', "a,b", "tab\there", "x" * 100_000)
KINDS = ("buy", "BUY", "view", "steal", "")
TIMES = ("2024-01-01 10:00:00", "2024-01-01 10:00:01", "1969-01-01 00:00:00", "2999-01-01 00:00:00", "yesterday", "")
PRICES = ("1", "1.5", "-2", "0", "NaN", "Infinity", "1e308", "3,99", "", "n/a")
DIRT = (
    b'u1,"never closed',
    b"{",
    b'{"user":',
    b"[1]",
    b"",
    b"   ",
    b"\xef\xbb\xbf",
    b'"',
    b",,,,,,,,,",
    b"\xff\xfe",
    b"\x00\x00",
)


def write_dirty_file(folder: Path, seed: int) -> int:
    """Writes one file; its format follows from the seed. Returns the number of its records."""
    draw, form = random.Random(seed), FORMATS[seed % len(FORMATS)]
    lines = [_record(draw, form) for _ in range(draw.randint(1, 60))]
    lines += draw.choices(lines, k=draw.randint(0, 8)) + draw.choices(DIRT, k=draw.randint(0, 8))
    lines += [
        bytes(draw.choices([byte for byte in range(256) if byte != 10], k=draw.randint(1, 40))) for _ in range(draw.randint(0, 4))
    ]
    draw.shuffle(lines)
    head = [] if form == "json" else [("," if form == "csv" else "\t").join(NAMES).encode()]
    content = draw.choice((b"\n", b"\r\n")).join([*head, *lines]) + draw.choice((b"", b"\n"))
    packed = draw.random() < 0.2
    whole = gzip.compress(content, mtime=0) if packed else content
    cut = packed and draw.random() < 0.3
    (folder / f"{seed:05}.{form}{'.gz' if packed else ''}").write_bytes(whole[: len(whole) // 2] if cut else whole)
    return 1 if cut else sum(1 for line in lines if re.sub(rb"^( |\r|\xef\xbb\xbf)+", b"", line))


def _record(draw: random.Random, form: str) -> bytes:
    cells = [draw.choice(values) for values in (USERS, ITEMS, KINDS, TIMES, PRICES)]
    if form == "json":
        return json.dumps(dict(zip(NAMES, cells, strict=True)), ensure_ascii=False).encode()
    separator = "," if form == "csv" else "\t"
    quoted = ['"' + cell.replace('"', '""') + '"' if set(cell) & {separator, '"', "\t"} else cell for cell in cells]
    return separator.join(quoted).encode()

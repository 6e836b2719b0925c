"""Bytes of a whole file to records, where Spark's own lines do not do: another charset, or line breaks inside quotes. No Spark here."""

import bz2
import codecs
import gzip
import io
import re
from collections.abc import Callable, Iterable, Iterator

INVALID = "\udcff"  # a lone surrogate: no text that can be decoded has it
MARKED = "llmrec.marked"
OPENERS: dict[str, Callable[[io.BytesIO], io.BufferedIOBase]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
}
Line = tuple[str, str | None]  # text, and why it cannot be used


def _marked(error: UnicodeError) -> tuple[str, int]:
    """The mark in place of what the charset does not explain, and where to read on."""
    assert isinstance(error, UnicodeDecodeError)  # nothing is encoded under this name
    return INVALID, error.end


codecs.register_error(MARKED, _marked)


def decoded_lines(content: bytes, name: str, charset: str) -> Iterator[Line]:
    """Lines of a file without their endings and byte-order marks; one that the charset does not explain says so."""
    packed = next((opener for suffix, opener in OPENERS.items() if name.endswith(suffix)), None)
    stream: io.BufferedIOBase = packed(io.BytesIO(content)) if packed else io.BytesIO(content)
    reason = f"not {codecs.lookup(charset).name}"
    for line in io.TextIOWrapper(io.BufferedReader(stream), encoding=charset, errors=MARKED, newline="\n"):
        text = line.removesuffix("\n").removesuffix("\r").removeprefix("\ufeff")
        yield (text.replace(INVALID, "\ufffd"), reason) if INVALID in text else (text, None)


def joined_records(lines: Iterable[Line], separator: str, quote: str, longest: int) -> Iterator[Line]:
    """Lines whose quotes are open joined with those that follow, up to the line that closes them.

    A quote opens a field where it begins it (5" pipe has none that is open), and closes it over a line break only where the field ends
    with it: what stands between two stray quotes is no field.

    Args:
        longest: a quote that so many lines do not close was never closed: its line stands alone, those after it are read anew.
    """
    alone, joined = _complete(separator, quote, f"[^{re.escape(separator)}]*"), _complete(separator, quote, "")
    pending: list[Line] = []
    source = iter(lines)
    waiting: list[Line] = []  # lines to be read again, last one first
    while True:
        line = waiting.pop() if waiting else next(source, None)
        if line is not None:
            pending.append(line)
            if 1 < len(pending) < longest and quote not in line[0]:
                continue  # it closes nothing
            text = "\n".join(text for text, _ in pending)
            if quote not in text or (joined if pending[1:] else alone).fullmatch(text):
                yield text, next((reason for _, reason in pending if reason), None)
                pending = []
            elif len(pending) < longest:
                continue
        if pending:
            yield pending[0][0], "unclosed quote"
            waiting.extend(reversed(pending[1:]))
            pending = []
        elif line is None:
            return


def _complete(separator: str, quote: str, after: str) -> re.Pattern[str]:
    """What leaves no quoted field open; `after`: what may stand between a quote that closes and the field's end."""
    s, q = re.escape(separator), re.escape(quote)
    cell = f"(?:{q}(?:[^{q}]|{q}{q})*+{q}{after}|(?:[^{q}{s}][^{s}]*)?)"
    return re.compile(f"{cell}(?:{s}{cell})*", re.DOTALL)

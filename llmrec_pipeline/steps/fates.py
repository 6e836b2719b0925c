"""What ingest tells at its end: the fate of the records of each file, and an example of each reason."""

from collections.abc import Iterator
from typing import NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from llmrec_pipeline.behaviour.events import REASON
from llmrec_pipeline.behaviour.reading import FILE, HEADER, NO_FOOTER, RAW
from llmrec_pipeline.steps.catalogue import Catalogue
from llmrec_pipeline.steps.delivery import Delivery

FILES, FILES_OF_A_REASON, EXAMPLE_CHARS = 20, 3, 100
CATALOGUE = "catalogue: "  # before the reason of a record of the catalogue's file
NEXT_STEP = {
    "no time": "columns.event_time: name the column that always holds it, or coalesce several",
    "unparseable time": "declare time_formats",
    "time in the future": "declare zone and time_formats; epoch_millis read as epoch_seconds lie far ahead",
    "time before 1970": "source.missing: the spelling that stands for no time, such as 1900-01-01 00:00:00",
    "no item": "needs_item: false on a type whose behaviours have none",
    "no event id": "leave columns.event_id out where a record has none: all its fields are its identity then",
    "no step key": "step_by: time or row where records name no basket",
    "unparseable price": "declare source.decimal and source.thousands, or the word in source.missing",
    "unparseable quantity": "declare source.decimal and source.thousands, or the word in source.missing",
    "unparseable position": "columns.position: a whole number below 2^31, the place in a list",
    "price out of range": "declare source.decimal and source.thousands",
    "quantity out of range": "declare source.decimal and source.thousands",
    "negative quantity": "columns: an event type of its own and abs(...) where a minus marks a return (conf/domains/retail.yaml)",
    "negative price": "columns.price: abs(...) where a minus marks a return",
    "non-positive price": "positive_price: false on a type that may be free",
    "unknown event type": "add the type to event_types, or to the aliases of one",
    "no user": "anonymous: keep counts such records for their items",
    "not utf-8": "declare source.charset",
    "unclosed quote": "multiline: true where fields hold line breaks; quote: null where quotes mean nothing",
    "broken row": "see source.delimiter, quote and columns",
    NO_FOOTER: "deliver the file whole",
    f"{CATALOGUE}no item": "items.columns.item_id: name the column that always holds it",
}


def print_fates(console: Console, delivery: Delivery, catalogue: Catalogue | None = None) -> None:
    """Prints both tables; the second one only where something went to quarantine, elements of lists too.

    Args:
        console: where to.
        delivery: what the log became.
        catalogue: the catalogue's own file, where records of it went to quarantine.
    """
    fates, files = delivery.fates, delivery.records.files
    table = Table(
        Column("file", overflow="fold"), "records", "usable", "duplicates", "quarantined", title="Records", title_justify="left"
    )
    for number in sorted(fates.records)[:FILES]:
        usable, repeated = fates.usable.get(number, 0), fates.repeated.get(number, 0)
        bad = sum(count for (file, _), count in fates.reasons.items() if file == number)
        table.add_row(printable(files[number]), *[f"{n:,}" for n in (fates.records[number], usable - repeated, repeated, bad)])
    if len(fates.records) > FILES:
        table.add_row(f"... and {len(fates.records) - FILES:,} files more", "", "", "", "")
    console.print(table)
    refused: list[Refused] = []
    if fates.reasons or delivery.elements.get("elements_quarantined"):
        refused += _refused(delivery.bad, files)
    if catalogue:
        refused += [one._replace(reason=f"{CATALOGUE}{one.reason}") for one in _refused(catalogue.bad, catalogue.files)]
    if refused:
        _print_reasons(console, refused)


def printable(text: str) -> Text:
    """Text with a mark in the place of each character that a terminal would act on instead of showing it."""
    return Text("".join(char if char.isprintable() else "\ufffd" for char in text))


class Refused(NamedTuple):
    """What one file has in quarantine for one reason."""

    reason: str
    file: str
    records: int
    example: str


def _refused(bad: DataFrame, files: tuple[str, ...]) -> Iterator[Refused]:
    shown = F.min(F.substring(RAW, 1, EXAMPLE_CHARS)).alias("example")
    for row in bad.groupBy(REASON, FILE).agg(F.count("*").alias("n"), shown).collect():
        reason, n = ("repeated header", row["n"] - 1) if row[REASON] == HEADER else (row[REASON], row["n"])
        if n:
            yield Refused(reason, files[row[FILE]], n, row["example"])


def _print_reasons(console: Console, refused: list[Refused]) -> None:
    several = len({one.file for one in refused}) > 1
    place = ["in"] if several else []
    names = ("reason", "records", *place, "an example", "what may help")
    table = Table(*[Column(name, overflow="fold") for name in names], title="Quarantine", title_justify="left")
    found: dict[str, list[Refused]] = {}
    for one in sorted(refused, key=lambda one: (-one.records, one.file)):
        found.setdefault(one.reason, []).append(one)
    counts = {reason: sum(one.records for one in parts) for reason, parts in found.items()}
    for reason, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        parts = found[reason]
        where = [f"{one.file} ({one.records:,})" for one in parts[:FILES_OF_A_REASON]]
        if len(parts) > FILES_OF_A_REASON:
            where.append(f"and {len(parts) - FILES_OF_A_REASON:,} more")
        example = min(one.example for one in parts)
        cells = (reason, f"{n:,}", *([", ".join(where)] if several else []), example, _next_step(reason))
        table.add_row(*map(printable, cells))
    console.print(table)


def _next_step(reason: str) -> str:
    """What may help; how the catalogue's file is written stands under `items`."""
    own = NEXT_STEP.get(reason.removeprefix(CATALOGUE), "")
    return NEXT_STEP.get(reason, own.replace("source.", "items.source."))

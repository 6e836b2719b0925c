"""The catalogue's own file, read: each of its records describes an item, or goes to quarantine."""

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.events import REASON, check_expression, quarantine_rows
from llmrec_pipeline.behaviour.reading import BROKEN, FILE, RAW, read_records
from llmrec_pipeline.behaviour.values import text_of
from llmrec_pipeline.errors import ConservationError
from llmrec_pipeline.tracking import Run


@dataclass(frozen=True)
class Catalogue:
    """Records of the catalogue's file that name an item, and rows of `quarantine` for the others."""

    rows: DataFrame
    quarantine: DataFrame


def read_catalogue(run: Run) -> Catalogue | None:
    """Reads the catalogue and counts its records' fates; null where the domain derives it from the log.

    Raises:
        InputError: it is missing, empty or does not fit the mapping.
        ConservationError: records and fates do not add up.
    """
    domain = run.settings.domain
    source, columns = domain.items.source, domain.items.columns
    if source is None:
        return None
    records = read_records(run.spark, source, source.paths)
    for name, expression in columns.items():
        check_expression(records.rows, f"items.columns.{name}", expression, records.columns)
    no_item = F.when(text_of(columns["item_id"]).isNull(), F.lit("no item"))
    rows = records.rows.withColumn(REASON, F.coalesce(BROKEN, no_item)).localCheckpoint()
    bad = rows.filter(f"{REASON} IS NOT NULL").select(REASON, RAW, FILE)
    refused = quarantine_rows(bad, "ingest", f"{domain.source.name}.items", records.files)
    good = rows.filter(f"{REASON} IS NULL")
    counts = {"catalogue_records": records.units.count() - records.headers, "catalogue_quarantined": refused.count()}
    used = good.count()
    if counts["catalogue_records"] != used + counts["catalogue_quarantined"]:
        raise ConservationError(
            f"records of the catalogue do not add up, nothing was committed: {counts}, {used} usable; this is a defect, please report it"
        )
    run.counts |= counts
    run.versions |= {f"skipped: {file}": reason for file, reason in sorted(records.skipped.items())}
    return Catalogue(good, refused)

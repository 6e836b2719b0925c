"""The catalogue's own file, read: each of its records describes an item, or goes to quarantine."""

from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.events import REASON, check_expression, quarantine_rows
from llmrec_pipeline.behaviour.reading import BROKEN, FILE, RAW, Records, read_records
from llmrec_pipeline.behaviour.values import text_of
from llmrec_pipeline.config import DomainConfig
from llmrec_pipeline.errors import ConservationError
from llmrec_pipeline.tracking import Run


@dataclass(frozen=True)
class Catalogue:
    """Records of the catalogue's file that name an item, and the others."""

    rows: DataFrame
    bad: DataFrame  # reason, _raw, _file
    files: tuple[str, ...]
    name: str  # of the source, in `quarantine`

    @property
    def quarantine(self) -> DataFrame:
        return quarantine_rows(self.bad, "ingest", self.name, self.files)


def catalogue_records(spark: SparkSession, domain: DomainConfig) -> Records | None:
    """Records of the catalogue's file; null where the domain derives it from the log.

    Raises:
        InputError: it is missing, empty or does not fit the mapping.
    """
    source = domain.items.source
    if source is None:
        return None
    records = read_records(spark, source, source.paths)
    for name, expression in domain.items.columns.items():
        check_expression(records.rows, f"items.columns.{name}", expression, records.columns)
    return records


def read_catalogue(run: Run) -> Catalogue | None:
    """Reads the catalogue and counts its records' fates; null where the domain derives it from the log.

    Raises:
        InputError: it is missing, empty or does not fit the mapping.
        ConservationError: records and fates do not add up.
    """
    domain = run.settings.domain
    records = catalogue_records(run.spark, domain)
    if records is None:
        return None
    no_item = F.when(text_of(domain.items.columns["item_id"]).isNull(), F.lit("no item"))
    rows = records.rows.withColumn(REASON, F.coalesce(BROKEN, no_item)).localCheckpoint()
    good, bad = rows.filter(f"{REASON} IS NULL"), rows.filter(f"{REASON} IS NOT NULL").select(REASON, RAW, FILE)
    found = Catalogue(good, bad, records.files, f"{domain.source.name}.items")
    counts = {"catalogue_records": records.units.count() - records.headers, "catalogue_quarantined": found.quarantine.count()}
    used = good.count()
    if counts["catalogue_records"] != used + counts["catalogue_quarantined"]:
        raise ConservationError(
            f"records of the catalogue do not add up, nothing was committed: {counts}, {used} usable; this is a defect, please report it"
        )
    run.counts |= counts
    run.versions |= {f"skipped: {file}": reason for file, reason in sorted(records.skipped.items())}
    return found

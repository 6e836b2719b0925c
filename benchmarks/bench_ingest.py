"""Ingest, measured; `make bench-ingest`.

Parts, each kept as soon as it is measured, so that a benchmark that broke off goes on with the next one:
rounds      Online Retail II as CSV to `events` and `quarantine`; Spark's own CSV reader writing the same columns to Delta unvalidated;
            the same work in pandas; textualise. Interleaved in one warm session, start-up apart.
increments  0, 1, 10 and 100 per cent of new records on top of the log, as often, in the same session.
memory      the smallest heap under which ingest ends, of the log and of ten logs.
dirty       seeded dirty files: records lost.
"""

import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pandas_ingest
from dirty_files import FORMATS, NAMES, write_dirty_file
from report import (
    HEAP_STEP,
    ROOT,
    Figure,
    figure,
    heap_growth,
    output,
    raw_repeats,
    repeat_of_commit,
    smallest_heap,
    write_result,
)

from llmrec_pipeline.cli import run_step
from llmrec_pipeline.config import Settings, load_settings
from llmrec_pipeline.session import get_session

WORK = ROOT / "benchmarks/work/ingest"
REPEATS = 5
SHARES = (0.0, 0.01, 0.1, 1.0)
DIRTY_FILES = int(os.environ.get("LLMREC_DIRTY_FILES", "300"))
FILES_PER_DELIVERY = 100
COLUMNS = (
    "`Customer ID` AS user_id",
    "StockCode AS item_id",
    "CASE WHEN Invoice LIKE 'C%' THEN 'return' ELSE 'purchase' END AS event_type",
    "CAST(InvoiceDate AS timestamp) AS event_time",
    "CAST(InvoiceDate AS date) AS event_date",
    "Invoice AS step_key",
    "CAST(Quantity AS double) AS quantity",
    "CAST(Price AS double) AS price",
    "'online_retail_ii' AS source",
    "struct(Description AS title) AS item_fields",
)


def main() -> int:
    """Measures the parts that are missing, writes results/ingest.json, prints it; 1 when a bar does not hold."""
    raw, repeats = raw_repeats("ingest", "conf/pipeline.yaml", "conf/domains/retail.yaml", "conf/spark/spark-defaults.conf")
    newest = repeat_of_commit(repeats)
    logging.getLogger("py4j").setLevel(logging.ERROR)
    parts: dict[str, Callable[[], Any]] = {"rounds": rounds, "increments": increments, "memory": memory, "dirty": dirty}
    for name, measure in parts.items():
        if name not in newest:
            newest[name] = measure()
            raw.write_text(json.dumps(repeats, indent=1) + "\n")
    return write_result("ingest", newest, repeats, figures(newest))


def log_csv() -> Path:
    """Online Retail II as CSV."""
    file = WORK / "log.csv"
    if not file.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        pd.read_parquet(ROOT / "examples/online_retail_ii/online_retail_II.parquet").to_csv(file, index=False)
    return file


def rounds() -> dict[str, Any]:
    log = log_csv()
    began = time.perf_counter()
    spark = get_session("bench ingest")
    spark.range(1).write.format("delta").mode("overwrite").save(str(WORK / "first"))
    start_up = time.perf_counter() - began
    return {"start_up": start_up, "turns": [one_round(spark, log) for _ in range(REPEATS + 1)][1:]}  # the first one warms up


def one_round(spark: Any, log: Path) -> dict[str, Any]:
    """Each side once, on an empty folder."""
    output("rm", "-rf", str(WORK / "round"))
    began = time.perf_counter()
    run = run_step("ingest", settings("round/tables", log))
    ingested = time.perf_counter()
    plain = spark.read.option("header", True).csv(str(log)).selectExpr(*COLUMNS)
    plain.write.format("delta").save(str(WORK / "round/plain"))
    middle = time.perf_counter()
    counts = pandas_ingest.ingest(log, WORK / "round/pandas")
    ended = time.perf_counter()
    run_step("textualise", settings("round/tables", log))
    if {name: run.counts[name] for name in counts} != counts:
        raise SystemExit(f"the two sides disagree: {counts} in pandas, {run.counts} here")
    return {
        "ingest": ingested - began,
        "stages": run.stages,
        "spark_csv": middle - ingested,
        "pandas": ended - middle,
        "textualise": time.perf_counter() - ended,
        "counts": counts,
    }


def increments() -> list[dict[str, Any]]:
    """Turns of a first load and increments on top of it: the code of both is warm, or their seconds could not be compared."""
    known = pd.read_csv(log_csv(), dtype=str, keep_default_na=False)
    files = {"first": log_csv()} | {str(share): increment_csv(known, share) for share in SHARES}
    return [one_growth(files) for _ in range(REPEATS + 1)][1:]  # the first one warms up


def increment_csv(known: pd.DataFrame, share: float) -> Path:
    """A share of new records, by users of another name; 0: a thousand records that are known."""
    file = WORK / f"more-{share}.csv"
    new = known.sample(frac=share, random_state=17)
    new = (
        new.assign(**{"Customer ID": f"{share}-" + new["Customer ID"], "Invoice": new["Invoice"] + f"-{share}"})
        if share
        else known.head(1_000)
    )
    new.to_csv(file, index=False)
    return file


def one_growth(files: dict[str, Path]) -> dict[str, Any]:
    output("rm", "-rf", str(WORK / "grown"))
    return {name: timed(settings("grown", file)) for name, file in files.items()}


def timed(resolved: Settings) -> dict[str, Any]:
    began = time.perf_counter()
    run = run_step("ingest", resolved)
    return {"seconds": time.perf_counter() - began, "new": run.counts["used"], "stages": run.stages}


def memory() -> dict[str, Any]:
    """Heaps in steps of 256 MiB, tried from below: of the log, and from there on of ten logs."""
    log, ten = log_csv(), WORK / "ten.csv"
    known = pd.read_csv(log, dtype=str, keep_default_na=False)
    for copy in range(10):
        users = known["Customer ID"]
        named = known.assign(
            **{"Customer ID": users.where(users == "", f"{copy}-" + users), "Invoice": known["Invoice"] + f"-{copy}"}
        )
        named.to_csv(ten, index=False, header=copy == 0, mode="w" if copy == 0 else "a")
    one = heap_of(log, 2 * HEAP_STEP)
    many = heap_of(ten, one["heap_mib"])
    ten.unlink()
    return {"one": one, "ten": many}


def heap_of(log: Path, start: int) -> dict[str, Any]:
    given = ("--set", f"warehouse={WORK / 'heap'}", "--set", f"domain.source.path={log}", "--set", "domain.source.format=csv")
    return smallest_heap(start, lambda: output("rm", "-rf", str(WORK / "heap")), WORK, "jobs/ingest.py", *given)


def dirty() -> dict[str, int]:
    """Deliveries of seeded dirty files: what they hold less what the tables and the counts of duplicates account for."""
    output("rm", "-rf", str(WORK / "dirty"))
    records, lost = 0, 0
    for first in range(0, DIRTY_FILES, FILES_PER_DELIVERY):
        for number, form in enumerate(FORMATS):
            folder = WORK / f"dirty/{first}-{form}"
            folder.mkdir(parents=True)
            seeds = range(first, min(first + FILES_PER_DELIVERY, DIRTY_FILES))
            held = sum(write_dirty_file(folder, seed) for seed in seeds if seed % len(FORMATS) == number)
            run = run_step("ingest", dirty_settings(folder, form))
            rows = sum(run.warehouse.read(name).count() for name in ("events", "quarantine"))
            records, lost = records + held, lost + abs(held - rows - run.counts["duplicates_in_delivery"])
    return {"files": DIRTY_FILES, "records": records, "lost": lost}


def dirty_settings(folder: Path, form: str) -> Settings:
    source = json.dumps({"path": str(folder), "format": form, "columns": NAMES if form == "json" else None})
    return load_settings(
        ROOT / "conf/pipeline.yaml",
        "ecommerce",
        (
            f"warehouse={folder}-tables",
            f"domain.source={source}",
            "domain.columns={user_id: user, item_id: item, event_type: action, event_time: time, price: price}",
            "domain.event_types={buy: {target: true, positive_price: true, template: {en: bought}}, view: {template: {en: saw}}}",
            "domain.items={columns: {title: item}}",
            "domain.time_formats=['yyyy-MM-dd HH:mm:ss']",
            "domain.languages=[en]",
        ),
    )


def settings(warehouse: str, file: Path) -> Settings:
    overrides = (f"warehouse={WORK / warehouse}", f"domain.source.path={file}", "domain.source.format=csv")
    return load_settings(ROOT / "conf/pipeline.yaml", "retail", overrides)


def figures(repeat: dict[str, Any]) -> list[Figure]:
    turns, grown = repeat["rounds"]["turns"], repeat["increments"]
    ours = [turn["ingest"] - turn["stages"]["items"] for turn in turns]
    against = {
        side: statistics.median(one / turn[side] for one, turn in zip(ours, turns, strict=True))
        for side in ("spark_csv", "pandas")
    }
    text = statistics.median(turn["ingest"] / turn["textualise"] for turn in turns)
    seconds = {name: statistics.median(turn[name]["seconds"] for turn in grown) for name in grown[0]}
    told = ", ".join(f"{float(share):.0%} {seconds[str(share)]:.1f} s" for share in SHARES)
    slope = statistics.median(per_record(turn, "1.0") / per_record(turn, "first") for turn in grown)
    one, ten, lost = repeat["memory"]["one"], repeat["memory"]["ten"], repeat["dirty"]
    python = ten["peak_gib"]["python"] / one["peak_gib"]["python"]
    medians = {side: statistics.median(turn[side] for turn in turns) for side in ("spark_csv", "pandas", "textualise")}
    return [
        figure(
            "seconds against Spark's CSV reader",
            against["spark_csv"],
            "x",
            "lower",
            2.0,
            1.3,
            f"{statistics.median(ours):.1f} s (all of ingest but the items) against {medians['spark_csv']:.1f} s",
        ),
        figure(
            "rows/s against pandas",
            1 / against["pandas"],
            "x",
            "higher",
            1.0,
            2.0,
            f"pandas {medians['pandas']:.1f} s; equal counts",
        ),
        figure("nothing new", seconds["0.0"], "s", "lower", 10, 5, f"1,000 known records; new ones: {told}"),
        figure(
            "seconds per new record against a first load's",
            slope,
            "x",
            "lower",
            1.2,
            1.0,
            f"100% new; a first load {seconds['first']:.1f} s",
        ),
        heap_growth(one, ten),
        figure(
            "peak memory of Python, ten logs against one",
            python,
            "x",
            "lower",
            1.1,
            1.02,
            "the driver's; no Python worker is started",
        ),
        figure(
            "records lost",
            lost["lost"],
            "records",
            "lower",
            0,
            0,
            f"{lost['records']:,} records in {lost['files']:,} dirty files",
        ),
        figure("textualise, rows/s against ingest's", text, "x", "higher", 2, 5, f"textualise {medians['textualise']:.1f} s"),
        figure("start-up", repeat["rounds"]["start_up"], "s", "lower", None, None, "session and first Delta operation"),
    ]


def per_record(turn: dict[str, Any], name: str) -> float:
    """Seconds per new record of a load, less what a load costs that brings nothing new."""
    return float((turn[name]["seconds"] - turn["0.0"]["seconds"]) / turn[name]["new"])


if __name__ == "__main__":
    sys.exit(main())

"""Peak memory of the process that trains, on ten times the users of Online Retail II against that on its own; a part of `bench-quality`.

The tables of both logs are made once. One epoch is trained: what a second one would take is what the first one took.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from report import ROOT, Figure, figure, output, watched

COPIES = (1, 10)
ONE_EPOCH = ("interest.max_epochs=1",)


def memory(work: Path) -> dict[str, Any]:
    """Of each number of copies of the log: peaks in GiB and seconds of `jobs/train.py`, and its users."""
    return {str(copies): _of_training(copies, work / f"memory-{copies}") for copies in COPIES}


def _of_training(copies: int, work: Path) -> dict[str, Any]:
    log = work / "log.parquet"
    given = [f"warehouse={work / 'tables'}", f"domain.source.path={log}", f"tracking.uri=sqlite:///{work}/mlflow.db"]
    if not (work / "encoded").exists():
        output("rm", "-rf", str(work))
        work.mkdir(parents=True)
        users = write_copies(copies, log)
        for job in ("ingest", "textualise", "encode"):
            _submit(job, given, work)
        (work / "encoded").write_text(str(users))
    (work / "mlflow.db").unlink(missing_ok=True)  # what it holds would not be trained again
    ended = _submit("train", [*given, *ONE_EPOCH], work)
    return {"users": int((work / "encoded").read_text()), "seconds": ended.seconds, "peak_gib": ended.peak_gib}


def write_copies(copies: int, file: Path) -> int:
    """The log so many times, each time by users and on invoices of other names; how many users."""
    log = pq.read_table(ROOT / "examples/online_retail_ii/online_retail_II.parquet")
    user = log["Customer ID"].cast(pa.string())
    names = {"Customer ID": user, "Invoice": log["Invoice"].cast(pa.string())}
    for name, column in names.items():
        log = log.set_column(log.column_names.index(name), name, column)
    with pq.ParquetWriter(file, log.schema) as out:
        for copy in range(copies):
            for name, column in names.items():
                named = pc.binary_join_element_wise(column, str(copy), "-")
                log = log.set_column(log.column_names.index(name), name, named)
            out.write_table(log)
    return copies * len(user.drop_null().unique())


def _submit(job: str, overrides: list[str], work: Path) -> Any:
    sets = [part for override in overrides for part in ("--set", override)]
    ended = watched("spark-submit", f"jobs/{job}.py", "--domain", "retail", *sets, log=work / f"{job}.log")
    if ended.code:
        raise SystemExit(f"jobs/{job}.py ended with {ended.code}; see {work / job}.log")
    return ended


def memory_figures(found: dict[str, Any]) -> list[Figure]:
    one, ten = (found[str(copies)] for copies in COPIES)
    peaks = [of["peak_gib"]["python"] for of in (one, ten)]
    note = f"{peaks[0]:.2f} GiB with {one['users']:,} users, {peaks[1]:.2f} with {ten['users']:,}; {one['seconds']:.0f} s and {ten['seconds']:.0f} s"
    return [figure("peak memory of training, ten times the users", peaks[1] / peaks[0], "x", "lower", 1.1, 1.02, note)]

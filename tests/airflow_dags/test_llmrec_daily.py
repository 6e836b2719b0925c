"""llmrec_daily through real spark-submits: one day of the click example on tables that hold what came before."""

import gzip
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="Airflow lives in an environment of its own: make test-airflow")

import pendulum
from airflow.dag_processing.dagbag import DagBag
from deltalake import DeltaTable

ROOT = Path(__file__).parent.parent.parent
DAY, NOT_DELIVERED = "2019-11-04", "2019-11-05"
SMALL = (
    "encoder.backend=openvino",
    "encoder.precision=fp32",
    "interest.hidden_size=16",
    "interest.item_dim=16",
    "interest.max_epochs=1",
    "evaluation.window_days=7",
    "evaluation.bootstrap=20",
)
PREPARE = """
import sys
from llmrec_pipeline.cli import run_jobs
run_jobs(("ingest", "textualise", "encode", "train"), sys.argv[1], "ecommerce", tuple(sys.argv[2:]))
"""
JOBS = ["ingest", "textualise", "encode", "recommend"]


@dataclass(frozen=True)
class Shop:
    """A folder with deliveries, tables and a model store of its own."""

    folder: Path

    @property
    def settings(self) -> list[str]:
        return [f"warehouse={self.folder / 'warehouse'}", f"tracking.uri=sqlite:///{self.folder / 'mlflow.db'}", *SMALL]

    def prepare(self, delivery: str) -> None:
        """Runs the jobs that the daily run builds on, in one Spark session."""
        settings = [*self.settings, f"domain.source.path={self.folder / 'in' / delivery}"]
        command = [
            "spark-submit",
            "--master",
            "local[2]",
            str(self.folder / "prepare.py"),
            str(ROOT / "conf/pipeline.yaml"),
            *settings,
        ]
        (self.folder / "prepare.py").write_text(PREPARE, encoding="utf-8")
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    def run_dag(self, logical: str, retries: int = 1, **params: str) -> Any:
        """A run of llmrec_daily by hand, its jobs submitted for real."""
        dag = DagBag(str(ROOT / "airflow_dags")).dags["llmrec_daily"]
        for task in dag.task_dict.values():
            task.retries = retries
        settings = [*self.settings, f"domain.source.path={self.folder / 'in' / '{day}.csv'}"]
        return dag.test(logical_date=pendulum.parse(logical), run_conf={"domain": "ecommerce", "settings": settings, **params})

    def rows(self, table: str, *columns: str) -> list[dict[str, Any]]:
        """Rows as somebody outside Spark reads them."""
        return DeltaTable(str(self.folder / "warehouse/ecommerce" / table)).to_pyarrow_table(columns=list(columns)).to_pylist()

    def versions(self) -> dict[str, int]:
        """The Delta version of every table but job_runs."""
        folders = sorted(path.parent for path in (self.folder / "warehouse/ecommerce").glob("*/_delta_log"))
        return {folder.name: DeltaTable(str(folder)).version() for folder in folders if folder.name != "job_runs"}

    def job_runs(self) -> list[dict[str, Any]]:
        columns = ("job", "status", "error", "day", "started_at", "counts")
        return sorted(self.rows("job_runs", *columns), key=lambda row: row["started_at"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Everything up to the day before DAY ingested and trained on; DAY's file delivered."""
    if shutil.which("spark-submit") is None or "SPARK_HOME" not in os.environ:
        pytest.fail("spark-submit or SPARK_HOME is not in the environment; run these tests by `make test-airflow`")
    shop = Shop(tmp_path_factory.mktemp("shop"))
    header, *lines = gzip.decompress((ROOT / "examples/clicks/log.csv.gz").read_bytes()).decode().splitlines(keepends=True)
    (shop.folder / "in").mkdir()
    (shop.folder / "in/history.csv").write_text(header + "".join(line for line in lines if line[:10] < DAY), encoding="utf-8")
    (shop.folder / f"in/{DAY}.csv").write_text(header + "".join(line for line in lines if line[:10] == DAY), encoding="utf-8")
    shop.prepare("history.csv")
    return shop


def test_a_day_once_again_and_one_that_is_not_delivered(database: object, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.folder)  # a job's working directory is Airflow's
    before = {row["event_id"] for row in shop.rows("events", "event_id")}

    run = shop.run_dag("2019-11-05T09:30:00Z", day=DAY)
    assert run.state == "success"
    runs = shop.job_runs()[-4:]
    assert [(row["job"], row["status"], row["day"]) for row in runs] == [(job, "succeeded", date(2019, 11, 4)) for job in JOBS]
    new = [row for row in shop.rows("events", "event_id", "event_date") if row["event_id"] not in before]
    assert len(new) == dict(runs[0]["counts"])["used"] > 100
    assert {row["event_date"] for row in new} == {date(2019, 11, 4)}
    lists = shop.rows("recommendations", "user_id", "as_of")
    assert {row["as_of"] for row in lists} == {datetime(2019, 11, 5, tzinfo=UTC)}
    assert {row["user_id"] for row in lists} == {row["user_id"] for row in shop.rows("user_sequences", "user_id")}

    versions, count = shop.versions(), len(shop.job_runs())
    again = shop.run_dag("2019-11-04T09:30:00Z")  # the same day, named by the logical date
    assert again.state == "success"
    assert [(row["job"], row["day"]) for row in shop.job_runs()[count:]] == [(job, date(2019, 11, 4)) for job in JOBS]
    assert shop.versions() == versions

    late = shop.run_dag("2019-11-05T00:00:00Z", retries=0)
    assert late.state == "failed"
    (row,) = shop.job_runs()[count + 4 :]
    assert (row["job"], row["status"], row["day"]) == ("ingest", "failed", date(2019, 11, 5))
    assert row["error"].startswith(f"source path '{shop.folder}/in/{NOT_DELIVERED}.csv' does not exist")
    assert shop.versions() == versions

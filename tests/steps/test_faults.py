"""Law 6 for real: every job's spark-submit is killed with -9 around every one of its commits, and run again; `make test-faults`."""

import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from llmrec_pipeline.cli import STEPS

pytestmark = [pytest.mark.spark, pytest.mark.faults]
ROOT = Path(__file__).parent.parent.parent
LIMIT = 1_200  # seconds that one job may take
Point = tuple[str, str]  # (table, "data" written | "commit" made), or ("register", "commit")


def reached(path) -> dict[Point, int]:
    """How often each point has been passed so far: data files and commits of each table, versions in the registry."""
    found: dict[Point, int] = {}
    for table in (path.folder / "warehouse").glob("*/[!_]*"):
        found[table.name, "data"] = sum(1 for _ in table.glob("*.parquet"))
        found[table.name, "commit"] = sum(1 for _ in table.glob("_delta_log/*.json"))
    found["register", "commit"] = registered(path.folder / "mlflow.db")
    return found


def registered(store: Path) -> int:
    if not store.exists():
        return 0
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        if not connection.execute("select 1 from sqlite_master where name = 'model_versions'").fetchall():
            return 0
        return connection.execute("select count(*) from model_versions").fetchone()[0]


def submit(path, job: str) -> subprocess.Popen:
    settings = [part for pair in path.overrides for part in ("--set", pair)]
    with (path.folder / "log").open("a") as log:
        command = ["spark-submit", f"jobs/{job}.py", "--domain", path.domain, *settings]
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def killed_at(path, job: str, met: set[Point]) -> Point | None:
    """Runs a job and kills it, the whole process group, at the first point that is not in `met`; None when it came to its end."""
    before = reached(path)
    process = submit(path, job)
    deadline = time.monotonic() + LIMIT
    while process.poll() is None:
        assert time.monotonic() < deadline, (path.folder / "log").read_text()[-3000:]
        new = [point for point, count in reached(path).items() if count > before.get(point, 0) and point not in met]
        if new:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return new[0]
        time.sleep(0.02)
    assert process.returncode == 0, (path.folder / "log").read_text()[-3000:]
    return None


def test_every_job_killed_around_every_commit_ends_in_the_tables_of_an_undisturbed_run(make_path) -> None:
    killed, undisturbed = (make_path(name, "ecommerce", "interest.profile_texts=true") for name in ("killed", "undisturbed"))
    for job in STEPS:
        assert submit(undisturbed, job).wait(LIMIT) == 0
        met: set[Point] = set()
        while point := killed_at(killed, job, met):
            met.add(point)
        print(f"{job}: killed {len(met)} times, at {sorted(met)}")
        assert {table for table, _ in met} >= {"job_runs"} | COMMITS[job]
    assert killed.contents() == undisturbed.contents()
    profiles = [sorted(map(str, path.warehouse.read("user_profiles").collect())) for path in (killed, undisturbed)]
    assert profiles[0] == profiles[1] != []


COMMITS = {
    "ingest": {"events", "items"},
    "textualise": {"texts", "user_sequences", "user_profiles"},
    "encode": {"encoders", "text_embeddings"},
    "train": {"item_neighbours", "interest_states", "register"},
    "recommend": {"recommendations", "default_recommendations", "recommendation_log"},
    "evaluate": {"evaluation"},
}

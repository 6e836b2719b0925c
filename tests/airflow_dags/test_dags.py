"""Both DAG files as Airflow parses them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="Airflow lives in an environment of its own: make test-airflow")

from airflow.serialization.serialized_objects import DagSerialization

ROOT = Path(__file__).parent.parent.parent
DAGS = ROOT / "airflow_dags"
PARSE = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
began = time.process_time()  # others may be at work on the same cores
bag = DagBag(sys.argv[1])
seconds = time.process_time() - began
print("PARSED" + json.dumps([sorted(bag.dags), bag.import_errors, seconds, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_the_files_parse_in_two_seconds_without_spark_torch_or_the_package(database: object) -> None:
    done = subprocess.run([sys.executable, "-c", PARSE, str(DAGS)], capture_output=True, text=True, check=True, cwd=DAGS)
    line = next(line for line in done.stdout.splitlines() if line.startswith("PARSED"))
    names, errors, seconds, modules = json.loads(line.removeprefix("PARSED"))
    assert names == ["llmrec_daily", "llmrec_train"]
    assert errors == {}
    assert seconds < 2
    assert "airflow" in modules
    assert not {"pyspark", "torch", "transformers", "llmrec_pipeline"} & set(modules)


@pytest.mark.parametrize(
    ("name", "jobs"),
    [("llmrec_daily", ["ingest", "textualise", "encode", "recommend"]), ("llmrec_train", ["train", "evaluate"])],
)
def test_jobs_follow_one_another_with_the_arguments_of_the_named_day(dags: dict[str, Any], name: str, jobs: list[str]) -> None:
    dag = dags[name]
    assert list(dag.task_dict) == ["name_day", *jobs]
    for before, job in zip(["name_day", *jobs], jobs, strict=False):
        task = dag.task_dict[job]
        assert task.upstream_task_ids == {"name_day", before}
        assert task.application == str(ROOT / "jobs" / f"{job}.py")
        assert (ROOT / "jobs" / f"{job}.py").is_file()
        assert task._conn_id == "spark_default"
        assert task.retries == 1


@pytest.mark.parametrize("name", ["llmrec_daily", "llmrec_train"])
def test_one_run_at_a_time_and_no_catching_up(dags: dict[str, Any], name: str) -> None:
    dag = dags[name]
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    assert dag.timetable.timezone == "Europe/London"  # of the domain that conf/pipeline.yaml names
    assert dag.params.dump() == {"day": None, "domain": None, "settings": []}
    assert DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag)).dag_id == name

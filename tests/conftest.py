"""One Spark session for the whole suite, and small domains to run jobs on."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from pyspark.sql import SparkSession

from llmrec_pipeline.cli import run_step
from llmrec_pipeline.config import Settings, load_settings
from llmrec_pipeline.session import get_session
from llmrec_pipeline.tracking import Run

# read where numpy and torch are loaded: the suite's processes share the cores, and with two threads each took twice the processor time
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parent.parent
# not measured anew in each of the suite's warehouses; a worker loads OpenVINO in a third of the time that torch's model takes
PLAIN_ENCODER = ("encoder.backend=openvino", "encoder.precision=fp32")
TINY = {
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


MADE_ONCE = {"clicks", "base", "runs", "gemma_spec"}  # fixtures that take a minute or more: whose tests stay in one process


def pytest_itemcollected(item: pytest.Item) -> None:
    """Groups tests by what they share. xdist reads the marks when all are collected, before a hook of that moment here would have set them."""
    shared = MADE_ONCE.intersection(getattr(item, "fixturenames", ()))
    if shared:
        item.add_marker(pytest.mark.xdist_group(min(shared)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first: xdist hands out groups, and what is in none one by one, in this order, and both processes end at about the same time."""
    items.sort(key=lambda item: ("clicks" not in getattr(item, "fixturenames", ()), item.path.parent.name != "cases"))


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """The shared session: settings from the environment's spark-defaults, made fit for tables of a few rows.

    Compiling code for them costs more than it saves; the tests of spark-submit run with Spark's own settings. (What the JVM compiles
    of Spark fills 48 MB within minutes: it then discards and compiles again for ever; discarding alone took a quarter of the processor time.
    A page that a virtual machine touches for the first time costs 4 to 40 us on some hosts: large ones are few.)
    """
    java = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC -XX:+UseTransparentHugePages"
    options = {"spark.driver.extraJavaOptions": java, "spark.driver.memory": "2g"}
    arguments = [part for name, value in options.items() for part in ("--conf", f"'{name}={value}'")]
    os.environ["PYSPARK_SUBMIT_ARGS"] = " ".join([*arguments, "pyspark-shell"])
    session = get_session("tests")
    del os.environ["PYSPARK_SUBMIT_ARGS"]
    for name, value in TINY.items():
        session.conf.set(name, value)
    yield session
    session.stop()


@pytest.fixture(scope="session")
def tracking_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store, to be copied: MLflow takes seconds to make one."""
    file = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def make_settings(tracking_store: Path, tmp_path: Path) -> Callable[..., Settings]:
    """Writes a domain's YAML into an empty folder and loads it, with a warehouse and a tracking store beside it."""
    shutil.copy(tracking_store, tmp_path / "mlflow.db")

    def make(domain: dict[str, Any], *overrides: str) -> Settings:
        file = tmp_path / f"{domain['name']}.yaml"
        file.write_text(yaml.safe_dump(domain, sort_keys=False, allow_unicode=True), encoding="utf-8")
        paths = (f"warehouse={tmp_path / 'warehouse'}", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}")
        return load_settings(ROOT / "conf/pipeline.yaml", str(file), (*paths, *PLAIN_ENCODER, *overrides))

    return make


@pytest.fixture
def run_job(spark: SparkSession) -> Callable[..., Run]:
    """Runs one step as its job does, in the shared session."""
    return run_step

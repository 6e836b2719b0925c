"""An Airflow of its own for these tests: a database in a temporary folder, no scheduler, no network."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
DAGS = ROOT / "airflow_dags"
# jobs this short: half the processor time
JAVA = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC -XX:+UseTransparentHugePages"
CONNECTION = {"conn_type": "spark", "host": "local[2]", "extra": {"spark-binary": "spark-submit", "deploy-mode": "client"}}

if importlib.util.find_spec("airflow"):  # read when Airflow is imported, so before any test module is
    os.environ |= {
        "AIRFLOW_HOME": tempfile.mkdtemp(prefix="airflow-"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps(CONNECTION),
        "JAVA_TOOL_OPTIONS": JAVA,
    }
    sys.path.append(str(DAGS))


@pytest.fixture(scope="session", autouse=True)
def airflow_home() -> Iterator[Path]:
    """The folder of this Airflow, removed at the end."""
    home = Path(os.environ["AIRFLOW_HOME"])
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def database(airflow_home: Path) -> Path:
    """Airflow's database, made once."""
    migrated = subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], capture_output=True, text=True, check=False)
    assert migrated.returncode == 0, migrated.stderr
    return airflow_home / "airflow.db"


@pytest.fixture
def dags() -> dict[str, Any]:
    """Both DAGs, parsed anew."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(DAGS))
    assert bag.import_errors == {}
    return bag.dags

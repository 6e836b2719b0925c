"""The click example taken through the whole path once, small models; tests that change tables work on a copy."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from llmrec_pipeline.cli import STEPS, run_step
from llmrec_pipeline.config import Settings, load_settings
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import Warehouse

ROOT = Path(__file__).parent.parent.parent
SMALL = (
    "encoder.backend=openvino",
    "encoder.precision=fp32",
    "interest.hidden_size=16",
    "interest.item_dim=16",
    "interest.max_epochs=2",
    "joint.cf_weight=[0.1, 0.3, 1.0]",  # none is 0, so that every share shows
    "evaluation.window_days=7",
    "evaluation.bootstrap=50",
)


@dataclass
class Path_:
    """A warehouse with its settings, and the runs that made it."""

    spark: SparkSession
    folder: Path
    domain: str = "ecommerce"
    more: tuple[str, ...] = ()
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def overrides(self) -> tuple[str, ...]:
        return (
            *SMALL,
            f"warehouse={self.folder / 'warehouse'}",
            f"tracking.uri=sqlite:///{self.folder / 'mlflow.db'}",
            *self.more,
        )

    def settings(self, *overrides: str) -> Settings:
        return load_settings(ROOT / "conf/pipeline.yaml", self.domain, (*self.overrides, *overrides))

    def run(self, *names: str, overrides: tuple[str, ...] = ()) -> dict[str, Run]:
        self.runs = {name: run_step(name, self.settings(*overrides)) for name in names or STEPS}
        return self.runs

    @property
    def warehouse(self) -> Warehouse:
        settings = self.settings()
        return Warehouse(self.spark, settings.root, settings.domain.name, settings.mapping_hash)

    def copy(self, folder: Path) -> "Path_":
        """The same tables in another folder; the register of models is shared."""
        shutil.copytree(self.folder / "warehouse", folder / "warehouse")
        shutil.copy(self.folder / "mlflow.db", folder / "mlflow.db")
        return Path_(self.spark, folder, self.domain, self.more)

    def contents(self) -> dict[str, list[str]]:
        """Rows of every table, floats to four digits, order-free; job_runs, what names runs and what was timed left out."""
        found = {}
        for name in TABLES:
            df = self.warehouse.read(name).drop("state_version", "head_version", "list_id", "evaluation_id", "trials")
            found[name] = sorted(str(_rounded(row)) for row in df.collect())
        return found

    def versions(self) -> dict[str, int]:
        return {name: self.warehouse.version(name) for name in TABLES}


def _rounded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


TABLES = (
    "events",
    "quarantine",
    "items",
    "texts",
    "user_sequences",
    "encoders",
    "text_embeddings",
    "interest_states",
    "item_neighbours",
    "recommendations",
    "default_recommendations",
    "recommendation_log",
    "evaluation",
)


@pytest.fixture(scope="session")
def clicks(spark: SparkSession, tracking_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path_:
    """The whole path on the click example; read only."""
    path = Path_(spark, tmp_path_factory.mktemp("clicks"))
    shutil.copy(tracking_store, path.folder)
    path.run()
    return path


@pytest.fixture
def clicks_copy(clicks: Path_, tmp_path: Path) -> Path_:
    return clicks.copy(tmp_path)


MakePath = Callable[..., Path_]


@pytest.fixture
def make_path(spark: SparkSession, tracking_store: Path, tmp_path: Path) -> MakePath:
    def make(name: str, domain: str = "ecommerce", *more: str) -> Path_:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(tracking_store, folder)
        return Path_(spark, folder, domain, more)

    return make

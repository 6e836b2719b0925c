"""Trained heads: what train makes and recommend and evaluate load, and the scorer that comes of one."""

import json
import logging
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.collaborative import Neighbours
from llmrec_pipeline.config import CollaborativeConfig, DomainConfig
from llmrec_pipeline.errors import ConfigError, ModelError, TableError
from llmrec_pipeline.interest.artefacts import RECURRENCE, file_hash, load
from llmrec_pipeline.interest.data import Catalogue, Query
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.recommendation import JointWeights
from llmrec_pipeline.recommendation.scorer import Scorer, popularity_as_of
from llmrec_pipeline.registry import Registry
from llmrec_pipeline.steps.dataset import Dataset, day_of
from llmrec_pipeline.tracking import Run

log = logging.getLogger("llmrec")
JOINT_FILE = "joint.json"
NEXT_STEP = (
    "run jobs/train.py, which makes it whole, or another version where data, config or code have changed; where it is the champion, run "
    "jobs/evaluate.py --rollback then"
)


@dataclass(frozen=True)
class Head:
    """A head_version: the interest model, and the weights that join it with the collaborative part."""

    model: InterestModel
    weights: JointWeights
    head_version: str
    state_version: str
    encoder_id: str
    validation_start: int  # days since 1970-01-01: gradients come from before this date
    start: int  # T: choices were made before this date
    collaborative: CollaborativeConfig  # by which it was trained, and scores
    neighbours: int | None = None  # rows of `item_neighbours` that it has when complete, 0 too; None: one of before does not say
    recurrence: str | None = None  # SHA-256 of the weights that its states are made by; None likewise

    @property
    def versions(self) -> dict[str, str]:
        return {"head_version": self.head_version, "state_version": self.state_version, "encoder_id": self.encoder_id}


def query_at(day: int, domain: DomainConfig) -> Query:
    """The start of a date in the domain's zone: what lies before it may be used."""
    midnight = datetime.combine(day_of(day), datetime.min.time(), ZoneInfo(domain.zone))
    return Query(time=midnight.timestamp() / 86_400, day=day)


def read_head(folder: Path) -> Head:
    """A head from its files.

    Raises:
        ModelError: files are missing or do not belong together.
    """
    try:
        values = json.loads((folder / JOINT_FILE).read_text(encoding="utf-8"))
        weights = JointWeights.from_dict(values.pop("weights"))
        collaborative = CollaborativeConfig.model_validate(values.pop("collaborative"))
        head = Head(model=load(folder).model, weights=weights, collaborative=collaborative, **values)
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:  # ValueError: pydantic's and json's own
        cause = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model folder {folder}: {JOINT_FILE} is not what this version reads ({type(error).__name__}: {cause}); run train again, "
            "and promote what it makes"
        ) from error
    found = file_hash(folder / RECURRENCE)
    if head.recurrence not in (None, found):
        raise ModelError(
            f"{JOINT_FILE} was written for {RECURRENCE} of hash {head.recurrence}, found {found}; use the files of one training run"
        )
    return head


def head_of(registry: Registry, version: Any) -> Head:
    """The head of a registered version.

    Raises:
        ModelError: its files are gone or damaged.
    """
    try:
        with registry.files(version) as folder:
            return read_head(folder)
    except ModelError as error:
        raise ModelError(f"version {version.version} of {registry.name} cannot be read ({error}); {NEXT_STEP}") from error


def registry_of(run: Run) -> Registry:
    """The register of the versions that were made from the run's warehouse."""
    return Registry(run.settings, run.warehouse.table_id("events"))


@dataclass(frozen=True)
class Similarities:
    """A head's rows of `item_neighbours`, by kind."""

    co_occurrence: Neighbours
    transition: Neighbours

    @property
    def rows(self) -> int:
        return len(self.co_occurrence.item) + len(self.transition.item)


KINDS = tuple(field.name for field in fields(Similarities))


def serving_head(run: Run) -> Head:
    """The version that serves, pinned for this run: MLflow's champion, or the newest as long as there is none."""
    registry = registry_of(run)
    version, newest = registry.serving(), registry.newest()
    if version.version != newest.version:
        log.info("%s: version %s serves, the champion; version %s is not promoted", run.job, version.version, newest.version)
    return pinned_head(run, registry, version)


def pinned_head(run: Run, registry: Registry, version: Any) -> Head:
    """The head of a version, noted as the one of this run."""
    head = head_of(registry, version)
    run.versions |= head.versions
    return head


def make_scorer(run: Run, head: Head, dataset: Dataset, query: Query, similar: Similarities) -> Scorer:
    """The scorer of a head as of a query.

    Raises:
        ModelError: the dataset's encoder is not the head's.
        ConfigError: the head wants profile texts, and the config has none.
    """
    if head.model.config.profile_texts and not run.settings.pipeline.interest.profile_texts:
        raise ConfigError(
            f"head_version {head.head_version} was trained with interest.profile_texts, which the config has off; name --set "
            "interest.profile_texts=true here, and in jobs/textualise.py and jobs/encode.py before it (also to leave it for a version without them)"
        )
    if dataset.encoder_id != head.encoder_id:
        raise ModelError(
            f"encoder_id is {dataset.encoder_id} by the config, the head was trained on {head.encoder_id}; undo the change, or run train again "
            "(and evaluate --promote, where there is a champion)"
        )
    catalogue, settings = dataset.catalogue, run.settings
    return Scorer(
        model=head.model,
        catalogue=catalogue,
        text_vectors=dataset.text_vectors,
        popularity=popularity_as_of(head.model, dataset.daily, query.day, catalogue.n_items),
        neighbours=similar.co_occurrence,
        transitions=similar.transition,
        weights=head.weights,
        config=head.collaborative,
        domain=settings.domain,
        query=query,
        gate_shift=settings.pipeline.recommend.gate_shift,
        new_item_shift=settings.pipeline.recommend.new_item_shift,
        blocked=np.isin(catalogue.item_ids, np.array(settings.pipeline.recommend.blocked_items, dtype=np.str_)),
    )


def read_neighbours(run: Run, head: Head, catalogue: Catalogue) -> Similarities:
    """The head's rows of `item_neighbours`, as rows of the catalogue; none where no user has had two items.

    Raises:
        TableError: rows are missing.
    """
    found = neighbour_rows(run, head).select("kind", "item_id", "neighbour_id", "weight").toArrow()
    check_complete(head, len(found))
    return Similarities(**{kind: _neighbours(found.filter(pc.field("kind") == kind), catalogue) for kind in KINDS})


def neighbour_rows(run: Run, head: Head) -> DataFrame:
    return run.read("item_neighbours").filter(F.col("head_version") == head.head_version)


def check_complete(head: Head, rows: int) -> None:
    """Raises TableError where a head has fewer rows of `item_neighbours` than were made for it: its lists would lack s."""
    if head.neighbours is not None and rows < head.neighbours:
        raise TableError(
            f"table item_neighbours holds {rows} rows of head_version {head.head_version}, expected {head.neighbours}; {NEXT_STEP}"
        )


def _neighbours(found: pa.Table, catalogue: Catalogue) -> Neighbours:
    item, neighbour = (_positions(found[name], catalogue) for name in ("item_id", "neighbour_id"))
    keep = (item >= 0) & (neighbour >= 0)
    order = np.lexsort((neighbour[keep], item[keep]))
    weight = found["weight"].to_numpy().astype(np.float32)
    return Neighbours(item[keep][order], neighbour[keep][order], weight[keep][order])


def _positions(column: pa.ChunkedArray, catalogue: Catalogue) -> npt.NDArray[np.int32]:
    known = pa.array(catalogue.item_ids.tolist(), pa.string())
    found = pc.index_in(column.combine_chunks(), value_set=known).fill_null(-1)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int32)

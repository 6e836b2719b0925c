"""Trains the interest model, the neighbours and the joint weights: one head_version, registered when its rows are complete."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from pyspark.ml.torch.distributor import TorchDistributor
from pyspark.sql import functions as F

from llmrec_pipeline.collaborative import Neighbours, fit_neighbours, fit_transitions, transitions
from llmrec_pipeline.config import Settings
from llmrec_pipeline.errors import ConfigError, ModelError, PipelineError, TableError
from llmrec_pipeline.evaluation.windows import Window, window_ending
from llmrec_pipeline.interest.artefacts import RECURRENCE, save
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue, Histories, Query, on_disk
from llmrec_pipeline.interest.held_out import held_out_between
from llmrec_pipeline.interest.own import own_counts
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.interest.training import TrainedModel
from llmrec_pipeline.interest.training import train as train_interest
from llmrec_pipeline.recommendation import Block, JointFit, JointWeights, Targets, fit_joint, log_softmax
from llmrec_pipeline.recommendation.scorer import Scorer, co_occurrence_weights
from llmrec_pipeline.registry import Registry, write_json
from llmrec_pipeline.steps.dataset import (
    Dataset,
    day_number,
    day_of,
    load_dataset,
    scratch,
    sequences_before,
    user_blocks,
    with_profile_vectors,
)
from llmrec_pipeline.steps.encoders import standing_encoder
from llmrec_pipeline.steps.heads import (
    JOINT_FILE,
    KINDS,
    Head,
    Similarities,
    head_of,
    make_scorer,
    neighbour_rows,
    query_at,
    registry_of,
)
from llmrec_pipeline.steps.states import advance_states
from llmrec_pipeline.steps.versions import data_versions, head_version, state_version, with_weights
from llmrec_pipeline.tables import ITEM_NEIGHBOURS
from llmrec_pipeline.tracking import Run

Groups = npt.NDArray[np.int64]
log = logging.getLogger("llmrec")
INPUTS = ("events", "items", "user_sequences", "text_embeddings")
NEIGHBOUR_SCHEMA = "kind string, item_id string, neighbour_id string, weight float"


def train(run: Run) -> None:
    """Trains on what lies before the last window, or finds that this very version exists; completes its rows, then registers it."""
    settings, registry = run.settings, registry_of(run)
    run.warehouse.create(["item_neighbours", "interest_states"])
    window, last = training_window(run)
    encoder = standing_encoder(run)
    encoder_id = encoder["encoder_id"]
    inputs = data_versions(run, INPUTS)
    state = state_version(settings, encoder_id, window.start, inputs)
    head = head_version(settings, state)
    run.versions |= {"state_version": state, "head_version": head, "encoder_id": encoder_id}
    existing = _existing(registry, head)
    if existing:
        run.versions |= existing.versions
        _complete(run, existing, _missing(run, existing), last)
        return
    with run.stage("read"):
        dataset, histories = _read(run, window.start, encoder_id)
        groups = _exposure_groups(run, dataset, window.validation_start)
    with registry.run(f"{settings.domain.name} {window.name}") as mlflow:
        mlflow.log_params({f"encoder.{name}": encoder[name] for name in ("source", "backend", "precision")})
        trained = _train_interest(run, (dataset, groups), histories, window, mlflow)
        with run.stage("fit"):
            fit = _fit_joint(run, trained, dataset, histories, window)
            neighbours = neighbours_before(settings, dataset.catalogue, histories, query_at(window.start, settings.domain))
        with TemporaryDirectory() as folder:
            recurrence = save(folder, trained)[RECURRENCE]
            days, collaborative = (window.validation_start, window.start), settings.pipeline.collaborative
            made = head, with_weights(state, recurrence), encoder_id
            found = Head(trained.model, fit.weights, *made, *days, collaborative, neighbours.rows, recurrence)
            uri = _log(run, registry, mlflow, found, trained, fit, Path(folder))
        run.versions |= found.versions
        _complete(run, found, (dataset, neighbours), last)
        registry.register(uri, mlflow.active_run().info.run_id, found.versions)


def _existing(registry: Registry, head_version: str) -> Head | None:
    """The head that is registered; None: there is none, or its files cannot be read and it is to be made again."""
    existing = registry.find(head_version)
    if not existing:
        return None
    log.info("train: head_version %s exists (version %s of %s)", head_version, existing.version, registry.name)
    try:
        found = head_of(registry, existing)
    except ModelError as error:
        log.warning("train: it is trained again: %s", error)
        return None
    newest = registry.newest()
    if newest.version != existing.version:
        log.warning(
            "train: version %s is newer: evaluate takes that one, and so does recommend where there is no champion",
            newest.version,
        )
    return found


def _missing(run: Run, head: Head) -> tuple[Dataset, Similarities] | None:
    """The neighbours of a registered head, counted anew; None: all their rows are there."""
    if neighbour_rows(run, head).count() >= (head.neighbours or 0):
        return None
    with run.stage("read"):
        dataset, histories = _read(run, head.start, head.encoder_id)
    with run.stage("fit"):
        query = query_at(head.start, run.settings.domain)
        return dataset, neighbours_before(run.settings, dataset.catalogue, histories, query)


def _read(run: Run, until: int, encoder_id: str) -> tuple[Dataset, Histories]:
    """What lies before the date `until`: the dataset, and the histories of all users, on disk."""
    sequences = with_profile_vectors(run, sequences_before(run, until), encoder_id)
    dataset = load_dataset(run, until)  # after the sequences: it is to hold all that they name
    with scratch(run, sequences.orderBy("user_id", "event_date"), "sequences") as shards:
        return dataset, on_disk(user_blocks(shards, dataset, run.settings.pipeline.recommend.block_users))


def training_window(run: Run) -> tuple[Window, int]:
    """The last window of the log up to the run's day, and that day.

    Raises:
        TableError: there are no events.
        ConfigError: the log is too short for a window and its validation.
    """
    span = run.read("events").agg(F.min("event_date").alias("first"), F.max("event_date").alias("last")).first()
    if span is None or span["first"] is None:
        raise TableError("table events is empty; run jobs/ingest.py first")
    day = run.settings.pipeline.day
    last = day_number(date.fromisoformat(day) if day else span["last"])
    return window_ending(day_number(span["first"]), last, run.settings.pipeline.evaluation.window_days), last


def _train_interest(
    run: Run, inputs: tuple[Dataset, Groups | None], histories: Histories, window: Window, mlflow: Any
) -> TrainedModel:
    (dataset, groups), settings, config = inputs, run.settings, run.settings.pipeline.interest
    torch.set_num_threads(config.threads)
    done = 0
    with run.stage("train") as report:

        def on_epoch(figures: dict[str, float]) -> None:
            nonlocal done
            done += 1
            report(done, config.max_epochs)
            log.info(
                "train: epoch %d of at most %d, %s",
                done,
                config.max_epochs,
                ", ".join(f"{k} {v:.4g}" for k, v in figures.items() if k != "epoch"),
            )
            mlflow.log_metrics({name: float(value) for name, value in figures.items()}, step=done)

        period = query_at(window.validation_start, settings.domain), query_at(window.start, settings.domain)
        is_target = np.array([kind.target for kind in settings.domain.event_types.values()])
        validation = held_out_between(
            histories, dataset.catalogue, dataset.daily, dataset.text_vectors, config, is_target, period
        )
        learn = partial(
            train_interest,
            on_disk(block.before(period[0].day) for block in histories.slices(settings.pipeline.recommend.block_users)),
            validation,
            dataset.catalogue,
            dataset.daily,
            dataset.text_vectors,
            config,
            event_types=list(dataset.event_types),
            target_types=list(settings.domain.targets),
            repeats=settings.domain.repeats,
            period=period,
            seed=settings.pipeline.seed,
            groups=groups,
        )
        trained = learn(on_epoch=on_epoch) if config.processes == 1 else _on_processes(run, learn, on_epoch)
    run.counts |= trained.report
    if not trained.report["examples_next"]:
        log.warning(
            "train: no user has a next step to learn from, all %d examples are first steps; lists will rest on popularity and similarity",
            trained.report["examples"],
        )
    return trained


def _exposure_groups(run: Run, dataset: Dataset, until: int) -> Groups | None:
    """[N] number of each item's category or brand as it stood before the date `until`, -1: it has none; None: groups go by popularity.

    Raises:
        ConfigError: the items have fewer than two of them.
    """
    config = run.settings.pipeline.interest
    column = config.exposure_groups
    if not config.exposure_weight or column == "popularity":
        return None
    items = run.read("items").filter(F.col("valid_from") < F.lit(day_of(until)))
    newest = items.groupBy("item_id").agg(F.max_by(column, "valid_from").alias("name")).filter("name IS NOT NULL")
    names = {row["item_id"]: row["name"] for row in newest.collect()}
    number = {name: place for place, name in enumerate(sorted(set(names.values())))}
    if len(number) < 2:
        raise ConfigError(
            f"interest.exposure_groups is {column!r}, but the items of domain {run.settings.domain.name!r} have {len(number)} of them before "
            f"{day_of(until)}, expected two or more; map it in the domain's items, or name another kind of groups"
        )
    return np.array([number.get(names.get(str(item)), -1) for item in dataset.catalogue.item_ids], dtype=np.int64)


def _on_processes(run: Run, learn: Callable[[], TrainedModel], on_epoch: Callable[[dict[str, float]], None]) -> TrainedModel:
    """`learn` on `interest.processes` processes: of this machine under a local master, else a Spark task each.

    Epochs are told when all have ended, without their seconds.

    Raises:
        PipelineError: what the processes raised.
    """
    config = run.settings.pipeline.interest
    local = (run.spark.sparkContext.master or "").startswith("local")
    found = TorchDistributor(config.processes, local_mode=local, use_gpu=False).run(_as_member, learn, config.threads)
    if isinstance(found, PipelineError):
        raise found
    trained = cast("TrainedModel", found)
    for figures in trained.epochs:
        on_epoch(figures)
    return trained


def _as_member(learn: Callable[[], TrainedModel], threads: int) -> TrainedModel | PipelineError:
    """Runs in each process; an error of ours, which all meet alike, is handed over whole."""
    torch.set_num_threads(threads)
    torch.distributed.init_process_group("gloo")
    try:
        return learn()
    except PipelineError as error:
        return error
    finally:
        torch.distributed.destroy_process_group()


def neighbours_before(settings: Settings, catalogue: Catalogue, histories: Histories, query: Query) -> Similarities:
    """Item neighbours of both kinds from all behaviours before the query, by the configured recipe."""
    collaborative, half_lives = settings.pipeline.collaborative, settings.pipeline.interest.repeat_half_lives
    kinds, size, n_items = list(settings.domain.event_types.values()), settings.pipeline.recommend.block_users, catalogue.n_items
    weights, is_target = [kind.weight for kind in kinds], [kind.target for kind in kinds]
    together = (
        co_occurrence_weights(
            own_counts(block, query, half_lives, len(kinds), catalogue), weights, n_items, collaborative, half_lives
        )
        for block in histories.slices(size)
    )
    following = (transitions(block, query, weights, is_target, n_items) for block in histories.slices(size))
    return Similarities(
        co_occurrence=fit_neighbours(together, n_items, collaborative),
        transition=fit_transitions(following, n_items, collaborative.neighbours),
    )


def targets_between(histories: Histories, start: int, end: int, is_target: list[bool]) -> Targets:
    """Target events of dates [start, end), user by user."""
    step_day = histories.step_day[histories.event_step]
    wanted = (step_day >= start) & (step_day < end) & np.asarray(is_target)[histories.event_type]
    per_user = np.bincount(histories.step_user[histories.event_step][wanted], minlength=histories.n_users)
    return Targets(np.concatenate([[0], np.cumsum(per_user)]).astype(np.int64), histories.item[wanted])


def states_at(scorer: Scorer, histories: Histories, query: Query) -> States:
    """States of the users of `histories` as of the query, from their whole history."""
    empty = States.empty(histories.user_ids, scorer.model.layout)
    return advance(scorer.model, empty, histories.before(query.day), scorer.catalogue, scorer.text_vectors)


def _fit_joint(run: Run, trained: TrainedModel, dataset: Dataset, histories: Histories, window: Window) -> JointFit:
    """Fits the joint weights on the validation period, with everything counted as of its start."""
    settings, query = run.settings, query_at(window.validation_start, run.settings.domain)
    neighbours = neighbours_before(settings, dataset.catalogue, histories, query)
    edges = settings.pipeline.joint.history_edges
    neutral = JointWeights(
        cf_repeat_weight=0.0,
        cf_temperature=1.0,
        cf_weight=(0.0,) * (len(edges) + 1),
        history_edges=edges,
        temperature=1.0,
        cf_transition_weight=0.0,
    )
    days = window.validation_start, window.start
    head = Head(trained.model, neutral, "", "", dataset.encoder_id, *days, settings.pipeline.collaborative)
    scorer = make_scorer(run, head, dataset, query, neighbours)
    nothing = np.zeros_like(scorer.blocked)  # what is shifted or blocked is so in lists, and no part of a head_version
    scorer = replace(scorer, gate_shift=0.0, new_item_shift=0.0, blocked=nothing)
    size = settings.pipeline.recommend.block_users
    users = on_disk(_with_targets(block, scorer, window) for block in histories.slices(size))
    return fit_joint(lambda: (_block(scorer, block, window) for block in users.slices(size)), settings.pipeline.joint)


def _with_targets(users: Histories, scorer: Scorer, window: Window) -> Histories:
    """Those who have a target event in the validation period."""
    wanted = targets_between(users, window.validation_start, window.start, scorer.is_target)
    return users.take(np.flatnonzero(wanted.per_user))


def _block(scorer: Scorer, users: Histories, window: Window) -> Block:
    states = states_at(scorer, users, scorer.query)
    parts = scorer.parts(states)
    mask, known = scorer.candidates(parts.own)
    found = scorer.similar(parts.own)
    targets = targets_between(users, window.validation_start, window.start, scorer.is_target)
    return Block(
        log_p=log_softmax(parts.logits, mask),
        similarity=found.similarity,
        own=found.own,
        transition=found.transition,
        mask=mask,
        had=known.toarray() if scorer.domain.repeats else None,
        targets=targets,
        history_length=states.steps,
    )


def _log(run: Run, registry: Registry, mlflow: Any, head: Head, trained: TrainedModel, fit: JointFit, folder: Path) -> str:
    values = {name: value for name, value in vars(head).items() if name not in ("model", "weights", "collaborative")}
    configured = {"weights": head.weights.to_dict(), "collaborative": head.collaborative.model_dump(mode="json")}
    write_json(folder / JOINT_FILE, values | configured)
    pipeline = run.settings.pipeline
    sections = ("interest", "collaborative", "joint", "evaluation")
    params = {f"{name}.{key}": value for name in sections for key, value in getattr(pipeline, name).model_dump().items()}
    mlflow.log_params({"domain": run.settings.domain.name, "seed": pipeline.seed, "window": str(day_of(head.start)), **params})
    mlflow.log_params(head.weights.named())
    mlflow.log_params({f"input.{table}": version for table, version in run.inputs.items()})
    figures = {name: float(value) for name, value in vars(fit).items() if name != "weights"}
    mlflow.log_metrics(figures | {name: float(value) for name, value in trained.report.items()} | _encoding(run, head.encoder_id))
    mlflow.set_tags(head.versions)
    log.info("train: %s; %s", fit.weights.to_dict(), {name: round(value, 4) for name, value in figures.items()})
    return registry.log_folder(folder)


def _encoding(run: Run, encoder_id: str) -> dict[str, float]:
    """Counts and seconds of the last job that encoded a text by this encoder (MLflow is too slow to start for each of them)."""
    if not run.warehouse.exists("job_runs"):
        return {}
    mine = (F.col("job") == "encode") & (F.col("status") == "succeeded") & (F.col("versions")["encoder_id"] == encoder_id)
    runs = run.warehouse.read("job_runs").filter(mine & (F.col("counts")["texts_encoded"] > 0))
    last = runs.orderBy(F.desc("started_at")).select("counts", "stages").limit(1).collect()
    if not last:
        return {}
    counts = {f"encode.{name}": float(count) for name, count in last[0]["counts"].items()}
    return counts | {f"encode.seconds.{stage}": seconds for stage, seconds in last[0]["stages"].items()}


def _complete(run: Run, head: Head, fitted: tuple[Dataset, Similarities] | None, last: int) -> None:
    """Writes what the version still lacks: its neighbours, and the states up to the run's day."""
    if fitted:
        with run.stage("neighbours"):
            _write_neighbours(run, head, *fitted)
    with run.stage("states"):
        sequences = sequences_before(run, last + 1)  # before the catalogue, which is to hold all that they name
        advance_states(run, head.model, load_dataset(run, last + 1), head.state_version, last + 1, sequences)


def _write_neighbours(run: Run, head: Head, dataset: Dataset, found: Similarities) -> None:
    import pandas as pd

    rows = pd.concat([_rows(kind, getattr(found, kind), dataset.catalogue.item_ids) for kind in KINDS])
    given = {"head_version": F.lit(head.head_version), "trained_until": F.lit(day_of(head.start))}
    df = run.spark.createDataFrame(rows, NEIGHBOUR_SCHEMA).withColumns(given).select(*ITEM_NEIGHBOURS.column_names)
    run.counts["neighbours"] = run.warehouse.insert_new("item_neighbours", df, f"t.head_version = '{head.head_version}'")
    run.wrote("item_neighbours")


def _rows(kind: str, found: Neighbours, ids: npt.NDArray[np.str_]) -> Any:
    import pandas as pd

    return pd.DataFrame({"kind": kind, "item_id": ids[found.item], "neighbour_id": ids[found.neighbour], "weight": found.weight})

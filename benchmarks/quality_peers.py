"""The peers of `bench-quality`: SASRec and GRU4Rec, tuned, plain and with the same text and fusion as the joint model's (ADR 0007's fit).

A peer learns in a process of the peers' own virtual environment (`quality_peer.py`): from the same steps as p, asked for the same users
as of the same histories, with the same masks. Each training is kept in benchmarks/work/quality under all that it follows from.

Legend: U users, B of a block, N items, M metrics, K cut-offs.
"""

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from measuring import ALL, Found
from protocol import Float32, Moment, Task, asked, is_target, learn, neutral
from report import ROOT, Figure, figure

from llmrec_pipeline.config import JointConfig, hash_json
from llmrec_pipeline.evaluation.metrics import block_metrics
from llmrec_pipeline.interest.data import Histories
from llmrec_pipeline.recommendation import (
    Block,
    JointWeights,
    first_time_similarity,
    fit_joint,
    joint_logit,
    weighed_log_s,
    with_first_time,
)

PYTHON = ROOT / ".venv-peers/bin/python"
PEER = ROOT / "benchmarks/quality_peer.py"
WORK = ROOT / "benchmarks/work/quality/peers"
FIXED = {"heads": 2, "batch": 32, "epochs": 60, "patience": 4, "threads": 1}
PEERS = ("sasrec", "gru4rec")
ASKED_PEERS = os.environ.get("LLMREC_PEERS", " ".join(PEERS)).split()
if not set(ASKED_PEERS) <= set(PEERS):
    raise SystemExit(f"LLMREC_PEERS is {' '.join(ASKED_PEERS)!r}; expected some of {' '.join(PEERS)!r}, with blanks between")
TUNING_SEED = 17
BLOCKS = {"sasrec": (2, 1), "gru4rec": (1, 2)}  # of the first trial, and of the one that tries another depth
TRIALS = {  # eight of each peer: what differs from the first of them
    peer: (
        {"factors": 64, "blocks": blocks, "dropout": 0.2, "lr": 0.003, "length": 50},
        {"dropout": 0.4},
        {"factors": 128, "dropout": 0.4},
        {"blocks": other},
        {"length": 100, "dropout": 0.3},
        {"length": 200, "dropout": 0.3},
        {"lr": 0.0015, "factors": 128, "dropout": 0.3},
        {"factors": 128, "dropout": 0.5, "length": 100},
    )
    for peer, (blocks, other) in BLOCKS.items()
}


@dataclass(frozen=True)
class Place:
    """Users who are asked for, as of their histories; p has no part in the blocks."""

    histories: Histories
    rows: list[npt.NDArray[np.int64]]  # [B] of each block
    blocks: list[Block]


@dataclass(frozen=True)
class Case:
    """What a peer is given, by name of the case."""

    name: str
    learnt: Histories
    validation: Place
    test: Place
    text: Float32  # [N, D] of each item
    is_target: list[bool]
    grids: JointConfig


def case_of(name: str, task: Task) -> Case:
    """What s, masks and targets are comes by way of a model without training, whose p is not looked at."""
    pipeline = task.settings.pipeline
    untrained = pipeline.model_copy(update={"interest": pipeline.interest.model_copy(update={"max_epochs": 0})})
    model, _ = learn(replace(task, settings=task.settings.model_copy(update={"pipeline": untrained})), TUNING_SEED)

    def place(moment: Moment) -> Place:
        found = list(asked(task, model, moment, neutral(task)))
        return Place(moment.held.histories, [a.rows for a in found], [a.block(np.zeros(a.mask.shape, np.float32)) for a in found])

    text = task.catalogue.vectors(task.dataset.text_vectors)
    return Case(name, task.past, place(task.validation), place(task.test), text, is_target(task.settings), pipeline.joint)


def with_peers(case: Case, seeds: dict[int, Found], ks: tuple[int, ...]) -> None:
    """Adds to what was found of each seed the peers to run, of that seed, among all candidates; nothing where their environment is not set up.

    Of each peer: without and with the text, each alone and fused with s; and how it was trained.
    """
    if not PYTHON.exists():
        print(f"{case.name}: no peers, for {PYTHON} is not there; make bench-quality sets it up")
        return
    for seed, found in seeds.items():
        told = found.report.setdefault("peers", {})
        for peer in ASKED_PEERS:
            recipe, trials = tuned(case, peer)
            told[peer] = {"recipe": recipe, "trials": trials}
            for name, text in ((peer, False), (f"{peer}_text", True)):
                one = trained(case, recipe | {"text": text, "seed": seed})
                fitted = fit_joint(lambda of=one["validation"]: _with_p(case.validation, of), case.grids).weights
                told[name] = told.get(name, {}) | {"epochs": one["epochs"], "weights": fitted.to_dict()}
                _add(found, name, case.test, one["test"], None, ks)
                _add(found, f"{name}_s", case.test, one["test"], fitted, ks)


def tuned(case: Case, peer: str) -> tuple[dict[str, Any], list[float]]:
    """The trial with the best validation NDCG@10, and that of each."""
    recipes = [FIXED | TRIALS[peer][0] | trial | {"peer": peer} for trial in TRIALS[peer]]
    found = [best_epoch(trained(case, recipe | {"text": False, "seed": TUNING_SEED})["epochs"])["ndcg_10"] for recipe in recipes]
    return recipes[int(np.argmax(found))], found


def best_epoch(epochs: list[dict[str, float]]) -> dict[str, float]:
    return max(epochs, key=lambda epoch: epoch["ndcg_10"])


def trained(case: Case, recipe: dict[str, Any], script: Path = PEER) -> dict[str, Any]:
    """log p of all items: `validation` and `test` [U, N]; `epochs` with validation NDCG@10 and seconds of training so far."""
    task = _exported(case)
    key = hash_json({"task": task.stem, "recipe": recipe, "code": hashlib.sha256(script.read_bytes()).hexdigest()})
    out = WORK / f"{case.name}-{recipe['peer']}-{key[:16]}.npz"
    if not out.exists():
        part = out.with_suffix(".part.npz")
        environment = os.environ | {"OMP_NUM_THREADS": str(recipe["threads"])}
        environment.pop("PYTHONPATH", None)
        subprocess.run([PYTHON, script, task, part, json.dumps(recipe)], check=True, env=environment)
        part.rename(out)
    with np.load(out) as found:
        return {"validation": found["validation"], "test": found["test"], "epochs": json.loads(str(found["epochs"]))}


def peer_figures(domain: str, found: dict[str, Any]) -> list[Figure]:
    """The joint model against the best peer and the best with the same fusion, and the seconds to the former's NDCG@10."""
    models, rows = found["slices"][ALL]["models"], []
    sides = (
        ("best peer", [*PEERS, *(f"{peer}_text" for peer in PEERS)], 1.10, 1.30),
        ("best peer with the same fusion", [f"{peer}{text}_s" for peer in PEERS for text in ("", "_text")], 1.00, 1.10),
    )
    for side, names, bar, aim in sides:
        of = {name: models[name] for name in names if name in models}
        if not of:
            return []
        best = max(of, key=lambda peer: of[peer]["metrics"]["ndcg_10"])
        value, low, high = of[best]["joint_over"]
        ndcg = [row["metrics"]["ndcg_10"] for row in (models["joint"], of[best])]
        note = f"[{low:.3f}, {high:.3f}], {ndcg[0]:.4f} against {ndcg[1]:.4f} of {best}"
        rows.append(figure(f"{domain}: joint NDCG@10 against the {side}", value, "x", "higher", bar, aim, note))
        if side == "best peer":
            peer, ours = np.mean([_seconds(run, best) for run in found["runs"][0]], axis=0)
            note = f"{ours:.0f} s of training against {peer:.0f} s of {best}, to its best validation NDCG@10; mean of the seeds"
            name = f"{domain}: training to the best peer's NDCG@10"
            rows.append(figure(name, ours / peer, "x", "lower", 0.5, 0.1, note))
    return rows


def _seconds(run: dict[str, Any], peer: str) -> tuple[float, float]:
    """The peer's seconds of training to its best validation NDCG@10, and ours to as much; NaN when we never come there."""
    best = best_epoch(run["peers"][peer]["epochs"])
    ours = np.cumsum([epoch["train_s"] for epoch in run["epochs"]])
    there = [seconds for seconds, epoch in zip(ours, run["epochs"], strict=True) if epoch["ndcg_10"] >= best["ndcg_10"]]
    return best["train_s"], there[0] if there else float("nan")


def _exported(case: Case) -> Path:
    """The file that the peers read."""
    arrays: dict[str, Any] = {"text": case.text}
    for name, of in (("learnt", case.learnt), ("validation", case.validation.histories), ("test", case.test.histories)):
        arrays[f"{name}_offsets"], arrays[f"{name}_item"] = _items(of, case.is_target)
    place, users = case.validation, case.validation.histories.n_users
    mask, targets = np.zeros((users, len(case.text)), dtype=bool), [np.empty(0, dtype=np.int32)] * users
    for rows, block in zip(place.rows, place.blocks, strict=True):
        mask[rows] = block.mask
        distinct = block.targets.distinct()
        for row, start, end in zip(rows, distinct.offsets[:-1], distinct.offsets[1:], strict=True):
            targets[row] = distinct.item[start:end]
    arrays |= {"validation_mask": mask, "target_offsets": np.cumsum([0, *map(len, targets)]), "target": np.concatenate(targets)}
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())).hexdigest()
    file = WORK / f"{case.name}-task-{digest[:16]}.npz"
    if not file.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, **arrays)
    return file


def _items(histories: Histories, is_target: list[bool]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Offsets [U + 1] and items of the users' target behaviours in time order."""
    keep = np.array(is_target)[histories.event_type] & (histories.item >= 0)
    kept = np.concatenate([[0], np.cumsum(keep)])
    return kept[histories.event_offsets[histories.step_offsets]], histories.item[keep].astype(np.int64)


def _with_p(place: Place, log_p: Float32) -> list[Block]:
    return [replace(block, log_p=log_p[rows]) for rows, block in zip(place.rows, place.blocks, strict=True)]


def _add(found: Found, model: str, place: Place, log_p: Float32, weights: JointWeights | None, ks: tuple[int, ...]) -> None:
    """Metrics of the peer alone, or of its joint model with s."""
    for rows, block in zip(place.rows, _with_p(place, log_p), strict=True):
        score = block.log_p
        if weights:
            log_s = weighed_log_s(block.similarity, block.own, block.transition, weights, block.mask)
            score = joint_logit(score, log_s, weights, block.history_length, block.mask)
            first_time = weights.first_time
            if first_time:
                similar = first_time_similarity(block.similarity, block.own, block.transition, first_time, block.new)
                score = with_first_time(score, block.log_p, similar, first_time, block.new)
        found.add(ALL, model, rows, block_metrics(score, block.mask, block.targets, ks))

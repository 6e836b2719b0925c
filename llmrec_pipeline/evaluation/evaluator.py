"""Scores a block of users under every model on the same candidates, targets and users (DESIGN 4).

Legend: U users of a block, N items, B replicates, S slices, X models, M metrics, K cut-offs. Masks: True = candidate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.errors import InputError
from llmrec_pipeline.evaluation.bootstrap import Partials, poisson_weights
from llmrec_pipeline.evaluation.metrics import block_metrics
from llmrec_pipeline.recommendation.joint import history_bucket
from llmrec_pipeline.recommendation.ranking import top_k
from llmrec_pipeline.recommendation.targets import Targets

Float = npt.NDArray[np.floating[Any]]
Double = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Task:
    """What is the same for every block and model of one window."""

    item_ids: npt.NDArray[np.str_]  # [N]
    ks: tuple[int, ...]
    history_edges: tuple[int, ...]  # steps; slices by history length
    repeats: bool  # True: the slice `first_time` is evaluated beside the others
    replicates: int  # B
    seed: int

    @property
    def slices(self) -> tuple[str, ...]:
        """all, first_time where items repeat, with_history, no_history, then `steps_a_b` (b included) by history length."""
        lower = (1, *self.history_edges)
        upper = (*(str(edge - 1) for edge in self.history_edges), "more")
        lengths = tuple(f"steps_{low}_{high}" for low, high in zip(lower, upper, strict=True))
        return ("all", *(("first_time",) if self.repeats else ()), "with_history", "no_history", *lengths)


def evaluate_block(
    task: Task,
    models: Mapping[str, Float],
    mask: Bool,
    targets: Targets,
    known: sparse.csr_array,
    history_length: npt.NDArray[np.int64],
    user_ids: npt.NDArray[np.str_],
) -> Partials:
    """Partial sums of one block; `bootstrap.merge` adds blocks, `bootstrap.finish` makes them rows of `evaluation`.

    Args:
        task: the window's fixed part.
        models: name -> [U, N] scores.
        mask: [U, N] True = candidate.
        targets: target events in the window; an item counts once a user, and only if it is a candidate.
        known: [U, N] bool, True: the user's earlier target items; left out of candidates and targets in `first_time`.
        history_length: [U] steps before the window.
        user_ids: [U].

    Raises:
        InputError: a model's scores do not have the mask's shape.
        ModelError: a candidate's score is not finite.
    """
    for name, scores in models.items():
        if scores.shape != mask.shape:
            raise InputError(
                f"model {name!r} has scores {scores.shape}, the block has {mask.shape}; score the block's users and the catalogue"
            )
    weights = _with_estimate(poisson_weights(user_ids, task.replicates, task.seed))  # [R, U]
    firsts = mask & ~known.toarray().astype(bool)
    wanted = targets.distinct()
    members = _members(task, wanted.within(mask).per_user > 0, wanted.within(firsts).per_user > 0, history_length)  # [S, U]
    sums = np.zeros((len(weights), len(task.slices), len(models), 4, len(task.ks)))
    for x, scores in enumerate(models.values()):
        values = np.nan_to_num(block_metrics(scores, mask, wanted, task.ks))  # [U, M, K]
        fresh = np.nan_to_num(block_metrics(scores, firsts, wanted, task.ks)) if task.repeats else values
        for s, name in enumerate(task.slices):
            chosen = members[s]
            sums[:, s, x] = np.tensordot(weights[:, chosen], (fresh if name == "first_time" else values)[chosen], axes=1)
    counted = members[0]
    kept = len(wanted.within(mask).item)
    return Partials(
        models=tuple(models),
        ks=task.ks,
        slices=task.slices,
        sums=sums,
        weights=weights @ members.T,
        listed=np.stack([_listed(scores[counted], mask[counted], user_ids[counted], task) for scores in models.values()]),
        candidates=mask[counted].sum(axis=0),
        targets=kept,
        masked_targets=len(wanted.item) - kept,
    )


def _with_estimate(weights: Double) -> Double:
    """[R, U] replicate weights below a row of ones."""
    return np.concatenate([np.ones((1, len(weights))), weights.T])


def _members(task: Task, present: Bool, fresh: Bool, history_length: npt.NDArray[np.int64]) -> Bool:
    """[S, U] True: the user counts in the slice."""
    old = history_length > 0
    bucket = history_bucket(history_length, task.history_edges)
    by_length = [present & old & (bucket == index) for index in range(len(task.history_edges) + 1)]
    return np.stack([present, *([fresh] if task.repeats else []), present & old, present & ~old, *by_length])


def _listed(scores: Float, mask: Bool, user_ids: npt.NDArray[np.str_], task: Task) -> npt.NDArray[np.int64]:
    """[K, N] in how many lists an item stands in the first k places."""
    items = top_k(scores, mask, max(task.ks), user_ids, task.item_ids, task.seed).item
    n_items = mask.shape[1]
    return np.stack([np.bincount(items[:, :k][items[:, :k] >= 0], minlength=n_items) for k in task.ks])

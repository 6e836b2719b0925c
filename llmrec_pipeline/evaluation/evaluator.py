"""Scores a block of users under every model on the same candidates, targets and users (DESIGN 4).

Legend: U users of a block, N items, B replicates, R = B + 1 bootstrap rows, S slices, X models, M metrics, K cut-offs, D dimensions of a
text vector. Masks: True = candidate.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.errors import InputError
from llmrec_pipeline.evaluation.bootstrap import METRICS, Partials, poisson_weights
from llmrec_pipeline.evaluation.calibration import LIST, reliability
from llmrec_pipeline.evaluation.lists import list_metrics
from llmrec_pipeline.evaluation.metrics import Places, find_places, place_metrics
from llmrec_pipeline.recommendation.joint import history_bucket, log_softmax
from llmrec_pipeline.recommendation.ranking import top_k
from llmrec_pipeline.recommendation.targets import Targets

Float = npt.NDArray[np.floating[Any]]
Double = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
SINCE_EDGES = (8, 29, 91)  # days since the last behaviour; slices by it


@dataclass(frozen=True)
class Task:
    """What is the same for every block and model of one window."""

    item_ids: npt.NDArray[np.str_]  # [N]
    ks: tuple[int, ...]
    history_edges: tuple[int, ...]  # steps; slices by history length
    repeats: bool  # True: the slice `first_time` is evaluated beside the others
    replicates: int  # B
    seed: int
    information: Double  # [N] `lists.self_information`
    text: npt.NDArray[np.float32]  # [N, D] unit vectors; zeros: no text
    head: Bool  # [N] True: one of the items that make half of the target events before the window
    target_types: tuple[str, ...] = ()  # slices by type of the target; none where there is one type

    @property
    def slices(self) -> tuple[str, ...]:
        """all, first_time where items repeat, with_history, no_history; `steps_a_b` by history length and `since_a_b` by days since the
        last behaviour (b included); by target: head_items, tail_items, `target_x` by type."""
        users = ("with_history", "no_history", *_ranges("steps", self.history_edges), *_ranges("since", SINCE_EDGES))
        return ("all", *(("first_time",) if self.repeats else ()), *users, *self.by_target)

    @property
    def by_target(self) -> tuple[str, ...]:
        """Slices that count some of the targets only, ranked among all candidates."""
        return ("head_items", "tail_items", *(f"target_{name}" for name in self.target_types))


@dataclass(frozen=True)
class Users:
    """The users of a block."""

    user_ids: npt.NDArray[np.str_]  # [U]
    history_length: Int  # [U] steps before the window
    since: Int  # [U] days from the last behaviour to the window; of no meaning without history
    known: sparse.csr_array  # [U, N] bool, True: earlier target items; left out of candidates and targets in `first_time`
    targets: Targets  # target events in the window; an item counts once a user, and only if it is a candidate
    of_type: Mapping[str, Targets] = field(default_factory=dict)  # the target events of each of `Task.target_types`


def evaluate_block(task: Task, models: Mapping[str, Float], mask: Bool, users: Users) -> Partials:
    """Partial sums of one block; `bootstrap.merge` adds blocks, `bootstrap.finish` makes them rows of `evaluation`.

    Args:
        task: the window's fixed part.
        models: name -> [U, N] scores; the first one's are log odds, and calibration is of them.
        mask: [U, N] True = candidate.
        users: who they are and what they did.

    Raises:
        InputError: a model's scores do not have the mask's shape.
        ModelError: a candidate's score is not finite.
    """
    for name, scores in models.items():
        if scores.shape != mask.shape:
            raise InputError(
                f"model {name!r} has scores {scores.shape}, the block has {mask.shape}; score the block's users and the catalogue"
            )
    weights = _with_estimate(poisson_weights(users.user_ids, task.replicates, task.seed))  # [R, U]
    firsts = mask & ~users.known.toarray().astype(bool)
    wanted = users.targets.distinct()
    inside = wanted.within(mask)
    kept = _by_target(task, users, inside)
    members = dict(_members(task, users, inside.per_user > 0, wanted.within(firsts).per_user > 0))
    members |= {name: np.bincount(inside.user[keep], minlength=len(mask)) > 0 for name, keep in kept.items()}
    member = np.stack([members[name] for name in task.slices])  # [S, U]
    sums = np.zeros((len(weights), len(task.slices), len(models), len(METRICS), len(task.ks)))
    listed = np.zeros((len(models), len(task.ks), mask.shape[1]), dtype=np.int64)
    for x, scores in enumerate(models.values()):
        places, items = find_places(scores, mask, inside), _lists(scores, mask, users, task)
        values = {"all": _values(task, places, items)}
        if task.repeats:
            values["first_time"] = _values(task, find_places(scores, firsts, wanted), _lists(scores, firsts, users, task))
        values |= {name: _values(task, places.only(keep), items) for name, keep in kept.items()}
        for s, name in enumerate(task.slices):
            sums[:, s, x] = np.tensordot(weights[:, member[s]], values.get(name, values["all"])[member[s]], axes=1)
        listed[x] = _listed(items[member[0]], task, mask.shape[1])
    calibrated = next(iter(models))
    events = users.targets.within(mask)
    log_y = log_softmax(models[calibrated], mask)
    judged = top_k(log_y, mask, LIST, users.user_ids, task.item_ids, task.seed).item
    sums_of_y, pairs = reliability(log_y, judged, events, weights)
    return Partials(
        models=tuple(models),
        ks=task.ks,
        slices=task.slices,
        sums=sums,
        weights=weights @ member.T,
        listed=listed,
        candidates=mask[member[0]].sum(axis=0),
        targets=len(inside.item),
        masked_targets=len(wanted.item) - len(inside.item),
        calibrated=calibrated,
        reliability=sums_of_y,
        pairs=pairs,
    )


def _with_estimate(weights: Double) -> Double:
    """[R, U] replicate weights below a row of ones."""
    return np.concatenate([np.ones((1, len(weights))), weights.T])


def _values(task: Task, places: Places, items: npt.NDArray[np.int32]) -> Double:
    """[U, M, K] every metric of each user; 0 where a user has none, who then counts in no slice."""
    ranked, lists = place_metrics(places, task.ks), list_metrics(items, task.information, task.text, task.ks)
    return np.concatenate([np.nan_to_num(ranked), lists], axis=1)


def _members(task: Task, users: Users, present: Bool, fresh: Bool) -> Iterator[tuple[str, Bool]]:
    """Each slice of users: [U] True: the user counts in it."""
    old = users.history_length > 0
    yield "all", present
    yield "first_time", fresh
    yield "with_history", present & old
    yield "no_history", present & ~old
    for title, edges, values in (("steps", task.history_edges, users.history_length), ("since", SINCE_EDGES, users.since)):
        bucket = history_bucket(values, edges)
        for index, name in enumerate(_ranges(title, edges)):
            yield name, present & old & (bucket == index)


def _ranges(title: str, edges: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the ranges from 1 that the edges cut."""
    lower, upper = (1, *edges), (*(str(edge - 1) for edge in edges), "more")
    return tuple(f"{title}_{low}_{high}" for low, high in zip(lower, upper, strict=True))


def _by_target(task: Task, users: Users, wanted: Targets) -> dict[str, Bool]:
    """Each slice of targets: True: the (distinct) target counts in it."""
    n_items = len(task.item_ids)
    pairs = wanted.user * n_items + wanted.item
    kept = {"head_items": task.head[wanted.item], "tail_items": ~task.head[wanted.item]}
    for name in task.target_types:
        of_type, known = users.of_type[name], users.of_type[name].item >= 0
        kept[f"target_{name}"] = np.isin(pairs, (of_type.user * n_items + of_type.item)[known])
    return kept


def _lists(scores: Float, mask: Bool, users: Users, task: Task) -> npt.NDArray[np.int32]:
    """[U, max k] each user's list."""
    return top_k(scores, mask, max(task.ks), users.user_ids, task.item_ids, task.seed).item


def _listed(items: npt.NDArray[np.int32], task: Task, n_items: int) -> Int:
    """[K, N] in how many lists an item stands in the first k places."""
    return np.stack([np.bincount(items[:, :k][items[:, :k] >= 0], minlength=n_items) for k in task.ks])

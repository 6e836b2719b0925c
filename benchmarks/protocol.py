"""One protocol's task, and the joint model learnt, fitted and asked on it (DESIGN 4). What it reaches: `measuring.py`.

`last_step` holds out the last two steps of each user. It leaks across users, as published figures do: what is counted for s, and for the
baselines that look at everybody, comes from all steps but the last of each user; popularity is as of each user's own instant.
`window` holds out 28 days and the 28 before them; everything is counted as of the start of each.

Legend: U users with a target, B of a block, N items.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from llmrec_pipeline.config import Settings
from llmrec_pipeline.evaluation.windows import Window
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue, DailyCounts, Histories, Query
from llmrec_pipeline.interest.held_out import HeldOut, held_out_between, held_out_step
from llmrec_pipeline.interest.ragged import offsets_of
from llmrec_pipeline.interest.scoring import Parts
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.interest.training import TrainedModel, train
from llmrec_pipeline.recommendation import Block, JointFit, JointWeights, Targets, fit_joint, log_softmax
from llmrec_pipeline.recommendation.scorer import Scorer
from llmrec_pipeline.steps.dataset import Dataset
from llmrec_pipeline.steps.heads import query_at
from llmrec_pipeline.steps.train import neighbours_before

Float32 = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]
BLOCK_USERS = 512
BEFORE_ALL, NEVER = np.iinfo(np.int32).min, np.iinfo(np.int32).max


@dataclass(frozen=True)
class Moment:
    """What is asked of a model once: of whom, and what may be counted by then."""

    held: HeldOut  # U users, their histories and instants
    targets: Targets  # [U] target events; an item bought twice counts twice
    counted: Histories  # of all users: what neighbours and baselines are made of
    query: Query  # as of which they are counted
    gone: sparse.csr_array | None = None  # [U, N] no candidates, whatever the histories say

    def rows(self) -> Iterator[Int]:
        """Users who are asked on one date, block by block."""
        for day in self.held.popularity:
            of_day = np.flatnonzero(self.held.day == day)
            for start in range(0, len(of_day), BLOCK_USERS):
                yield of_day[start : start + BLOCK_USERS]


@dataclass(frozen=True)
class Task:
    """A domain's log with what is held out of it."""

    settings: Settings
    dataset: Dataset
    past: Histories  # what gradients come from
    validation: Moment  # what choices are made on
    test: Moment
    category: Int  # [N] first word of each item's category, numbered; -1: it has none
    new: npt.NDArray[np.bool_] | None = None  # [N] items that only the test has, as targets

    @property
    def catalogue(self) -> Catalogue:
        return self.dataset.catalogue


def last_step(settings: Settings, dataset: Dataset, histories: Histories, category: Int) -> Task:
    """Each user's last step is the test and the one before it validation; all items are candidates from the start."""
    first_day = np.full(dataset.catalogue.n_items, BEFORE_ALL, dtype=np.int32)
    dataset = replace(dataset, catalogue=replace(dataset.catalogue, first_day=first_day))
    end = Query(float(histories.step_time.max()) + 1, int(histories.step_day.max()) + 1)  # what is counted is not asked when

    def moment(place: int) -> Moment:
        held = held_out_step(histories, *_of_all(settings, dataset), place)
        targets = _events(histories, held, histories.steps_left == place, settings)
        return Moment(held, targets, histories.without_last(place), end)

    return Task(settings, dataset, histories.without_last(2), moment(2), moment(1), category)


def window(settings: Settings, dataset: Dataset, histories: Histories, category: Int, found: Window) -> Task:
    """The targets of a window's days are the test, those of the days before it validation."""

    def moment(start: int, end: int) -> Moment:
        query = query_at(start, settings.domain)
        held = held_out_between(histories, *_of_all(settings, dataset), (query, query_at(end, settings.domain)))
        inside = (histories.step_day >= start) & (histories.step_day < end)
        return Moment(held, _events(histories, held, inside, settings), histories.before(start), query)

    past = histories.before(found.validation_start)
    return Task(settings, dataset, past, moment(found.validation_start, found.start), moment(found.start, found.end), category)


def with_new_items(task: Task, share: float, seed: int) -> Task:
    """The same where a random `share` of the items was never seen before the test: none of their events is left but test targets.

    Until the test they are no candidates; in it they are, but for those that a user had: that is gone from the history, and no target.
    """
    new = np.random.default_rng(seed).random(task.catalogue.n_items) < share
    daily = task.dataset.daily
    kept = ~new[daily.item]
    unseen = np.where(new, NEVER, task.catalogue.first_day).astype(np.int32)
    counts = DailyCounts(daily.day[kept], daily.item[kept], daily.event_type[kept], daily.count[kept])

    def moment(of: Moment) -> Moment:
        popularity = {day: np.where(new[:, None, None], 0, found) for day, found in of.held.popularity.items()}
        known = among(~new, Targets(of.held.offsets, of.held.item))
        histories = _without(of.held.histories, new)
        held = replace(of.held, histories=histories, popularity=popularity, offsets=known.offsets, item=known.item)
        return replace(of, held=held, counted=_without(of.counted, new))

    validation, test = moment(task.validation), moment(task.test)
    held = replace(validation.held, catalogue=replace(task.catalogue, first_day=unseen))
    return replace(
        task,
        dataset=replace(task.dataset, daily=counts),
        past=_without(task.past, new),
        validation=replace(validation, held=held, targets=among(~new, task.validation.targets)),
        test=replace(test, gone=_had(task.test.held.histories, new)),
        new=new,
    )


def _had(histories: Histories, of: npt.NDArray[np.bool_]) -> sparse.csr_array:
    """[U, N] items of `of` [N] in each user's history."""
    wanted = of[histories.item] & (histories.item >= 0)
    user = histories.step_user[histories.event_step[wanted]]
    had = sparse.coo_array((np.ones(len(user), dtype=bool), (user, histories.item[wanted])), shape=(histories.n_users, len(of)))
    return had.tocsr()


def among(wanted: npt.NDArray[np.bool_], targets: Targets) -> Targets:
    """Only the targets on items of `wanted` [N]."""
    return targets.within(np.broadcast_to(wanted, (len(targets.per_user), len(wanted))))


def _without(histories: Histories, gone: npt.NDArray[np.bool_]) -> Histories:
    """The same users without the behaviours with items of `gone` [N], and without the steps that this leaves empty."""
    kept = ~(gone[histories.item] & (histories.item >= 0))
    per_step = np.bincount(histories.event_step[kept], minlength=histories.n_steps)
    per_user = np.bincount(histories.step_user[per_step > 0], minlength=histories.n_users)
    steps = per_step > 0
    return replace(
        histories,
        step_offsets=offsets_of(per_user),
        step_day=histories.step_day[steps],
        step_time=histories.step_time[steps],
        step_session=histories.step_session[steps],
        event_offsets=offsets_of(per_step[steps]),
        item=histories.item[kept],
        event_type=histories.event_type[kept],
        text=histories.text[kept],
        quantity=histories.quantity[kept],
        snapshot_step=histories.snapshot_step[:0],  # profile texts tell of all items
        snapshots=histories.snapshots[:0],
    )


def is_target(settings: Settings) -> list[bool]:
    """[types]"""
    return [kind.target for kind in settings.domain.event_types.values()]


def in_order(histories: Histories) -> Histories:
    """The steps of the log's first instant, put a second apart: histories whose times are only an order, and nothing of later."""
    first = float(histories.step_time.min())
    kept = histories.earlier(Query(np.nextafter(first, np.inf), int(histories.step_day.min())))
    place = np.arange(kept.n_steps) - kept.step_offsets[:-1][kept.step_user]
    return replace(kept, step_time=kept.step_time + place / 86_400)


def _of_all(settings: Settings, dataset: Dataset) -> tuple[Any, ...]:
    targets = np.array(is_target(settings))
    return dataset.catalogue, dataset.daily, dataset.text_vectors, settings.pipeline.interest, targets


def _events(histories: Histories, held: HeldOut, steps: npt.NDArray[np.bool_], settings: Settings) -> Targets:
    """Target events of the held-out users in `steps` [S]."""
    wanted = steps[histories.event_step] & np.array(is_target(settings))[histories.event_type] & (histories.item >= 0)
    user = np.searchsorted(held.histories.user_ids, histories.user_ids[histories.step_user[histories.event_step[wanted]]])
    per_user = np.bincount(user, minlength=held.histories.n_users)
    return Targets(np.concatenate([[0], np.cumsum(per_user)]).astype(np.int64), histories.item[wanted])


@dataclass(frozen=True)
class Asked:
    """A block of users of one date, as of their instants."""

    rows: Int  # [B] of the held-out users
    scorer: Scorer
    states: States
    parts: Parts
    mask: npt.NDArray[np.bool_]  # [B, N]
    known: sparse.csr_array  # [B, N]
    targets: Targets  # events

    @property
    def steps(self) -> Int:
        """[B] history length."""
        return self.states.steps

    def block(self, log_p: Float32) -> Block:
        """What the fit takes of a p of these users, [B, N]."""
        found = self.scorer.similar(self.parts.own)
        had = self.known.toarray() if self.scorer.domain.repeats else None
        return Block(log_p, found.similarity, found.own, found.transition, self.mask, had, self.targets, self.steps)


def learn(task: Task, seed: int) -> tuple[TrainedModel, list[dict[str, float]]]:
    """p, with its epoch chosen on validation; and each epoch's figures with its seconds."""
    epochs: list[dict[str, float]] = []
    settings, dataset = task.settings, task.dataset
    config = settings.pipeline.interest
    torch.set_num_threads(config.threads)
    trained = train(
        task.past,
        task.validation.held,
        task.validation.held.catalogue,
        dataset.daily,
        dataset.text_vectors,
        config,
        event_types=list(dataset.event_types),
        target_types=list(settings.domain.targets),
        repeats=settings.domain.repeats,
        period=(task.validation.query, task.test.query),
        seed=seed,
        on_epoch=epochs.append,
    )
    return trained, epochs


def neutral(task: Task) -> JointWeights:
    """p alone."""
    edges = task.settings.pipeline.joint.history_edges
    return JointWeights(0.0, 1.0, (0.0,) * (len(edges) + 1), edges, 1.0, 0.0)


def asked(task: Task, trained: TrainedModel, moment: Moment, weights: JointWeights) -> Iterator[Asked]:
    """All users with a target, block by block."""
    settings, dataset, model, held = task.settings, task.dataset, trained.model, moment.held
    catalogue = held.catalogue
    similar = neighbours_before(settings, catalogue, moment.counted, moment.query)
    scorer = Scorer(
        model=model,
        catalogue=catalogue,
        text_vectors=dataset.text_vectors,
        popularity=next(iter(held.popularity.values())),
        neighbours=similar.co_occurrence,
        transitions=similar.transition,
        weights=weights,
        config=settings.pipeline.collaborative,
        domain=settings.domain,
        query=moment.query,
        blocked=np.zeros(catalogue.n_items, dtype=bool),
    )
    states = advance(model, States.empty(held.histories.user_ids, model.layout), held.histories, catalogue, dataset.text_vectors)
    for rows in moment.rows():
        day = int(held.day[rows[0]])
        of_block = scorer.at(Query(held.time[rows], day), held.popularity[day])
        of_rows = states.take(rows)
        parts = of_block.parts(of_rows)
        mask, known = of_block.candidates(parts.own)
        if moment.gone is not None:
            mask &= ~moment.gone[rows].toarray()
        yield Asked(rows, of_block, of_rows, parts, mask, known, _of_rows(moment.targets, rows))


def _of_rows(targets: Targets, rows: Int) -> Targets:
    return Targets.of([targets.item[targets.offsets[row] : targets.offsets[row + 1]].tolist() for row in rows])


def fit(task: Task, trained: TrainedModel) -> JointFit:
    """w, tau, lambda and theta, on validation."""
    found = asked(task, trained, task.validation, neutral(task))
    blocks = [a.block(log_softmax(a.parts.logits, a.mask)) for a in found]
    return fit_joint(lambda: iter(blocks), task.settings.pipeline.joint)

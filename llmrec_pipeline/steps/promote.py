"""The gate for models: the newest version becomes MLflow's champion if it is proven not worse than the one that is (DESIGN 4)."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any

import numpy as np
import pyarrow.dataset as pads
from pyspark.sql import functions as F

from llmrec_pipeline.errors import ModelError, TableError
from llmrec_pipeline.evaluation.baselines import popularity
from llmrec_pipeline.evaluation.bootstrap import Partials, finish, leads, merge
from llmrec_pipeline.evaluation.evaluator import Task, evaluate_block
from llmrec_pipeline.evaluation.promotion import Figures, K, against, estimates, figures_of, is_tested
from llmrec_pipeline.interest.artefacts import load
from llmrec_pipeline.interest.data import Histories
from llmrec_pipeline.recommendation.scorer import Scorer
from llmrec_pipeline.registry import CHALLENGER, CHAMPION, PREDECESSOR, PROMOTION, ROLLED_BACK, Registry
from llmrec_pipeline.steps.dataset import day_of, load_dataset, scratch, sequences_before, user_blocks, with_profile_vectors
from llmrec_pipeline.steps.evaluate import INPUTS, window_task, window_users, write_estimates
from llmrec_pipeline.steps.heads import Head, head_of, make_scorer, pinned_head, query_at, read_neighbours, registry_of
from llmrec_pipeline.steps.recommend import TABLES, last_day, later_lists, publish
from llmrec_pipeline.steps.train import states_at, targets_between
from llmrec_pipeline.steps.versions import comparison_id, data_versions
from llmrec_pipeline.tracking import Run

FIRST_DAY = 0  # no event is of a date before 1970
log = logging.getLogger("llmrec")


def promote(run: Run) -> None:
    """Compares the newest version with the champion; if nothing speaks against it, publishes its lists and then moves the alias.

    `job_runs.counts` holds promoted, 1 or 0. Whatever the job dies of, the alias stands as before, and it can be run again.

    Raises:
        TableError: lists of a later day stand, so that those of the challenger would not be published.
        ModelError: no version is registered, or the newest or the champion cannot be read.
    """
    run.warehouse.create(["evaluation", *TABLES])
    registry = registry_of(run)
    challenger, champion = registry.newest(), registry.champion()
    run.counts["promoted"] = 0
    if champion and champion.version == challenger.version:
        log.info("promote: version %s of %s is the champion already", challenger.version, registry.name)
        return
    check_day(run)
    registry.set_alias(CHALLENGER, challenger)
    heads = {CHALLENGER: pinned_head(run, registry, challenger)}
    with registry.files(challenger) as folder:
        epochs = load(folder).epochs
    if champion:
        heads[CHAMPION] = head_of(registry, champion)
        run.versions[CHAMPION] = heads[CHAMPION].head_version
    if ROLLED_BACK in challenger.tags:
        reasons = [f"it was rolled back to version {challenger.tags[ROLLED_BACK]}; train another one"]
    else:
        reasons = _judge(run, heads, epochs, last_day(run))
    if reasons:
        registry.tag(challenger, {PROMOTION: f"refused: {'; '.join(reasons)}"})
        for reason in reasons:
            log.warning("promote: version %s stays challenger: %s", challenger.version, reason)
        return
    publish(run, heads[CHALLENGER])
    check_published(run, registry, heads[CHALLENGER], champion)
    registry.tag(challenger, {PROMOTION: "promoted"} | ({PREDECESSOR: str(champion.version)} if champion else {}))
    registry.drop_alias(CHALLENGER)
    registry.set_alias(CHAMPION, challenger)
    run.counts["promoted"] = 1
    log.info("promote: version %s of %s is the champion now, lists are its own", challenger.version, registry.name)


def check_day(run: Run) -> None:
    """Raises TableError where lists of a later day than the run's stand: those of another version would not be published."""
    last = last_day(run)
    later = later_lists(run, query_at(last + 1, run.settings.domain))
    if later:
        raise TableError(
            f"lists as of {later} stand, later than the end of {day_of(last)}, and would not be those of the new champion; "
            "leave out --day, or name a later one"
        )


def check_published(run: Run, registry: Registry, head: Head, champion: Any) -> None:
    """Looks once more before the alias moves.

    Raises:
        ModelError: the champion is not the one that the run found: another run moved the alias meanwhile.
        TableError: the current lists are another version's: those of a later day may have come meanwhile.
    """
    found, now = (version and version.version for version in (champion, registry.champion()))
    if now != found:
        raise ModelError(f"version {now} of {registry.name} became champion meanwhile, expected {found}; run this again")
    other = run.read("recommendations").filter(F.col("head_version") != head.head_version).first()
    if other:
        raise TableError(
            f"lists of version {other['head_version']} as of {other['as_of']} came meanwhile and stand, expected {head.head_version}; "
            "the champion is the one from before: run this again for the day of those lists"
        )


def _judge(run: Run, heads: dict[str, Head], epochs: list[dict[str, float]], last: int) -> list[str]:
    """Reasons against the challenger, from days that neither head has learnt from; writes the figures to `evaluation`."""
    limits, settings = run.settings.pipeline.promotion, run.settings
    start = max(head.start for head in heads.values())
    end = min(start + settings.pipeline.evaluation.window_days, last + 1)
    if end <= start:
        return [
            f"there is no day to compare on: events end on {day_of(last)}, and a version has learnt from all before {day_of(start)}"
        ]
    inputs = data_versions(run, INPUTS)  # of the tables before they are read: figures never stand under a later state's id
    try:
        partials = _compare(run, heads, start, end)
    except ModelError as error:  # a score that is not finite
        return [str(error)]
    figures = figures_of(partials, epochs, limits) if partials else Figures(epochs)
    _tell(run, figures, start, end)
    if partials:
        versions = {name: head.versions for name, head in heads.items()}
        comparison = comparison_id(settings, versions, (start, end), inputs)
        _write(run, comparison, heads[CHALLENGER].head_version, partials, figures, start)
    return against(figures, limits)


def _compare(run: Run, heads: dict[str, Head], start: int, end: int) -> Partials | None:
    """Sums of all users with a target on the days [start, end), both heads as of `start`; None: there is no such user."""
    with run.stage("read"):
        query = query_at(start, run.settings.domain)
        encoders = sorted({head.encoder_id for head in heads.values()})
        sequences = sequences_before(run, end)
        by_encoder = {encoder: load_dataset(run, start, encoder) for encoder in encoders}
        datasets = {name: by_encoder[head.encoder_id] for name, head in heads.items()}
        scorers = {
            name: make_scorer(run, head, datasets[name], query, read_neighbours(run, head, datasets[name].catalogue))
            for name, head in heads.items()
        }
    with ExitStack() as stack, run.stage("score"):
        shards: dict[str, pads.Dataset] = {}
        for encoder in encoders:
            wanting = any(head.model.config.profile_texts for head in heads.values() if head.encoder_id == encoder)
            rows = with_profile_vectors(run, sequences, encoder, start if wanting else FIRST_DAY)
            if rows is sequences and shards:  # without vectors of their own one reading serves both
                shards[encoder] = shards[encoders[0]]
            else:
                ordered = rows.orderBy("user_id", "event_date")
                shards[encoder] = stack.enter_context(scratch(run, ordered, f"sequences-{encoder}"))
        scorer, size = scorers[CHALLENGER], run.settings.pipeline.recommend.block_users
        popular = popularity(datasets[CHALLENGER].daily, query, scorer.is_target, scorer.catalogue.n_items, None)
        task = window_task(run, scorer, popular, (K,))
        blocks = zip(*(user_blocks(shards[dataset.encoder_id], dataset, size) for dataset in datasets.values()), strict=True)
        parts = _partials(task, scorers, blocks, end)
        first = next(parts, None)
        return merge(chain([first], parts)) if first else None


def _partials(task: Task, scorers: dict[str, Scorer], blocks: Iterator[tuple[Histories, ...]], end: int) -> Iterator[Partials]:
    """Of each block, which is given once for each scorer, as its encoder's vectors may be others."""
    scorer = scorers[CHALLENGER]
    for block in blocks:
        rows = np.flatnonzero(targets_between(block[0], scorer.query.day, end, scorer.is_target).per_user)
        if not len(rows):
            continue
        users = dict(zip(scorers, (part.take(rows) for part in block), strict=True))
        states = {name: states_at(scorers[name], part, scorer.query) for name, part in users.items()}
        scores = {name: scorers[name].score(of) for name, of in states.items()}
        for name, of in scores.items():
            if not np.isfinite(of.joint.score[of.mask]).all():
                raise ModelError(f"the {name} gives scores that are not finite")
        window = window_users(scorer, users[CHALLENGER], states[CHALLENGER], scores[CHALLENGER], end)
        yield evaluate_block(task, {name: of.joint.score for name, of in scores.items()}, scores[CHALLENGER].mask, window)


def _tell(run: Run, figures: Figures, start: int, end: int) -> None:
    run.counts["users_compared"] = figures.users
    log.info(
        "promote: %d users with a target from %s to %s, NDCG@10 %.4f", figures.users, day_of(start), day_of(end - 1), figures.ndcg
    )
    limits = run.settings.pipeline.promotion
    for ratio in figures.ratios or ():
        log.info(
            "promote: NDCG@10 of %s (%d users) is %.4f of the champion's and proven to be %.4f of it%s",
            *(ratio.slice, ratio.users, ratio.value, ratio.low),
            "" if is_tested(ratio, limits) else f"; not tested, it has fewer than {limits.slice_users} users",
        )


def _write(run: Run, comparison: str, head_version: str, partials: Partials, figures: Figures, start: int) -> None:
    """Adds the comparison to `evaluation`, unless it is there."""
    run.versions["evaluation_id"] = comparison
    if run.read("evaluation").filter(F.col("evaluation_id") == comparison).isEmpty():
        rows = [*finish(partials), *leads(partials, CHALLENGER), *estimates(figures.ratios or ())]
        write_estimates(run, head_version, start, comparison, rows)
    run.wrote("evaluation")

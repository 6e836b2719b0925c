"""Advances states, scores every known user on the executors, publishes the lists (DESIGN 1.5)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.config import Settings
from llmrec_pipeline.errors import ConservationError, TableError
from llmrec_pipeline.interest.data import Query
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.recommendation import top_k
from llmrec_pipeline.recommendation.scorer import Scorer, Scores
from llmrec_pipeline.steps.dataset import day_number, day_of, load_dataset, sequences_before
from llmrec_pipeline.steps.heads import Head, make_scorer, query_at, read_neighbours, serving_head
from llmrec_pipeline.steps.states import USERS_PER_BUCKET, advance_states, with_bucket
from llmrec_pipeline.steps.versions import data_versions, list_id
from llmrec_pipeline.tables import DEFAULT_RECOMMENDATIONS, RECOMMENDATION_LOG, RECOMMENDATIONS
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import only_row

log = logging.getLogger("llmrec")
TABLES = ("recommendations", "default_recommendations", "recommendation_log")
INPUTS = ("events", "items", "user_sequences", "item_neighbours", "text_embeddings")
SHARES = ("short", "long", "bias", "repeat", "collaborative")
LIST_SCHEMA = (
    "user_id string, rank int, item_id string, title string, score double, short double, long double, bias double, repeat double, "
    "collaborative double, log_p double, log_s double, gate double, basis string"
)


def recommend(run: Run) -> None:
    """Publishes the serving version's lists of everybody known by the end of the run's day."""
    run.warehouse.create(TABLES)
    publish(run, serving_head(run))


def publish(run: Run, head: Head) -> None:
    """Advances the head's states to the end of the run's day and publishes its lists.

    Nothing is written when they are published already, or when the lists of a later day stand: a day that is done again must not set
    the current lists, or the states, back. Where these appear meanwhile, they stay the current ones.
    """
    until = last_day(run) + 1
    query = query_at(until, run.settings.domain)
    later = later_lists(run, query)
    if later:
        log.warning("recommend: lists as of %s stand, later than the end of %s; nothing to publish", later, day_of(until - 1))
        run.wrote(*TABLES)
        return
    publication = list_id(run.settings, head.versions, until, data_versions(run, _inputs(run)))
    run.versions["list_id"] = publication
    missing = _missing(run, publication, query)
    if not missing:
        log.info("recommend: the lists %s of %s are published", publication, day_of(until - 1))
        run.wrote(*TABLES)
        return
    with run.stage("read"):
        sequences = sequences_before(run, until)  # before the catalogue, which is to hold all that they name
        dataset = load_dataset(run, until)
        neighbours = read_neighbours(run, head, dataset.catalogue)
        scorer = make_scorer(
            run, head, dataset, query, neighbours
        )  # refuses vectors of another encoder, which no state must take
    with run.stage("states"):
        states = advance_states(run, head.model, dataset, head.state_version, until, sequences)
    with run.stage("score"):
        ranker = Ranker.of(scorer, dataset.titles, run.settings)
        lists = _lists(run, ranker, sequences.select("user_id").distinct(), states, query)
        made = _published(lists, head, publication, query).persist()
        _check(run, made, scorer)
        lists = made.filter(F.col("rank") > 0)
    with run.stage("write"):
        _publish(run, query, publication, lists, ranker, missing)
    made.unpersist()
    run.wrote(*TABLES)


def later_lists(run: Run, query: Query) -> datetime | None:
    """The moment of the current lists, where it is later than the query's."""
    newer = run.read("recommendations").filter(F.col("as_of") > moment_of(query)).first()
    return newer["as_of"] if newer else None


def _inputs(run: Run) -> tuple[str, ...]:
    return (*INPUTS, "impressions") if run.warehouse.exists("impressions") else INPUTS


def last_day(run: Run) -> int:
    """The run's day, by default the last event_date.

    Raises:
        TableError: the day is not yet, or there are no events up to it.
    """
    day = run.settings.pipeline.day
    if day and day > (date.today() + timedelta(days=1)).isoformat():  # zones are ahead of the clock
        raise TableError(f"day {day} is yet to come: its lists would keep those of every day until then from being published")
    events = run.read("events")
    last = (events.filter(F.col("event_date") <= F.lit(day)) if day else events).agg(F.max("event_date")).first()
    if last is None or last[0] is None:
        raise TableError(f"table events holds no event up to {day or 'now'}; run jobs/ingest.py first, or name a later --day")
    return day_number(date.fromisoformat(day) if day else last[0])


@dataclass(frozen=True)
class Ranker:
    """What a task needs to turn states into lists; broadcast once."""

    scorer: Scorer
    titles: tuple[str | None, ...]  # [N]
    k: int
    seed: int
    block_users: int

    @staticmethod
    def of(scorer: Scorer, titles: tuple[str | None, ...], settings: Settings) -> "Ranker":
        config = settings.pipeline.recommend
        return Ranker(scorer, titles, config.top_k, settings.pipeline.seed, config.block_users)

    def __call__(self, states: pa.Table) -> pa.Table:
        """Rows of LIST_SCHEMA for a bucket of states."""
        layout = self.scorer.model.layout
        return self._by_block(states, lambda block: self.lists(States.from_arrow(block, layout)))

    def without_history(self, users: pa.Table) -> pa.Table:
        """Rows of LIST_SCHEMA for users of whom no behaviour is known."""
        layout = self.scorer.model.layout
        return self._by_block(users, lambda block: self.lists(States.empty(np.array(block["user_id"].to_pylist()), layout)))

    def _by_block(self, rows: pa.Table, lists: Callable[[pa.Table], pa.Table]) -> pa.Table:
        """The lists of a bucket, whose users are scored in equal parts of at most `block_users`."""
        ordered = rows.sort_by([("user_id", "ascending")])
        size = -(-len(ordered) // -(-len(ordered) // self.block_users))
        return pa.concat_tables([lists(ordered.slice(start, size)) for start in range(0, len(ordered), size)])

    def lists(self, states: States) -> pa.Table:
        scores = self.scorer.score(states)
        ids = self.scorer.catalogue.item_ids
        best = top_k(scores.joint.score, scores.mask, self.k, states.user_ids, ids, self.seed)
        user, place = np.nonzero(best.item >= 0)
        item = best.item[user, place]
        columns = {
            "user_id": pa.array(states.user_ids[user].tolist(), pa.string()),
            "rank": pa.array((place + 1).astype(np.int32)),
            "item_id": pa.array(ids[item].tolist(), pa.string()),
            "title": pa.array([self.titles[i] for i in item], pa.string()),
            "score": pa.array(scores.joint.score[user, item].astype(np.float64)),
            **{name: pa.array(getattr(scores.joint, name)[user, item].astype(np.float64)) for name in SHARES},
            "log_p": pa.array(scores.log_p[user, item].astype(np.float64)),
            "log_s": pa.array(scores.log_s[user, item].astype(np.float64)),
            "gate": pa.array(scores.gate[user].astype(np.float64)),
            "basis": pa.array(basis_of(scores, states)[user].tolist(), pa.string()),
        }
        return pa.concat_tables(
            [pa.table(columns), _without_candidates(states.user_ids[best.item[:, 0] < 0], pa.table(columns).schema)]
        )


def _without_candidates(user_ids: npt.NDArray[np.str_], schema: pa.Schema) -> pa.Table:
    """A row of rank 0 for each user to whom nothing can be recommended: all items are known to them, or blocked."""
    given = {"user_id": pa.array(user_ids.tolist(), pa.string()), "rank": pa.array(np.zeros(len(user_ids), dtype=np.int32))}
    return pa.table({name: given.get(name, pa.nulls(len(user_ids), schema.field(name).type)) for name in schema.names})


def basis_of(scores: Scores, states: States) -> npt.NDArray[np.str_]:
    """[U] what a list rests on: no_history, one_event, or joint. Own counts know behaviours with an item only, steps all."""
    behaviours = np.zeros(states.n_users)
    np.add.at(behaviours, np.repeat(np.arange(states.n_users), np.diff(states.own.offsets)), states.own.total.sum(axis=1))
    behaviours = np.maximum(behaviours, states.steps)
    return np.where(behaviours == 0, "no_history", np.where(behaviours == 1, "one_event", "joint"))


def _lists(run: Run, ranker: Ranker, seen: DataFrame, states: DataFrame, query: Query) -> DataFrame:
    """Lists of who was seen and has a state, and of who is known only by what was shown to them."""
    shown = _shown_users(run, query)
    run.counts["users"] = (seen.union(shown).distinct() if shown else seen).count()
    buckets = max(1, -(-run.counts["users"] // USERS_PER_BUCKET))
    shared = run.spark.sparkContext.broadcast(ranker)
    by_bucket = with_bucket(states.join(seen, on="user_id", how="left_semi"), buckets).groupBy("bucket")
    known = by_bucket.applyInArrow(lambda rows: shared.value(rows.drop_columns(["bucket"])), schema=LIST_SCHEMA)
    if shown is None:
        return known
    by_bucket = with_bucket(shown.join(seen, on="user_id", how="left_anti"), buckets).groupBy("bucket")
    return known.union(by_bucket.applyInArrow(lambda rows: shared.value.without_history(rows), schema=LIST_SCHEMA))


def _shown_users(run: Run, query: Query) -> DataFrame | None:
    """Users to whom something was shown before the moment of the query: user_id. None where nothing ever was."""
    if not run.warehouse.exists("impressions"):
        return None
    shown = run.read("impressions", pinned=True).filter((F.col("shown_at") < moment_of(query)) & F.col("user_id").isNotNull())
    return shown.select("user_id").distinct()


def moment_of(query: Query) -> Column:
    """The instant of a query."""
    return F.lit(datetime.fromtimestamp(float(query.time) * 86_400, UTC)).cast("timestamp")


def _published(lists: DataFrame, head: Head, publication: str, query: Query) -> DataFrame:
    nothing = {"reason": F.lit(None).cast("string"), "because_of": F.lit(None).cast("array<string>")}
    versions = {
        "state_version": F.lit(head.state_version),
        "head_version": F.lit(head.head_version),
        "list_id": F.lit(publication),
        "as_of": moment_of(query),
    }
    return lists.withColumns(nothing | versions).select(*RECOMMENDATIONS.column_names)


def _check(run: Run, lists: DataFrame, scorer: Scorer) -> None:
    """Counts lists before they are published.

    Raises:
        ConservationError: a known user has no list.
    """
    without = F.count_if(F.col("rank") == 0).alias("without")
    totals = only_row(lists.agg(F.count(F.lit(1)).alias("rows"), F.count_distinct("user_id").alias("users"), without))
    if totals["users"] != run.counts["users"]:
        raise ConservationError(
            f"{totals['users']} lists for {run.counts['users']} known users, nothing was published; this is a defect, please report it"
        )
    run.counts |= {"rows": totals["rows"] - totals["without"], "items": scorer.catalogue.n_items}
    if totals["without"]:
        run.counts["users_without_candidates"] = totals["without"]
        log.info("recommend: %d users have no list, every item is known to them", totals["without"])


def _missing(run: Run, publication: str, query: Query) -> list[str]:
    """The tables that do not hold the publication."""
    its_own = (F.col("as_of") == moment_of(query)) & (F.col("list_id") == publication)
    names = [run.read(name).filter(its_own).select(F.lit(name).alias("name")) for name in TABLES]
    holding = {row["name"] for row in reduce(DataFrame.union, names).distinct().collect()}
    return [name for name in TABLES if name not in holding]


def _publish(run: Run, query: Query, publication: str, lists: DataFrame, ranker: Ranker, missing: list[str]) -> None:
    """The log first and the current lists last: who sees a current list finds it in the log.

    Another run may publish meanwhile: the log takes each place once, and lists of a later day stand.
    """
    warehouse, later = run.warehouse, F.col("as_of") > moment_of(query)
    if "recommendation_log" in missing:
        log_rows = lists.select(*RECOMMENDATION_LOG.column_names)
        warehouse.insert_new("recommendation_log", log_rows, f"t.list_id = '{publication}'")
    if "default_recommendations" in missing:
        nobody = ranker.lists(States.empty(np.array(["all"]), ranker.scorer.model.layout))
        rows = run.spark.createDataFrame(nobody, LIST_SCHEMA).filter(F.col("rank") > 0)
        versions = lists.select("head_version", "list_id", "as_of").limit(1)
        default = rows.withColumnRenamed("user_id", "segment").drop("list_id").crossJoin(versions)
        warehouse.overwrite("default_recommendations", default.select(*DEFAULT_RECOMMENDATIONS.column_names), unless=later)
    if "recommendations" in missing:
        warehouse.overwrite("recommendations", lists, unless=later)

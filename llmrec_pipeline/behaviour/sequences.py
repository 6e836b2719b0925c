"""Events and items to texts and textual behaviour sequences (DESIGN 1.2)."""

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.items import price_band, valid_on, with_validity
from llmrec_pipeline.behaviour.templates import FIELDS, render
from llmrec_pipeline.behaviour.values import clean_text, hash128
from llmrec_pipeline.config import DomainConfig
from llmrec_pipeline.tables import ITEM_FIELDS, TEXTS, USER_SEQUENCES

LAST = 2**31 - 1  # position of what lies in no list
PROFILED = ("category", "brand")  # of an item, what profile texts name beside the sentences


def item_texts(items: DataFrame, events: DataFrame, domain: DomainConfig, profile_texts: bool = False) -> DataFrame:
    """The sentence of every catalogue row under every event type: item_id, event_type, _since, valid_to, text, text_hash.

    With `profile_texts` PROFILED, too.

    A type that needs no item has sentences only of those items that `events` hold with it: most such types never have one.
    """
    valid = with_validity(items).select(*FIELDS, "_since", "valid_to")
    parts, profiled = [], PROFILED if profile_texts else ()
    for name, kind in domain.event_types.items():
        met = events.filter((F.col("event_type") == name) & F.col("item_id").isNotNull()).select("item_id")
        rows = valid if kind.needs_item else valid.join(met, on="item_id", how="left_semi")
        text = render(kind.template[domain.language], domain.max_text_chars).alias("text")
        parts.append(rows.select("item_id", "_since", "valid_to", F.lit(name).alias("event_type"), text, *profiled))
    return reduce(DataFrame.unionByName, parts).withColumn("text_hash", text_hash(domain))


def own_texts(events: DataFrame, domain: DomainConfig) -> DataFrame:
    """Text and text_hash of each of a user's behaviours without item."""
    context = events.filter(F.col("user_id").isNotNull() & F.col("item_id").isNull())
    return context.select(_own_text(domain).alias("text")).withColumn("text_hash", text_hash(domain))


def _own_text(domain: DomainConfig) -> Column:
    """The sentence of an event without item: its type's template, filled with what the record itself says and its price band."""
    values = {name: clean_text(F.col("item_fields").getField(name)) for name in ITEM_FIELDS}
    values |= {"price_band": price_band(F.col("price"), domain.items.price_edges), "item_id": F.col("item_id")}
    sentences = {
        name: render(domain.event_types[name].template[domain.language], domain.max_text_chars, values)
        for name in domain.itemless
    }
    of_type = [F.when(F.col("event_type") == name, sentence) for name, sentence in sentences.items()]
    return F.when(F.col("item_id").isNull(), F.coalesce(*of_type))


def text_hash(domain: DomainConfig) -> Column:
    """Of the column `text`; null where there is none."""
    return F.when(F.col("text").isNotNull(), hash128(F.lit(domain.language), F.col("text")))


def distinct_texts(described: DataFrame, domain: DomainConfig) -> DataFrame:
    """Rows of `texts` for those of `item_texts`, `own_texts` or profiles (columns text and text_hash)."""
    rows = described.filter(F.col("text").isNotNull()).select("text_hash", "text").distinct()
    return rows.withColumn("language", F.lit(domain.language)).select(*TEXTS.column_names)


def with_texts(events: DataFrame, described: DataFrame, domain: DomainConfig) -> DataFrame:
    """Events with the sentence of their item as of their date, or, where they have none, with their own; and their fingerprint.

    This takes in PROFILED where `described` has it: all that profile texts are made of.
    """
    e, d = events.alias("e"), described.alias("d")
    of_type = (F.col("e.item_id") == F.col("d.item_id")) & (F.col("e.event_type") == F.col("d.event_type"))
    match = of_type & valid_on(F.col("e.event_date"), "d")
    profiled = [name for name in PROFILED if name in described.columns]
    textual = e.join(d, on=match, how="left").select("e.*", "d.text", "d.text_hash", *[f"d.{name}" for name in profiled])
    if domain.itemless:
        said = textual.withColumn("text", F.coalesce("text", _own_text(domain)))
        textual = said.withColumn("text_hash", F.coalesce("text_hash", text_hash(domain)))
    more = [F.coalesce(name, F.lit("")) for name in profiled]
    return textual.withColumn("fingerprint", F.xxhash64("event_id", "text_hash", *more)).drop(*profiled)


def fingerprints(textual: DataFrame) -> DataFrame:
    """An order-free hash of the events and texts of each user and date."""
    return textual.groupBy("user_id", "event_date").agg(F.bit_xor("fingerprint").alias("fingerprint"))


def user_sequences(textual: DataFrame, seed: int) -> DataFrame:
    """Rows of `user_sequences` for the users and dates of `textual` (which must hold all their events).

    Steps of a date are ordered by (time of their first event, position in a list, seeded hash); behaviours of a step by item.
    Events are moved once, to their user and date; steps and dates are gathered from there.
    """
    own = ("item_id", "event_type", "event_id", "event_time", "text_hash", "quantity", "price", "session_id", "told")
    steps = (
        textual.withColumn("told", F.coalesce("text", "event_type"))
        .repartition("user_id", "event_date")
        .groupBy("user_id", "event_date", "step_key")
        .agg(
            F.min("event_time").alias("time"),
            F.coalesce(F.min("position"), F.lit(LAST)).alias("position"),
            F.sort_array(F.collect_list(F.struct(*own))).alias("of"),
            F.max("session_id").alias("session_id"),
            F.bit_xor("fingerprint").alias("fingerprint"),
        )
        .withColumns({"hash": F.xxhash64(F.lit(seed), "user_id", "step_key"), "n": F.size("of")})
    )
    dates = steps.groupBy("user_id", "event_date").agg(
        F.sort_array(F.collect_list(F.struct("time", "position", "hash", "step_key", "session_id", "n", "of"))).alias("_steps"),
        F.count(F.lit(1)).cast("int").alias("n_steps"),
        F.bit_xor("fingerprint").alias("fingerprint"),
    )
    return _with_behaviours(dates).select(*USER_SEQUENCES.column_names)


def _with_behaviours(dates: DataFrame) -> DataFrame:
    """Adds `steps` and `text`, from arrays of one field each: Spark generates code for these, where it interprets a lambda over structs."""
    behaviours = F.flatten(F.col("_steps")["of"])
    before = F.transform("_steps", lambda step, i: F.array_repeat(F.get("_steps", i - 1)["session_id"], step["n"]))
    number = F.transform("_steps", lambda step, i: F.array_repeat(i, step["n"]))
    flat = dates.withColumns({"_of": behaviours, "_before": F.flatten(before), "step": F.flatten(number)})
    named = {name: F.col("_of")[name] for name in ("event_time", "event_type", "item_id", "text_hash", "quantity", "price")}
    same = F.zip_with(F.col("_of")["session_id"], "_before", lambda session, last: F.coalesce(session == last, F.lit(False)))
    features = F.arrays_zip("quantity", "price", "same_session")
    return (
        flat.withColumns(named | {"same_session": same, "text": F.array_join(F.col("_of")["told"], "\n")})
        .withColumn("features", features)
        .withColumn("steps", F.arrays_zip("step", "event_time", "event_type", "item_id", "text_hash", "features"))
    )

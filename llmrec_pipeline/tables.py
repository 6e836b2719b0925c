"""Every table of the system: schema, key, clustering, constraints, writer and meaning, in this one place.

`python -m llmrec_pipeline.tables` prints docs/tables.md. Importing this module does not import Spark.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """One column: Spark SQL type and meaning. `required` columns never hold null."""

    name: str
    type: str
    meaning: str
    required: bool = False


@dataclass(frozen=True)
class Table:
    """The contract of one Delta table."""

    name: str
    row: str
    key: tuple[str, ...]
    writers: tuple[str, ...]
    columns: tuple[Column, ...]
    cluster_by: tuple[str, ...] = ()
    constraints: dict[str, str] = field(default_factory=dict)
    mapped: bool = False  # True: carries the hash of the domain's mapping and templates (DESIGN 2)

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


ITEM_FIELDS = ("title", "summary", "description", "brand", "category")
STEP_FIELDS = (
    "step:int,event_time:timestamp,event_type:string,item_id:string,text_hash:string,"
    "features:struct<quantity:double,price:double,same_session:boolean>"
)

EVENTS = Table(
    name="events",
    row="a cleaned behaviour",
    key=("event_id",),
    cluster_by=("event_date",),
    writers=("ingest",),
    mapped=True,
    constraints={"quantity_not_negative": "quantity IS NULL OR quantity >= 0"},
    columns=(
        Column("event_id", "string", "128-bit hash of the record's identity", True),
        Column("user_id", "string", "as spelt in the log; null: anonymous"),
        Column("item_id", "string", "as spelt in the log; null where the event type needs none"),
        Column("event_type", "string", "one of the domain's event_types", True),
        Column("event_time", "timestamp", "instant, UTC", True),
        Column("event_date", "date", "date in the domain's zone", True),
        Column("position", "int", "place in a list, or what the log gives as one; else null"),
        Column(
            "time_known", "boolean", "false: event_time is only an order, as of all elements of a list that become events", True
        ),
        Column("step_key", "string", "what the user did at once shares it (per date)", True),
        Column("session_id", "string", "browsing session; null where the log has none"),
        Column("quantity", "double", "units; null where the log has none"),
        Column("price", "double", "price of one unit, in the log's currency"),
        Column("source", "string", "name of the domain's source", True),
        Column(
            "item_fields",
            f"struct<{','.join(f'{name}:string' for name in ITEM_FIELDS)}>",
            "what the record said of its item, as delivered; null: nothing",
        ),
    ),
)

QUARANTINE = Table(
    name="quarantine",
    row="a record or text that could not be used",
    key=("quarantine_id",),
    cluster_by=("stage",),
    writers=("ingest", "encode"),
    columns=(
        Column(
            "quarantine_id",
            "string",
            "hash of (stage, source, raw, its occurrence among equal ones of a delivery); encode: of (stage, encoder_id, text_hash)",
            True,
        ),
        Column("stage", "string", "ingest or encode", True),
        Column("source", "string", "source name, with .items for its catalogue; encode: encoder_id", True),
        Column("reason", "string", "why it could not be used", True),
        Column("raw", "string", "the record as it came", True),
        Column("file", "string", "file that held it"),
        Column("line", "long", "line in the file (written by a later version)"),
    ),
)

IMPRESSIONS = Table(
    name="impressions",
    row="an item that was shown to a user, and what came of it",
    key=("impression_id",),
    cluster_by=("shown_at",),
    writers=("ingest",),
    mapped=True,
    columns=(
        Column("impression_id", "string", "128-bit hash of (source, record, list, position, value)", True),
        Column("user_id", "string", "as spelt in the log; null: anonymous"),
        Column("item_id", "string", "as spelt in the log", True),
        Column("rank", "int", "place in what was shown, from 1", True),
        Column("list_id", "string", "the published list it belongs to (written by a later version)"),
        Column("shown_at", "timestamp", "instant, UTC", True),
        Column("outcome", "string", "ignored: shown, and not acted on (what was acted on is an event)", True),
        Column("source", "string", "name of the domain's source", True),
    ),
)

ITEMS = Table(
    name="items",
    row="a catalogue item from a date on",
    key=("item_id", "valid_from"),
    cluster_by=("item_id",),
    mapped=True,
    writers=("ingest",),
    columns=(
        Column("item_id", "string", "as spelt in the log", True),
        Column(
            "valid_from", "date", "first date that this row describes; 1970-01-01: as the catalogue's file first told it", True
        ),
        Column("title", "string", "null where nobody named it"),
        Column("summary", "string", "short text"),
        Column("description", "string", "long text"),
        Column("brand", "string", "maker"),
        Column("category", "string", "category"),
        Column("price", "double", "median price of one unit on valid_from; of a catalogue's file, what it says"),
        Column("price_band", "string", "fixed-edge band of `price`, such as 2-5"),
        Column("attributes", "map<string,string>", "further fields (written by a later version)"),
        Column(
            "first_seen",
            "date",
            "date of the item's first event; 1970-01-01: a catalogue's file listed it before any event named it",
            True,
        ),
    ),
)

TEXTS = Table(
    name="texts",
    row="a distinct behaviour or profile text",
    key=("text_hash",),
    cluster_by=("text_hash",),
    writers=("textualise",),
    mapped=True,
    columns=(
        Column("text_hash", "string", "128-bit hash of (language, text)", True),
        Column("text", "string", "the sentence", True),
        Column("language", "string", "language of its template", True),
    ),
)

USER_SEQUENCES = Table(
    name="user_sequences",
    row="one user's behaviours of one date, in steps",
    key=("user_id", "event_date"),
    cluster_by=("event_date",),
    writers=("textualise",),
    mapped=True,
    columns=(
        Column("user_id", "string", "as spelt in the log", True),
        Column("event_date", "date", "date in the domain's zone", True),
        Column("steps", f"array<struct<{STEP_FIELDS}>>", "behaviours in time order; `step` numbers the steps of the date", True),
        Column("text", "string", "the same as readable text, one behaviour a line", True),
        Column("n_steps", "int", "steps of the date", True),
        Column("fingerprint", "long", "order-free hash of the events and texts behind this row", True),
    ),
)

USER_PROFILES = Table(
    name="user_profiles",
    row="a profile text of a user, as of the step in which the number of their behaviours passed 16 * 2^renewal (`interest.profile_texts`)",
    key=("user_id", "renewal"),
    cluster_by=("event_date",),
    writers=("textualise",),
    mapped=True,
    columns=(
        Column("user_id", "string", "as spelt in the log", True),
        Column("renewal", "int", "k, from 0", True),
        Column("event_date", "date", "date of the step", True),
        Column("step", "int", "number of the step within that date, see `user_sequences`", True),
        Column("text_hash", "string", "see `texts`; null: nothing to say"),
        Column("fingerprint", "long", "order-free hash of what the user did up to that date", True),
    ),
)

ENCODERS = Table(
    name="encoders",
    row="an encoder as resolved from a config",
    key=("config_hash",),
    writers=("encode",),
    columns=(
        Column("config_hash", "string", "hash of what the encoder config asks for, less what moves no vector", True),
        Column("encoder_id", "string", "hash of all that determines a vector", True),
        Column("source", "string", "package:, folder or hub: id", True),
        Column("revision", "string", "pinned revision; the package's version"),
        Column("weights_sha256", "string", "of the safetensors files; of the GGUF file", True),
        Column("tokenizer_sha256", "string", "of the tokenizer files", True),
        Column("pooling", "string", "mean, cls or last", True),
        Column("normalise", "boolean", "vectors have unit length", True),
        Column("dimensions", "int", "length of a vector", True),
        Column("max_length", "int", "tokens per text", True),
        Column("backend", "string", "what computes the forward pass", True),
        Column("precision", "string", "arithmetic of the forward pass", True),
        Column(
            "trials",
            "array<struct<backend:string,precision:string,tokens_per_second:double,cosine:double,error:string,processor:string>>",
            "what was measured for backend and precision auto; cosine: the lowest to torch fp32; null: both were named",
        ),
    ),
)

TEXT_EMBEDDINGS = Table(
    name="text_embeddings",
    row="one text under one encoder",
    key=("encoder_id", "text_hash"),
    cluster_by=("encoder_id", "text_hash"),
    writers=("encode",),
    columns=(
        Column("encoder_id", "string", "see `encoders`", True),
        Column("text_hash", "string", "see `texts`", True),
        Column("embedding", "array<float>", "the text's vector", True),
        Column("tokens", "int", "tokens computed, special ones included", True),
    ),
)

INTEREST_STATES = Table(
    name="interest_states",
    row="a user's recurrent state",
    key=("state_version", "user_id"),
    cluster_by=("state_version", "user_id"),
    writers=("train", "recommend", "evaluate"),
    columns=(
        Column("state_version", "string", "hash of all that feeds the recurrence", True),
        Column("user_id", "string", "as spelt in the log", True),
        Column("h", "array<float>", "LSTM/GRU hidden state", True),
        Column("c", "array<float>", "LSTM cell state; empty for GRU", True),
        Column("accumulators", "array<double>", "attention and decayed sums of the long part, flat", True),
        Column("steps", "long", "steps seen", True),
        Column("last_day", "int", "date of the last step, days since 1970-01-01", True),
        Column("last_time", "double", "instant of the last step, days since the epoch, UTC", True),
        Column(
            "own",
            "array<struct<item_id:string,decayed:array<double>,recent:array<double>,total:array<double>>>",
            "own counts per item: decayed to last_time by type and half-life, decayed by steps and plain by type",
            True,
        ),
        Column("fingerprint", "long", "order-free hash of the user_sequences rows seen", True),
    ),
)

ITEM_NEIGHBOURS = Table(
    name="item_neighbours",
    row="one weight of a sparse item-item similarity",
    key=("head_version", "kind", "item_id", "neighbour_id"),
    cluster_by=("head_version", "item_id"),
    writers=("train",),
    columns=(
        Column("head_version", "string", "see `recommendations`", True),
        Column("kind", "string", "co_occurrence, or transition: what follows what in the next step", True),
        Column("item_id", "string", "the scored item", True),
        Column("neighbour_id", "string", "item of the user's history that speaks for it", True),
        Column("weight", "float", "how much", True),
        Column("trained_until", "date", "events before this date were counted", True),
    ),
)

_LIST_COLUMNS = (
    Column("rank", "int", "1 is the best", True),
    Column("item_id", "string", "the recommended item", True),
    Column("title", "string", "its title as of the list's date"),
    Column("score", "double", "y's logit less its mean over the candidates", True),
)

RECOMMENDATIONS = Table(
    name="recommendations",
    row="one place of a user's current list",
    key=("user_id", "rank"),
    cluster_by=("user_id",),
    writers=("recommend", "evaluate"),
    columns=(
        Column("user_id", "string", "as spelt in the log", True),
        *_LIST_COLUMNS,
        Column("short", "double", "share of the score: short-term interest", True),
        Column("long", "double", "share of the score: long-term interest", True),
        Column("bias", "double", "share of the score: the item's popularity, b_i(t)", True),
        Column("repeat", "double", "share of the score: the user's own counts, r_{u,i}(t)", True),
        Column(
            "collaborative",
            "double",
            "share of the score: what cf_weight * log s, and the order of first-time items, add to p",
            True,
        ),
        Column("log_p", "double", "log probability under the interest model", True),
        Column("log_s", "double", "log probability under the collaborative part", True),
        Column("gate", "double", "g: how much of the user's interest is the short-term one", True),
        Column("basis", "string", "joint, one_event or no_history", True),
        Column("reason", "string", "explanation (written by a later version)"),
        Column("because_of", "array<string>", "items of the history that speak for it (written by a later version)"),
        Column("state_version", "string", "version of the state behind the list", True),
        Column("head_version", "string", "version of the scorer behind the list", True),
        Column("list_id", "string", "hash of what made the publication", True),
        Column("as_of", "timestamp", "instant that the list is for", True),
    ),
)

DEFAULT_RECOMMENDATIONS = Table(
    name="default_recommendations",
    row="one place of the list for users who are not known",
    key=("segment", "rank"),
    writers=("recommend", "evaluate"),
    columns=(
        Column("segment", "string", "who it is for; `all` is everybody", True),
        *_LIST_COLUMNS,
        Column("head_version", "string", "version of the scorer behind the list", True),
        Column("list_id", "string", "hash of what made the publication", True),
        Column("as_of", "timestamp", "instant that the list is for", True),
    ),
)

RECOMMENDATION_LOG = Table(
    name="recommendation_log",
    row="one place of a list ever published",
    key=("list_id", "user_id", "rank"),
    cluster_by=("as_of",),
    writers=("recommend", "evaluate"),
    columns=(
        Column("list_id", "string", "hash of what made the publication", True),
        Column("user_id", "string", "as spelt in the log", True),
        Column("rank", "int", "1 is the best", True),
        Column("item_id", "string", "the recommended item", True),
        Column("score", "double", "as published", True),
        Column("head_version", "string", "version of the scorer behind the list", True),
        Column("as_of", "timestamp", "instant that the list is for", True),
    ),
)

EVALUATION = Table(
    name="evaluation",
    row="one metric of one model on one window and slice",
    key=("evaluation_id", "window", "slice", "model", "metric", "k"),
    cluster_by=("evaluation_id",),
    writers=("evaluate",),
    columns=(
        Column("evaluation_id", "string", "hash of what made it", True),
        Column("window", "date", "first date of the window", True),
        Column(
            "slice",
            "string",
            "`all`, `first_time` (items that the user did not know), a group of users or of targets, `validation`",
            True,
        ),
        Column(
            "model",
            "string",
            "joint, p, s or a baseline; challenger, champion; `joint - p` is a paired difference, `challenger / champion` a ratio",
            True,
        ),
        Column("metric", "string", "hr, ndcg, recall, mrr, map, novelty, diversity, coverage, gini, calibration, weight", True),
        Column("k", "int", "cut-off; of calibration the decile of y", True),
        Column("value", "double", "mean over users; of coverage, gini, calibration and weight, the figure of all"),
        Column("low", "double", "2.5% of the bootstrap over users; of a ratio the bound that was tested"),
        Column("high", "double", "97.5% of the bootstrap over users"),
        Column("n", "long", "users", True),
        Column("candidates", "string", "all: items first seen before the window; unknown: without the user's known ones", True),
        Column("head_version", "string", "the version that was evaluated", True),
    ),
)

JOB_RUNS = Table(
    name="job_runs",
    row="one run of one job",
    key=("run_id",),
    cluster_by=("started_at",),
    writers=("every job",),
    columns=(
        Column("run_id", "string", "random", True),
        Column("job", "string", "its name", True),
        Column("status", "string", "succeeded or failed", True),
        Column("error", "string", "the one line that the job printed"),
        Column("day", "date", "date that the run was for, where named"),
        Column("started_at", "timestamp", "clock", True),
        Column("seconds", "double", "wall clock", True),
        Column("stages", "map<string,double>", "seconds by stage", True),
        Column("counts", "map<string,long>", "rows by fate", True),
        Column("inputs", "map<string,long>", "Delta versions read", True),
        Column("outputs", "map<string,long>", "Delta versions after the run, of tables that it wrote", True),
        Column("versions", "map<string,string>", "state_version, head_version, list_id, ...", True),
        Column("config_hash", "string", "hash of the resolved configuration", True),
        Column("config", "string", "the resolved configuration as JSON", True),
    ),
)

TABLES = {
    table.name: table
    for table in (
        EVENTS,
        QUARANTINE,
        IMPRESSIONS,
        ITEMS,
        TEXTS,
        USER_SEQUENCES,
        USER_PROFILES,
        ENCODERS,
        TEXT_EMBEDDINGS,
        INTEREST_STATES,
        ITEM_NEIGHBOURS,
        RECOMMENDATIONS,
        DEFAULT_RECOMMENDATIONS,
        RECOMMENDATION_LOG,
        EVALUATION,
        JOB_RUNS,
    )
}


def to_markdown() -> str:
    """The text of docs/tables.md."""
    parts = [
        "# Tables",
        "",
        "Made from `llmrec_pipeline/tables.py` by `make docs`; do not edit. Each table is a Delta folder under `warehouse/<domain>/`,",
        "reader protocol 1: Spark, deltalake, polars and DuckDB read it.",
    ]
    for table in TABLES.values():
        parts += [
            "",
            f"## {table.name}",
            "",
            f"One row is {table.row}. Key: {', '.join(table.key)}. Written by: {', '.join(table.writers)}.",
        ]
        if table.cluster_by:
            parts[-1] += f" Clustered by: {', '.join(table.cluster_by)}."
        if table.constraints:
            parts[-1] += f" Constraints: {', '.join(f'`{rule}`' for rule in table.constraints.values())}."
        parts += ["", "| column | type | null | meaning |", "| --- | --- | --- | --- |"]
        parts += [f"| {c.name} | {c.type} | {'no' if c.required else 'yes'} | {c.meaning} |" for c in table.columns]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(to_markdown(), end="")

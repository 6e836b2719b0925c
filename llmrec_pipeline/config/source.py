"""Where a domain's raw records lie, and how they are written."""

import codecs
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from llmrec_pipeline.config.section import Section


class FilesConfig(Section):
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

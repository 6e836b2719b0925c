"""The files of a source: which are read, which are skipped and why, which are damaged, and what their first lines say.

All of it asks Hadoop's file systems through the JVM, so whatever Spark reaches is reached, with flat memory.
"""

import codecs
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from pyspark.sql import SparkSession

from llmrec_pipeline.behaviour.decoding import MARKED
from llmrec_pipeline.errors import InputError
from llmrec_pipeline.session import java_class

ARCHIVE = "an archive that Spark does not read; unpack it, or use gzip or bzip2"
ARCHIVES = (".zip", ".7z", ".rar", ".xz", ".tar", ".tgz")
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4", ".snappy", ".deflate")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
THREADS = 4
PIECES = (65_536, 256, 1)  # bytes; of a damaged file all can be read that lies before the fault
LONGEST_HEADER = 65_536  # characters, where a file is damaged


@dataclass(frozen=True)
class File:
    """One file that is there."""

    path: str
    uri: str  # as Spark's _metadata.file_path spells it
    size: int  # bytes
    inner: str  # path below the folder that was named

    @property
    def folders(self) -> dict[str, str | None]:
        """Values of Hive-style folders (`shop=007/`), as spelt."""
        pairs = [part.partition("=") for part in self.inner.split("/")[:-1] if "=" in part]
        return {name: None if value == HIVE_NULL else unquote(value) for name, _, value in pairs}


@dataclass(frozen=True)
class Listing:
    """What a source's paths hold."""

    files: tuple[File, ...]
    skipped: dict[str, str]  # path -> reason
    damaged: dict[File, str]  # file -> reason; quarantined whole

    @property
    def incomplete(self) -> bool:
        """True where records of the delivery cannot be read."""
        return bool(self.damaged) or ARCHIVE in self.skipped.values()

    def without(self, damaged: dict[File, str]) -> "Listing":
        """The same, where these files turned out to be damaged, too."""
        return Listing(tuple(file for file in self.files if file not in damaged), self.skipped, self.damaged | damaged)


def list_files(spark: SparkSession, patterns: tuple[str, ...], *, text: bool) -> Listing:
    """Lists files, folders and globs.

    Args:
        text: files are read by lines, so compressed ones are tried whole before any of them is read.

    Raises:
        InputError: a pattern matches nothing, or every file that it matches has to be skipped.
    """
    found: dict[str, File] = {}
    for pattern in patterns:
        matched = _walk(spark, pattern)
        if matched is None:
            raise InputError(
                f"source path {pattern!r} does not exist; correct source.path in the domain's YAML, or deliver the file"
            )
        found |= {file.path: file for file in matched}
    skipped = {path: reason for path, file in found.items() if (reason := _skip_reason(file))}
    files = [found[path] for path in sorted(set(found) - set(skipped))]
    if not files:
        why = ", ".join(f"{path} ({reason})" for path, reason in sorted(skipped.items())[:5]) or "it is an empty folder"
        raise InputError(
            f"source path {', '.join(patterns)!r} holds no record, no file can be read: {why}; deliver at least one file with records"
        )
    packed = [file for file in files if text and file.path.endswith(COMPRESSED)]
    return Listing(tuple(files), skipped, {}).without(_damaged(spark, packed))


def _walk(spark: SparkSession, pattern: str) -> list[File] | None:
    path = java_class(spark, "org.apache.hadoop.fs.Path")(pattern)
    system = path.getFileSystem(_hadoop(spark))
    matched = system.globStatus(path)
    return [file for status in matched for file in _below(system, status)] if matched else None


def _below(system: Any, status: Any) -> Iterator[File]:
    root = status.getPath()
    if status.isFile():
        yield File(root.toString(), _uri(root), status.getLen(), root.getName())
        return
    inside = system.listFiles(root, True)
    while inside.hasNext():
        found = inside.next()
        path = found.getPath()
        yield File(path.toString(), _uri(path), found.getLen(), path.toString()[len(root.toString()) + 1 :])


def _uri(path: Any) -> str:
    """The path as Spark's metadata spells it: `file:/tmp/x`, where Hadoop writes `file:///tmp/x`."""
    return str(path.toUri().toString()).replace("file:///", "file:/", 1)


def _skip_reason(file: File) -> str | None:
    hidden = next((part for part in file.inner.split("/") if part.startswith((".", "_")) and "=" not in part), None)
    if hidden:
        return f"hidden: {hidden}"
    if not file.size:
        return "empty"
    if file.path.lower().endswith(ARCHIVES):
        return ARCHIVE
    return None


def _damaged(spark: SparkSession, packed: list[File]) -> dict[File, str]:
    with ThreadPoolExecutor(THREADS) as pool:
        faults = list(pool.map(lambda file: _fault(spark, file), packed))
    return {file: fault for file, fault in zip(packed, faults, strict=True) if fault}


def _fault(spark: SparkSession, file: File) -> str | None:
    """Why a compressed file cannot be read to its end; null when it can."""
    try:
        stream = _open(spark, file)
        try:
            stream.transferTo(java_class(spark, "java.io.OutputStream").nullOutputStream())
        finally:
            stream.close()
    except Exception as error:  # Java's, by way of py4j: truncated, not in that format, no such codec here
        cause = getattr(error, "java_exception", None)
        return f"damaged file: {cause.getMessage() if cause is not None else error}"
    return None


def first_line(spark: SparkSession, file: File, charset: str) -> str | None:
    """The first line with content, without line ending and byte-order mark; null where there is none, or the file breaks off in it.

    What the charset does not explain is `decoding.INVALID`.
    """
    for piece in PIECES:
        try:
            with closing(_open(spark, file)) as stream:
                return _first_line(stream, charset, piece)
        except Exception:  # Java's: a damaged file gives nothing of the piece in which it breaks off
            continue
    return None


def _first_line(stream: Any, charset: str, size: int) -> str | None:
    decoder, text = codecs.getincrementaldecoder(charset)(MARKED), ""
    while True:
        piece = bytes(stream.readNBytes(size))
        text += decoder.decode(piece, final=not piece)
        *lines, text = re.split("\r\n|\n|\r(?!$)", text)
        for line in lines if piece else [*lines, text]:
            content = line.removeprefix("\ufeff").removesuffix("\r")
            if content.strip():
                return content
        if not piece or (size < PIECES[0] and len(text) > LONGEST_HEADER):
            return None


def sha256(spark: SparkSession, file: File) -> str:
    """SHA-256 of a file's bytes, as they lie."""
    path = java_class(spark, "org.apache.hadoop.fs.Path")(file.path)
    stream = path.getFileSystem(_hadoop(spark)).open(path)
    try:
        return str(java_class(spark, "org.apache.commons.codec.digest.DigestUtils").sha256Hex(stream))
    finally:
        stream.close()


def literal_paths(files: tuple[File, ...]) -> list[str]:
    """Paths that Spark's globbing takes as they are."""
    return [re.sub(r"([\[\]{}*?\\])", r"\\\1", file.path) for file in files]


def _open(spark: SparkSession, file: File) -> Any:
    """Unpacked as Spark's own reader of lines unpacks it."""
    path = java_class(spark, "org.apache.hadoop.fs.Path")(file.path)
    return java_class(spark, "org.apache.spark.io.HadoopCodecStreams").createInputStream(_hadoop(spark), path)


def _hadoop(spark: SparkSession) -> Any:
    return spark.sparkContext._jsc.hadoopConfiguration()

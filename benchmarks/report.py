"""What every benchmark shares: figures with bars, their table, the machine they were measured on, and results/NAME.json."""

import hashlib
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
HEAP_STEP = 256  # MiB
Figure = dict[str, Any]


def last_of_each(repeats: list[dict[str, Any]], parts: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The newest repeat of each part that has one, and the commit that each was measured at."""
    of = {part: repeat for repeat in repeats for part in parts if part in repeat}
    return {part: repeat[part] for part, repeat in of.items()}, {part: repeat["commit"] for part, repeat in of.items()}


def write_result(
    name: str, newest: dict[str, Any], repeats: list[dict[str, Any]], rows: list[Figure], commits: dict[str, str] | None = None
) -> int:
    """Writes results/NAME.json and prints its figures; 1 when a bar does not hold. `commits`: of its parts, where they have several."""
    heads = {"commit": newest["commit"], "machine": machine(), "date": newest["date"]} | ({"commits": commits} if commits else {})
    (RESULTS / f"{name}.json").write_text(json.dumps(heads | {"figures": rows, "raw": repeats}, indent=1) + "\n")
    show(rows)
    return 0 if all(row["holds"] is not False for row in rows) else 1


def repeat_of_commit(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """The repeat of the commit at hand, a new one where there is none yet: a benchmark that broke off goes on with it."""
    commit = output("git", "rev-parse", "HEAD")
    if not any(repeat["commit"] == commit for repeat in repeats):
        repeats.append({"commit": commit, "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()})
    return next(repeat for repeat in repeats if repeat["commit"] == commit)


def raw_repeats(name: str, *files: str) -> tuple[Path, list[dict[str, Any]]]:
    """The file of raw repeats of a benchmark under the configuration in `files`, and what it holds."""
    RESULTS.mkdir(exist_ok=True)
    config = hashlib.sha256(b"".join((ROOT / file).read_bytes() for file in files)).hexdigest()[:16]
    path = RESULTS / f"{name}-{config}.raw.json"
    return path, json.loads(path.read_text()) if path.exists() else []


def figure(name: str, value: float, unit: str, better: str, bar: float | None, aim: float | None, note: str) -> Figure:
    """One figure; a NaN never holds."""
    holds = None if bar is None else bool(math.isfinite(value) and (value <= bar if better == "lower" else value >= bar))
    return {
        "name": name,
        "value": round(value, 4),
        "unit": unit,
        "bar": bar,
        "aim": aim,
        "better": better,
        "holds": holds,
        "note": note,
    }


@dataclass
class Watched:
    """A command that has ended: how, how long it took, and the most memory that it held (GiB) by what held it."""

    code: int
    seconds: float
    peak_gib: dict[str, float]


def watched(*command: str, log: Path | None = None) -> Watched:
    """Runs a command in the repository's root; its output goes to `log`, or through."""
    began, peaks = time.perf_counter(), {"jvm": 0.0, "python": 0.0, "workers": 0.0, "all": 0.0}
    with log.open("wb") if log else nullcontext() as out, psutil.Popen(command, cwd=ROOT, stdout=out, stderr=out) as process:
        while process.poll() is None:
            for name, held in _resident(process).items():
                peaks[name] = max(peaks[name], held / 2**30)
            time.sleep(0.5)
    return Watched(process.returncode, time.perf_counter() - began, peaks)


def smallest_heap(start: int, prepare: Callable[[], object], logs: Path, *arguments: str) -> dict[str, Any]:
    """The smallest heap in steps of HEAP_STEP, from `start` MiB on, under which `spark-submit` of the arguments ends, and what it took.

    `prepare` goes before each try; its output goes to `logs`.
    """
    tried = []
    for heap in range(start, start + 9 * HEAP_STEP, HEAP_STEP):
        prepare()
        ended = watched("spark-submit", "--driver-memory", f"{heap}m", *arguments, log=logs / f"heap-{heap}.log")
        tried.append({"heap_mib": heap, "code": ended.code, "seconds": ended.seconds, "peak_gib": ended.peak_gib})
        if not ended.code:
            return {**tried[-1], "tried": tried}
    raise SystemExit(f"{' '.join(arguments)} ended under no heap up to {heap} MiB; see {logs}/heap-{heap}.log")


def heap_growth(one: dict[str, Any], ten: dict[str, Any]) -> Figure:
    """What ten times the rows take on top, by `smallest_heap` of both."""
    grown, note = ten["heap_mib"] - one["heap_mib"], f"one: {one['heap_mib']} MiB"
    return figure("heap, ten times the rows less one", grown, "MiB", "lower", HEAP_STEP, 0, note)


def _resident(process: psutil.Process) -> dict[str, int]:
    """Bytes held by the driver's Python, its JVM and the Python workers; pages that processes share are split among them (PSS)."""
    held = {"jvm": 0, "python": 0, "workers": 0}
    for one in (process, *process.children(recursive=True)):
        try:
            kind = "jvm" if one.name() == "java" else "workers" if "pyspark.daemon" in one.cmdline() else "python"
            held[kind] += one.memory_full_info().pss
        except psutil.Error:  # it has ended meanwhile
            continue
    return held | {"all": sum(held.values())}


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("figure", "value", "bar", "aim", "holds", "note")
    for row in rows:
        holds = {True: "yes", False: "[bold red]no[/]", None: ""}[row["holds"]]
        table.add_row(
            row["name"],
            f"{row['value']:g} {row['unit']}",
            *[("" if row[k] is None else f"{row[k]:g}") for k in ("bar", "aim")],
            holds,
            row["note"],
        )
    Console(width=150).print(table)


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text()
    lines = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in info.splitlines() if ":" in line}
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    features = [flag for flag in lines.get("flags", "").split() if flag in wanted]
    return {"processor": lines.get("model name", platform.processor()), "features": features, "cores": info.count("processor\t")}


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

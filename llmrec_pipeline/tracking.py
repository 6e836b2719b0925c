"""One run of one job: its progress on the terminal, its counts and seconds, its row in job_runs."""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from pyspark.sql import DataFrame, SparkSession
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llmrec_pipeline.config import Settings
from llmrec_pipeline.warehouse import Warehouse

log = logging.getLogger("llmrec")
console = Console(stderr=True, soft_wrap=True)
POLL_SECONDS = 0.3

Report = Callable[[int, int], None]


@dataclass
class Run:
    """What a step needs and what it tells: session, tables, settings in; counts, seconds, versions out."""

    job: str
    settings: Settings
    spark: SparkSession
    warehouse: Warehouse
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.time)
    stages: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @contextmanager
    def stage(self, name: str, tasks: int | None = None, **amounts: int) -> Iterator[Report]:
        """Times a part of the job under a progress bar.

        The bar follows Spark's tasks, until the body calls what it is given with (done, total).

        Args:
            name: under which its seconds are kept.
            tasks: how many tasks do the work, where those of other Spark stages do not count.
            amounts: what these tasks share evenly, such as tokens=9_000; the bar tells how much is done, and the last one's rate.
        """
        began = time.perf_counter()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task(f"{self.job}: {name}", total=None, unit="")
            watcher = _TaskWatcher(self.spark, progress, bar, tasks, amounts)
            watcher.start()
            try:
                yield watcher.report
            finally:
                watcher.stop()
        seconds = time.perf_counter() - began
        self.stages[name] = round(self.stages.get(name, 0.0) + seconds, 3)
        log.info("%s: %s, %.1f s", self.job, name, seconds)

    def read(self, name: str, *, pinned: bool = False) -> DataFrame:
        """A table, its Delta version noted as an input; pinned, it stays at this one whatever is committed meanwhile."""
        self.inputs[name] = version = self.warehouse.version(name)
        return self.warehouse.read(name, version if pinned else None)

    def wrote(self, *names: str) -> None:
        """Notes the Delta versions of tables that this run may have written."""
        self.outputs |= {name: self.warehouse.version(name) for name in names}

    def record(self, status: str, error: str | None = None) -> None:
        """Appends the run's row to job_runs."""
        day = self.settings.pipeline.day
        self.seconds = round(time.time() - self.started, 3)
        row = {
            "run_id": self.run_id,
            "job": self.job,
            "status": status,
            "error": error,
            "day": date.fromisoformat(day) if day else None,
            "started_at": datetime.fromtimestamp(self.started, UTC),
            "seconds": self.seconds,
            "stages": self.stages,
            "counts": self.counts,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "versions": self.versions,
            "config_hash": self.settings.digest(),
            "config": json.dumps(self.settings.model_dump(mode="json"), ensure_ascii=False),
        }
        self.warehouse.append("job_runs", self.spark.createDataFrame([row], self.warehouse.schema("job_runs")))


class _TaskWatcher(threading.Thread):
    """Moves a bar with the tasks of Spark's active stages, until the body reports progress of its own."""

    def __init__(self, spark: SparkSession, progress: Progress, bar: TaskID, tasks: int | None, amounts: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self._tracker = spark.sparkContext.statusTracker()
        self._progress, self._bar = progress, bar
        self._tasks, self._amounts = tasks, amounts
        self._began = time.perf_counter()
        self._done = threading.Event()
        self._own = False

    def report(self, done: int, total: int) -> None:
        self._own = True
        self._progress.update(self._bar, completed=done, total=total, unit=f"{done}/{total}")

    def run(self) -> None:
        while not self._done.wait(POLL_SECONDS):
            if self._own or self._progress.disable:
                continue
            active = [info for stage in self._tracker.getActiveStageIds() if (info := self._tracker.getStageInfo(stage))]
            infos = [info for info in active if self._tasks in (None, info.numTasks)]
            if infos:
                done, total = sum(i.numCompletedTasks for i in infos), sum(i.numTasks for i in infos)
                self._progress.update(self._bar, completed=done, total=total, unit=self._unit(done, total))

    def _unit(self, done: int, total: int) -> str:
        if not self._amounts:
            return f"{done}/{total} tasks"
        shares = [f"{amount * done // total:,}/{amount:,} {name}" for name, amount in self._amounts.items()]
        name, amount = list(self._amounts.items())[-1]
        return f"{', '.join(shares)}, {amount * done / total / (time.perf_counter() - self._began):,.0f} {name}/s"

    def stop(self) -> None:
        self._done.set()
        self.join()

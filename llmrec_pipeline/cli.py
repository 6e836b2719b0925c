"""The command line of every job: parse, load the config, log it, run the step, record the run. Heavy imports are lazy."""

import importlib
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

from llmrec_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from llmrec_pipeline.config import Settings
    from llmrec_pipeline.tracking import Run

log = logging.getLogger("llmrec")


class Main(Protocol):
    """A job's entry point: arguments as on the command line, those of the process by default."""

    def __call__(self, argv: list[str] | None = None) -> None: ...


REBUILDING = ("ingest", "textualise")  # the steps whose tables carry the hash of the mapping
STEPS = ("ingest", "textualise", "encode", "train", "recommend", "evaluate")

ConfigOption = Annotated[str, typer.Option("--config", help="the pipeline's YAML")]
DomainOption = Annotated[
    str | None, typer.Option("--domain", help="conf/domains/NAME.yaml, or a path; default: the one the config names")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, dotted keys, repeatable; domain.KEY changes the domain's YAML")
]
DayOption = Annotated[str | None, typer.Option("--day", help="YYYY-MM-DD that the run is for; default: the last date in events")]
DebugOption = Annotated[bool, typer.Option("--debug", help="show stack traces and Spark's own words")]
DryRunOption = Annotated[
    int | None,
    typer.Option(
        "--dry-run", min=1, help="show the first N records as events and texts, and what goes to quarantine; writes nothing"
    ),
]
SuggestOption = Annotated[
    str | None, typer.Option("--suggest", metavar="FILE", help="print a draft of a domain's YAML, made from FILE; writes nothing")
]
KindOption = Annotated[
    Literal["static", "pruned", "pca", "matryoshka", "int8"],
    typer.Option(
        "--kind", help="how: a static student, fewer layers, fewer dimensions by PCA or by leaving off the last, weights in int8"
    ),
]
OutOption = Annotated[str, typer.Option("--out", metavar="FOLDER", help="folder to make; encoder.source may then name it")]
LayersOption = Annotated[int | None, typer.Option("--layers", min=1, help="of a pruned tier")]
DimensionsOption = Annotated[int | None, typer.Option("--dimensions", min=1, help="of a tier of kind pca or matryoshka")]
PromoteOption = Annotated[
    bool, typer.Option("--promote", help="make the newest version the champion, if it is proven not worse than the one that is")
]
RollbackOption = Annotated[bool, typer.Option("--rollback", help="make the champion's predecessor the champion again")]
RebuildOption = Annotated[
    bool, typer.Option("--rebuild", help="read the sources again and replace the tables (after a change of mapping or templates)")
]


def job(name: str, description: str | None) -> "Main":
    """The `main(argv)` of the job that runs one step."""

    def command(
        config: ConfigOption = "conf/pipeline.yaml",
        domain: DomainOption = None,
        set_: SetOption = None,
        day: DayOption = None,
        debug: DebugOption = False,
    ) -> None:
        run_jobs((name,), config, domain, overrides_of(set_, day), debug=debug)

    def rebuilding_command(
        config: ConfigOption = "conf/pipeline.yaml",
        domain: DomainOption = None,
        set_: SetOption = None,
        day: DayOption = None,
        rebuild: RebuildOption = False,
        debug: DebugOption = False,
    ) -> None:
        run_jobs((name,), config, domain, overrides_of(set_, day), rebuild=rebuild, debug=debug)

    chosen = rebuilding_command if name in REBUILDING else command
    chosen.__doc__ = description
    return main_of(chosen)


def ingest_job(description: str | None) -> "Main":
    """The `main(argv)` of ingest, which can also show what it would do."""

    def command(
        config: ConfigOption = "conf/pipeline.yaml",
        domain: DomainOption = None,
        set_: SetOption = None,
        day: DayOption = None,
        rebuild: RebuildOption = False,
        dry_run: DryRunOption = None,
        suggest: SuggestOption = None,
        debug: DebugOption = False,
    ) -> None:
        if suggest or dry_run:
            set_up_logging(debug)
            with reported(debug):
                print_draft(suggest) if suggest else print_preview(config, domain, overrides_of(set_, day), dry_run or 1)
        else:
            run_jobs(("ingest",), config, domain, overrides_of(set_, day), rebuild=rebuild, debug=debug)

    command.__doc__ = description
    return main_of(command)


def compress_job(description: str | None) -> "Main":
    """The `main(argv)` of compress, which makes a folder and no table."""

    def command(
        kind: KindOption,
        out: OutOption,
        layers: LayersOption = None,
        dimensions: DimensionsOption = None,
        config: ConfigOption = "conf/pipeline.yaml",
        domain: DomainOption = None,
        set_: SetOption = None,
        debug: DebugOption = False,
    ) -> None:
        overrides = overrides_of(set_, None)
        run_jobs(("compress",), config, domain, overrides, debug=debug, kind=kind, out=out, layers=layers, dimensions=dimensions)

    command.__doc__ = description
    return main_of(command)


def evaluate_job(description: str | None) -> "Main":
    """The `main(argv)` of evaluate, which also says which version serves."""

    def command(
        config: ConfigOption = "conf/pipeline.yaml",
        domain: DomainOption = None,
        set_: SetOption = None,
        day: DayOption = None,
        promote: PromoteOption = False,
        rollback: RollbackOption = False,
        debug: DebugOption = False,
    ) -> None:
        if promote and rollback:
            raise typer.BadParameter("--promote and --rollback exclude each other; name one of them")
        name = "promote" if promote else "rollback" if rollback else "evaluate"
        run_jobs((name,), config, domain, overrides_of(set_, day), debug=debug)

    command.__doc__ = description
    return main_of(command)


def print_draft(file: str) -> None:
    from llmrec_pipeline.behaviour.drafting import suggest

    print(suggest(file), end="")


def print_preview(config: str, domain: str | None, overrides: tuple[str, ...], records: int) -> None:
    from llmrec_pipeline.config import load_settings
    from llmrec_pipeline.session import get_session
    from llmrec_pipeline.steps.preview import preview

    preview(get_session("llmrec ingest, dry run"), load_settings(config, domain, overrides), records)


def main_of(command: Callable[..., None]) -> "Main":
    """Wraps a typer command as `main(argv)`."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)

    def main(argv: list[str] | None = None) -> None:
        app(args=argv)

    return main


def overrides_of(pairs: list[str] | None, day: str | None) -> tuple[str, ...]:
    return (*(pairs or ()), *((f"day='{day}'",) if day else ()))


def run_jobs(
    names: tuple[str, ...],
    config: str,
    domain: str | None,
    overrides: tuple[str, ...],
    *,
    rebuild: bool = False,
    debug: bool = False,
    summary: bool = False,
    **options: Any,
) -> None:
    """Runs the named steps in one Spark session; exits 2 with one line on an error that the user can mend, 1 on any other.

    Args:
        summary: print tables, seconds, metrics and three users at the end.
        options: of the step itself.
    """
    set_up_logging(debug)
    with reported(debug):
        from llmrec_pipeline.config import load_settings

        settings = load_settings(config, domain, overrides)
        log.info(
            "%s: domain %s, config %s, not default: %s",
            "+".join(names),
            settings.domain.name,
            settings.digest(),
            _not_default(settings),
        )
        runs = [run_step(name, settings, rebuild=rebuild, **options) for name in names]
        if summary:
            from llmrec_pipeline.steps.summary import print_summary

            print_summary(settings, runs)


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Turns an error into one line and an exit code: 2 where the user can mend it, 1 for any other."""
    try:
        yield
    except PipelineError as error:
        _fail(error, 2, debug)
    except Exception as error:  # a defect, or the machine's; still one line
        _fail(error, 1, debug)


def _not_default(settings: "Settings") -> str:
    return json.dumps(settings.pipeline.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)


def run_step(name: str, settings: "Settings", *, rebuild: bool = False, **options: Any) -> "Run":
    """Runs one step and records it, also when it fails."""
    from llmrec_pipeline.session import get_session
    from llmrec_pipeline.tracking import Run
    from llmrec_pipeline.warehouse import Warehouse

    step = getattr(importlib.import_module(f"llmrec_pipeline.steps.{name}"), name)
    spark = get_session(f"llmrec {name}")
    run = Run(name, settings, spark, Warehouse(spark, settings.root, settings.domain.name, settings.mapping_hash))
    run.warehouse.create(["job_runs"])  # also the check that a run can be recorded, before it writes anything
    try:
        step(run, rebuild=rebuild) if rebuild and name in REBUILDING else step(run, **options)
    except BaseException as error:
        try:
            run.record("failed", one_line(error))
        except Exception as unwritten:  # must not take the place of what went wrong first
            log.warning("%s: the failure could not be recorded in job_runs: %s", name, one_line(unwritten))
        raise
    run.record("succeeded")
    return run


def one_line(error: BaseException) -> str:
    """The error's message on one line; of an executor's error, the one that its Python worker raised."""
    raised = re.search(r"^llmrec_pipeline\.errors\.\w+: (.*)$", str(error), flags=re.M)
    if raised:
        return raised[1]
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, PipelineError) else f"{type(error).__name__}: {text[:500]}"


def _fail(error: Exception, code: int, debug: bool) -> None:
    if debug:
        raise error
    hint = "" if isinstance(error, PipelineError) else " (--debug shows the stack trace)"
    print(f"error: {one_line(error)}{hint}", file=sys.stderr)
    raise SystemExit(code)


def set_up_logging(debug: bool) -> None:
    """Our own lines on stderr; other libraries from warnings up, and only errors of the chatty ones."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:
        warnings.simplefilter("ignore")
        for chatty in ("py4j", "mlflow", "alembic", "transformers", "pyspark"):
            logging.getLogger(chatty).setLevel(logging.ERROR)

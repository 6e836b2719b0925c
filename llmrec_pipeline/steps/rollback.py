"""Back to the champion's predecessor: its lists first, then the alias."""

import logging
from typing import Any

from llmrec_pipeline.errors import ModelError, TableError
from llmrec_pipeline.registry import CHAMPION, PREDECESSOR, PROMOTION, ROLLED_BACK, Registry
from llmrec_pipeline.steps.heads import Head, check_complete, neighbour_rows, pinned_head, registry_of
from llmrec_pipeline.steps.promote import check_day, check_published
from llmrec_pipeline.steps.recommend import TABLES, publish
from llmrec_pipeline.tracking import Run

log = logging.getLogger("llmrec")


def rollback(run: Run) -> None:
    """Publishes the lists of the version that was champion before, then makes it champion; the other one is tagged and stays out.

    A champion that cannot serve is no deadlock: without a predecessor that can, the newest version serves until one is promoted.

    Raises:
        ModelError: there is no champion, it has no predecessor, or no version can be read.
        TableError: lists of a later day stand, or rows of the version are missing.
    """
    run.warehouse.create(TABLES)
    registry = registry_of(run)
    champion = registry.champion()
    if champion is None:
        raise ModelError(
            f"no version of {registry.name} is champion, so none can be rolled back; jobs/evaluate.py --promote makes one"
        )
    check_day(run)
    version, head = _next_to_serve(run, registry, champion)
    publish(run, head)
    check_published(run, registry, head, champion)
    told = f"rolled back to version {version.version}"
    registry.tag(champion, {ROLLED_BACK: str(version.version), PROMOTION: told})
    if str(version.version) == champion.tags.get(PREDECESSOR):
        registry.set_alias(CHAMPION, version)
    else:
        registry.drop_alias(CHAMPION)
    log.info("rollback: version %s of %s is %s, lists are its own", champion.version, registry.name, told)


def _next_to_serve(run: Run, registry: Registry, champion: Any) -> tuple[Any, Head]:
    """The champion's predecessor; the newest version where neither that one nor the champion can serve."""
    number, fault = champion.tags.get(PREDECESSOR), "is the first champion and has no predecessor"
    if number is not None:
        try:
            return _whole(run, registry, registry.numbered(number))
        except (ModelError, TableError) as error:
            log.warning("rollback: %s", error)
            fault = f"can serve, but version {number}, its predecessor, has lost files or rows: put them back from a backup"
    if _can_serve(run, registry, champion):
        raise ModelError(f"version {champion.version} of {registry.name} {fault}; train a better version and promote it")
    newest = registry.newest()
    if ROLLED_BACK in newest.tags:
        raise ModelError(
            f"version {newest.version} of {registry.name}, the newest, was rolled back before; train another one first"
        )
    log.warning("rollback: version %s, the newest, is to serve until one is promoted", newest.version)
    return _whole(run, registry, newest)


def _whole(run: Run, registry: Registry, version: Any) -> tuple[Any, Head]:
    """A version whose files can be read and whose rows are complete, and its head."""
    head = pinned_head(run, registry, version)
    check_complete(head, neighbour_rows(run, head).count())
    return version, head


def _can_serve(run: Run, registry: Registry, version: Any) -> bool:
    try:
        _whole(run, registry, version)
    except (ModelError, TableError):
        return False
    return True

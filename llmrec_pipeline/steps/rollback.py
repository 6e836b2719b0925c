"""Back to the champion's predecessor: its lists first, then the alias."""

import logging

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.registry import CHAMPION, PREDECESSOR, PROMOTION, ROLLED_BACK
from llmrec_pipeline.steps.heads import pinned_head, registry_of
from llmrec_pipeline.steps.promote import check_day, check_published
from llmrec_pipeline.steps.recommend import TABLES, publish
from llmrec_pipeline.tracking import Run

log = logging.getLogger("llmrec")


def rollback(run: Run) -> None:
    """Publishes the lists of the version that was champion before, then makes it champion; the other one is tagged and stays out.

    Raises:
        ModelError: there is no champion, or it has no predecessor.
        TableError: lists of a later day stand.
    """
    run.warehouse.create(TABLES)
    registry = registry_of(run)
    champion = registry.champion()
    if champion is None:
        raise ModelError(
            f"no version of {registry.name} is champion, so none can be rolled back; jobs/evaluate.py --promote makes one"
        )
    if PREDECESSOR not in champion.tags:
        raise ModelError(
            f"version {champion.version} of {registry.name} is the first champion and has no predecessor; "
            "train a better version and promote it"
        )
    predecessor = registry.numbered(champion.tags[PREDECESSOR])
    check_day(run)
    head = pinned_head(run, registry, predecessor)
    publish(run, head)
    check_published(run, registry, head, champion)
    told = f"rolled back to version {predecessor.version}"
    registry.tag(champion, {ROLLED_BACK: str(predecessor.version), PROMOTION: told})
    registry.set_alias(CHAMPION, predecessor)
    log.info("rollback: version %s of %s is %s, lists are its own", champion.version, registry.name, told)

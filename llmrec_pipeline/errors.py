"""Errors a user can mend. Each message holds the offending value, what was expected and the next step."""

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """A fault the user can mend; jobs print its message as one line and exit 2."""


class ConfigError(PipelineError):
    """A configuration value or key is wrong."""


class InputError(PipelineError):
    """Input data is missing or does not fit what the domain describes."""


class TableError(PipelineError):
    """A table is missing, of another schema, or belongs to another domain or mapping."""


class ConservationError(PipelineError):
    """Records read do not add up to records accounted for; nothing was committed."""


class ModelError(PipelineError):
    """A model's artefacts are missing or do not belong together."""


class StoreError(PipelineError):
    """MLflow's store does not give what it holds: unlike a ModelError, it may pass."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the closest known spelling, or all of them when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"

"""Rolling windows of the evaluation protocol (DESIGN 4). Days are dates in the domain's zone, as days since 1970-01-01."""

import datetime
from dataclasses import dataclass

from llmrec_pipeline.errors import ConfigError

EPOCH = datetime.date(1970, 1, 1)


@dataclass(frozen=True)
class Window:
    """Targets lie in [start, end); choices are made on [validation_start, start); gradients come from before validation_start."""

    name: str  # the first date, as in the table `evaluation`
    validation_start: int
    start: int  # T
    end: int


def window_ending(first_day: int, last_day: int, days: int) -> Window:
    """The window that ends with `last_day`; the protocol's earlier ones end `days` and twice `days` before (`--day`).

    Args:
        first_day: first event_date of the log.
        last_day: last date of the window.
        days: length of the window, and of the validation period before it.

    Raises:
        ConfigError: no day is left to train on before the validation period.
    """
    start = last_day + 1 - days
    if start - days <= first_day:
        raise ConfigError(
            f"a window of {days} days and its validation need events before {day_name(start - days)}, "
            f"the log starts on {day_name(first_day)} and has {last_day - first_day + 1} days; "
            "lower evaluation.window_days, or name a later --day"
        )
    return Window(name=day_name(start), validation_start=start - days, start=start, end=start + days)


def day_name(day: int) -> str:
    """ISO date of a day number."""
    return (EPOCH + datetime.timedelta(days=day)).isoformat()

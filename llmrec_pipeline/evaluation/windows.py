"""Rolling windows of the evaluation protocol (DESIGN 4). Days are dates in the domain's zone, as days since 1970-01-01."""

import datetime
from dataclasses import dataclass

from llmrec_pipeline.config import EvaluationConfig
from llmrec_pipeline.errors import ConfigError

EPOCH = datetime.date(1970, 1, 1)


@dataclass(frozen=True)
class Window:
    """Targets lie in [start, end); choices are made on [validation_start, start); gradients come from before validation_start."""

    name: str  # the first date, as in the table `evaluation`
    validation_start: int
    start: int  # T
    end: int


def rolling_windows(first_day: int, last_day: int, config: EvaluationConfig) -> list[Window]:
    """The last `config.windows` windows of the log, in time order; each has its validation period before it.

    Args:
        first_day: first event_date of the log.
        last_day: last event_date of the log.
        config: length and number of windows.

    Raises:
        ConfigError: no day is left to train on before the first window's validation.
    """
    starts = [last_day + 1 - config.window_days * (back + 1) for back in range(config.windows)]
    windows = [_window(start, config.window_days) for start in reversed(starts)]
    needed = windows[0].validation_start
    if needed <= first_day:
        raise ConfigError(
            f"{config.windows} windows of {config.window_days} days and their validation need events before {day_name(needed)}, "
            f"the log starts on {day_name(first_day)} and has {last_day - first_day + 1} days; "
            "lower evaluation.windows or evaluation.window_days"
        )
    return windows


def day_name(day: int) -> str:
    """ISO date of a day number."""
    return (EPOCH + datetime.timedelta(days=day)).isoformat()


def _window(start: int, days: int) -> Window:
    return Window(name=day_name(start), validation_start=start - days, start=start, end=start + days)

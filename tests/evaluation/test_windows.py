"""Rolling windows: dates in, dates out."""

import datetime

import pytest

from llmrec_pipeline.errors import ConfigError
from llmrec_pipeline.evaluation import Window, window_ending


def day(text: str) -> int:
    return (datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days


def test_a_window_ends_with_its_last_day_and_has_its_validation_before_it() -> None:
    first = day("2009-12-01")
    last = Window("2011-11-12", day("2011-10-15"), day("2011-11-12"), day("2011-12-10"))
    before = Window("2011-10-15", day("2011-09-17"), day("2011-10-15"), day("2011-11-12"))
    assert window_ending(first, day("2011-12-09"), 28) == last
    assert window_ending(first, day("2011-12-09") - 28, 28) == before


def test_a_log_without_a_day_to_train_on_is_refused_with_its_dates() -> None:
    assert window_ending(day("2020-01-01"), day("2020-01-15"), 7).validation_start == day("2020-01-02")
    with pytest.raises(ConfigError, match=r"need events before 2020-01-01, the log starts on 2020-01-01 and has 14 days"):
        window_ending(day("2020-01-01"), day("2020-01-14"), 7)

"""Rolling windows: dates in, dates out."""

import datetime

import pytest

from llmrec_pipeline.config import EvaluationConfig
from llmrec_pipeline.errors import ConfigError
from llmrec_pipeline.evaluation import Window, rolling_windows


def day(text: str) -> int:
    return (datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days


def test_windows_end_with_the_log_and_follow_one_another() -> None:
    config = EvaluationConfig(window_days=28, windows=2)
    found = rolling_windows(day("2009-12-01"), day("2011-12-09"), config)
    assert found == [
        Window("2011-10-15", day("2011-09-17"), day("2011-10-15"), day("2011-11-12")),
        Window("2011-11-12", day("2011-10-15"), day("2011-11-12"), day("2011-12-10")),
    ]


def test_a_log_without_a_day_to_train_on_is_refused_with_its_dates() -> None:
    config = EvaluationConfig(window_days=7, windows=1)
    assert len(rolling_windows(day("2020-01-01"), day("2020-01-15"), config)) == 1
    with pytest.raises(ConfigError, match=r"need events before 2020-01-01, the log starts on 2020-01-01 and has 14 days"):
        rolling_windows(day("2020-01-01"), day("2020-01-14"), config)

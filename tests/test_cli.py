"""What the command line tells of an error."""

import pytest

from llmrec_pipeline.cli import one_line
from llmrec_pipeline.errors import InputError

OF_A_WORKER = """Job aborted due to stage failure
Traceback (most recent call last):
  File "worker.py", line 1
llmrec_pipeline.errors.ModelError: the worker's folder is not the driver's; install the same model

Driver stacktrace:"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("source path 'a'\n  does not exist"), "source path 'a' does not exist"),
        (RuntimeError("one\n\ttwo"), "RuntimeError: one two"),
        (RuntimeError(), "RuntimeError: RuntimeError"),
        (RuntimeError("x" * 600), "RuntimeError: " + "x" * 500),
        (RuntimeError(OF_A_WORKER), "the worker's folder is not the driver's; install the same model"),
    ],
)
def test_an_error_is_told_in_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line

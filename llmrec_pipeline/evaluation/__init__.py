"""Windows, metrics, baselines and intervals of the evaluation protocol (DESIGN 4): numpy on blocks of users, mergeable sums."""

from llmrec_pipeline.evaluation.bootstrap import Estimate, Partials, differences, finish, merge
from llmrec_pipeline.evaluation.evaluator import Task, evaluate_block
from llmrec_pipeline.evaluation.metrics import METRICS, block_metrics
from llmrec_pipeline.evaluation.windows import Window, window_ending

__all__ = [
    "METRICS",
    "Estimate",
    "Partials",
    "Task",
    "Window",
    "block_metrics",
    "differences",
    "evaluate_block",
    "finish",
    "merge",
    "window_ending",
]

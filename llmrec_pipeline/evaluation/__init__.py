"""Windows, metrics, baselines and intervals of the evaluation protocol (DESIGN 4): numpy on blocks of users, mergeable sums."""

from llmrec_pipeline.evaluation.bootstrap import METRICS, Estimate, Partials, finish, leads, merge
from llmrec_pipeline.evaluation.evaluator import Task, Users, evaluate_block
from llmrec_pipeline.evaluation.metrics import block_metrics
from llmrec_pipeline.evaluation.windows import Window, window_ending

__all__ = [
    "METRICS",
    "Estimate",
    "Partials",
    "Task",
    "Users",
    "Window",
    "block_metrics",
    "evaluate_block",
    "finish",
    "leads",
    "merge",
    "window_ending",
]

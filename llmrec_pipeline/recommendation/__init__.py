"""The joint score y_{u,i}, its masks and its ranking (DESIGN 1.5): one scorer, used by recommend and evaluate alike."""

from llmrec_pipeline.recommendation.fit import Block, JointFit, fit_joint
from llmrec_pipeline.recommendation.joint import (
    Contributions,
    JointWeights,
    candidate_mask,
    collaborative_log_s,
    contributions,
    joint_log_y,
    log_softmax,
    mixed_similarity,
    standardise,
    weighed_log_s,
)
from llmrec_pipeline.recommendation.ranking import TopK, top_k
from llmrec_pipeline.recommendation.targets import Targets

__all__ = [
    "Block",
    "Contributions",
    "JointFit",
    "JointWeights",
    "Targets",
    "TopK",
    "candidate_mask",
    "collaborative_log_s",
    "contributions",
    "fit_joint",
    "joint_log_y",
    "log_softmax",
    "mixed_similarity",
    "standardise",
    "top_k",
    "weighed_log_s",
]

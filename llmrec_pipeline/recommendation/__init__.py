"""The joint score y_{u,i}, its masks and its ranking (DESIGN 1.5): one scorer, used by recommend and evaluate alike."""

from llmrec_pipeline.recommendation.fit import Block, JointFit, fit_joint
from llmrec_pipeline.recommendation.joint import (
    Contributions,
    FirstTimeWeights,
    JointWeights,
    candidate_mask,
    collaborative_log_s,
    contributions,
    first_time_similarity,
    joint_logit,
    log_softmax,
    mixed_similarity,
    standardise,
    weighed_log_s,
    with_first_time,
)
from llmrec_pipeline.recommendation.ranking import TopK, top_k
from llmrec_pipeline.recommendation.targets import Targets

__all__ = [
    "Block",
    "Contributions",
    "FirstTimeWeights",
    "JointFit",
    "JointWeights",
    "Targets",
    "TopK",
    "candidate_mask",
    "collaborative_log_s",
    "contributions",
    "first_time_similarity",
    "fit_joint",
    "joint_logit",
    "log_softmax",
    "mixed_similarity",
    "standardise",
    "top_k",
    "weighed_log_s",
    "with_first_time",
]

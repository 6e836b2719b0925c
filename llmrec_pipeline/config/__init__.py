"""Typed, frozen configuration: `conf/pipeline.yaml` for how to run, `conf/domains/<name>.yaml` for what the data is.

Unknown keys are refused with the nearest known one. Every field carries its unit, range and reason.
"""

from llmrec_pipeline.config.domain import (
    DEFAULT_TIME_FORMAT,
    EPOCHS,
    DomainConfig,
    EventTypeConfig,
    ListConfig,
    is_naive,
    unread_letters,
)
from llmrec_pipeline.config.loading import Settings, check_root, hash_json, load_settings
from llmrec_pipeline.config.pipeline import (
    BackendName,
    CollaborativeConfig,
    EncoderConfig,
    FirstTimeConfig,
    InterestConfig,
    JointConfig,
    PipelineConfig,
    PrecisionName,
    PromotionConfig,
)
from llmrec_pipeline.config.source import FilesConfig, SourceConfig

__all__ = [
    "DEFAULT_TIME_FORMAT",
    "EPOCHS",
    "BackendName",
    "CollaborativeConfig",
    "DomainConfig",
    "EncoderConfig",
    "EventTypeConfig",
    "FilesConfig",
    "FirstTimeConfig",
    "InterestConfig",
    "JointConfig",
    "ListConfig",
    "PipelineConfig",
    "PrecisionName",
    "PromotionConfig",
    "Settings",
    "SourceConfig",
    "check_root",
    "hash_json",
    "is_naive",
    "load_settings",
    "unread_letters",
]

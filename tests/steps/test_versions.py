"""Versions are hashes of what made them: what each of them takes in, and what none of them does (DESIGN 2)."""

from collections.abc import Callable
from pathlib import Path

import pytest

import llmrec_pipeline
from llmrec_pipeline.config import Settings, load_settings
from llmrec_pipeline.steps import versions

CONFIG = Path(__file__).parent.parent.parent / "conf/pipeline.yaml"
MAKERS: dict[str, Callable[[Settings], str]] = {
    "state": lambda settings: versions.state_version(settings, "encoder", 19_000, {"events": "a@1"}),
    "head": lambda settings: versions.head_version(settings, "state"),
    "list": lambda settings: versions.list_id(settings, {"head_version": "head"}, 19_000, {"events": "a@1"}),
    "comparison": lambda settings: versions.comparison_id(
        settings, {"champion": {"head_version": "head"}}, (19_000, 19_007), {"events": "a@1"}
    ),
    "evaluation": lambda settings: versions.evaluation_id(settings, {"head_version": "head"}, {"events": "a@1"}),
}


def ids(*overrides: str) -> dict[str, str]:
    settings = load_settings(CONFIG, "ecommerce", overrides)
    return {name: make(settings) for name, make in MAKERS.items()}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("seed=18", {"state"}),
        ("interest.dropout=0.5", {"state"}),
        ("domain.zone=Europe/Berlin", {"state"}),
        ("evaluation.window_days=7", {"state", "comparison", "evaluation"}),
        ("collaborative.neighbours=7", {"head"}),
        ("recommend.top_k=7", {"list", "comparison", "evaluation"}),
        ("promotion.margin=0.5", {"comparison"}),
        ("warehouse=elsewhere", set()),
        ("tracking.experiment=other", set()),
        ("domain.source.path=other.csv", set()),
    ],
)
def test_what_of_the_configuration_a_version_takes_in(override: str, changed: set[str]) -> None:
    before, after = ids(), ids(override)
    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        ("encoding.backends", {"state"}),
        ("interest.model", {"state", "list", "comparison", "evaluation"}),
        ("collaborative.neighbours", {"head", "list", "comparison", "evaluation"}),
        ("evaluation.metrics", {"comparison", "evaluation"}),
        ("steps.dataset", {"state", "list", "comparison", "evaluation"}),
        ("steps.train", {"state", "head", "comparison", "evaluation"}),
        ("steps.recommend", {"list"}),
        ("steps.promote", {"comparison"}),
        ("steps.ingest", set()),
        ("warehouse", set()),
    ],
)
def test_which_source_a_version_takes_in(module: str, changed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before, file = ids(), Path(llmrec_pipeline.__path__[0]) / f"{module.replace('.', '/')}.py"
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if path == file else b""))
    versions.source_hash.cache_clear()
    after = ids()
    versions.source_hash.cache_clear()
    assert file.exists()
    assert {name for name in before if before[name] != after[name]} == changed

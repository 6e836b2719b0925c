"""What each part of the joint model is worth, trained anew without it, and how it treats new items; `make bench-ablations`.

On video and news (leave-last-step-out) and on the last window of retail, as `bench_quality.py` has them. Domains named on the command line
are run, all by default. Each training is kept in benchmarks/work/quality, so that a run which broke off goes on; the full model is the
quality benchmark's where both are trained on the same kind of device. LLMREC_JOBS of them run at once (default: 1), LLMREC_SEEDS and
LLMREC_SET are as there.
Without s the joint model is p: no other training would give another. New items are a random tenth that nothing is learnt of
(`protocol.with_new_items`): other targets are asked of the same lists, beside neighbours in text.
"""

import json
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import Any

import numpy as np
from bench_quality import NDCG, OVERRIDES, REPLICATES, SEEDS, Without, is_there, of_seed, ratio, settings_of, task_of
from measuring import ALL, NEW_ITEMS, Found
from report import Figure, figure, last_of_each, raw_repeats, repeat_of_commit, write_result

from llmrec_pipeline.evaluation.bootstrap import poisson_weights

PARTS = {
    "text": Without("text", text=False),
    "ids": Without("ids", ("interest.id_dropout=1",)),
    "short": Without("short", ("interest.gate=0",)),
    "long": Without("long", ("interest.gate=1",)),
    "as-of terms": Without("as-of terms", ("interest.as_of_terms=false",)),
}
HORIZON = "horizon of 28 days"
CONTRAST, EVEN = "contrastive term of .1", "exposure term of .1"
PROFILES = Without("profile texts", ("interest.profile_texts=true",))
INSTEAD = {
    "gate 1/2": Without("gate 1/2", ("interest.gate=0.5",)),
    "gru": Without("gru", ("interest.cell=gru",)),
    HORIZON: Without(HORIZON, ("interest.horizon_days=28",)),
    CONTRAST: Without(CONTRAST, ("interest.contrastive_weight=0.1",)),
    EVEN: Without(EVEN, ("interest.exposure_weight=0.1",)),
    PROFILES.name: PROFILES,
}
TENTH = Without("a tenth of the items in training", items=0.1)
KNN = ("text_knn", "text_knn_centred")
GATES = {"g = 0": "short", "g = 1/2": "gate 1/2", "g = 1": "long"}
DOMAINS = ("video", "news", "retail")
ENOUGH = 2  # domains on which a part must show


def main() -> int:
    """Measures what is missing, writes results/ablations.json, prints it; 1 when a bar does not hold."""
    raw, repeats = raw_repeats("ablations", "conf/pipeline.yaml", *(f"conf/domains/{domain}.yaml" for domain in DOMAINS))
    newest = repeat_of_commit(repeats)
    newest |= {"seeds": SEEDS, "overrides": OVERRIDES}
    domains = [domain for domain in sys.argv[1:] or DOMAINS if is_there(domain)]
    train_all(domains)
    for domain in domains:
        full = [of_seed(domain, 0, seed) for seed in SEEDS]
        rows = {"s": compared(full, full, "p")}
        for name, without in (PARTS | INSTEAD).items():
            rows[name] = compared(full, [of_seed(domain, 0, seed, without) for seed in SEEDS], "joint")
        new = [of_seed(domain, 0, seed, TENTH) for seed in SEEDS]
        rows |= {f"new: {model}": compared(new, new, model, NEW_ITEMS) for model in ("p", *KNN)}
        rows["new: lists without them"] = compared(new, new, "joint_known")
        newest[domain] = rows
        raw.write_text(json.dumps(repeats, indent=1) + "\n")
    standing, commits = last_of_each(repeats, DOMAINS)
    return write_result("ablations", newest, repeats, figures(standing), commits)


def train_all(domains: list[str]) -> None:
    """Leaves every training's findings in benchmarks/work/quality."""
    for domain in domains:
        for overrides in ((), PROFILES.overrides):
            task_of(domain, settings_of(domain, overrides), 0)  # made once, whatever trains on it
    wanted = product(domains, SEEDS, (None, *PARTS.values(), *INSTEAD.values(), TENTH))
    with ProcessPoolExecutor(int(os.environ.get("LLMREC_JOBS", "1")), get_context("spawn")) as pool:
        done = [pool.submit(of_seed, domain, 0, seed, without) for domain, seed, without in wanted]
        for training in done:
            training.result()


def compared(full: list[Found], other: list[Found], model: str, of: str = ALL) -> dict[str, Any]:
    """NDCG@10 of the full joint model and of `model` without the part, and the former over the latter, paired by user."""
    sides = ((full, "joint"), (other, model))
    with warnings.catch_warnings():  # a user without such a target has a mean of nothing: NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        a, b = (np.nanmean([found.values[of][name][:, *NDCG] for found in seeds], axis=0) for seeds, name in sides)
    counted = np.isfinite(a) & np.isfinite(b)
    weights = poisson_weights(full[0].user_ids[counted], REPLICATES, SEEDS[0])
    a, b = a[counted], b[counted]
    lists = {"tail_share": [round(float(np.mean([found.report["tail_share"] for found in side])), 4) for side in (full, other)]}
    return (lists if model == "joint" else {}) | {
        "users": int(counted.sum()),
        "full": round(float(a.mean()), 5),
        "without": round(float(b.mean()), 5),
        "runs": [round(float(np.nanmean(found.values[of][model][:, *NDCG])), 5) for found in other],
        "devices": [found.report["device"] for found in other],
        "full_over": ratio(a, b, a @ weights, b @ weights) if b.any() else None,
    }


def figures(found: dict[str, Any]) -> list[Figure]:
    """On how many domains each part's removal is seen, then each domain's ratios, then the gates."""
    rows = []
    for part in ("s", *PARTS):
        of = {domain: measured[part]["full_over"] for domain, measured in found.items() if part in measured}
        shown = sum(low > 1 for _, low, _ in of.values())
        note = ", ".join(f"{domain} {value:.3f} [{low:.3f}, {high:.3f}]" for domain, (value, low, high) in of.items())
        name = f"domains where removing {part} lowers NDCG@10 of the joint model"
        rows.append(figure(name, shown, "domains", "higher", ENOUGH, len(DOMAINS), f"full over without: {note}"))
    for domain, of in found.items():
        fixed = {name: of[gate] for name, gate in GATES.items() if gate in of}
        if len(fixed) == len(GATES):
            best = max(fixed, key=lambda name: fixed[name]["without"])
            value, low, high = fixed[best]["full_over"]
            told = ", ".join(f"{name} {row['without']:.4f}" for name, row in fixed.items())
            note = f"{value:.3f} [{low:.3f}, {high:.3f}] of {best}; learnt {fixed[best]['full']:.4f}, {told}"
            rows.append(
                figure(f"{domain}: upper end of the learnt gate over the best fixed one", high, "x", "higher", 1.0, None, note)
            )
        compared_with = {
            "gru": "LSTM over GRU",
            HORIZON: f"targets of the next step over a {HORIZON}",
            CONTRAST: f"no {CONTRAST} over one",
            EVEN: f"no {EVEN} over one",
            PROFILES.name: f"no {PROFILES.name} over some",
        }
        for other, said in compared_with.items():
            if other in of:
                value, low, high = of[other]["full_over"]
                note = f"[{low:.3f}, {high:.3f}]"
                if other == EVEN:
                    note += ", {:.1%} and {:.1%} of the lists' places are the tail's".format(*of[other]["tail_share"])
                rows.append(figure(f"{domain}: {said}", value, "x", "higher", None, None, note))
        rows += _new_items(domain, of) if "new: p" in of else []
    return rows


def _new_items(domain: str, of: dict[str, Any]) -> list[Figure]:
    best = of[max((f"new: {model}" for model in KNN), key=lambda name: of[name]["without"])]
    rows = []
    if best["full_over"]:
        value, low, high = best["full_over"]
        note = f"[{low:.3f}, {high:.3f}], {best['full']:.4f} against {best['without']:.4f}, {best['users']:,} users with such a target"
        rows.append(figure(f"{domain}: NDCG@10 on new items against neighbours in text", value, "x", "higher", 1.2, 2.0, note))
    there = of["new: lists without them"]
    value, low, high = there["full_over"]
    note = f"[{low:.3f}, {high:.3f}], {there['full']:.4f} against {there['without']:.4f}, all targets"
    rows.append(figure(f"{domain}: NDCG@10 with new items in the lists over without", value, "x", "higher", 1.0, None, note))
    return rows


if __name__ == "__main__":
    sys.exit(main())

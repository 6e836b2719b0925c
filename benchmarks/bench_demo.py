"""The demo, measured: seconds by stage, peak memory, rows, and the quality table; `make bench-demo`.

Runs the whole path twice on an empty warehouse of its own: the first run is the demo, the second must commit nothing but job_runs. Raw
repeats are kept by config hash, so a broken-off benchmark goes on where it stopped.
"""

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import polars as pl
from report import ROOT, Figure, Watched, figure, output, raw_repeats, watched, write_result

WORK = ROOT / "benchmarks/work/demo"
MODELS = (
    "p",
    "s",
    "popularity",
    "popularity_30d",
    "popularity_decayed",
    "own_decayed",
    "markov",
    "item_knn",
    "ease",
    "tifu_knn",
    "up_cf",
    "tuned_sum",
)
RECORDS = 1_067_370


def main() -> int:
    """Runs what is missing, writes results/demo.json, prints it; 1 when a bar does not hold."""
    commit = output("git", "rev-parse", "HEAD")
    raw, repeats = raw_repeats("demo", "conf/pipeline.yaml", "conf/domains/retail.yaml", "conf/spark/spark-defaults.conf")
    if not any(repeat["commit"] == commit for repeat in repeats):
        repeats.append({"commit": commit, **measure()})
        raw.write_text(json.dumps(repeats, indent=1) + "\n")
    return write_result("demo", repeats[-1], repeats, figures(repeats[-1]))


def measure() -> dict[str, Any]:
    """One demo on an empty warehouse, and a second one after it."""
    subprocess.run(["rm", "-rf", str(WORK)], check=True)
    WORK.mkdir(parents=True)
    first = demo()
    versions = table_versions()
    demo()
    runs = read("job_runs").sort("started_at")
    stages = {row["job"]: {"seconds": row["seconds"], **dict(row["stages"])} for row in runs.head(6).iter_rows(named=True)}
    counts = {row["job"]: dict(row["counts"]) for row in runs.head(6).iter_rows(named=True)}
    quality = read("evaluation").filter(
        (pl.col("k") == 10) & (pl.col("slice") == "all") & (pl.col("metric").is_in(["ndcg", "hr"]))
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": first.seconds,
        "peak_gib": first.peak_gib,
        "stages": stages,
        "counts": counts,
        "unchanged": table_versions() == versions,
        "lists": lists(),
        "quality": quality.select("model", "metric", "value", "low", "high", "n").to_dicts(),
    }


def demo() -> Watched:
    """One run of the whole path."""
    settings = ("--set", f"warehouse={WORK / 'warehouse'}", "--set", f"tracking.uri=sqlite:///{WORK / 'mlflow.db'}")
    ended = watched(sys.executable, "jobs/run_all.py", *settings)
    if ended.code:
        raise SystemExit(f"the demo ended with {ended.code}; its output is above")
    return ended


def lists() -> dict[str, int]:
    """What must hold of the published lists."""
    found = read("recommendations")
    by_user = found.group_by("user_id").agg(
        pl.col("item_id").n_unique().alias("items"), pl.col("rank").sort().alias("ranks"), pl.col("item_id")
    )
    texts, vectors = read("texts"), read("text_embeddings")
    return {
        "users": read("user_sequences")["user_id"].n_unique(),
        "users_with_20_ranked_items": by_user.filter((pl.col("items") == 20) & (pl.col("ranks").list.len() == 20)).height,
        "different_lists": by_user["item_id"].n_unique(),
        "texts": texts.height,
        "texts_with_one_vector": vectors.filter(pl.col("text_hash").is_in(texts["text_hash"].implode()))["text_hash"].n_unique(),
        "vectors": vectors.height,
    }


def figures(repeat: dict[str, Any]) -> list[Figure]:
    """The figures with their bars."""
    ingest, found = repeat["counts"]["ingest"], repeat["lists"]
    fates = sum(ingest[name] for name in ("used", "duplicates_in_delivery", "duplicates_known", "quarantined"))
    value = {(row["model"], row["metric"]): row for row in repeat["quality"]}
    joint = value["joint", "ndcg"]
    rows = [
        figure("demo", repeat["seconds"], "s", "lower", 600, None, "wall clock of the whole path, after installation"),
        figure(
            "peak memory, driver's JVM", repeat["peak_gib"]["jvm"], "GiB", "lower", 4, None, "heap of 3 GB and what comes on top"
        ),
        figure("peak memory, driver's Python", repeat["peak_gib"]["python"], "GiB", "lower", 4, None, "training"),
        figure("peak memory, all together", repeat["peak_gib"]["all"], "GiB", "lower", None, None, "with the Python workers"),
        figure("records", ingest["records"], "records", "higher", RECORDS, None, "all of the shipped log"),
        figure("records with a fate", fates, "records", "higher", ingest["records"], None, "used + duplicates + quarantined"),
        figure(
            "users with 20 ranked items",
            found["users_with_20_ranked_items"],
            "users",
            "higher",
            found["users"],
            None,
            "of all with history",
        ),
        figure("different lists", found["different_lists"], "lists", "higher", found["users"] / 2, None, ""),
        figure(
            "texts with one vector",
            found["texts_with_one_vector"],
            "texts",
            "higher",
            found["texts"],
            None,
            f"{found['vectors']} vectors",
        ),
        figure("second demo commits nothing", float(repeat["unchanged"]), "yes = 1", "higher", 1, None, "but in job_runs"),
        figure(
            "joint NDCG@10",
            joint["value"],
            "",
            "higher",
            None,
            0.356,
            f"n {joint['n']}; aim: the tuned sum in a narrower setting",
        ),
        figure("joint HR@10", value["joint", "hr"]["value"], "", "higher", None, None, ""),
    ]
    for model in MODELS:
        row = value[f"joint - {model}", "ndcg"]
        margin = row["high"] if model in ("p", "s") else row["value"]
        note = (
            f"{model} {value[model, 'ndcg']['value']:.4f}; difference {row['value']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        )
        rows.append(
            figure(f"joint less {model}, NDCG@10", margin, "upper end" if model in ("p", "s") else "", "higher", 0, None, note)
        )
    for job, stages in repeat["stages"].items():
        note = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.items() if name != "seconds")
        rows.append(figure(f"{job}", stages["seconds"], "s", "lower", None, None, note))
    return rows


def read(name: str) -> pl.DataFrame:
    return pl.read_delta(str(WORK / "warehouse/retail" / name))


def table_versions() -> dict[str, list[str]]:
    folders = sorted((WORK / "warehouse/retail").glob("*/_delta_log"))
    return {
        folder.parent.name: sorted(file.name for file in folder.glob("*.json"))
        for folder in folders
        if folder.parent.name != "job_runs"
    }


if __name__ == "__main__":
    sys.exit(main())

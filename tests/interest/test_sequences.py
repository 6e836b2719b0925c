from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa

from llmrec_pipeline.interest.sequences import to_histories

DAY = datetime(2011, 3, 1, 12, tzinfo=UTC)
STEPS = pa.list_(
    pa.struct(
        [
            ("step", pa.int32()),
            ("event_time", pa.timestamp("us", "UTC")),
            ("event_type", pa.string()),
            ("item_id", pa.string()),
            ("text_hash", pa.string()),
            ("features", pa.struct([("quantity", pa.float64()), ("price", pa.float64()), ("same_session", pa.bool_())])),
        ]
    )
)
PROFILES = pa.list_(pa.struct([("step", pa.int32()), ("embedding", pa.list_(pa.float32()))]))


def rows_of(*rows: tuple[str, int, list[int], list[tuple[int, list[float]]] | None]) -> pa.Table:
    """Users with a day of March 2011, the steps of its behaviours, and the profile texts that were renewed in it."""
    given = {"event_time": DAY, "event_type": "buy", "item_id": "i1", "text_hash": "h", "features": None}
    steps = [[given | {"step": step} for step in of_day] for _, _, of_day, _ in rows]
    profiles = [found and [{"step": step, "embedding": vector} for step, vector in found] for *_, found in rows]
    columns = {
        "user_id": pa.array([user for user, *_ in rows]),
        "event_date": pa.array([date(2011, 3, day) for _, day, *_ in rows]),
        "steps": pa.array(steps, STEPS),
        "profiles": pa.array(profiles, PROFILES),
    }
    return pa.table(columns)


def test_profile_texts_stand_at_their_steps() -> None:
    rows = rows_of(
        ("ann", 1, [0, 0, 1], [(1, [1.0, 2.0])]),
        ("ann", 2, [0], None),
        ("bob", 1, [0, 1, 2], [(0, [3.0, 4.0]), (2, [5.0, 6.0])]),
    )
    histories = to_histories(rows, pa.array(["i1"]), pa.array(["h"]), ("buy",), text_dim=2)
    assert histories.step_offsets.tolist() == [0, 3, 6]
    assert histories.snapshot_step.tolist() == [1, 3, 5]
    assert histories.snapshots.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert histories.take(np.array([1])).snapshot_step.tolist() == [0, 2]
    later = to_histories(rows.slice(1), pa.array(["i1"]), pa.array(["h"]), ("buy",), text_dim=2)
    assert later.snapshot_step.tolist() == [1, 3]


def test_where_there_are_no_profile_texts_their_vectors_have_the_right_width() -> None:
    histories = to_histories(rows_of(("ann", 1, [0], None)), pa.array(["i1"]), pa.array(["h"]), ("buy",), text_dim=3)
    assert histories.snapshots.shape == (0, 3)

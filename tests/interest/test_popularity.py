import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec_pipeline.interest.data import DailyCounts
from llmrec_pipeline.interest.popularity import decayed_counts, log_popularity


def counts(rows: list[tuple[int, int, int, float]]) -> DailyCounts:
    day, item, kind, count = (np.array(column) for column in zip(*sorted(rows), strict=True))
    return DailyCounts(day.astype(np.int32), item.astype(np.int32), kind.astype(np.int8), count.astype(np.float64))


def test_a_count_halves_with_each_half_life_and_the_day_itself_is_not_counted() -> None:
    daily = counts([(10, 0, 0, 8.0), (14, 0, 0, 2.0), (14, 1, 1, 1.0), (18, 0, 0, 100.0)])
    result = decayed_counts(daily, 18, (4.0, 8.0), n_items=3, n_types=2)
    # item 0, type 0: 8 of age 8 and 2 of age 4; item 1, type 1: 1 of age 4
    assert result[0, 0].tolist() == [8 / 4 + 2 / 2, 8 / 2 + 2 * 2**-0.5]
    assert result[1, 1].tolist() == [0.5, 2**-0.5]
    assert result[0, 1].tolist() == result[2, 0].tolist() == [0.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 3), st.integers(0, 1), st.floats(0.5, 9)), min_size=1, max_size=40
    ),
    days=st.sets(st.integers(0, 70), min_size=1, max_size=8),
)
def test_counts_carried_from_date_to_date_equal_counts_made_anew(rows: list[tuple[int, int, int, float]], days: set[int]) -> None:
    daily, wanted = counts(rows), np.array(sorted(days), dtype=np.int32)
    carried = log_popularity(daily, wanted, (2.0, 30.0), n_items=4, n_types=2)
    anew = [np.log1p(decayed_counts(daily, int(day), (2.0, 30.0), 4, 2)).reshape(4, -1) for day in wanted]
    np.testing.assert_allclose(carried, np.stack(anew), rtol=1e-6, atol=1e-6)

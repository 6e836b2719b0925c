"""The gate: figures in, reasons out; and the ratios that it tests."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from llmrec_pipeline.config import PromotionConfig
from llmrec_pipeline.evaluation import Partials, Task, Users, evaluate_block
from llmrec_pipeline.evaluation.promotion import Figures, Ratio, against, estimates, figures_of, is_tested, ratios
from llmrec_pipeline.recommendation import Targets

LIMITS = PromotionConfig()
NAN = math.nan
EPOCH = {"epoch": 1, "loss": 5.0, "ndcg_10": 0.3, "cross_entropy": 6.0}
EQUAL = Ratio("all", 1500, 1.0, 1.0)
GOOD = Figures([EPOCH], 1500, 0.3, [1.0] * 10, {"challenger": 0.26, "champion": 0.26}, [EQUAL])
FIRST = replace(GOOD, coverage={"challenger": 0.26}, ratios=None)


def with_slice(name: str, users: int, value: float, low: float) -> Figures:
    return replace(GOOD, ratios=[EQUAL, Ratio(name, users, value, low)])


@pytest.mark.parametrize(
    "figures",
    [
        GOOD,
        FIRST,
        replace(GOOD, ratios=[Ratio("all", 1500, 1.02, 0.9901)]),
        with_slice("no_history", 200, 0.99, 0.971),
        with_slice("no_history", 199, 0.5, 0.1),  # too few users to be tested
        with_slice("tail_items", 900, math.inf, math.inf),  # the champion has 0 there
        replace(GOOD, coverage={"challenger": 0.21, "champion": 0.26}),
        replace(GOOD, calibration=[0.5] * 5 + [2.0] * 5),
    ],
)
def test_who_is_not_worse_passes(figures: Figures) -> None:
    assert against(figures, LIMITS) == []


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        (
            replace(GOOD, ratios=[Ratio("all", 1500, 0.98, 0.975)]),
            "NDCG@10 of all is 0.9800 of the champion's and proven to be 0.9750",
        ),
        (replace(GOOD, ratios=[Ratio("all", 1500, 1.05, 0.9899)]), "expected 0.99 (1500 users)"),  # better, and not proven
        (replace(GOOD, ratios=[Ratio("all", 30, 0.5, 0.1)]), "NDCG@10 of all"),  # all users are tested, however few
        (with_slice("steps_1_1", 200, 0.96, 0.9699), "NDCG@10 of steps_1_1 is 0.9600"),
        (replace(GOOD, ratios=[Ratio("all", 900, 1.1, 1.05), Ratio("no_history", 300, 0.9, 0.88)]), "NDCG@10 of no_history"),
        (replace(GOOD, ratios=[Ratio("all", 1500, NAN, NAN)]), "proven to be nan"),
        (replace(GOOD, ratios=[Ratio("all", 1500, 1.0, NAN)]), "proven to be nan"),
        (with_slice("no_history", 200, 1.0, NAN), "NDCG@10 of no_history"),
        (replace(GOOD, ratios=[Ratio("no_history", 200, 1.0, 1.0)]), "NDCG@10 of all users is not compared"),
        (replace(GOOD, ratios=[]), "NDCG@10 of all users is not compared"),
        (replace(GOOD, users=0), "no user has a target to compare on"),
        (Figures([EPOCH]), "no user has a target to compare on"),
        (replace(GOOD, epochs=[]), "no figure of its training is known"),
        (replace(GOOD, epochs=[EPOCH, EPOCH | {"epoch": 2, "loss": NAN}]), "its training diverged: loss nan in epoch 2"),
        (replace(GOOD, epochs=[EPOCH | {"cross_entropy": math.inf}]), "cross_entropy inf in epoch 1"),
        (replace(GOOD, ndcg=0.0), "NDCG@10 is 0, expected above 0"),
        (replace(FIRST, ndcg=NAN), "NDCG@10 is nan"),
        (replace(FIRST, calibration=[1.0] * 9 + [2.1]), "calibration of decile 10 is 2.1, expected 0.5 to 2"),
        (replace(GOOD, calibration=[NAN] + [1.0] * 9), "calibration of decile 1 is nan"),
        (replace(GOOD, calibration=[]), "calibration of 0 deciles is known, expected 10"),
        (
            replace(GOOD, coverage={"challenger": 0.2, "champion": 0.26}),
            "coverage@10 is 0.2, the champion's 0.26, expected 0.8 of it",
        ),
        (replace(GOOD, coverage={"challenger": 0.2, "champion": NAN}), "the champion's nan"),
        (replace(GOOD, coverage={"challenger": 0.2}), "the champion's nan"),
        (replace(FIRST, coverage={"challenger": 0.0}), "coverage@10 is 0, expected above 0"),
        (replace(FIRST, coverage=None), "coverage@10 is nan"),
    ],
)
def test_who_is_worse_or_unknown_is_refused_with_the_reason(figures: Figures, reason: str) -> None:
    found = against(figures, LIMITS)
    assert len(found) >= 1
    assert reason in "; ".join(found)


def test_every_reason_is_told() -> None:
    assert len(against(replace(GOOD, ndcg=NAN, calibration=[3.0] * 10, coverage=None, epochs=[]), LIMITS)) == 14


@given(st.data())
def test_one_nan_among_good_figures_never_passes(data: st.DataObject) -> None:
    inside = st.floats(0.9, 1.1)
    figures = Figures(
        [EPOCH | {"loss": data.draw(st.floats(0, 9))} for _ in range(data.draw(st.integers(1, 3)))],
        data.draw(st.integers(200, 9000)),
        data.draw(st.floats(0.01, 1)),
        data.draw(st.lists(inside, min_size=10, max_size=10)),
        {"challenger": data.draw(st.floats(0.5, 1)), "champion": 0.5},
        [Ratio(name, 200, 1.0, data.draw(st.floats(1, 2))) for name in ("all", "no_history")],
    )
    assert against(figures, LIMITS) == []
    decile = data.draw(st.integers(0, 9))
    name = data.draw(st.sampled_from(["loss", "ndcg_10", "cross_entropy"]))
    row = data.draw(st.integers(0, 1))
    broken = [
        replace(figures, epochs=[*figures.epochs, EPOCH | {name: NAN}]),
        replace(figures, ndcg=NAN),
        replace(figures, calibration=[NAN if place == decile else value for place, value in enumerate(figures.calibration)]),
        replace(figures, coverage=figures.coverage | {data.draw(st.sampled_from(["challenger", "champion"])): NAN}),
        replace(
            figures, ratios=[replace(ratio, low=NAN) if place == row else ratio for place, ratio in enumerate(figures.ratios)]
        ),
    ]
    assert [len(against(one, LIMITS)) >= 1 for one in broken] == [True] * 5


USERS, ITEMS = 600, 40


def partials(hit_of_challenger: np.ndarray, hit_of_champion: np.ndarray, new: int = 0, replicates: int = 400) -> Partials:
    """Users with one target each; a hit is a target ranked first, NDCG@10 1, else it stands last. The first `new` have no history."""
    task = Task(
        item_ids=np.array([f"i{item}" for item in range(ITEMS)]),
        ks=(10,),
        history_edges=(2,),
        repeats=False,
        replicates=replicates,
        seed=1,
        information=np.ones(ITEMS),
        text=np.zeros((ITEMS, 2), dtype=np.float32),
        head=np.zeros(ITEMS, dtype=bool),
    )
    target = np.arange(USERS) % ITEMS
    models = {}
    for name, hit in (("challenger", hit_of_challenger), ("champion", hit_of_champion)):
        models[name] = np.random.default_rng(5).normal(size=(USERS, ITEMS)).astype(np.float32)
        models[name][np.arange(USERS), target] = np.where(hit, 9.0, -9.0)
    users = Users(
        user_ids=np.array([f"u{user}" for user in range(USERS)]),
        history_length=np.where(np.arange(USERS) < new, 0, 3),
        since=np.ones(USERS, dtype=np.int64),
        known=sparse.csr_array((USERS, ITEMS), dtype=bool),
        targets=Targets.of([[int(item)] for item in target]),
    )
    return evaluate_block(task, models, np.ones((USERS, ITEMS), dtype=bool), users)


HALF = np.arange(USERS) % 2 == 0


def by_slice(found: list[Ratio]) -> dict[str, Ratio]:
    return {ratio.slice: ratio for ratio in found}


def test_equal_models_are_equal_for_certain_whatever_the_users() -> None:
    found = ratios(partials(HALF, HALF, new=100), LIMITS)
    assert {(ratio.value, ratio.low) for ratio in found} == {(1.0, 1.0)}
    assert by_slice(found)["all"].users == 600
    assert by_slice(found)["no_history"].users == 100
    assert not is_tested(by_slice(found)["no_history"], LIMITS)
    assert "head_items" not in by_slice(found)  # nobody has such a target


def test_the_lower_end_is_that_of_a_paired_ratio() -> None:
    """300 hits of the champion, 294 of them kept: by the delta method the log ratio's variance is 1 / 294 - 1 / 300."""
    kept = HALF & (np.cumsum(HALF) <= 294)
    found = by_slice(ratios(partials(kept, HALF, replicates=4000), LIMITS))["all"]
    assert found.value == pytest.approx(0.98)
    assert found.low == pytest.approx(0.98 * np.exp(-1.96 * np.sqrt(1 / 294 - 1 / 300)), abs=0.002)
    assert found.low < 0.98 < 0.99  # worse by 2%: refused


def test_slices_share_the_level_by_bonferroni() -> None:
    """all, and with_history, steps_2_more, since_1_7, tail_items with 600 users each: four tested slices."""
    kept = HALF & (np.cumsum(HALF) <= 294)
    found = by_slice(ratios(partials(kept, HALF), LIMITS))
    assert set(found) == {"all", "with_history", "steps_2_more", "since_1_7", "tail_items"}
    z_all, z_slice = 1.9600, 2.4977  # normal quantiles of 1 - 0.025 and 1 - 0.025 / 4
    error = math.log(found["all"].value / found["all"].low) / z_all
    assert math.log(found["tail_items"].value / found["tail_items"].low) / error == pytest.approx(z_slice, abs=1e-3)


def test_a_slice_in_which_the_champion_has_nothing_cannot_be_worse() -> None:
    lost = HALF & (np.arange(USERS) >= 250)
    assert by_slice(ratios(partials(lost, lost, new=250), LIMITS))["no_history"].low == math.inf
    assert by_slice(ratios(partials(lost, HALF, new=250), LIMITS))["no_history"].value == 0.0
    assert "proven to be nan" in "; ".join(against(figures_of(partials(lost, HALF, new=250), [EPOCH], LIMITS), LIMITS))


def test_figures_come_from_the_partials_and_a_challenger_better_in_all_but_one_slice_is_refused() -> None:
    wide = PromotionConfig(calibration=(0.0, 1e9))
    kept = np.arange(USERS) >= 30  # the champion misses half of all; the challenger 30 of the 220 who have no history
    champion = HALF | (np.arange(USERS) < 220)
    figures = figures_of(partials(kept, champion, new=220), [EPOCH], wide)
    assert figures.users == 600
    assert figures.ndcg == pytest.approx(570 / 600)
    assert figures.coverage.keys() == {"challenger", "champion"}
    assert by_slice(figures.ratios)["all"].low > 1
    assert by_slice(figures.ratios)["no_history"].value == pytest.approx(190 / 220)
    (reason,) = against(figures, wide)
    assert "NDCG@10 of no_history" in reason


def test_what_was_tested_stands_in_the_table() -> None:
    (row,) = estimates([Ratio("all", 7, 1.01, 0.98)])
    assert (row.slice, row.model, row.metric, row.k, row.n) == ("all", "challenger / champion", "ndcg", 10, 7)
    assert (row.value, row.low) == (1.01, 0.98)
    assert math.isnan(row.high)

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from interest_cases import N_ITEMS, daily_of, histories_of, trained_loss

from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest import training
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue, Histories, Query, on_disk
from llmrec_pipeline.interest.held_out import held_out_between
from llmrec_pipeline.interest.popularity import decayed_counts
from llmrec_pipeline.interest.scoring import item_side, score_parts
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.interest.training import TrainedModel, train

SMALL = InterestConfig.model_validate(
    {
        "hidden_size": 16,
        "item_dim": 16,
        "long_queries": 2,
        "window_steps": 4,
        "batch_steps": 64,
        "max_epochs": 4,
        "learning_rate": 0.02,
    }
)
UNTIL, END = Query(140.0, 140), Query(160.0, 160)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def cycling_users(n_users: int = 30, steps: int = 8) -> Histories:
    """Users who buy item (start + k) mod N at step k: only the order tells what comes next."""
    return histories_of(
        {
            f"u{user:02d}": [(101.0 + 6 * k + user / 100, [((user + k) % N_ITEMS, 0)]) for k in range(steps)]
            for user in range(n_users)
        }
    )


def fit(
    histories: Histories, catalogue: Catalogue, text: npt.NDArray[np.float32], config: InterestConfig = SMALL, **changes: Any
) -> TrainedModel:
    daily, is_target = daily_of(histories), np.array([True, False])
    return train(
        changes.get("past", histories.before(UNTIL.day)),
        held_out_between(histories, catalogue, daily, text, config, is_target, (UNTIL, END)),
        catalogue,
        daily,
        text,
        config,
        event_types=["buy", "view"],
        target_types=["buy"],
        repeats=changes.get("repeats", True),
        period=(UNTIL, END),
        seed=4,
        groups=changes.get("groups"),
    )


def weights(trained: TrainedModel) -> list[torch.Tensor]:
    return list(trained.model.state_dict().values())


def test_the_order_of_steps_is_learnt(catalogue: Catalogue, text: npt.NDArray[np.float32]) -> None:
    trained = fit(cycling_users(), catalogue, text, SMALL.model_copy(update={"max_epochs": 20, "patience": 20}))
    best = max(epoch["ndcg_10"] for epoch in trained.epochs)
    assert trained.epochs[-1]["loss"] < 0.7  # log 6 = 1.79 without any knowledge
    assert best > trained.epochs[0]["ndcg_10"]
    assert trained.report["examples"] == 30 * 7  # steps on days before 140


def test_the_same_seed_gives_the_same_weights(catalogue: Catalogue, text: npt.NDArray[np.float32]) -> None:
    one, other = fit(cycling_users(), catalogue, text), fit(cycling_users(), catalogue, text)
    assert one.epochs == other.epochs
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_what_comes_after_validation_changes_nothing_and_what_comes_before_does(
    catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    """Law 8 with its control."""
    histories = cycling_users(steps=12)
    day = histories.step_day[histories.event_step]
    later = replace(histories, item=np.where(day >= END.day, 0, histories.item), text=np.where(day >= END.day, 0, histories.text))
    earlier = replace(histories, item=np.where(day < 110, 0, histories.item).astype(np.int32))
    base = weights(fit(histories, catalogue, text))
    assert (day >= END.day).any()
    assert all(torch.equal(a, b) for a, b in zip(base, weights(fit(later, catalogue, text)), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(base, weights(fit(earlier, catalogue, text)), strict=True))


def test_histories_in_files_give_the_weights_of_those_in_memory(catalogue: Catalogue, text: npt.NDArray[np.float32]) -> None:
    histories = cycling_users()
    past = histories.before(UNTIL.day)
    one, other = (fit(histories, catalogue, text, past=given) for given in (past, on_disk(past.slices(7))))
    assert one.epochs == other.epochs
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_training_leaves_the_global_random_state_alone(catalogue: Catalogue, text: npt.NDArray[np.float32]) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fit(cycling_users(12), catalogue, text)
    assert torch.equal(torch.rand(3), expected)


def test_where_items_do_not_repeat_known_targets_are_dropped_and_counted(
    catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    steps = [[(0, 0)], [(0, 0), (1, 0)], [(2, 0)]]
    histories = histories_of({f"u{user}": [(float(100 + 25 * k), step) for k, step in enumerate(steps)] for user in range(5)})
    trained = fit(histories, catalogue, text, repeats=False)
    counts = {"examples": 10, "examples_next": 5, "targets": 10}
    assert trained.report == counts | {"dropped_unknown": 0, "dropped_new": 0, "dropped_masked": 5}
    assert trained.epochs[-1]["loss"] < np.log(N_ITEMS)


def test_standardisation_and_vocabulary_come_from_before_the_end_of_training(
    catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    histories = histories_of({f"u{user}": [(100.0, [(0, 0)]), (110.0, [(1, 0)]), (141.0, [(2, 0)])] for user in range(4)})
    model = fit(histories, catalogue, text).model
    assert model.trained_items == ["i0", "i1"]
    tower = model.recurrence.items.tower
    np.testing.assert_allclose(tower.mean.numpy(), text[:2].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(tower.scale.numpy(), text[:2].std(axis=0), rtol=1e-5)


def test_a_training_that_diverges_makes_no_model(catalogue: Catalogue, text: npt.NDArray[np.float32]) -> None:
    wild = SMALL.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(
        ModelError, match=r"training diverged: loss nan in epoch 1; .* lower interest.learning_rate \(now 1e\+30\)"
    ):
        fit(cycling_users(), catalogue, text, wild)


def test_nothing_to_train_on_is_refused(catalogue: Catalogue, text: npt.NDArray[np.float32]) -> None:
    with pytest.raises(ModelError, match="no target step before day 140 in 0 steps"):
        fit(histories_of({"a": [(150.0, [(0, 0)])]}), catalogue, text)


def test_what_is_switched_off_stays_off_while_the_rest_learns(catalogue: Catalogue, text: npt.NDArray[np.float32]) -> None:
    config = SMALL.model_copy(update={"max_epochs": 2, "id_dropout": 1.0, "as_of_terms": False, "gate": 0.5})
    trained = fit(cycling_users(), catalogue, text, config)
    head = trained.model.head
    assert not trained.model.recurrence.items.ids.weight.any()
    assert not head.popularity.any()
    assert not torch.exp(head.repeat.strength).any()
    assert trained.epochs[1]["loss"] < trained.epochs[0]["loss"]


def test_the_level_of_new_items_is_learnt_last_and_changes_nothing_else(
    catalogue: Catalogue, text: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    histories, slow = cycling_users(), SMALL.model_copy(update={"learning_rate": 0.004, "max_epochs": 8})
    learnt = fit(histories, catalogue, text, slow).model
    monkeypatch.setattr(training, "_learn_new_level", lambda *_: None)
    regressed = fit(histories, catalogue, text, slow).model
    changed = [name for name, value in learnt.state_dict().items() if not torch.equal(value, regressed.state_dict()[name])]
    assert changed == ["head.new_level"]
    rows = torch.arange(N_ITEMS + 1)
    as_new, before = [rows == row for row in rows[1:]], histories.before(UNTIL.day)  # each in turn, as if nobody had had it
    losses = [sum(trained_loss(model, before, catalogue, text, new)[0] for new in as_new) for model in (learnt, regressed)]
    assert losses[0] < losses[1]


def test_evened_exposure_gives_the_tail_what_it_lacks(catalogue: Catalogue, text: npt.NDArray[np.float32]) -> None:
    """Users buy item 0 three times in four; of two groups, the half without it is then shown nearly as much as its items ask for."""
    rng = np.random.default_rng(8)
    item = np.where(rng.random((30, 8)) < 0.75, 0, rng.integers(1, N_ITEMS, (30, 8)))
    histories = histories_of(
        {f"u{u:02d}": [(101.0 + 6 * k + u / 100, [(int(item[u, k]), 0)]) for k in range(8)] for u in range(30)}
    )
    groups = np.array([0, 0, 0, 1, 1, 1])

    def share(weight: float) -> float:
        """Of p, at the end of training and mean over users, that items 3 to 5 have."""
        config = SMALL.model_copy(update={"exposure_weight": weight, "max_epochs": 12, "patience": 12})
        model = fit(histories, catalogue, text, config, groups=groups).model
        past = histories.before(UNTIL.day)
        states = advance(model, States.empty(past.user_ids, model.layout), past, catalogue, text)
        popularity = decayed_counts(daily_of(past), UNTIL.day, model.config.popularity_half_lives, N_ITEMS, 2)
        logits = score_parts(model, states, UNTIL, catalogue, item_side(model, catalogue, text), popularity).logits
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
        return float(p[:, groups == 1].sum(axis=1).mean())

    plain, evened = share(0.0), share(10.0)
    assert plain < 0.3
    assert plain + 0.1 < evened < 0.6


@needs_gpu
@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("change", [{}, {"cell": "gru"}, {"gate": 0.5}, {"exposure_weight": 0.1}])
def test_a_gpu_learns_what_a_processor_learns(
    catalogue: Catalogue, text: npt.NDArray[np.float32], repeats: bool, change: dict[str, object]
) -> None:
    exact = SMALL.model_copy(update={"dropout": 0.0, "id_dropout": 0.0} | change)
    histories = histories_of(
        {f"u{user:02d}": [(101.0 + 9 * k, [((user + k) % N_ITEMS, 0)]) for k in range(N_ITEMS)] for user in range(30)}
    )
    on_gpu = fit(histories, catalogue, text, exact.model_copy(update={"device": "cuda"}), repeats=repeats)
    expected = fit(histories, catalogue, text, exact, repeats=repeats)
    for found, figures in zip(on_gpu.epochs, expected.epochs, strict=True):
        assert found == pytest.approx(figures, rel=1e-3, abs=1e-6)
    assert {weight.device.type for weight in weights(on_gpu)} == {"cpu"}


@needs_gpu
def test_one_seed_gives_one_model_on_a_gpu(catalogue: Catalogue, text: npt.NDArray[np.float32]) -> None:
    on_gpu = SMALL.model_copy(update={"device": "cuda"})
    one, other = fit(cycling_users(), catalogue, text, on_gpu), fit(cycling_users(), catalogue, text, on_gpu)
    assert one.epochs == other.epochs
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_training_on_a_gpu_that_is_not_there_is_refused(
    catalogue: Catalogue, text: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # wherever this runs
    with pytest.raises(ModelError, match=r"interest.device is cuda, .* finds no GPU here; set interest.device=cpu"):
        fit(cycling_users(), catalogue, text, SMALL.model_copy(update={"device": "cuda"}))


def test_groups_that_the_config_asks_for_and_nobody_gives_are_missed(catalogue: Catalogue, text: npt.NDArray[np.float32]) -> None:
    config = SMALL.model_copy(update={"exposure_weight": 0.1, "exposure_groups": "brand"})
    with pytest.raises(ModelError, match="exposure_groups is 'brand', but no groups were given"):
        fit(cycling_users(), catalogue, text, config)

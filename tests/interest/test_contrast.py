from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from interest_cases import BUYS, N_ITEMS, daily_of, random_histories, with_snapshots

from llmrec_pipeline.interest import contrast as module
from llmrec_pipeline.interest.contrast import TEMPERATURE, contrast
from llmrec_pipeline.interest.data import Catalogue, Histories
from llmrec_pipeline.interest.examples import examples_of
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.objective import inputs_of
from llmrec_pipeline.interest.recurrence import Carry, Vectors
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.interest.window import Window, window_of

Float32 = npt.NDArray[np.float32]
Given = tuple[Carry, Window, Vectors]


def given_to(
    model: InterestModel, histories: Histories, users: npt.NDArray[np.int64], first: int, catalogue: Catalogue, text: Float32
) -> Given:
    examples = examples_of(histories, catalogue, daily_of(histories), model.config, BUYS, True)
    inputs = inputs_of(histories, catalogue, text, model, examples)
    items = model.recurrence.items
    vectors = Vectors(items.texts(torch.from_numpy(text)), items.id_table(0.0, model.training))
    carry = Carry.of(States.empty(histories.user_ids[users], model.layout), model.layout, torch.float32)
    if first:
        before = window_of(histories, users, 0, first, inputs.item_row, text)
        carry = model.recurrence.scan(carry, before, before.length[:, None], vectors).at(
            torch.arange(len(users)), torch.tensor(0)
        )
    return carry, window_of(histories, users, first, 9, inputs.item_row, text), vectors


@pytest.fixture
def histories() -> Histories:
    found = random_histories(np.random.default_rng(6), n_users=9, n_items=N_ITEMS - 1)  # the last one is untrained
    assert (np.diff(found.step_offsets) == 0).any()  # a user without a step has no view
    return found


@pytest.mark.parametrize("first", [0, 2])
def test_with_nothing_masked_it_is_the_cross_entropy_of_users_told_one_by_one(
    first: int,
    make_model: Callable[..., InterestModel],
    histories: Histories,
    catalogue: Catalogue,
    text: Float32,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MASKED", 0.0)
    model = make_model().train()
    interests = []
    for user in np.flatnonzero(np.diff(histories.step_offsets) > first):
        carry, window, vectors = given_to(model, histories, np.array([user]), first, catalogue, text)
        window = replace(window, profile=torch.zeros_like(window.profile))
        after = model.recurrence.scan(carry, window, window.length[:, None], vectors).at(torch.tensor([0]), torch.tensor([0]))
        short, long, gate = model.head.interest(after, after.time)
        vector = model.head.w1(gate * short + (1 - gate) * long)[0].numpy(force=True)
        interests.append(vector / np.linalg.norm(vector))
    cosine = np.array(interests) @ np.array(interests).T / TEMPERATURE
    expected = float(np.mean(np.log(np.exp(cosine).sum(axis=1)) - np.diag(cosine)))
    found = contrast(model, *given_to(model, histories, np.arange(9), first, catalogue, text))
    assert len(interests) > 3
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_of_a_masked_behaviour_the_type_is_known_and_no_item(
    make_model: Callable[..., InterestModel],
    histories: Histories,
    catalogue: Catalogue,
    text: Float32,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model(profile_texts=True).train()
    histories = with_snapshots(histories, np.random.default_rng(1), share=1.0)
    other_items = replace(
        histories,
        item=(histories.item + 1) % N_ITEMS,
        text=(histories.text + 1) % N_ITEMS,
        snapshots=histories.snapshots[::-1],
    )
    other_types = replace(histories, event_type=(1 - histories.event_type).astype(np.int8))

    def found(of: Histories) -> float:
        return float(contrast(model, *given_to(model, of, np.arange(9), 0, catalogue, text)))

    monkeypatch.setattr(module, "MASKED", 1.0)
    assert found(histories) == found(other_items)
    assert found(histories) != found(other_types)
    monkeypatch.setattr(module, "MASKED", 0.0)
    assert found(histories) != found(other_items)


def test_one_user_alone_is_told_from_nobody(
    make_model: Callable[..., InterestModel], histories: Histories, catalogue: Catalogue, text: Float32
) -> None:
    user = np.array([int(np.diff(histories.step_offsets).argmax())])
    model = make_model().train()
    assert float(contrast(model, *given_to(model, histories, user, 0, catalogue, text))) == 0.0

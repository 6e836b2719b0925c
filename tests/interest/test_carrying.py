from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interest_cases import TEXT_DIM, histories_of, random_histories, with_snapshots
from torch.nn import functional as F

from llmrec_pipeline.errors import InputError, ModelError
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue, Histories
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.recurrence import Carry
from llmrec_pipeline.interest.state import States

Float32 = npt.NDArray[np.float32]
Make = Callable[..., InterestModel]
shared_fixtures = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def from_nothing(model: InterestModel, histories: Histories, catalogue: Catalogue, text: Float32) -> States:
    return advance(model, States.empty(histories.user_ids, model.layout), histories, catalogue, text)


def assert_same(one: States, other: States) -> None:
    assert one.user_ids.tolist() == other.user_ids.tolist()
    for name in ("h", "c", "accumulators", "steps", "last_day", "last_time"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5, err_msg=name)
    assert one.own.item_id.tolist() == other.own.item_id.tolist()
    assert one.own.offsets.tolist() == other.own.offsets.tolist()
    np.testing.assert_allclose(one.own.decayed, other.own.decayed, rtol=1e-9)
    np.testing.assert_allclose(one.own.recent, other.own.recent, rtol=1e-9)
    np.testing.assert_array_equal(one.own.total, other.own.total)


class SlowReader:
    """The recurrence written out one step at a time for one user: no windows, no running maxima, no carried decay."""

    def __init__(self, model: InterestModel, catalogue: Catalogue, text: Float32) -> None:
        self.part, self.rows = model.recurrence, model.item_rows(catalogue.item_ids)
        self.texts, self.lives = torch.from_numpy(text), model.config.long_half_lives

    def vectors(self, history: Histories, step: int) -> torch.Tensor:
        rows = range(history.event_offsets[step], history.event_offsets[step + 1])
        found = []
        for row in rows:
            item, line = history.item[row], history.text[row]
            own = self.part.items.ids.weight[self.rows[item]] if item >= 0 else torch.zeros(self.part.items.ids.embedding_dim)
            found.append(own + (self.part.items.tower(self.texts[line][None])[0] if line >= 0 else 0))
        return torch.stack(found)

    def step(self, history: Histories, step: int) -> torch.Tensor:
        inside, first = self.part.step_input, slice(history.event_offsets[step], history.event_offsets[step + 1])
        kinds = torch.from_numpy(history.event_type[first]).long()
        minutes = 0.0 if not step else float(history.step_time[step] - history.step_time[step - 1]) * 1440
        bucket = 0 if not step else 1 + int(np.log2(1 + minutes))
        size = 1 + int(np.log2(1 + len(kinds)))
        quantity = 1 + int(np.log2(1 + np.abs(history.quantity[first]).mean()))
        x = self.vectors(history, step).mean(dim=0) + inside.type_vector(kinds).mean(dim=0)
        x = x + inside.gap.weight[bucket] + inside.size.weight[size] + inside.quantity.weight[quantity]
        x = x + inside.session.weight[int(history.step_session[step])]
        return F.layer_norm(x, (len(x),), inside.norm.weight, inside.norm.bias)

    def recur(self, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """LSTM and GRU by their equations (Hochreiter 1997; Cho 2014, in the form that torch documents)."""
        cell = self.part.cell
        h = c = torch.zeros(cell.hidden_size)
        for x in inputs:
            a = cell.weight_ih @ x + cell.bias_ih
            b = cell.weight_hh @ h + cell.bias_hh
            if len(a) == 4 * len(h):
                i, f, g, o = (a + b).chunk(4)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            else:
                (ar, az, an), (br, bz, bn) = a.chunk(3), b.chunk(3)
                r, z = torch.sigmoid(ar + br), torch.sigmoid(az + bz)
                h = (1 - z) * torch.tanh(an + r * bn) + z * h
        return h, c


def slow_figures(reader: SlowReader, history: Histories) -> dict[str, npt.NDArray[np.float64]]:
    inputs = [reader.step(history, step) for step in range(history.n_steps)]
    h, c = reader.recur(inputs)
    x = torch.stack(inputs)
    attention = torch.softmax(reader.part.attention(x).double() / x.shape[1] ** 0.5, dim=0).T @ x.double()
    age = history.step_time[-1] - history.step_time
    sums = np.zeros((len(reader.lives), 2, x.shape[1]))
    counts, profile = np.zeros((len(reader.lives), 2)), np.zeros(reader.texts.shape[1])
    for step in range(history.n_steps):
        first = int(history.event_offsets[step])
        for j, vector in enumerate(reader.vectors(history, step).double().numpy()):
            kind, line = history.event_type[first + j], history.text[first + j]
            for life, days in enumerate(reader.lives):
                sums[life, kind] += 2 ** (-age[step] / days) * vector
                counts[life, kind] += 2 ** (-age[step] / days)
            if line >= 0:
                profile += 2 ** (-age[step] / max(reader.lives)) * reader.texts[line].double().numpy()
    figures = {"h": h.numpy(), "c": c.numpy(), "attention": attention.numpy(), "sums": sums, "counts": counts, "profile": profile}
    return figures | {"snapshot": history.snapshots[-1] if len(history.snapshots) else np.zeros(reader.texts.shape[1])}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_windows_give_what_one_step_at_a_time_gives(cell: str, make_model: Make, catalogue: Catalogue, text: Float32) -> None:
    model, rng = make_model(cell=cell, window_steps=3, profile_texts=True), np.random.default_rng(8)
    histories = with_snapshots(random_histories(rng, n_users=7, max_steps=10), rng)
    states = from_nothing(model, histories, catalogue, text)
    reader = SlowReader(model, catalogue, text)
    compared = 0
    with torch.no_grad():
        for user in np.flatnonzero(np.diff(histories.step_offsets)):
            slow = slow_figures(reader, histories.users(user, user + 1))
            carry = Carry.of(states.take(np.array([user])), model.layout, torch.float64)
            fast = {name: getattr(carry, name)[0].numpy() for name in ("h", "sums", "counts", "profile", "snapshot")}
            fast["attention"] = (carry.numerator[0] / carry.denominator[0][:, None]).numpy()
            for name, values in fast.items():
                np.testing.assert_allclose(values, slow[name], rtol=1e-5, atol=1e-5, err_msg=name)
            if cell == "lstm":
                np.testing.assert_allclose(carry.c[0].numpy(), slow["c"], rtol=1e-5, atol=1e-5)
            compared += 1
    assert compared >= 4


@shared_fixtures
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(95, 165), max_size=4), cell=st.sampled_from(["lstm", "gru"]))
def test_any_split_of_a_history_gives_the_same_state(
    make_model: Make, catalogue: Catalogue, text: Float32, seed: int, cuts: list[int], cell: str
) -> None:
    """Law 5."""
    model, rng = make_model(cell=cell, window_steps=3, profile_texts=True), np.random.default_rng(seed)
    histories = with_snapshots(random_histories(rng, n_users=5), rng)
    states = States.empty(histories.user_ids, model.layout)
    previous = 0
    for cut in [*sorted(cuts), 1000]:
        new = histories._select_steps((histories.step_day >= previous) & (histories.step_day < cut))
        states = advance(model, States.from_arrow(states.to_arrow(), model.layout), new, catalogue, text)
        previous = cut
    assert_same(states, from_nothing(model, histories, catalogue, text))


def test_states_do_not_depend_on_who_else_is_in_the_batch(make_model: Make, catalogue: Catalogue, text: Float32) -> None:
    model = make_model()
    histories = random_histories(np.random.default_rng(2), n_users=12, max_steps=14)
    together = from_nothing(model, histories, catalogue, text)
    for user in range(12):
        assert_same(from_nothing(model, histories.users(user, user + 1), catalogue, text), together.take(np.array([user])))


def test_the_order_of_steps_matters(make_model: Make, catalogue: Catalogue, text: Float32) -> None:
    one = histories_of({"a": [(100.0, [(0, 0)]), (101.0, [(1, 0)])]})
    other = histories_of({"a": [(100.0, [(1, 0)]), (101.0, [(0, 0)])]})
    model = make_model()
    assert np.abs(from_nothing(model, one, catalogue, text).h - from_nothing(model, other, catalogue, text).h).max() > 1e-3


def test_a_step_before_the_last_one_seen_is_refused(make_model: Make, catalogue: Catalogue, text: Float32) -> None:
    model = make_model()
    states = from_nothing(model, histories_of({"ann": [(101.5, [(0, 0)])]}), catalogue, text)
    with pytest.raises(InputError, match=r"user 'ann' has a step at day 100\.00000 before their last one at 101\.50000; rebuild"):
        advance(model, states, histories_of({"ann": [(100.0, [(0, 0)])]}), catalogue, text)


def test_states_of_other_users_and_vectors_of_another_encoder_are_refused(
    make_model: Make, catalogue: Catalogue, text: Float32
) -> None:
    model, histories = make_model(), histories_of({"a": [(100.0, [(0, 0)])]})
    with pytest.raises(InputError, match=r"align them with States\.for_users"):
        advance(model, States.empty(np.array(["b"]), model.layout), histories, catalogue, text)
    with pytest.raises(ModelError, match=f"text vectors have {TEXT_DIM + 1} dimensions, the model has {TEXT_DIM}"):
        advance(model, States.empty(np.array(["a"]), model.layout), histories, catalogue, np.zeros((6, TEXT_DIM + 1), np.float32))

"""Advancing carried states by new steps: whole histories and daily increments alike (DESIGN 1.4, law 5).

Legend: U users, B users of a batch, T steps of a window, K text dimensions.
"""

import numpy as np
import numpy.typing as npt
import torch

from llmrec_pipeline.errors import InputError, ModelError
from llmrec_pipeline.interest.data import Catalogue, Histories
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.own import advance_own
from llmrec_pipeline.interest.recurrence import Carry, Vectors
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.interest.window import window_of

Int = npt.NDArray[np.int64]
BATCH_CELLS = 8192  # steps, padding included, in one batch; bounds memory
TEXTS_AT_ONCE = 8192


def advance(
    model: InterestModel, states: States, histories: Histories, catalogue: Catalogue, text_vectors: npt.NDArray[np.float32]
) -> States:
    """The users' states after the new steps.

    Args:
        model: as trained; nothing of it is changed.
        states: of exactly the users of `histories`, in the same order (`States.for_users`).
        histories: new steps only, none before the user's last one.
        catalogue: that `histories.item` points into.
        text_vectors: [texts, K] that `histories.text` points into.

    Raises:
        InputError: users differ, or a step lies before its user's last one.
        ModelError: text vectors or states have other sizes than the model.
    """
    _check(model, states, histories, text_vectors)
    item_row = model.item_rows(catalogue.item_ids)
    lengths = np.diff(histories.step_offsets)
    changed = np.flatnonzero(lengths)
    order = changed[np.argsort(lengths[changed], kind="stable")]
    h, c, accumulators = states.h.copy(), states.c.copy(), states.accumulators.copy()
    model.eval()
    with torch.no_grad():
        vectors = input_vectors(model, histories, text_vectors)
        for users in _batches(order, lengths, model.config.window_steps):
            carry = Carry.of(states.take(users), model.layout, torch.float64)
            for first in range(0, int(lengths[users].max()), model.config.window_steps):
                window = window_of(histories, users, first, model.config.window_steps, item_row, text_vectors)
                carry = model.recurrence.scan(carry, window, window.length[:, None], vectors).at(
                    torch.arange(len(users)), torch.tensor(0)
                )
            h[users], c[users], accumulators[users] = carry.h.numpy(), carry.c.numpy(), carry.accumulators(model.layout)
    last = histories.step_offsets[1:][changed] - 1
    last_day, last_time = states.last_day.copy(), states.last_time.copy()
    last_day[changed], last_time[changed] = histories.step_day[last], histories.step_time[last]
    own = advance_own(states.own, states.last_time, histories, catalogue, model.config.repeat_half_lives)
    return States(states.user_ids, h, c, accumulators, states.steps + lengths, last_day, last_time, own)


def input_vectors(model: InterestModel, histories: Histories, text_vectors: npt.NDArray[np.float32]) -> Vectors:
    """Input-side vectors of the texts that the histories hold; rows of other texts are zero and not to be used."""
    items = model.recurrence.items
    used = np.unique(histories.text[histories.text >= 0])
    texts = torch.zeros(len(text_vectors) + 1, model.config.item_dim)
    for start in range(0, len(used), TEXTS_AT_ONCE):
        rows = used[start : start + TEXTS_AT_ONCE]
        texts[torch.from_numpy(rows).long() + 1] = items.tower(torch.from_numpy(text_vectors[rows]))
    return Vectors(texts, items.ids.weight)


def _batches(order: Int, lengths: Int, window_steps: int) -> list[Int]:
    """Users of similar length together, so that a batch's first window holds at most BATCH_CELLS cells."""
    width = np.minimum(lengths[order], window_steps)
    batches, start = [], 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * width[stop] <= BATCH_CELLS:
            stop += 1
        batches.append(order[start:stop])
        start = stop
    return batches


def _check(model: InterestModel, states: States, histories: Histories, text_vectors: npt.NDArray[np.float32]) -> None:
    if not np.array_equal(states.user_ids, histories.user_ids):
        raise InputError(
            f"states are of {states.n_users} users, histories of {histories.n_users} others; align them with States.for_users"
        )
    layout = model.layout
    if states.accumulators.shape[1] != layout.accumulators or states.h.shape[1] != layout.hidden:
        raise ModelError(
            f"states have {states.h.shape[1]} units and {states.accumulators.shape[1]} accumulators, the model has {layout.hidden} and "
            f"{layout.accumulators}; use states of the model's own state_version"
        )
    if text_vectors.shape[1] != layout.text_dim:
        raise ModelError(
            f"text vectors have {text_vectors.shape[1]} dimensions, the model has {layout.text_dim}; use its own encoder_id"
        )
    previous = np.concatenate([[0.0], histories.step_time[:-1]])
    starts = histories.step_offsets[:-1]
    has_steps = np.diff(histories.step_offsets) > 0
    previous[starts[has_steps]] = np.where(states.steps > 0, states.last_time, -np.inf)[has_steps]
    late = np.flatnonzero(histories.step_time < previous)
    if len(late):
        user = str(histories.user_ids[histories.step_user[late[0]]])
        raise InputError(
            f"user {user!r} has a step at day {histories.step_time[late[0]]:.5f} before their last one at {previous[late[0]]:.5f}; "
            "rebuild that user's state from the whole history"
        )

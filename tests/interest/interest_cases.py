"""Small histories for the tests of the interest model."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from llmrec_pipeline.interest.data import Catalogue, DailyCounts, Histories
from llmrec_pipeline.interest.examples import examples_of
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.objective import inputs_of, window_loss
from llmrec_pipeline.interest.recurrence import Carry
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.interest.window import window_of

Step = tuple[float, list[tuple[int, int]]]  # instant in days, its (item row, event type)
N_ITEMS, TEXT_DIM = 6, 5
BUYS = np.array([True, False])  # of the event types: buy, view


def histories_of(users: dict[str, list[Step]]) -> Histories:
    """Histories from literal rows; texts are the items' rows, quantities 1."""
    names = sorted(users)
    steps = [step for name in names for step in users[name]]
    events = [event for _, step in steps for event in step]
    return Histories(
        user_ids=np.array(names, dtype=np.str_),
        step_offsets=np.cumsum([0] + [len(users[name]) for name in names]),
        step_day=np.array([int(time) for time, _ in steps], dtype=np.int32),
        step_time=np.array([time for time, _ in steps], dtype=np.float64),
        step_session=np.zeros(len(steps), dtype=bool),
        event_offsets=np.cumsum([0] + [len(step) for _, step in steps]),
        item=np.array([item for item, _ in events], dtype=np.int32),
        event_type=np.array([kind for _, kind in events], dtype=np.int8),
        text=np.array([item for item, _ in events], dtype=np.int32),
        quantity=np.ones(len(events), dtype=np.float32),
    )


def daily_of(histories: Histories) -> DailyCounts:
    """Daily counts of exactly these histories."""
    day = histories.step_day[histories.event_step]
    known = histories.item >= 0
    rows = np.stack([day[known], histories.item[known], histories.event_type[known]], axis=1).astype(np.int64)
    distinct, count = np.unique(rows, axis=0, return_counts=True)
    distinct = distinct.reshape(-1, 3)
    kinds = (distinct[:, 0].astype(np.int32), distinct[:, 1].astype(np.int32), distinct[:, 2].astype(np.int8))
    return DailyCounts(*kinds, count.astype(np.float64))


def random_histories(
    rng: np.random.Generator, n_users: int, max_steps: int = 9, max_size: int = 4, n_items: int = N_ITEMS
) -> Histories:
    """Users with 0 to `max_steps` steps over a few weeks; some behaviours have an item that the catalogue lacks."""
    users: dict[str, list[Step]] = {}
    for user in range(n_users):
        times = np.sort(rng.uniform(100, 160, rng.integers(0, max_steps + 1)))
        users[f"u{user:03d}"] = [
            (
                float(time),
                [(int(rng.integers(-1, n_items)), int(rng.integers(0, 2))) for _ in range(rng.integers(1, max_size + 1))],
            )
            for time in times
        ]
    return histories_of(users)


def trained_loss(
    model: InterestModel,
    histories: Histories,
    catalogue: Catalogue,
    text: npt.NDArray[np.float32],
    new: torch.Tensor | None = None,
) -> tuple[float, int]:
    """Summed loss over all windows of all users, states carried from window to window as in training; and the number of examples."""
    examples = examples_of(histories, catalogue, daily_of(histories), model.config, BUYS, model.repeats)
    inputs = inputs_of(histories, catalogue, text, model, examples)
    users, width, total = np.arange(histories.n_users), model.config.window_steps, 0.0
    carry = Carry.of(States.empty(histories.user_ids, model.layout), model.layout, torch.float32)
    for first in range(0, int(np.diff(histories.step_offsets).max()), width):
        window = window_of(histories, users, first, width, inputs.item_row, text)
        loss, carry, _ = window_loss(model, carry, window, inputs, new)
        total += float(loss.detach())
    return total, int((np.diff(examples.targets.offsets) > 0).sum())


def with_snapshots(histories: Histories, rng: np.random.Generator, share: float = 0.4) -> Histories:
    """The same histories, a profile text renewed at a random share of the steps."""
    steps = np.flatnonzero(rng.random(histories.n_steps) < share)
    return replace(histories, snapshot_step=steps, snapshots=rng.normal(size=(len(steps), TEXT_DIM)).astype(np.float32))

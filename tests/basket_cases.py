"""Histories from literal baskets."""

import numpy as np

from llmrec_pipeline.interest.data import Histories


def histories(baskets: list[list[list[int]]]) -> Histories:
    """One user per entry, one day per basket."""
    steps = [basket for user in baskets for basket in user]
    days = [day for user in baskets for day, _ in enumerate(user)]
    events = sum(len(basket) for basket in steps)
    return Histories(
        user_ids=np.array([f"u{number}" for number in range(len(baskets))]),
        step_offsets=np.concatenate([[0], np.cumsum([len(user) for user in baskets])]).astype(np.int64),
        step_day=np.array(days, dtype=np.int32),
        step_time=np.array(days, dtype=np.float64),
        step_session=np.zeros(len(steps), dtype=bool),
        event_offsets=np.concatenate([[0], np.cumsum([len(basket) for basket in steps])]).astype(np.int64),
        item=np.array([item for basket in steps for item in basket], dtype=np.int32),
        event_type=np.zeros(events, dtype=np.int8),
        text=np.zeros(events, dtype=np.int32),
        quantity=np.ones(events, dtype=np.float32),
    )

"""A contrastive term: two views of a user's window are to lie nearer to each other than to those of other users.

Legend: B users of a batch, W behaviours of a window, D item dimensions.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.recurrence import Carry, Vectors
from llmrec_pipeline.interest.window import Window

MASKED = 0.3  # share of the window's behaviours that a view does not know
TEMPERATURE = 0.1  # of the cosines


def contrast(model: InterestModel, carry: Carry, window: Window, vectors: Vectors) -> Tensor:
    """Mean over users of -log softmax of the cosine between their two views among all users' second views (CL4SRec, Xie et al. 2022).

    A view has a random share of the window's behaviours masked: that there was one is known, when, of which type and how many, but not
    of what; the state before the window is as it is. What is compared is W_1 I_u right after the window's last step. 0 where fewer than
    two users have a step.

    Args:
        model: in training.
        carry: [B] states before the window.
        window: its `event_text` points into `vectors`.
        vectors: of the texts and ids.
    """
    users = torch.nonzero(window.length).squeeze(1)
    if len(users) < 2:
        return window.profile.new_zeros(())
    one, other = (_view(model, carry, window, vectors)[users] for _ in range(2))
    return F.cross_entropy(one @ other.T / TEMPERATURE, torch.arange(len(users)))


def _view(model: InterestModel, carry: Carry, window: Window, vectors: Vectors) -> Tensor:
    """[B, D] unit vectors of the users' interest after the window, a random share of its behaviours masked."""
    kept = torch.rand(len(window.event_cell)) >= MASKED
    known = replace(
        window,
        event_item=window.event_item * kept,
        event_text=window.event_text * kept,
        profile=torch.zeros_like(window.profile),  # it sums the texts of all behaviours
        snapshot=torch.zeros_like(window.snapshot),  # what was renewed in the window tells of them, too
    )
    users, seen = torch.arange(len(window.length)), window.length[:, None]
    after = model.recurrence.scan(carry, known, seen, vectors).at(users, torch.zeros_like(users))
    return F.normalize(model.head.user_vectors(after, after.time), dim=1)

"""The interest model H and the head that scores items with it (DESIGN 1.4 and the p side of 1.5).

Read `recurrence.py` for how a state comes from steps, `head.py` for how logits come from a state. Legend: N items.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.interest.data import rows_of
from llmrec_pipeline.interest.head import Head
from llmrec_pipeline.interest.recurrence import ItemVectors, Recurrence
from llmrec_pipeline.interest.state import Layout


class InterestModel(nn.Module):
    """Recurrence and head with the vocabulary that they were trained on; item vectors are tied until saved."""

    def __init__(
        self,
        config: InterestConfig,
        *,
        trained_items: list[str],
        event_types: list[str],
        target_types: list[str],
        text_mean: Tensor,
        text_scale: Tensor,
        repeats: bool,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.repeats = config, repeats
        self.trained_items, self.event_types, self.target_types = sorted(trained_items), event_types, target_types
        n, is_target = len(trained_items), [name in target_types for name in event_types]
        self.recurrence = Recurrence(config, text_mean, text_scale, n, len(event_types))
        output = self.recurrence.items if tied else ItemVectors(config, text_mean, text_scale, n)
        self.head = Head(config, output, len(text_mean), is_target, repeats)

    @property
    def layout(self) -> Layout:
        config = self.config
        text_dim = len(self.recurrence.items.tower.mean)
        return Layout(
            hidden=config.hidden_size,
            has_cell=config.cell == "lstm",
            queries=config.long_queries,
            item_dim=config.item_dim,
            types=len(self.event_types),
            half_lives=len(config.long_half_lives),
            text_dim=text_dim,
            repeat_half_lives=len(config.repeat_half_lives),
            snapshot_dim=text_dim if config.profile_texts else 0,
        )

    def as_new(self, share: float) -> Tensor:
        """[trained + 1] True: a random `share` of the trained items, and row 0: to be treated as items without training."""
        new = torch.rand(len(self.trained_items) + 1) < share
        new[0] = True
        return new

    def item_rows(self, item_ids: npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
        """[N] row of each item in the id tables; 0: it was not trained and has its text alone."""
        return rows_of(item_ids, np.array(self.trained_items, dtype=np.str_)).astype(np.int64) + 1

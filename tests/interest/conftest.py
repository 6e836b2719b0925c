"""Small catalogues, texts and models for the tests of the interest model."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from interest_cases import N_ITEMS, TEXT_DIM

from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.interest.data import Catalogue
from llmrec_pipeline.interest.model import InterestModel


@pytest.fixture
def catalogue() -> Catalogue:
    ids = np.array([f"i{row}" for row in range(N_ITEMS)], dtype=np.str_)
    return Catalogue(ids, np.zeros(N_ITEMS, dtype=np.int32), np.arange(N_ITEMS, dtype=np.int32))


@pytest.fixture
def text() -> npt.NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(N_ITEMS, TEXT_DIM)).astype(np.float32)


NO_DROPOUT = {"dropout": 0.0, "id_dropout": 0.0}  # so that a model in training computes what it serves


@pytest.fixture
def make_model() -> Callable[..., InterestModel]:
    """A model of random weights, none of them zero, so that every term shows; item i5 is untrained."""

    def make(*, cell: str = "lstm", repeats: bool = True, window_steps: int = 4, **more: object) -> InterestModel:
        config = InterestConfig.model_validate(
            {"cell": cell, "hidden_size": 7, "item_dim": 8, "long_queries": 2, "window_steps": window_steps} | NO_DROPOUT | more
        )
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = InterestModel(
                config,
                trained_items=[f"i{row}" for row in range(N_ITEMS - 1)],
                event_types=["buy", "view"],
                target_types=["buy"],
                text_mean=torch.full((TEXT_DIM,), 0.1),
                text_scale=torch.full((TEXT_DIM,), 2.0),
                repeats=repeats,
            )
            with torch.no_grad():
                head = model.head
                for weight in (head.bias.weight, head.gate.length.weight, head.gate.recency.weight):
                    weight.normal_()
                for weight in (
                    (head.popularity, head.bias_text, head.total_text, head.new_level, *head.repeat.parameters())
                    if config.as_of_terms
                    else ()
                ):
                    weight.normal_()
                head.bias.weight[0] = 0
        return model.eval()

    return make

"""Training the interest model: carried states, softmax over the next target-bearing step (DESIGN 1.4, 1.5; article 3).

Legend: B users of a batch, T steps of a window, P examples in it, N items, D item dimensions, F counted features.
"""

import logging
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest.data import Catalogue, DailyCounts, Histories, Query
from llmrec_pipeline.interest.device import computing_on
from llmrec_pipeline.interest.examples import examples_of
from llmrec_pipeline.interest.held_out import HeldOut
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.objective import Inputs, inputs_of, window_loss
from llmrec_pipeline.interest.processes import as_first, share, sum_gradients, sum_over_processes
from llmrec_pipeline.interest.ragged import release, trim
from llmrec_pipeline.interest.recurrence import Carry
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.interest.window import window_of

Int = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
COUNTED_SPEED = 5.0  # learning rate of the weights of counted features, in learning rates
LARGEST_GRADIENT = 5.0  # norm to which gradients are cut
BIAS_RIDGE = 100.0  # of the regressions of b_i and b_i(t) on text, in items
USERS_AT_ONCE = 512
TRIMMED_BATCHES = (
    16  # of users, after which the allocator gives back what it keeps: after each it would take a quarter of the time
)
NEW_SHARE = 0.1  # of the items, treated in an update as if nobody had had them while the level of such items is learnt
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A model with what it was trained on and how that went."""

    model: InterestModel
    trained_until: Query  # gradient from target steps of dates before this
    validated_until: Query
    seed: int
    epochs: list[dict[str, float]]  # loss and validation figures of each, in order; no timings, so that equal runs are equal
    report: dict[str, int]  # examples, targets, and what was dropped


def train(
    past: Histories,
    validation: HeldOut,
    catalogue: Catalogue,
    daily: DailyCounts,
    text_vectors: Float32,
    config: InterestConfig,
    *,
    event_types: list[str],
    target_types: list[str],
    repeats: bool,
    period: tuple[Query, Query],
    seed: int,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    groups: Int | None = None,
) -> TrainedModel:
    """Trains on the target steps of `past`, keeps the epoch that is best on what was held out.

    Args:
        past: of all users, the steps that are learnt from.
        validation: what they did after it.
        catalogue: N items.
        daily: counts of every date, anonymous behaviours included.
        text_vectors: [texts, K] e_text.
        config: the hyper-parameters.
        event_types: the domain's types in order.
        target_types: those that are targets.
        repeats: False: items that the user knows are masked as of each step.
        period: end of training and end of validation, noted with the model.
        seed: the one source of randomness.
        on_epoch: called with each epoch's figures and its seconds.
        groups: [N] number of each item's group, -1: none; what `interest.exposure_weight` evens. By default by popularity: the head and the others.

    Raises:
        ModelError: there is nothing to train or to validate on, groups are missing, or the loss is not finite.
    """
    if config.exposure_weight and config.exposure_groups != "popularity" and groups is None:
        raise ModelError(f"interest.exposure_groups is {config.exposure_groups!r}, but no groups were given to train")
    is_target = np.array([name in target_types for name in event_types])
    examples = examples_of(past, catalogue, daily, config, is_target, repeats)
    if not examples.count:
        raise ModelError(
            f"no target step before day {period[0].day} in {past.n_steps} steps (dropped: {examples.targets.dropped}); "
            "name a later day, or check which event types are targets"
        )
    gpus = range(torch.cuda.device_count()) if config.device == "cuda" else ()  # a processor's training leaves them alone
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        model = _new_model(past, catalogue, text_vectors, config, event_types, target_types, repeats)
        with computing_on(config.device):
            model.to(config.device)
            inputs = inputs_of(past, catalogue, text_vectors, model, examples, groups)
        epochs = _fit(model, inputs, validation, config, np.random.default_rng(seed), on_epoch)
    report = {"examples": examples.count, "examples_next": examples.following, "targets": len(examples.targets.item)}
    dropped = {f"dropped_{reason}": count for reason, count in examples.targets.dropped.items()}
    return TrainedModel(model.cpu().eval(), *period, seed, epochs, report | dropped)


def _new_model(
    past: Histories,
    catalogue: Catalogue,
    text: Float32,
    config: InterestConfig,
    event_types: list[str],
    target_types: list[str],
    repeats: bool,
) -> InterestModel:
    """A model whose vocabulary and standardisation come from the behaviours before the end of training (law 8)."""
    items, texts = np.zeros(catalogue.n_items, dtype=bool), np.zeros(len(text), dtype=bool)
    for block in past.slices(USERS_AT_ONCE):
        items[block.item[block.item >= 0]] = True
        texts[block.text[block.text >= 0]] = True
    texts[catalogue.text[items & (catalogue.text >= 0)]] = True
    rows = np.flatnonzero(texts)
    used = text[rows].astype(np.float64) if len(rows) else np.zeros((1, text.shape[1]))
    scale = used.std(axis=0)
    return InterestModel(
        config,
        trained_items=[str(name) for name in catalogue.item_ids[items]],
        event_types=event_types,
        target_types=target_types,
        text_mean=torch.tensor(used.mean(axis=0), dtype=torch.float32),
        text_scale=torch.tensor(np.where(scale > 0, scale, 1.0), dtype=torch.float32),
        repeats=repeats,
    )


def _fit(
    model: InterestModel,
    inputs: Inputs,
    validation: HeldOut,
    config: InterestConfig,
    rng: np.random.Generator,
    on_epoch: Callable[[dict[str, float]], None] | None,
) -> list[dict[str, float]]:
    """Epochs until `patience` of them were no better; the model ends as the best of them."""
    optimiser = _optimiser(model, config)
    average = _RunningMean(model)  # its weights are what is validated, kept and served
    best, best_weights, since, epochs = -1.0, _copy(model), 0, []
    for epoch in range(1, config.max_epochs + 1):
        start = time.perf_counter()
        with computing_on(config.device):
            loss = _run_epoch(model, average, optimiser, inputs, rng)
            if not np.isfinite(loss):
                raise ModelError(
                    f"training diverged: loss {loss} in epoch {epoch}; no version was made, lower interest.learning_rate "
                    f"(now {config.learning_rate:g})"
                )
            trained = time.perf_counter() - start
            _regress_biases(average.model, inputs)
        as_first([*model.parameters(), *average.model.state_dict().values()])
        served = average.model if config.device == "cpu" else deepcopy(average.model).cpu()  # lists are made on processors
        measured = torch.tensor(validation.measure(served), dtype=torch.float64)
        as_first([measured])
        ndcg, cross_entropy = measured.tolist()
        epochs.append({"epoch": epoch, "loss": loss, "ndcg_10": ndcg, "cross_entropy": cross_entropy})
        seconds = {"train_s": trained, "seconds": time.perf_counter() - start}
        logger.info(
            "epoch %d: loss %.4f, validation NDCG@10 %.4f, cross-entropy %.4f, %.1f s", *epochs[-1].values(), seconds["seconds"]
        )
        if on_epoch:
            on_epoch(epochs[-1] | seconds)
        since = 0 if ndcg > best else since + 1
        if not since:
            best, best_weights = ndcg, _copy(served)
        if since >= config.patience:
            break
    model.load_state_dict(best_weights)
    if epochs:
        with computing_on(config.device):
            _learn_new_level(model, inputs, rng)
    return epochs


def _copy(model: InterestModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _optimiser(model: InterestModel, config: InterestConfig) -> torch.optim.Optimizer:
    """AdamW; the few weights of counted features move faster and, like biases, do not decay."""
    counted = [model.head.popularity, *model.head.repeat.parameters()]
    plain = [weight for weight in model.parameters() if weight.ndim < 2 and not any(weight is other for other in counted)]
    apart = {id(weight) for weight in counted + plain}
    matrices = [weight for weight in model.parameters() if id(weight) not in apart]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
        {"params": counted, "weight_decay": 0.0, "lr": COUNTED_SPEED * config.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


class _RunningMean:
    """A model whose weights are the running mean of another's; less of the first ones, which are near the random start."""

    def __init__(self, model: InterestModel) -> None:
        self.model, self.updates = deepcopy(model), 0
        self._means: list[Tensor] = list(self.model.parameters())
        self._weights: list[Tensor] = list(model.parameters())

    def follow(self) -> None:
        keep = min(self.model.config.weight_average, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        with torch.no_grad():
            torch._foreach_lerp_(self._means, self._weights, 1 - keep)


def _run_epoch(
    model: InterestModel,
    average: _RunningMean,
    optimiser: torch.optim.Optimizer,
    inputs: Inputs,
    rng: np.random.Generator,
    new_share: float = 0.0,
) -> float:
    """One pass over all users; states are carried from window to window, gradients are cut there.

    A random `new_share` of the items of each update is treated as if nobody had had them.
    """
    model.train()
    config, parameters = model.config, list(model.parameters())  # a walk over all modules
    lengths, weights = np.diff(inputs.histories.step_offsets), 0.0
    total = torch.zeros((), dtype=torch.float64)  # read once: a GPU is not waited for in every update
    for place, batch in enumerate(_user_batches(lengths, config, rng)):
        users = share(batch)
        empty = States.empty(inputs.histories.user_ids[users], model.layout)
        carry = Carry.of(empty, model.layout, torch.float32)
        for first in range(0, int(lengths[batch].max()), config.window_steps):
            window = window_of(inputs.histories, users, first, config.window_steps, inputs.item_row, inputs.text)
            new = model.as_new(new_share) if new_share else None
            loss, carry, own_weight = window_loss(model, carry, window, inputs, new)
            weight = sum_over_processes(own_weight)
            if weight:
                optimiser.zero_grad(set_to_none=True)
                if own_weight:
                    (loss / weight).backward()  # type: ignore[no-untyped-call]
                sum_gradients(parameters)
                torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
                optimiser.step()
                average.follow()
                total, weights = total + loss.detach(), weights + weight
        release(inputs.histories, inputs.examples)
        if place % TRIMMED_BATCHES == TRIMMED_BATCHES - 1:
            trim()
    return sum_over_processes(float(total)) / weights


def _user_batches(lengths: Int, config: InterestConfig, rng: np.random.Generator) -> Iterator[Int]:
    """Users in random order, those of similar length together; about `batch_steps` cells in a batch's window."""
    order = rng.permutation(np.flatnonzero(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    width = np.minimum(lengths[order], config.window_steps)
    cuts = np.flatnonzero(np.diff(np.cumsum(width) // config.batch_steps)) + 1
    batches = np.split(order, cuts)
    for batch in rng.permutation(len(batches)):
        yield batches[batch]


def _regress_biases(model: InterestModel, inputs: Inputs) -> None:
    """Ridges of the trained b_i and, as of the last example, of b_i(t) on standardised text, for items without training (DESIGN 1.5)."""
    head, trained = model.head, torch.as_tensor(np.flatnonzero(inputs.item_row))
    text, has_text = inputs.texts_of(trained)
    with torch.no_grad():
        x = (head.items.tower.standardise(text) * has_text[:, None]).double()
        x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
        static = head.bias.weight[torch.as_tensor(inputs.item_row)[trained]]
        counted = inputs.popularity[-1, trained] @ head.popularity.flatten()
        y = torch.cat([static, static + counted[:, None]], dim=1).double()
        penalty = torch.full((x.shape[1],), BIAS_RIDGE, dtype=torch.float64)
        penalty[-1] = 1e-6
        found = torch.linalg.solve(x.T @ x + torch.diag(penalty), x.T @ y).float()
        head.bias_text.copy_(found[:, 0])
        head.total_text.copy_(found[:, 1])


def _learn_new_level(model: InterestModel, inputs: Inputs, rng: np.random.Generator) -> None:
    """One pass in which a share of the items has text alone, and the level of such items is all that learns (after Volkovs et al. 2017).

    A ridge gives the mean of a logarithm; what is wanted is the level at which new items get the share of the softmax that is theirs.
    """
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    level = model.head.new_level
    model.zero_grad(set_to_none=True)  # what the last epoch left would count in the norm of gradients
    model.requires_grad_(False)
    level.requires_grad_(True)
    average = _RunningMean(model)
    optimiser = torch.optim.Adam([level], lr=COUNTED_SPEED * model.config.learning_rate)
    loss = _run_epoch(model, average, optimiser, inputs, rng, NEW_SHARE)
    level.requires_grad_(False)
    level.copy_(average.model.head.new_level.detach())
    for weight in learning:
        weight.requires_grad_(True)
    if not np.isfinite(loss):
        raise ModelError(
            f"the level of new items diverged: loss {loss}; no version was made, lower interest.learning_rate "
            f"(now {model.config.learning_rate:g})"
        )
    logger.info("new items: loss %.4f with a tenth of the items new, %+.3f above the ridge", loss, float(level))

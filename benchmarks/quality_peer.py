"""One training of a peer of `bench-quality`, run by the peers' own interpreter: `python quality_peer.py TASK.npz OUT.npz 'RECIPE'`.

Both peers are RecTools' transformer framework with full cross-entropy at every step and tied embeddings: `sasrec` is its SASRec, `gru4rec`
the same with a GRU in place of self-attention. A history is learnt from whole, in pieces of at most `length` steps. The epoch that is
best on validation counts; training stops when `patience` of them were no better.

Legend: U users, N items of the catalogue, L length of a piece, F factors, K dimensions of a text.
"""

import json
import sys
import time
import warnings
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet, ItemNetBase
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from rectools.models.nn.transformers.net_blocks import TransformerLayersBase
from rectools.models.nn.transformers.sasrec import SASRecTransformerLayers
from torch import Tensor, nn

Arrays = dict[str, Any]
SCORED_USERS = 256
TEXT_GAIN = 0.1  # of what the text adds to an item's embedding, at the start


class GRULayers(TransformerLayersBase):
    """A GRU over the steps; the steps of padding, which come first, are moved behind the others so that it never sees them."""

    def __init__(self, n_blocks: int, n_factors: int, dropout_rate: float, **_: Any) -> None:
        super().__init__()
        self.gru = nn.GRU(n_factors, n_factors, n_blocks, batch_first=True, dropout=dropout_rate if n_blocks > 1 else 0.0)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, seqs: Tensor, timeline_mask: Tensor, *_: Any, **__: Any) -> Tensor:
        """[users, L, F] from [users, L, F]; `timeline_mask` [users, L, 1] is True where there is a step."""
        length = seqs.shape[1]
        padding = length - timeline_mask.sum(dim=1)  # [users, 1]
        place = torch.arange(length)
        first = seqs.gather(1, ((place + padding) % length).unsqueeze(2).expand_as(seqs))
        found = self.dropout(self.gru(first)[0])
        return found.gather(1, ((place - padding) % length).unsqueeze(2).expand_as(found))


class TextNet(ItemNetBase):
    """What an item's text adds to its embedding: standardised, frozen, through a small MLP."""

    def __init__(self, text: Tensor, n_factors: int, dropout_rate: float) -> None:
        super().__init__()
        mean, scale = text[1:].mean(dim=0), text[1:].std(dim=0).clamp_min(1e-6)  # [K]; row 0 is padding
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("text", text)
        self.layers = nn.Sequential(
            nn.Linear(text.shape[1], n_factors), nn.GELU(), nn.Dropout(dropout_rate), nn.Linear(n_factors, n_factors)
        )
        self.gain = nn.Parameter(torch.tensor(TEXT_GAIN))

    def of(self, text: Tensor) -> Tensor:
        """[items, F] from [items, K]."""
        return self.gain * self.layers((text - self.mean) / self.scale)

    def forward(self, items: Tensor) -> Tensor:
        return self.of(self.text[items]) * (items > 0).unsqueeze(1)

    @classmethod
    def from_dataset(cls, dataset: Dataset, n_factors: int, dropout_rate: float, **_: Any) -> "TextNet":
        text = np.asarray(dataset.item_features.values, dtype=np.float32)
        return cls(torch.from_numpy(text), n_factors, dropout_rate)

    @property
    def out_dim(self) -> int:
        return self.layers[-1].out_features


class Module(TransformerLightningModule):
    """The library's, with its loss computed where there is a target only and over contiguous logits: the same value, sooner."""

    @classmethod
    def _calc_softmax_loss(cls, logits: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits[y > 0], y[y > 0])  # all weigh the same


class Watch(Callback):
    """Measures each epoch on validation, stops when it gets no better, keeps the best weights and the seconds of training alone."""

    def __init__(self, task: Arrays, recipe: dict[str, Any]) -> None:
        self.task, self.recipe = task, recipe
        self.best: dict[str, Tensor] = {}
        self.epochs: list[dict[str, float]] = []
        self.seconds, self.began = 0.0, 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += time.perf_counter() - self.began
        scores = scores_of(pl_module, self.task, "validation", self.recipe["length"])
        found = ndcg_10(scores, self.task)
        if found > max((epoch["ndcg_10"] for epoch in self.epochs), default=-1.0):
            self.best = deepcopy(pl_module.state_dict())
        self.epochs.append({"ndcg_10": found, "train_s": self.seconds})
        print(f"epoch {len(self.epochs)}: validation NDCG@10 {found:.4f}, {self.seconds:.1f} s", flush=True)
        best = int(np.argmax([epoch["ndcg_10"] for epoch in self.epochs]))
        trainer.should_stop = len(self.epochs) - 1 - best >= self.recipe["patience"]

    def __deepcopy__(self, _: Any) -> "Watch":  # the library copies its trainer before it fits
        return self


def main() -> None:
    task_file, out_file, recipe = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(recipe["threads"])
    task = dict(np.load(task_file))
    module, epochs = fitted(task, recipe)
    scores = {place: log_softmax(scores_of(module, task, place, recipe["length"])) for place in ("validation", "test")}
    np.savez(out_file, epochs=json.dumps(epochs), **scores)


def fitted(task: Arrays, recipe: dict[str, Any]) -> tuple[LightningModule, list[dict[str, float]]]:
    """The best epoch's network, and what each epoch was like."""
    seed_everything(recipe["seed"])
    is_gru, watch = recipe["peer"] == "gru4rec", Watch(task, recipe)
    model = SASRecModel(
        n_blocks=recipe["blocks"],
        n_heads=recipe["heads"],
        n_factors=recipe["factors"],
        dropout_rate=recipe["dropout"],
        session_max_len=recipe["length"],
        lr=recipe["lr"],
        batch_size=recipe["batch"],
        loss="softmax",
        use_pos_emb=not is_gru,
        lightning_module_type=Module,
        transformer_layers_type=GRULayers if is_gru else SASRecTransformerLayers,
        item_net_block_types=(IdEmbeddingsItemNet, TextNet) if recipe["text"] else (IdEmbeddingsItemNet,),
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    model._trainer = Trainer(accelerator="cpu", devices=1, max_epochs=recipe["epochs"], callbacks=[watch], **quiet)
    model.fit(dataset_of(task, recipe))
    model.lightning_model.load_state_dict(watch.best)
    return model.lightning_model, watch.epochs


def dataset_of(task: Arrays, recipe: dict[str, Any]) -> Dataset:
    """Pieces of histories, each a user of its own."""
    pieces = pieces_of(task, recipe["length"])
    frame = pd.DataFrame({Columns.User: np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])})
    frame[Columns.Item] = np.concatenate(pieces)
    frame[Columns.Weight] = 1.0
    frame[Columns.Datetime] = pd.Timestamp(0) + pd.to_timedelta(np.arange(len(frame)), "s")
    if not recipe["text"]:
        return Dataset.construct(frame)
    known = np.unique(frame[Columns.Item])
    text = pd.DataFrame(task["text"][known]).rename(columns=str).assign(id=known)
    return Dataset.construct(frame, item_features_df=text, make_dense_item_features=True)


def pieces_of(task: Arrays, length: int) -> list[Any]:
    """Histories in pieces of `length` steps to predict and the one before them, the newest steps of a user in one piece."""
    offsets, item = task["learnt_offsets"], task["learnt_item"]
    pieces: list[Any] = []
    for start, end in pairwise(offsets):
        pieces += [item[max(start, last - length - 1) : last] for last in range(end, start + 1, -length)]
    return pieces


def padded(rows: list[Any], length: int, padding: int) -> Any:
    """[rows, length] the newest steps of each, padding before them."""
    found = np.full((len(rows), length), padding, dtype=np.int64)
    for row, own in enumerate(rows):
        newest = own[-length:]
        found[row, length - len(newest) :] = newest
    return found


def scores_of(module: LightningModule, task: Arrays, place: str, length: int) -> Any:
    """[U, N] logits as of the histories at `place`; an item that was not learnt from stands by its text alone, or else last."""
    items = module.data_preparator.item_id_map
    inside = pd.Series(items.internal_ids, index=items.external_ids)
    known = inside.index[1:].astype(np.int64)  # the first is padding
    to_internal = np.zeros(len(task["text"]), dtype=np.int64)
    to_internal[known] = inside.iloc[1:]
    offsets, item = task[f"{place}_offsets"], to_internal[task[f"{place}_item"]]
    network, found = module.torch_model, []
    was_training = module.training
    module.eval()
    with torch.no_grad():
        embeddings = network.item_model.get_all_embeddings()
        catalogue = embeddings[to_internal]  # [N, F]
        unknown = torch.from_numpy(np.flatnonzero(to_internal == 0))
        text_net = next((block for block in network.item_model.item_net_blocks if isinstance(block, TextNet)), None)
        if text_net is not None and len(unknown):
            catalogue[unknown] = text_net.of(torch.from_numpy(task["text"])[unknown])
        for start in range(0, len(offsets) - 1, SCORED_USERS):
            own = [item[first:last] for first, last in pairwise(offsets[start : start + SCORED_USERS + 1])]
            steps = padded([steps[steps > 0] for steps in own], length, 0)
            sessions = network.encode_sessions({"x": torch.from_numpy(steps)}, embeddings)[:, -1]  # [users, F]
            scores = sessions @ catalogue.T
            if text_net is None:
                scores[:, unknown] = scores.min(dim=1, keepdim=True).values - 1
            found.append(scores.numpy())
    module.train(was_training)
    return np.concatenate(found)


def log_softmax(scores: Any) -> Any:
    return torch.log_softmax(torch.from_numpy(scores), dim=1).numpy()


def ndcg_10(scores: Any, task: Arrays) -> float:
    """Mean over users with a candidate among their validation targets; ties count as above."""
    discount, found = 1 / np.log2(np.arange(2, 12)), []
    scores = np.where(task["validation_mask"], scores, -np.inf)
    offsets, targets = task["target_offsets"], task["target"]
    for user, own in enumerate(scores):
        mine = own[targets[offsets[user] : offsets[user + 1]]]
        mine = mine[np.isfinite(mine)]
        if not len(mine):
            continue
        rank = np.array([np.count_nonzero(own >= value) for value in mine])  # from 1
        found.append(discount[rank[rank <= 10] - 1].sum() / discount[: len(mine)].sum())
    return float(np.mean(found))


if __name__ == "__main__":
    main()

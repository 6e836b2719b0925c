"""A second implementation of each peer, trained as `quality_peer.py` trains the first and called alike: do both come to the same?

`sasrec`: RePlay's SasRec with full cross-entropy, the same sizes, pieces, batches and optimiser.
`gru4rec`: the author's own PyTorch code, which is on no package index: GRU4REC names the folder of a checkout of
hidasib/GRU4Rec_PyTorch_Official. It learns through one step only, by Adagrad, from session-parallel batches and sampled negatives, so
`lr`, `batch` and `dropout` mean something else there; `negatives` of more than the catalogue come near to the full softmax.
"""

import json
import os
import sys
import time
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from quality_peer import Arrays, log_softmax, ndcg_10, padded, pieces_of
from torch import Tensor, nn

Epochs = list[dict[str, float]]


class Best:
    """The best epoch on validation, until `patience` of them were no better."""

    def __init__(self, task: Arrays, patience: int) -> None:
        self.task, self.patience = task, patience
        self.epochs: Epochs = []
        self.state: dict[str, Tensor] = {}

    def after(self, model: nn.Module, scores: Any, seconds: float) -> bool:
        """True: go on."""
        found = ndcg_10(scores, self.task)
        if found > max((epoch["ndcg_10"] for epoch in self.epochs), default=-1.0):
            self.state = deepcopy(model.state_dict())
        self.epochs.append({"ndcg_10": found, "train_s": seconds})
        print(f"epoch {len(self.epochs)}: validation NDCG@10 {found:.4f}, {seconds:.1f} s", flush=True)
        best = int(np.argmax([epoch["ndcg_10"] for epoch in self.epochs]))
        return len(self.epochs) - 1 - best < self.patience


def sasrec(task: Arrays, recipe: dict[str, Any]) -> tuple[dict[str, Any], Epochs]:
    from replay.data import FeatureHint, FeatureSource, FeatureType
    from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
    from replay.nn.sequential import SasRec

    items, length = len(task["text"]), recipe["length"]
    feature = TensorFeatureInfo(
        "item_id",
        is_seq=True,
        feature_type=FeatureType.CATEGORICAL,
        embedding_dim=recipe["factors"],
        padding_value=items,
        cardinality=items,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
    )
    model = SasRec.from_params(
        TensorSchema([feature]), recipe["factors"], recipe["heads"], recipe["blocks"], length, recipe["dropout"]
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe["lr"], betas=(0.9, 0.98))
    pieces = pieces_of(task, length)
    best, seconds, going = Best(task, recipe["patience"]), 0.0, True

    def scores_at(place: str) -> Any:
        model.eval()
        offsets, item = task[f"{place}_offsets"], task[f"{place}_item"]
        steps = padded([item[a:b] for a, b in pairwise(offsets)], length, items)
        with torch.no_grad():
            found = [model({"item_id": block}, block < items)["logits"] for block in torch.from_numpy(steps).split(256)]
        return torch.cat(found).numpy()

    while going and len(best.epochs) < recipe["epochs"]:
        model.train()
        began, order = time.perf_counter(), np.random.permutation(len(pieces))
        for start in range(0, len(order), recipe["batch"]):
            rows = torch.from_numpy(
                padded([pieces[piece] for piece in order[start : start + recipe["batch"]]], length + 1, items)
            )
            x, y = rows[:, :-1], rows[:, 1:].unsqueeze(2)
            keep = (x < items).unsqueeze(2) & (y < items)
            loss = model({"item_id": x}, x < items, positive_labels=y, target_padding_mask=keep)["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        seconds += time.perf_counter() - began
        going = best.after(model, scores_at("validation"), seconds)
    model.load_state_dict(best.state)
    return {place: log_softmax(scores_at(place)) for place in ("validation", "test")}, best.epochs


def gru4rec(task: Arrays, recipe: dict[str, Any]) -> tuple[dict[str, Any], Epochs]:
    sys.path.insert(0, os.environ["GRU4REC"])
    import gru4rec_pytorch as official

    offsets, item = task["learnt_offsets"], task["learnt_item"]
    frame = pd.DataFrame({"SessionId": np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)), "ItemId": item})
    frame["Time"] = np.arange(len(frame))
    model = official.GRU4Rec(
        layers=[recipe["factors"]],
        loss="cross-entropy",
        batch_size=recipe["batch"],
        dropout_p_embed=recipe["dropout_input"],
        dropout_p_hidden=recipe["dropout"],
        learning_rate=recipe["lr"],
        momentum=recipe["momentum"],
        n_sample=recipe["negatives"],
        sample_alpha=recipe["alpha"],
        logq=recipe["logq"],
        n_epochs=recipe["epochs"],
        device=torch.device("cpu"),
    )
    best = Best(task, recipe["patience"])
    clock = {"train": 0.0}

    def scores_at(place: str) -> Any:
        offsets, network = task[f"{place}_offsets"], model.model
        row = model.data_iterator.itemidmap.reindex(np.arange(len(task["text"]))).fillna(-1).to_numpy(dtype=np.int64)
        own = [row[task[f"{place}_item"][a:b]] for a, b in pairwise(offsets)]
        own = [steps[steps >= 0] for steps in own]
        hidden = torch.zeros(len(own), recipe["factors"])
        network.eval()
        with torch.no_grad():
            for step in range(max(map(len, own))):
                users = np.flatnonzero([len(steps) > step for steps in own])
                embedded = network.Wy(torch.tensor([own[user][step] for user in users]))
                hidden[users] = network.hidden_step(embedded, [hidden[users]])
            scores = hidden @ network.Wy.weight.T + network.By.weight.T
        network.train()
        found = np.full((len(own), len(row)), float(scores.min()) - 1, dtype=np.float32)
        found[:, row >= 0] = scores.numpy()[:, row[row >= 0]]
        return found

    class Watched(official.SessionDataIterator):  # an epoch is one pass over it
        def __call__(self, *given: Any, **named: Any) -> Any:
            if clock.get("stop"):
                return
            began = time.perf_counter()
            yield from super().__call__(*given, **named)
            clock["train"] += time.perf_counter() - began
            clock["stop"] = not best.after(model.model, scores_at("validation"), clock["train"])

    official.SessionDataIterator = Watched
    model.fit(frame, sample_cache_max_size=2_000_000, compatibility_mode=False)
    model.model.load_state_dict(best.state)
    return {place: log_softmax(scores_at(place)) for place in ("validation", "test")}, best.epochs


def main() -> None:
    task_file, out_file, recipe = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    torch.set_num_threads(recipe["threads"])
    torch.manual_seed(recipe["seed"])
    np.random.seed(recipe["seed"])
    scores, epochs = {"sasrec": sasrec, "gru4rec": gru4rec}[recipe["peer"]](dict(np.load(task_file)), recipe)
    np.savez(out_file, epochs=json.dumps(epochs), **scores)


if __name__ == "__main__":
    main()

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from interest_cases import N_ITEMS, random_histories

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest import artefacts
from llmrec_pipeline.interest.artefacts import DESCRIPTION, HEAD, RECURRENCE, file_hash, load, save
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue, Query
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.scoring import item_side, score_parts
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.interest.training import TrainedModel

Make = Callable[..., InterestModel]


def trained(model: InterestModel) -> TrainedModel:
    return TrainedModel(model, Query(10.5, 10), Query(20.0, 20), 3, [{"epoch": 1, "loss": 0.5}], {"examples": 7})


def logits(model: InterestModel, catalogue: Catalogue, text: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    histories = random_histories(np.random.default_rng(0), n_users=5)
    states = advance(model, States.empty(histories.user_ids, model.layout), histories, catalogue, text)
    popularity = np.ones((N_ITEMS, 2, len(model.config.popularity_half_lives)))
    return score_parts(model, states, Query(170.0, 170), catalogue, item_side(model, catalogue, text), popularity).logits


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_loaded_model_scores_as_the_saved_one(
    cell: str, tmp_path: Path, make_model: Make, catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    model = make_model(cell=cell)
    save(tmp_path, trained(model))
    back = load(tmp_path)
    np.testing.assert_array_equal(logits(back.model, catalogue, text), logits(model, catalogue, text))
    assert back.trained_until == Query(10.5, 10)
    assert (back.seed, back.epochs, back.report) == (3, [{"epoch": 1, "loss": 0.5}], {"examples": 7})


def test_a_folder_of_before_new_items_had_a_level_scores_as_it_did(
    tmp_path: Path, make_model: Make, catalogue: Catalogue, text: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tensors = make_model(), artefacts._tensors
    added = ("new_level", "total_text")
    monkeypatch.setattr(artefacts, "_tensors", lambda module: {k: v for k, v in tensors(module).items() if k not in added})
    save(tmp_path, trained(model))
    found = logits(load(tmp_path).model, catalogue, text)
    with torch.no_grad():
        model.head.new_level.fill_(-torch.inf)
    np.testing.assert_array_equal(found, logits(model, catalogue, text))


def test_equal_models_give_equal_files(tmp_path: Path, make_model: Make) -> None:
    assert save(tmp_path / "one", trained(make_model())) == save(tmp_path / "two", trained(make_model()))
    assert file_hash(tmp_path / "one" / DESCRIPTION) == file_hash(tmp_path / "two" / DESCRIPTION)


def test_item_vectors_are_two_arrays_once_loaded(tmp_path: Path, make_model: Make) -> None:
    save(tmp_path, trained(make_model()))
    model = load(tmp_path).model
    before = model.recurrence.items.ids.weight.clone()
    with torch.no_grad():
        model.head.items.ids.weight.add_(1.0)
    assert torch.equal(model.recurrence.items.ids.weight, before)


@pytest.mark.parametrize("name", [RECURRENCE, HEAD, DESCRIPTION])
def test_files_of_two_training_runs_are_refused_with_both_hashes(name: str, tmp_path: Path, make_model: Make) -> None:
    one, other = make_model(), make_model()
    with torch.no_grad():
        other.recurrence.items.ids.weight.mul_(2.0)
    hashes, others = save(tmp_path / "one", trained(one)), save(tmp_path / "other", trained(other))
    shutil.copy(tmp_path / "other" / name, tmp_path / "one" / name)
    with pytest.raises(ModelError) as error:
        load(tmp_path / "one")
    wrong = HEAD if name == HEAD else RECURRENCE
    assert hashes[wrong] in str(error.value)
    assert others[wrong] in str(error.value)


def test_a_head_bound_to_another_recurrence_is_refused_even_if_the_description_names_it(tmp_path: Path, make_model: Make) -> None:
    one, other = make_model(), make_model()
    with torch.no_grad():
        other.recurrence.items.ids.weight.mul_(2.0)
    hashes, others = save(tmp_path / "one", trained(one)), save(tmp_path / "other", trained(other))
    shutil.copy(tmp_path / "other" / HEAD, tmp_path / "one" / HEAD)
    description = tmp_path / "one" / DESCRIPTION
    description.write_text(description.read_text().replace(hashes[HEAD], others[HEAD]))
    with pytest.raises(ModelError, match=f"hash {others[RECURRENCE]}, found {hashes[RECURRENCE]}"):
        load(tmp_path / "one")


def test_missing_and_broken_files_are_refused(tmp_path: Path, make_model: Make) -> None:
    save(tmp_path, trained(make_model()))
    (tmp_path / DESCRIPTION).write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / DESCRIPTION).unlink()
    with pytest.raises(ModelError, match=r"lacks model\.json"):
        load(tmp_path)

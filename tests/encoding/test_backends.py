import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding import Choice, Encoder, EncoderSpec
from llmrec_pipeline.encoding import backends as back_ends
from llmrec_pipeline.encoding.backends import exported
from llmrec_pipeline.encoding.choosing import CPU_CHOICES, Trial, candidates, fastest, lowest_cosine, run_trials
from llmrec_pipeline.errors import ModelError

TEXTS = [
    "white mug",
    "tea",
    "The user bought a set of 3 cake tins, in the price band 2-5.",
    "regency cakestand 3 tier",
    "café ☕",
] * 4
PROCESSOR = Path("/proc/cpuinfo")
FLAGS = set(PROCESSOR.read_text().split()) if PROCESSOR.exists() else set()
HAS_BF16 = bool(FLAGS & {"avx512_bf16", "amx_bf16"})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("backend", ["openvino", "openvino_unfused"])
def test_openvino_gives_torchs_vectors_whatever_is_padded(spec: EncoderSpec, encoder: Encoder, backend: str) -> None:
    other = Encoder(replace(spec, backend=backend))
    for budget in (64, 1024):
        other.token_budget = budget
        np.testing.assert_allclose(other.encode(TEXTS)[0], encoder.encode(TEXTS)[0], atol=1e-5)


@pytest.mark.skipif("flags" not in FLAGS, reason="only Linux on x86 lists what its processor can do under this name")
def test_bf16_is_a_candidate_where_the_processor_has_it() -> None:
    assert (Choice("openvino", "bf16") in candidates(EncoderConfig(), "cpu")) == HAS_BF16


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16")
@pytest.mark.parametrize("backend", ["torch", "openvino", "openvino_unfused"])
def test_bf16_is_close_to_fp32_but_not_equal(spec: EncoderSpec, encoder: Encoder, backend: str) -> None:
    half, _ = Encoder(replace(spec, backend=backend, precision="bf16")).encode(TEXTS)
    full, _ = encoder.encode(TEXTS)
    assert half.dtype == np.float32
    assert 0.999 < lowest_cosine(half, full) < 1 - 1e-7


def test_an_openvino_that_cannot_leave_attention_unfused_is_no_candidate(
    spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(back_ends, "FUSING", "NO_SUCH_SETTING")
    choices = [CPU_CHOICES[0], Choice("openvino_unfused", "fp32")]
    reference, other = run_trials(spec, choices, TEXTS, "cpu", 1)
    assert reference.error is None
    assert "is openvino_unfused, which this OpenVINO has not (NO_SUCH_SETTING); take openvino" in other.error


def test_an_export_is_made_once_and_found_by_its_content(spec: EncoderSpec, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = exported(spec)
    assert made.is_relative_to(cache)
    monkeypatch.setattr(back_ends, "load_model", None)  # what is found needs no model
    assert exported(spec) == made
    assert exported(replace(spec, precision="bf16", pooling="cls")) == made
    with pytest.raises(TypeError):  # the control: other weights are not found
        exported(replace(spec, weights_sha256="0" * 64))
    assert [path.name for path in made.parent.parent.iterdir()] == [made.parent.name]  # nothing half-made beside it


def test_openvinos_converter_reports_to_nobody(spec: EncoderSpec, cache: Path) -> None:
    exported(spec)
    assert sys.modules["openvino_telemetry"] is None
    assert "telemetry_stub" in sys.modules["openvino.tools.ovc.convert_impl"].tm.__name__


def test_a_precision_that_the_processor_lacks_stops_with_the_encoders_id(
    spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Older:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(back_ends.openvino(), "Core", Older)
    other = replace(spec, backend="openvino", precision="bf16")
    with pytest.raises(ModelError, match=f"encoder {other.encoder_id} is openvino in bf16, which this processor lacks"):
        Encoder(other)
    assert candidates(EncoderConfig(), "cpu") == [("torch", "fp32"), ("openvino", "fp32"), ("openvino_unfused", "fp32")]


@pytest.mark.parametrize(
    ("named", "left"),
    [
        ({}, CPU_CHOICES),
        ({"backend": "torch"}, CPU_CHOICES[:2]),
        ({"precision": "fp32"}, CPU_CHOICES[::2]),
    ],
)
@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16")
def test_what_the_config_names_is_no_question(named: dict[str, str], left: tuple[Choice, ...]) -> None:
    assert candidates(EncoderConfig.model_validate(named), "cpu") == list(left)


def test_trials_tell_speed_and_cosine_of_each_candidate(spec: EncoderSpec) -> None:
    trials = run_trials(spec, candidates(EncoderConfig(), "cpu"), TEXTS, "cpu", 1)
    assert [trial.choice for trial in trials] == candidates(EncoderConfig(), "cpu")
    assert all(trial.tokens_per_second > 0 and trial.processor for trial in trials)
    assert trials[0].cosine == pytest.approx(1, abs=1e-6)
    assert all(trial.cosine > (0.99999 if trial.precision == "fp32" else 0.999) for trial in trials)


def test_a_model_that_a_backend_cannot_take_is_a_trial_that_failed(
    spec: EncoderSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no such\nlayer")

    monkeypatch.setattr(back_ends.openvino(), "convert_model", refuse)
    reference, other = run_trials(spec, [CPU_CHOICES[0], Choice("openvino", "fp32")], TEXTS, "cpu", 1)
    assert reference.error is None
    assert (other.tokens_per_second, other.cosine) == (0, 0)
    assert other.error is not None
    assert "openvino cannot export this model (no such layer); set encoder.backend to torch" in other.error
    assert fastest([reference, other], 0.0) == ("torch", "fp32")


def trial(backend: str, precision: str, speed: float, cosine: float, error: str | None = None) -> Trial:
    return Trial(backend, precision, speed, cosine, error, "a processor")


def test_the_fastest_that_keeps_the_cosine_is_taken() -> None:
    trials = [trial("torch", "fp32", 100, 1), trial("torch", "bf16", 300, 0.9997), trial("openvino", "fp32", 150, 0.99999)]
    assert fastest(trials, 0.9999) == ("openvino", "fp32")
    assert fastest(trials, 0.999) == ("torch", "bf16")


def test_none_that_keeps_the_cosine_is_an_error_with_what_was_measured() -> None:
    trials = [trial("openvino", "bf16", 300, 0.99), trial("openvino", "fp32", 0, 0, "it does not load")]
    with pytest.raises(
        ModelError,
        match=r"no back-end keeps encoder\.min_cosine 0\.9999 \(openvino bf16: cosine 0\.990000; openvino fp32: it does not load\)",
    ):
        fastest(trials, 0.9999)


def test_the_lowest_cosine_of_a_vector_that_is_not_finite_is_zero_unless_the_references_is_neither() -> None:
    reference = np.array([[1, 0], [0, 1], [np.nan, np.nan]], dtype=np.float32)
    assert lowest_cosine(reference, reference) == 1
    assert lowest_cosine(np.array([[1, 1], [0, 2], [1, 0]], dtype=np.float32), reference) == pytest.approx(np.sqrt(0.5))
    assert lowest_cosine(np.array([[np.nan, 1], [0, 1], [1, 0]], dtype=np.float32), reference) == 0

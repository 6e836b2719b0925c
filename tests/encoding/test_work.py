"""What a forward pass computes, by hand for the packaged model and counted by torch; and what a product of matrices reaches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmrec_pipeline.encoding import EncoderSpec
from llmrec_pipeline.encoding.backends import load_model
from llmrec_pipeline.encoding.work import matmul_peak, work_of


def test_flops_are_those_that_torch_counts(spec: EncoderSpec) -> None:
    work, tokens, texts = work_of(spec), 48, 3
    assert work is not None
    model = load_model(spec)
    ids = torch.ones(texts, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    pooled = 2 * texts * model.config.hidden_size**2  # by the pooler, whose output nobody takes
    assert work.of(texts * tokens, texts * tokens**2) == pytest.approx(counter.get_total_flops() - pooled, rel=1e-6)


def test_what_is_not_told_by_safetensors_is_not_told(spec: EncoderSpec, model_folder: Callable[..., Path]) -> None:
    assert work_of(replace(spec, folder=str(model_folder("config.json", name="without config")))) is None
    assert work_of(replace(spec, folder=str(model_folder("*.safetensors", name="without weights")))) is None
    assert work_of(replace(spec, folder=str(model_folder()))) == work_of(spec)


def test_the_peak_is_measured_once_in_a_process_and_leaves_threads_as_they_are() -> None:
    before = torch.get_num_threads()
    peak = matmul_peak("fp32", "cpu", 1)
    assert peak is not None
    assert peak > 1e8
    assert matmul_peak("fp32", "cpu", 1) == peak
    assert matmul_peak("int8", "cpu", 1) is None
    assert torch.get_num_threads() == before

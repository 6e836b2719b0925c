"""What computes the transformer: torch on CPU or GPU, OpenVINO on CPU. Each gives the token vectors of one batch.

Legend: B texts of a batch, T tokens of the longest text of a batch, D dimensions of a vector.
"""

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llmrec_pipeline.config import hash_json
from llmrec_pipeline.encoding.batching import Bool, Int, Tokens
from llmrec_pipeline.encoding.cache import cached
from llmrec_pipeline.encoding.spec import EncoderSpec
from llmrec_pipeline.encoding.tier import INT8_MODEL, PROJECTION
from llmrec_pipeline.errors import ModelError

if TYPE_CHECKING:
    import torch

EXPORT_ERROR = 1e-3  # of the largest value; between two fp32 computations it is 1e-5, of a wrong mask 1e-1
OPENVINO_TYPES = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: of what is not quantised
WEIGHT_INPUT = {"MatMul": 1, "Gather": 0}  # which input of OpenVINO's operations holds the weights
FUSING = "SNIPPETS_MODE"  # OpenVINO's own setting; not among the documented ones
INT8_GROUP = 128  # numbers of a token that share a scale, measured (docs/encoding.md)


class Backend(Protocol):
    """A loaded model."""

    def __call__(self, ids: Int, mask: Bool) -> "torch.Tensor":
        """Token vectors [B, T, D] of ids [B, T], where `mask` [B, T] tells tokens from padding; valid until the next call."""
        ...


def load_backend(spec: EncoderSpec, device: str, threads: int) -> "Backend | StaticBackend":
    """The back-end and precision that `spec` names.

    Args:
        spec: the encoder as resolved.
        device: "cpu" or "cuda:N".
        threads: of a forward pass on a CPU.

    Raises:
        ModelError: the model does not load, or this machine does not compute in that precision.
    """
    if spec.backend == "static":
        return StaticBackend(spec, device, threads)
    if spec.backend in ("openvino", "openvino_unfused"):
        return OpenVinoBackend(spec, device, threads)
    return TorchBackend(spec, device, threads)


class TorchBackend:
    """The model as transformers builds it, with SDPA attention; in bf16 and fp16 its weights are cast, once.

    Its buffers are not: the angles of rotary positions, in bf16, would be off by .7 rad at position 511.
    """

    def __init__(self, spec: EncoderSpec, device: str, threads: int) -> None:
        import torch

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[spec.precision]
        self._model = _cast(load_model(spec).to(device), dtype)
        self._device = device
        if device == "cpu":
            torch.set_num_threads(threads)

    def __call__(self, ids: Int, mask: Bool) -> "torch.Tensor":
        import torch

        with torch.inference_mode():
            attention = None if mask.all() else self._copy(mask.astype(np.int64))  # None: attention spares the work of masking
            hidden: torch.Tensor = self._model(input_ids=self._copy(ids), attention_mask=attention).last_hidden_state
            return hidden

    def _copy(self, array: Int) -> "torch.Tensor":
        """To the device; through pinned memory to a GPU, so that the host goes on with the next batch."""
        import torch

        tensor = torch.from_numpy(array)
        return tensor if self._device == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)


def _cast(model: Any, dtype: "torch.dtype") -> Any:
    for weights in model.parameters():
        weights.data = weights.data.to(dtype)
    return model


class OpenVinoBackend:
    """The model exported to OpenVINO once per machine, and compiled for its processor.

    Threads are not pinned to cores: the workers of one machine don't know of each other, and would all take the first ones. Unfused,
    attention is computed as products of matrices and a softmax of their own: what OpenVINO makes of them in one works through each head
    of each text by itself, which for a few tokens costs more than it spares (38% of a bf16 pass over texts of 11 tokens on a Xeon with AMX).
    """

    def __init__(self, spec: EncoderSpec, device: str, threads: int) -> None:
        core = openvino().Core()
        if device != "cpu":
            raise ModelError(f"encoder {spec.encoder_id} is openvino's, which computes on a CPU, not on {device}; take torch")
        if spec.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ModelError(
                f"encoder {spec.encoder_id} is openvino in bf16, which this processor lacks; run encode on one that has it, "
                "or name --set encoder.precision=fp32, another encoder with vectors of its own"
            )
        int8 = spec.precision == "int8"
        if int8 and not _multiplies_int8():
            raise ModelError(
                f"encoder {spec.encoder_id} is openvino in int8, which this processor lacks (avx512_vnni or avx_vnni); run encode on "
                "one that has it, or name another encoder.source"
            )
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": OPENVINO_TYPES[spec.precision],
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": INT8_GROUP if int8 else 0,
        }
        if spec.backend == "openvino_unfused":
            settings[FUSING] = "DISABLE"
        model = core.read_model(Path(spec.folder) / INT8_MODEL[0] if int8 else exported(spec))
        try:
            self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            if FUSING not in str(error):
                raise ModelError(
                    f"encoder {spec.encoder_id}: openvino cannot compile it here ({' '.join(str(error).split())[:200]}); set encoder.backend to torch"
                ) from error
            raise ModelError(
                f"encoder {spec.encoder_id} is openvino_unfused, which this OpenVINO has not ({FUSING}); take openvino"
            ) from error

    def __call__(self, ids: Int, mask: Bool) -> "torch.Tensor":
        import torch

        found = self._request.infer([ids, mask.astype(np.int64)], share_inputs=True, share_outputs=True)[0]
        return torch.from_numpy(found)


class StaticBackend:
    """One vector a token of the vocabulary; a text's vector is their mean. There is nothing to pad, so there are no batches."""

    def __init__(self, spec: EncoderSpec, device: str, threads: int) -> None:
        import torch

        self._table = _tensor(Path(spec.folder) / "model.safetensors", "embeddings").to(device)  # [vocabulary, D]
        if device == "cpu":
            torch.set_num_threads(threads)

    def pooled(self, tokens: Tokens, usable: Int) -> "torch.Tensor":
        """Mean of the token vectors of the texts at the positions `usable`, all that have tokens: [B, D]."""
        import torch

        arrays = (
            np.array(tokens.values),
            tokens.offsets[usable].astype(np.int32),
        )  # copies: torch warns of what it may not write
        values, starts = (torch.from_numpy(array).to(self._table.device) for array in arrays)
        with torch.inference_mode():
            return torch.nn.functional.embedding_bag(values, self._table, starts, mode="mean")


def load_projection(spec: EncoderSpec, device: str) -> "torch.Tensor | None":
    """The matrix that takes the model's pooled vectors to the tier's; None where there is none."""
    file = Path(spec.folder) / PROJECTION
    return _tensor(file, "projection").to(device) if spec.tier and file.exists() else None


def _tensor(file: Path, name: str) -> "torch.Tensor":
    """Raises ModelError where the file does not hold it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: torch.Tensor = load_file(file)[name]
    except (OSError, KeyError, SafetensorError) as error:
        raise ModelError(f"{file}: no tensor {name!r} ({error}); make the tier anew with jobs/compress.py") from error
    return found


def openvino() -> Any:
    """The module, without the package by which its converter tells its maker over the network who used it and how."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # an import of it fails: then it has a stub
    return importlib.import_module("openvino")


def exported(spec: EncoderSpec) -> Path:
    """The model's export to OpenVINO, in fp32, in the user's cache folder under the hash of what it was made from.

    Raises:
        ModelError: the model does not load, or cannot be exported.
    """
    import torch

    ov = openvino()
    name = hash_json({"files": spec.files(), "openvino": ov.get_version(), "torch": str(torch.__version__)})

    def make(folder: Path) -> None:
        model = load_model(spec)
        example = torch.ones(2, 8, dtype=torch.long)
        inputs = [("ids", [-1, -1], ov.Type.i64), ("mask", [-1, -1], ov.Type.i64)]
        try:
            with warnings.catch_warnings(action="ignore"):  # of values that a trace takes for constants; `_check_export` tells
                converted = ov.convert_model(_hidden_only(model), example_input=(example, example), input=inputs)
        except Exception as error:  # the tracer and the converter raise their own classes
            cause = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{spec.folder}: openvino cannot export this model ({cause}); set encoder.backend to torch"
            ) from error
        _check_export(spec, model, ov.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}))
        ov.save_model(converted, folder / "model.xml", compress_to_fp16=False)

    return cached("openvino", name, make) / "model.xml"


def _multiplies_int8() -> bool:
    """Whether OpenVINO quantises what weights in int8 are multiplied with; elsewhere vectors may be others."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return bool(flags & {"avx512_vnni", "avx_vnni"})


def save_int8(spec: EncoderSpec, folder: Path) -> None:
    """Writes the model with the matrices that it multiplies with and the tables that it looks up in int8, one scale a row.

    What is multiplied with them is quantised when it is computed, each token by itself, INT8_GROUP numbers at a time: a vector
    does not depend on the batch, and nothing has to be calibrated. Processors with VNNI compute such products in int8.

    Raises:
        ModelError: the model does not load, or cannot be exported.
    """
    ov = openvino()
    ops = importlib.import_module("openvino.opset13")
    model = ov.Core().read_model(exported(spec))
    for op in model.get_ordered_ops():
        if op.get_type_name() not in WEIGHT_INPUT:
            continue
        place = WEIGHT_INPUT[op.get_type_name()]
        constant = op.input_value(place).get_node()
        if constant.get_type_name() != "Constant" or constant.data.dtype != np.float32 or constant.data.ndim != 2:
            continue
        summed = -1 if op.get_attributes().get("transpose_b", True) else -2
        scale = np.abs(constant.data).max(axis=summed, keepdims=True) / 127
        whole = np.round(constant.data / np.where(scale > 0, scale, 1)).astype(np.int8)
        back = ops.multiply(ops.convert(ops.constant(whole), np.float32), ops.constant(scale))
        op.input(place).replace_source_output(back.output(0))
    ov.save_model(model, folder / INT8_MODEL[0], compress_to_fp16=False)


def _check_export(spec: EncoderSpec, model: Any, compiled: Any) -> None:
    """Compares an export with its model on shapes that it was not traced with: a trace may take a length for a constant.

    Raises:
        ModelError: their token vectors differ.
    """
    import torch

    for shape, kept in (((1, 5), 5), ((3, 12), 7)):
        ids = np.arange(1, 1 + shape[0] * shape[1], dtype=np.int64).reshape(shape)
        mask = np.ones(shape, dtype=np.int64)
        mask[0, kept:] = 0
        with torch.inference_mode():
            wanted = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state.numpy()
        error = np.abs(compiled([ids, mask])[0] - wanted)[mask.astype(bool)].max() / np.abs(wanted).max()
        if not error < EXPORT_ERROR:
            raise ModelError(
                f"{spec.folder}: openvino's export differs from the model by {error:.1e} of its largest value on a batch of "
                f"{shape[0]} x {shape[1]} tokens, expected less than {EXPORT_ERROR}; set encoder.backend to torch"
            )


def _hidden_only(model: Any) -> Any:
    """The model as a function of (ids, mask) with its token vectors as the one output."""
    import torch

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            return hidden

    return Hidden().eval()


def load_model(spec: EncoderSpec) -> Any:
    """The encoder's model in evaluation mode, fp32 weights; refuses weights that would be left random.

    Raises:
        ModelError: it does not load as a transformer without code of its own, or the file lacks weights.
    """
    model = _from_pretrained(_unpacked(spec) if spec.gguf else Path(spec.folder))
    model.config.use_cache = False  # a decoder would keep keys and values for a next token, which nobody asks for
    return model.eval().requires_grad_(False)


def _unpacked(spec: EncoderSpec) -> Path:
    """The GGUF file's model as a folder of safetensors in fp32, in the user's cache folder: transformers takes 40 s to read the file.

    Raises:
        ModelError: packages to read it are missing, or it does not load.
    """
    import torch
    import transformers
    from safetensors.torch import save_file

    lacking = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if lacking:
        raise ModelError(f"a GGUF file is read with {' and '.join(lacking)}, not installed; pip install 'llmrec-pipeline[gguf]'")

    def make(folder: Path) -> None:
        model = _from_pretrained(Path(spec.folder), gguf_file=spec.gguf)
        del model.config.quantization_config  # of the file; the weights are unpacked
        model.config.save_pretrained(folder)
        weights: dict[str, torch.Tensor] = model.state_dict()
        save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})

    return cached("unpacked", hash_json({"files": spec.files(), "transformers": transformers.__version__}), make)


def _from_pretrained(folder: Path, **more: Any) -> Any:
    """As transformers loads it.

    Raises:
        ModelError: it does not load, or weights are missing.
    """
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        model, found = AutoModel.from_pretrained(
            str(folder),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            **more,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"{folder}: model does not load ({error}); expected a transformer that needs no code") from error
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} weights, such as {missing[0]}, and random ones will not do; copy it anew"
        )
    return model

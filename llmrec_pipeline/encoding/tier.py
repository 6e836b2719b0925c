"""A cheaper tier of an encoder: the folder that `compress` makes, and what its `tier.json` tells (docs/encoding.md)."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from llmrec_pipeline.config.section import Section
from llmrec_pipeline.errors import ModelError

Kind = Literal["static", "pruned", "pca", "matryoshka", "int8"]
FILE = "tier.json"
PROJECTION = "projection.safetensors"  # of the pooled vector, where there is one
INT8_MODEL = ("openvino_model.xml", "openvino_model.bin")
TOP = 100  # neighbours that are compared


class Judgement(Section):
    """How near a tier's vectors are to those of the encoder that it was made from, in torch fp32, on texts that it did not learn from."""

    overlap: float = Field(description=f"share of a text's {TOP} nearest texts that are the same, mean over the queries")
    random_overlap: float = Field(description="the same of random vectors: the control")
    mean_cosine: float = Field(description="of a query's vector to the base's; of fewer dimensions, projected back")
    lowest_cosine: float = Field(description="the lowest of them")
    queries: int = Field(description="texts that it did not learn from")
    corpus: int = Field(description="texts among which their nearest are looked for, themselves left out")
    tokens_per_second: float = Field(description="one thread, tokens in hand, the best of the interleaved rounds")
    base_tokens_per_second: float = Field(description="the base's in torch fp32, beside it")
    processor: str = Field(description="what the speeds were measured on")


class Tier(Section):
    """What `tier.json` holds."""

    kind: Kind
    base: str = Field(description="encoder_id in torch fp32 of the encoder that it was made from")
    pooling: Literal["mean", "cls", "last"] = Field(description="the base's; a config must name the same")
    normalise: bool = Field(description="likewise")
    max_length: int = Field(description="likewise")
    dimensions: int = Field(description="length of a vector")
    layers: tuple[int, ...] | None = Field(None, description="pruned: the base's layers that were kept, from 0")
    seed: int = Field(description="that dealt the texts to those that it learnt from and those that it is judged on")
    learnt: int = Field(description="texts that it learnt from")
    judgement: Judgement | None = None

    @classmethod
    def of(cls, folder: Path) -> "Tier | None":
        """Of a folder; None: it holds no tier.

        Raises:
            ModelError: the file does not say what a tier is.
        """
        file = folder / FILE
        if not file.exists():
            return None
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelError(
                f"{file}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}; make the tier anew with jobs/compress.py"
            ) from error

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def check_floor(self, floor: float, source: str) -> None:
        """Raises ModelError where its vectors are further from the base's than `floor` (encoder.min_overlap) allows."""
        overlap = self.judgement.overlap if self.judgement else 0.0
        if overlap < floor:
            raise ModelError(
                f"{source} is a {self.kind} tier whose top-{TOP} overlap with the encoder that it was made from is {overlap:.3f}, "
                f"expected at least {floor:g} (encoder.min_overlap); make a dearer one with jobs/compress.py, or lower the floor"
            )

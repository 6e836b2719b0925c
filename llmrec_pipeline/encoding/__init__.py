"""Text -> vectors (DESIGN 1.3). Importing this package loads neither torch nor Spark."""

from llmrec_pipeline.encoding.encoder import Encoded, Encoder, Totals
from llmrec_pipeline.encoding.spec import Choice, EncoderSpec, resolve

__all__ = ["Choice", "Encoded", "Encoder", "EncoderSpec", "Totals", "resolve"]

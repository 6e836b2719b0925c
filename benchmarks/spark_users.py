"""What a Spark user would write from the documentation of Spark, sentence-transformers and transformers; measured by `bench-encode`."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, FloatType

VECTOR = ArrayType(FloatType())


def with_pandas_udf(texts: DataFrame, folder: str, max_length: int, batch: int) -> DataFrame:
    """Vectors by an iterator of series, so that each task loads the model once."""

    @F.pandas_udf(VECTOR)  # type: ignore[call-overload]
    def encode(series: Iterator[pd.Series]) -> Iterator[pd.Series]:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(folder, device="cpu")
        model.max_seq_length = max_length
        for some in series:
            yield pd.Series(list(model.encode(some.tolist(), batch_size=batch, show_progress_bar=False)))

    return texts.withColumn("embedding", encode("text"))


def with_predict_batch_udf(texts: DataFrame, folder: str, max_length: int, batch: int) -> DataFrame:
    """Vectors by Spark's own function for models."""

    def make() -> Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]:
        import torch
        from transformers import AutoModel, AutoTokenizer

        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

        def predict(some: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            inputs = tokenizer(some.tolist(), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            vectors: npt.NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).numpy()
            return vectors

        return predict

    encode = predict_batch_udf(make, return_type=VECTOR, batch_size=batch)
    return texts.withColumn("embedding", encode("text"))

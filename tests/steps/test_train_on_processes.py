"""Training on several processes gives what one gives (TorchDistributor, gloo)."""

import numpy as np
import pytest
from mlflow import MlflowClient
from pyspark.ml.torch.distributor import TorchDistributor

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.steps.heads import registry_of

pytestmark = pytest.mark.spark
EXACT = ("interest.dropout=0", "interest.id_dropout=0", "interest.max_epochs=3")


def epochs(path, processes: int) -> dict[str, list[float]]:
    """Loss and validation figures of each epoch, as MLflow has them."""
    overrides = (*EXACT, f"interest.processes={processes}")
    run = path.run("train", overrides=overrides)["train"]
    version = registry_of(run).find(run.versions["head_version"])
    client = MlflowClient(run.settings.pipeline.tracking.uri)
    return {
        name: [metric.value for metric in client.get_metric_history(version.run_id, name)]
        for name in ("loss", "cross_entropy", "ndcg_10")
    }


def test_two_processes_learn_what_one_learns(clicks_copy, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, begin = [], TorchDistributor.__init__

    def noted(self, num_processes: int, **options: object) -> None:
        begun.append(num_processes)
        begin(self, num_processes, **options)

    monkeypatch.setattr(TorchDistributor, "__init__", noted)
    one, two = epochs(clicks_copy, 1), epochs(clicks_copy, 2)
    assert begun == [2]
    assert len(one["loss"]) == 3
    assert one["loss"][2] < one["loss"][0]
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-4, err_msg=name)


def test_what_two_processes_raise_is_told_as_by_one(clicks_copy) -> None:
    with pytest.raises(ModelError, match=r"training diverged: loss nan in epoch 1; .* lower interest\.learning_rate"):
        clicks_copy.run("train", overrides=("interest.processes=2", "interest.learning_rate=1e30"))

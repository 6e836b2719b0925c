"""conf/spark/gpu.conf on a real cluster of one executor, whose one GPU only nvidia-smi's stand-in knows of."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

CONF = Path(__file__).parents[2] / "conf" / "spark"
SCRIPT = """
import json, sys, time
import pyarrow as pa
from pyspark.sql import SparkSession
from llmrec_pipeline.encoding.spark import gpu_profile, task_device

def tell(batches):
    for batch in batches:
        pass
    start = time.time()
    time.sleep(0.5)
    yield pa.RecordBatch.from_pylist([{"device": task_device(), "start": start, "stop": time.time()}])

builder = SparkSession.builder.master("local-cluster[1,2,1024]")
for key, value in json.loads(sys.argv[1]).items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
four = spark.range(4).repartition(4)
rows = four.mapInArrow(tell, "device string, start double, stop double", profile=gpu_profile(spark)).collect()
print(json.dumps(sorted((row.start, row.stop, row.device) for row in rows)))
"""


@pytest.mark.spark
@pytest.mark.slow
def test_the_encoding_stage_gives_each_task_a_whole_gpu(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/bash\necho 0\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    lines = [line.split(maxsplit=1) for line in (CONF / "gpu.conf").read_text().splitlines() if line and not line.startswith("#")]
    discovery = str(CONF / "gpu_discovery.sh")
    small = {
        "spark.executor.cores": "2",
        "spark.executor.memory": "600m",
        "spark.task.resource.gpu.amount": "0.5",
        "spark.worker.resource.gpu.amount": "1",
        "spark.worker.resource.gpu.discoveryScript": discovery,
        "spark.executor.resource.gpu.discoveryScript": discovery,
        "spark.driver.bindAddress": "127.0.0.1",
    }
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "SPARK_WORKER_DIR": str(tmp_path), "PYSPARK_PYTHON": sys.executable}
    command = [sys.executable, "-c", SCRIPT, json.dumps(dict(lines) | small)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path, timeout=1_200)
    tasks = json.loads(done.stdout.splitlines()[-1])
    assert [device for _, _, device in tasks] == ["cuda:0"] * 4
    assert all(before[1] <= after[0] for before, after in pairwise(tasks))  # two cores, but one GPU

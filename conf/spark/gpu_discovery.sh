#!/usr/bin/env bash
# Prints this machine's GPUs as Spark wants them: {"name": "gpu", "addresses": ["0", "1"]}.
# Spark runs it on each worker (spark.worker.resource.gpu.discoveryScript) or executor (spark.executor.resource.gpu.discoveryScript).
set -euo pipefail

if ! command -v nvidia-smi >/dev/null; then
    echo "gpu_discovery.sh: nvidia-smi is not on PATH; install NVIDIA's driver, or run without conf/spark/gpu.conf" >&2
    exit 1
fi
indices=$(nvidia-smi --query-gpu=index --format=csv,noheader)
if ! grep -qE '^[0-9]+$' <<<"$indices" || grep -qvE '^[0-9]+$' <<<"$indices"; then
    echo "gpu_discovery.sh: nvidia-smi answered '$indices', expected one GPU number a line; run nvidia-smi by hand to see why" >&2
    exit 1
fi
addresses=$(sed 's/.*/"&"/' <<<"$indices" | paste -sd, - | sed 's/,/, /g')
echo "{\"name\": \"gpu\", \"addresses\": [$addresses]}"

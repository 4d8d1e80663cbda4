#!/bin/sh
# The MLflow server, on loopback. `orcha up` runs this; by hand: ORCHA_HOME=.orcha sh mlflow/serve.sh
set -eu
home=$(cd "${ORCHA_HOME:-.orcha}" && pwd)
port=${ORCHA_MLFLOW_PORT:-5050}
mkdir -p "$home/mlflow/artifacts"
# Its job queue is for judging language models: eight processes and 0.6 GiB of memory that nobody here asks for.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
# Started in its data folder: MLflow leaves scratch files where it runs. Any other Host header is refused, which
# keeps a web page in the operator's browser from reaching it by a name of its own.
cd "$home/mlflow"
exec "${ORCHA_MLFLOW:-mlflow}" server \
    --backend-store-uri "sqlite:///$home/mlflow/mlflow.db" \
    --artifacts-destination "$home/mlflow/artifacts" \
    --serve-artifacts \
    --host 127.0.0.1 --port "$port" --workers 1 \
    --allowed-hosts "127.0.0.1:$port,localhost:$port"

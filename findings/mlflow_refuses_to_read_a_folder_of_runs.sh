#!/usr/bin/env bash
# MLflow's client refuses to read a folder of runs that MLflow itself wrote, unless a variable is set.
#
# Expected: a store that is "in maintenance mode" is still read, perhaps with a warning: file:DIR has been
#           MLflow's default store for years, and exporters write it since it needs no server and no database.
# Happens:  MlflowClient("file:DIR") raises as soon as it is made, before anything is written; with
#           MLFLOW_ALLOW_FILE_STORE=true the same call reads every run. An export that was right fails at its
#           reader, and the exporter cannot set a variable there.
# Versions: mlflow-skinny 3.17.2, Python 3.11. Seen 2026-11-28.
# Output:   allowed: 1 run, loss 1.5
#           not allowed: MlflowException, names MLFLOW_ALLOW_FILE_STORE: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet mlflow-skinny==3.17.2
unset MLFLOW_ALLOW_FILE_STORE
cat > read.py <<'PY'
import sys

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

mode = sys.argv[1]
try:
    client = MlflowClient("file:store")
    if mode == "write":
        run = client.create_run(client.create_experiment("e"))
        client.log_metric(run.info.run_id, "loss", 1.5)
        client.set_terminated(run.info.run_id)
    runs = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    print(f"allowed: {len(runs)} run, loss {runs[0].data.metrics['loss']}")
    sys.exit(mode != "write")
except MlflowException as error:
    named = "MLFLOW_ALLOW_FILE_STORE" in str(error)
    print(f"not allowed: {type(error).__name__}, names MLFLOW_ALLOW_FILE_STORE: {named}")
    sys.exit(mode != "read" or not named)
PY
MLFLOW_ALLOW_FILE_STORE=true env/bin/python -W ignore read.py write
env/bin/python -W ignore read.py read

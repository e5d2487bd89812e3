#!/bin/sh
# The command that started this run's ranks; for reading and copying.
python3 -m tgsbench.training.agent RUN_DIR --nproc-per-node 8

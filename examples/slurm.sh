#!/bin/bash
#SBATCH --job-name=tgs-llama2_7b_1M
#SBATCH --partition=gpu
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --time=1-06:50:00
#SBATCH --signal=TERM@120
#SBATCH --output=/shared/runs/slurm/%j.log
#SBATCH --open-mode=append
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --no-requeue

# 32 ranks: 8 on each node.
# Time limit: 7 steps at twice the published 7849 s, plus 15 minutes. SIGTERM comes 120 s before it: what was measured is kept.
# sp 16 does not fit a node's 8 ranks: its all-to-alls cross 2 nodes, 50% of their bytes go over the network.
set -euo pipefail

# GLOO_ and NCCL_SOCKET_IFNAME, unless set here, become the interface that leads to the first node.
export PYTHONUNBUFFERED=1
export PYTHONSAFEPATH=1
export NCCL_DEBUG=WARN

name="$(date -u +%Y%m%dT%H%M%S)-llama2_7b_1M-j$SLURM_JOB_ID"
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd, -)
# The first node's address, which need not be its name; a port of this job's own.
address=$(scontrol show node "${nodes%%,*}" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
port=$((10000 + SLURM_JOB_ID % 20000))
command=(
    python3 -m tgsbench run --preset llama2_7b_1M --headless
    --output /shared/runs
    --name "$name"
    --nodes "$nodes"
    --rendezvous "$address:$port"
)

# One task a node: torch's elastic agent (what torchrun runs) starts the ranks of its node.
exec srun --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=0 --wait=120 \
    bash -c 'exec "$@" --node-rank "$SLURM_NODEID"' node "${command[@]}"

#!/usr/bin/env bash
# SLURM: one process per node on all its GPUs.
#
#   sbatch --nodes=2 launch/slurm.sh train configs/ours/rl_cod_7b.yaml
#
#SBATCH --job-name=segr1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
# Two minutes before the end every process gets SIGTERM; the run saves its step and ends with 143.
#SBATCH --signal=TERM@120
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?start it with sbatch}" || exit 1

# shellcheck source=launch/flags.sh
source launch/flags.sh gpu
FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
JAX_COORDINATOR_ADDRESS=$FIRST_NODE:$((20000 + SLURM_JOB_ID % 20000))
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$SLURM_NNODES

# srun tells each process its number where it runs, not here.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 \
  bash -c 'JAX_PROCESS_ID=$SLURM_PROCID exec .venv/bin/segr1 "$@"' segr1 "$@"
status=$?
if [[ $status == 143 ]]; then # saved, not failed: the same command goes on where it stopped
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

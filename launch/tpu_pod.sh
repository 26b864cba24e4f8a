#!/usr/bin/env bash
# TPU pod slice: the same command on every host of it. The project and its environment
# (launch/setup.sh tpu) lie on each in ~/segr1_jax; run_dir and checkpoint_dir must be seen by all
# (a mounted bucket, gs://... for checkpoint_dir).
#
#   bash launch/tpu_pod.sh my-v5e-64 us-west4-a train configs/ours/rl_cod_7b_v5e.yaml \
#     checkpoint_dir=gs://bucket/run
set -euo pipefail
NAME=${1:?usage: launch/tpu_pod.sh NAME ZONE segr1-arguments...}
ZONE=${2:?usage: launch/tpu_pod.sh NAME ZONE segr1-arguments...}
shift 2
printf -v arguments '%q ' "$@"

# `auto`: jax.distributed asks the TPU's metadata server for coordinator, count and each number.
SEGR1="JAX_COORDINATOR_ADDRESS=auto exec .venv/bin/segr1"
gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command \
  "cd ~/segr1_jax && source launch/flags.sh tpu && $SEGR1 $arguments"

#!/usr/bin/env bash
# Several processes on this host, as if each were a host of its own: a rehearsal of a cluster, or
# one process per GPU.
#
#   bash launch/processes.sh 2 train configs/quickstart_grpo.yaml
#
# GPUs are dealt out evenly; on a CPU each process simulates DEVICES devices (default 1). SIGTERM
# and Ctrl-C go to all of them; the status is that of the first process that failed. GRACE seconds
# (default 300) after that, the processes that have not ended by themselves are killed.
set -euo pipefail
HERE=$(dirname "${BASH_SOURCE[0]}")
COUNT=${1:?usage: launch/processes.sh COUNT segr1-arguments...}
shift
KIND=$(cat "$HERE/../.venv/segr1-kind" 2>/dev/null || echo cpu)
# shellcheck source=launch/flags.sh
source "$HERE/flags.sh" "${KIND/cuda*/gpu}"

FREE_PORT='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
PORT=$("$HERE/../.venv/bin/python" -c "$FREE_PORT")
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$PORT JAX_NUM_PROCESSES=$COUNT
if [[ $KIND == cpu ]]; then
  export JAX_PLATFORMS=cpu
  add XLA_FLAGS "--xla_force_host_platform_device_count=${DEVICES:-1}"
else
  mapfile -t GPUS < <(nvidia-smi --query-gpu=index --format=csv,noheader)
fi

PIDS=()
trap 'kill -TERM "${PIDS[@]}" 2>/dev/null || true' TERM INT
for ((index = 0; index < COUNT; index++)); do
  if [[ $KIND != cpu ]]; then
    share=$((${#GPUS[@]} / COUNT))
    CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${GPUS[*]:index * share:share}")
    export CUDA_VISIBLE_DEVICES
  fi
  JAX_PROCESS_ID=$index "$HERE/../.venv/bin/segr1" "$@" &
  PIDS+=($!)
done

# The ends are polled: `wait` is interrupted by a trapped signal, and waits for ever for a process
# that was stopped (SIGSTOP) while the others failed for want of it.
status=0
while ((${#PIDS[@]})); do
  sleep 0.2
  for index in "${!PIDS[@]}"; do
    kill -0 "${PIDS[index]}" 2>/dev/null && continue
    wait "${PIDS[index]}" && code=0 || code=$?
    unset "PIDS[index]"
    ((status == 0 && code)) && status=$code && KILL_AT=$((SECONDS + ${GRACE:-300}))
  done
  if ((status && ${#PIDS[@]} && SECONDS >= KILL_AT)); then
    late="still there ${GRACE:-300} s after the first failed"
    echo "processes.sh: killing process ${!PIDS[*]}: $late" >&2
    kill -KILL "${PIDS[@]}"
    KILL_AT=$((SECONDS + 60)) # once is enough; the next round collects them
  fi
done
exit "$status"

#!/usr/bin/env bash
# All stages on 2 CPU cores, or on one GPU: tiny policy, supervised cold start, GRPO with mask
# rewards, export, table, predictions.
#
#   bash launch/quickstart.sh
#
# Everything lands in runs/quickstart. Running it again goes on where it stopped; remove the folder
# to start anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RUN=runs/quickstart
GRPO=configs/quickstart_grpo.yaml
TIMES=()

# stage NAME COMMAND...: run it and keep its seconds; a failure names the stage and ends the script.
stage() {
  local name=$1 began=$SECONDS
  shift
  printf '\n== %s: %s\n' "$name" "$*"
  "$@" || {
    echo "quickstart: stage '$name' failed; the same command continues from here once the fault" \
      "above is fixed." >&2
    exit 1
  }
  TIMES+=("$(printf '%-10s %5d s' "$name" $((SECONDS - began)))")
}

# The batches of so small a run do not divide among several GPUs.
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
stage setup bash launch/setup.sh
SEGR1=.venv/bin/segr1
[[ -f $RUN/tiny/config.json ]] || stage policy "$SEGR1" tiny "$RUN/tiny"
stage sft "$SEGR1" sft configs/quickstart_sft.yaml
stage grpo "$SEGR1" train "$GRPO"
[[ -d $RUN/grpo/export ]] || stage export "$SEGR1" export "$GRPO"
# A cuda12 environment has no torch; the export has been compared by the sidecar's interpreter.
if .venv/bin/python -c 'import importlib.util as u; exit(u.find_spec("torch") is None)'; then
  stage check .venv/bin/python launch/export_check.py "$GRPO"
fi
stage eval "$SEGR1" eval "$GRPO"
stage predict "$SEGR1" predict "$GRPO" --count 4

printf '\nquickstart: done\n'
printf '  %s\n' "${TIMES[@]}"
cat <<END
Open the report:    $RUN/grpo/report.html
Try a picture:      $SEGR1 predict $GRPO --images segr1_jax/infer/assets/bright_1.png
Train on your own:  README.md, "Your own images"
END

#!/usr/bin/env bash
# The paper's stages one after the other at quickstart size: cold start, pre-RL with points alone,
# RL, fine-tuning on other data.
#
#   bash launch/stages.sh [key=value for all of them, such as steps=20]
#
# Each stage starts from the run before. The cold start teaches both grammars, since a policy made
# from nothing knows none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RUN=runs/stages
SEGR1=.venv/bin/segr1
GRPO=configs/quickstart_grpo.yaml

[[ -f $RUN/tiny/config.json ]] || "$SEGR1" tiny "$RUN/tiny"
"$SEGR1" sft configs/quickstart_sft.yaml run_dir=$RUN/sft policy.path=$RUN/tiny \
  sft.second_task=prerl "$@"
"$SEGR1" train "$GRPO" run_dir=$RUN/prerl policy.path=$RUN/sft prompt.task=prerl "$@"
"$SEGR1" train "$GRPO" run_dir=$RUN/rl policy.path=$RUN/prerl "$@"
"$SEGR1" train "$GRPO" run_dir=$RUN/finetune policy.path=$RUN/rl \
  data.level=salient eval_data.level=salient "$@"

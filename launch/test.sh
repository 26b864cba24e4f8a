#!/usr/bin/env bash
# Sets up an environment for this machine, unless there is one, then lints and tests.
#
#   bash launch/test.sh [--python 3.12] [pytest arguments, such as -m slow or tests/reward]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON_ARGUMENTS=()
VENV=.venv
if [[ ${1:-} == --python ]]; then
  PYTHON_ARGUMENTS=(--python "${2:-}")
  VENV=.venv-${2:-}
  shift 2 || true
fi
bash launch/setup.sh ${PYTHON_ARGUMENTS[@]+"${PYTHON_ARGUMENTS[@]}"}

# The tests compare with torch: a cuda12 trainer has none, its sidecar's environment has.
SIDECAR=${VENV/.venv/.venv-sidecar}
[[ -x $SIDECAR/bin/pytest ]] && VENV=$SIDECAR
"$VENV/bin/ruff" check --quiet .
"$VENV/bin/ruff" format --check --quiet .
exec "$VENV/bin/python" -m pytest "$@"

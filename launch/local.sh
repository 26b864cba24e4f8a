#!/usr/bin/env bash
# One process on all devices of this host.
#
#   bash launch/local.sh train configs/ours/rl_cod_3b.yaml steps=10
set -euo pipefail
HERE=$(dirname "${BASH_SOURCE[0]}")
KIND=$(cat "$HERE/../.venv/segr1-kind" 2>/dev/null || echo cpu)
# shellcheck source=launch/flags.sh
source "$HERE/flags.sh" "${KIND/cuda*/gpu}"
exec "$HERE/../.venv/bin/segr1" "$@"

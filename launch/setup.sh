#!/usr/bin/env bash
# Makes the environment(s) of segr1_jax beside this folder; the next call finds them ready and
# returns at once.
#
#   bash launch/setup.sh [cpu|cuda12|cuda13|tpu] [--python 3.12]
#
# Without a kind: that of the environment that is there, or else what the NVIDIA driver supports,
# cuda13 or cuda12; cpu on a machine without one.
# cpu, cuda13, tpu: one .venv for everything. cuda12: .venv for the trainer, without torch, and
# .venv-sidecar for what needs torch (SAM2, the export check, the tests), since the CUDA 13 torch
# and jax[cuda12] overwrite each other's cuDNN in one environment.
# --python names a version; its environments are .venv-3.12 and .venv-sidecar-3.12, apart from the
# default ones.
# A ready environment holds the stamp `segr1-ready` with a hash of its recipe. It is written last,
# so an interrupted set-up is never taken for a whole one: the same command goes on with it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MIN_FREE_GB=12 # twice that for cuda12's two environments
# Pinned in pyproject.toml: uploaded by a third party, equal to facebookresearch/sam2@2b90b9f.
SAM2=$(<pyproject.toml)
SAM2=sam2==${SAM2#*sam2==}
SAM2=${SAM2%%\"*}

fail() {
  echo "setup: $*" >&2
  exit 1
}

# The first interpreter of version 3.11 to 3.13: python3, one of a named version, or one that pyenv
# keeps but has not put on PATH.
find_python() {
  local wanted=$1 candidate
  local candidates=(
    python3 python3.13 python3.12 python3.11
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3
  )
  local suits="import sys, venv; v = sys.version_info[:2]
sys.exit(not (3, 11) <= v < (3, 14) or '$wanted' not in ('', '%d.%d' % v))"
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c "$suits" 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "no Python ${wanted:-3.11 to 3.13} found (python3 is $(python3 --version 2>&1 || true)):" \
    "install Python 3.11, 3.12 or 3.13 with its venv module."
}

require_disk() {
  local free_gb needed_gb=$MIN_FREE_GB
  [[ $KIND == cuda12 ]] && needed_gb=$((2 * MIN_FREE_GB))
  free_gb=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024 / 1024) }')
  if ((free_gb < needed_gb)); then
    fail "only ${free_gb} GB free on this disk, ${needed_gb} GB are needed:" \
      "clear some space and run the same command again."
  fi
}

# install VENV WHAT PIP-ARGUMENTS...: one quiet pip call, one line of progress.
install() {
  local venv=$1 what=$2 began=$SECONDS
  shift 2
  printf 'setup: %s: %s ... ' "$venv" "$what"
  local log=$venv/setup.log
  if ! SAM2_BUILD_CUDA=0 "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "$@" >"$log" 2>&1; then
    echo "failed"
    local error
    error=$(awk '/ERROR/ { error = $0 } { last = $0 } END { print error ? error : last }' "$log")
    fail "pip could not install $what ($error); check network and disk," \
      "then run the same command again (whole log: $log)."
  fi
  echo "$((SECONDS - began)) s"
}

# An environment of another kind or of a Python that is gone is made anew; an unfinished one of the
# same kind is gone on with. One that somebody else made (it has no segr1-kind) is never touched.
open_venv() {
  local venv=$1 kind=$2
  if [[ -e $venv && ! -f $venv/segr1-kind ]]; then
    fail "$venv exists and was not made by this script: move it away," \
      "then run the same command again."
  fi
  if [[ "$(cat "$venv/segr1-kind" 2>/dev/null)" != "$kind" ]] ||
    ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    mkdir "$venv"
    echo "$kind" >"$venv/segr1-kind"
    "$PYTHON" -m venv "$venv" || fail "$PYTHON cannot make an environment in $venv:" \
      "install its venv module (python3-venv)."
  fi
  rm -f "$venv/segr1-ready"
  install "$venv" "build tools" --upgrade pip "setuptools>=77" wheel
}

# make_whole VENV EXTRAS: trainer, SAM2 sidecar and the tools of the tests in one environment.
make_whole() {
  local venv=$1 extras=$2
  install "$venv" "torch and torchvision" torch torchvision
  install "$venv" "$SAM2" --no-build-isolation "$SAM2" # its isolated build would fetch torch again
  make_project "$venv" "$extras"
}

make_project() {
  local venv=$1 extras=$2
  install "$venv" "segr1_jax with extras $extras" --no-build-isolation --editable ".[$extras]"
}

# detect: the kind for this machine, from its NVIDIA driver. jax for CUDA 13 needs driver 580, for
# CUDA 12 driver 525.
detect() {
  local driver
  if ! driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null); then
    echo cpu
    return
  fi
  driver=${driver%%.*}
  if ((driver >= 580)); then
    echo cuda13
  elif ((driver >= 525)); then
    echo cuda12
  else
    fail "the NVIDIA driver is $driver, and jax needs 525 or newer:" \
      "update the driver, or run bash launch/setup.sh cpu."
  fi
}

USAGE="bash launch/setup.sh [cpu|cuda12|cuda13|tpu] [--python 3.12]"
[[ $(uname -s) == Linux ]] || fail "segr1_jax runs on Linux, and this is $(uname -s)."
KIND=
case "${1:-}" in
  cpu | cuda12 | cuda13 | tpu)
    KIND=$1
    shift
    ;;
  "" | --*) ;;
  *) fail "unknown kind of machine '$1'; usage: $USAGE" ;;
esac
VERSION=
if [[ ${1:-} == --python ]]; then
  VERSION=${2:-}
  [[ $VERSION =~ ^3\.[0-9]+$ ]] || fail "--python needs a version such as 3.12, got '$VERSION'."
  shift 2
fi
(($# == 0)) || fail "unknown argument '$1'; usage: $USAGE"

VENV=.venv${VERSION:+-$VERSION}
SIDECAR=.venv-sidecar${VERSION:+-$VERSION}
[[ -n $KIND ]] || KIND=$(cat "$VENV/segr1-kind" 2>/dev/null) || KIND=$(detect)
RECIPE="$KIND $(cat pyproject.toml launch/setup.sh | sha256sum | cut -c1-16)"
if [[ "$(cat "$VENV/segr1-ready" 2>/dev/null)" == "$RECIPE" ]] &&
  [[ $KIND != cuda12 || -x $SIDECAR/bin/python ]]; then
  exit 0
fi

PYTHON=$(find_python "$VERSION")
require_disk
echo "setup: $KIND, $("$PYTHON" --version); the first time takes some minutes." \
  "For another kind of machine: $USAGE"
open_venv "$VENV" "$KIND"
case "$KIND" in
  cpu) make_whole "$VENV" sidecar,eval,hub,dev ;;
  cuda13 | tpu) make_whole "$VENV" "$KIND,sidecar,eval,hub,dev" ;;
  cuda12)
    make_project "$VENV" cuda12,eval,hub
    open_venv "$SIDECAR" "$KIND"
    make_whole "$SIDECAR" sidecar,eval,dev # dev's peft needs torch
    ;;
esac
echo "$RECIPE" >"$VENV/segr1-ready"
echo "setup: ready in $SECONDS s; see it with $VENV/bin/segr1 doctor"

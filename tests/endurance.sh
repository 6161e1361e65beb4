#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Long trainings with a new layout at every step, of which nothing may grow but what results are made
# of: resident memory and Lua's heap by a step, open files, memory of the device. And how much a run
# store grows by a step.
#   tests/endurance.sh [STEPS (10000) [RANKS (4) [OPTIONS OF neap run]]]
# On threads and under mpirun, with a run store and without; with --device=cuda on the GPU, by threads.
# The last line is "N passed, M failed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
steps=${1:-10000} ranks=${2:-4}
shift $(($# < 2 ? $# : 2))
neap=${NEAP_PROGRAM:-build/neap}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OPENBLAS_NUM_THREADS=1 NEAP_FLIGHT='' OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
recipe=(run tests/cli/recipes/endures.lua "--steps=$steps" "--every=$((steps / 100 + 1))" "$@")
slots=--slots=$((16 / ranks > 0 ? 16 / ranks : 1))
passed=0 failed=0

try() { # name, command
  local out
  if out=$("${@:2}" 2>"$work/err"); then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  printf '%s: %s\n' "$1" "$out"
  grep '^neap: ' "$work/err"
}

try threads "$neap" "${recipe[@]}" "$slots" -n "$ranks" --no-store
try 'threads, recorded' "$neap" "${recipe[@]}" "$slots" -n "$ranks" --store="$work/runs.db"
[[ -e $work/runs.db ]] && printf 'the run store grew by %d bytes per step\n' \
  $((($(stat -c %s "$work/runs.db") - 1) / steps + 1))
if [[ " $* " != *' --device=cuda '* ]]; then
  try mpirun mpirun --oversubscribe -n "$ranks" "$neap" "${recipe[@]}" "$slots" --no-store
fi
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))

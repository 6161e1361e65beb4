#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Small jobs, over and over; every time another call of theirs fails, once: an allocation (memory), or
# a call that opens, reads, writes, syncs, renames, closes or maps a file (files).
#   tests/faults.sh [STRIDE [FIRST [JOB…]]]    default: every call, of all jobs: an hour of one core
# JOB: train (3 steps on 2 ranks, a trace), checkpoint (the same, saved at every step), resume (from
# there: what is read), replay (two policies), store (a replay that is recorded), with /memory or
# /files after it for one kind alone. A job must end by itself: with the right results, or with one of
# the documented statuses and a message; without a signal, a traceback or a half file that passes for
# a whole one; its store must be whole. A line per job and kind; the last is "N passed, M failed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stride=${1:-1} first=${2:-1}
jobs=("${@:3}")
((${#jobs[@]})) || jobs=(train checkpoint resume replay store)
build=$(realpath "${NEAP_BUILD:-build}")
neap=$build/neap
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OPENBLAS_NUM_THREADS=1 NEAP_STORE= NEAP_FLIGHT= TMPDIR=$folder NEAP_HOME=$PWD
numbers=(5 28) # EIO, ENOSPC
passed=0 failed=0

{
  echo 'step,layer,rank,e0,e1'
  for step in {0..6}; do printf '%s,0,0,27,228\n%s,0,1,968,895\n' "$step" "$step"; done
} >"$folder/small.csv"
train=("$neap" run tests/cli/recipes/saved.lua --json --no-store -n 2 --slots=4)
replay=("$neap" replay --json --in-process --trace "$folder/small.csv" --slots 1 --node-size 2
  --policy static+minimax --policy neap)

command_of() { # job, folder: sets command
  case $1 in
    train) command=("${train[@]}" --steps=3 --trace="$2/trace.safetensors") ;;
    checkpoint) command=("${train[@]}" --steps=3 --checkpoint="$2/saved" --checkpoint-every=1) ;;
    resume) command=("${train[@]}" --steps=4 --checkpoint="$2/saved" --resume) ;;
    replay) command=("${replay[@]}" --no-store) ;;
    store) command=("${replay[@]}" --store "$2/runs.db") ;;
  esac
}

# What a job has computed, without what it has measured; of trainings, whose policies may plan late,
# the losses.
results() {
  if grep -q '"losses"' "$1"; then
    grep -oE '"(digest|losses)":("[^"]*"|\[[^]]*\])' "$1"
  else
    grep -oE '"(imbalance|std_percent)":(\{[^}]*\}|[0-9.e+-]+)' "$1"
  fi
}

attempt() { # job, folder, LD_PRELOAD: runs it; files out, err in the folder
  mkdir -p "$2"
  head -c 4096 /dev/zero >"$2/log"
  [[ $1 != resume ]] || cp -r "$folder/saved" "$2/saved"
  command_of "$1" "$2"
  timeout 60 env FAULT_LOG="$2/log" LD_PRELOAD="$3" "${command[@]}" >"$2/out" 2>"$2/err" </dev/null
}

calls_of() { # log, kind
  local at=0
  [[ $2 == memory ]] || at=8
  od -A n -t d8 -j "$at" -N 8 "$1" | tr -d ' '
}
failed_call() { tail -c +25 "$1" | head -c 64 | tr -d '\0'; }

# What is wrong with how a job ended, or nothing.
judge() { # job, folder, status
  local told
  told=$(grep -ac '^neap: ' "$2/err")
  if (($3 == 124)); then
    echo 'does not end'
  elif (($3 > 5)); then
    echo "status $3: $(tail -n 1 "$2/err")"
  elif grep -qaE 'traceback|Traceback|crashed' "$2/err"; then
    echo "a traceback: $(grep -am 1 -B 1 traceback "$2/err" | head -n 1)"
  elif grep -qE '^(Allocating cleared memory|Memory allocation) failed' "$2/err"; then
    : # libgfortran's, before main
  elif (($3 != 0 && told == 0)); then
    echo "status $3 and no message: $(tail -n 1 "$2/err")"
  elif (($3 != 0 && told > 3)); then
    echo "$told messages: $(grep -m 1 '^neap: ' "$2/err")"
  elif (($3 == 0)) && [[ $(results "$2/out") != "$expected" ]]; then
    echo "status 0 and other results: $(tail -n 1 "$2/err")"
  fi
}

# Looks into the files that runs have left, all at once.
look() { # job, kind, folders
  local line
  while IFS= read -r line; do
    failed=$((failed + 1)) passed=$((passed - 1))
    echo "FAILED  $1, $2: $line"
  done < <("$neap" lua tests/faults_look.lua "${@:3}" 2>&1)
}

try_all() { # job, kind
  local job=$1 kind=$2 k calls wrong status place told=0 unseen=0 tried=0 places=()
  attempt "$job" "$folder/whole" '' || { echo "FAILED  $job without faults"; failed=$((failed + 1)); return; }
  expected=$(results "$folder/whole/out")
  rm -rf "$folder/whole/"{saved,runs.db*}
  FAULT_AT=0 attempt "$job" "$folder/whole" "$build/tests/libfaults.so"
  calls=$(calls_of "$folder/whole/log" "$kind")
  rm -rf "$folder/whole"
  for ((k = first; k <= calls; k += stride)); do
    place=$folder/$job-$kind-$k
    export FAULT_KIND=$kind FAULT_AT=$k FAULT_ERRNO=${numbers[k % 2]}
    attempt "$job" "$place" "$build/tests/libfaults.so"
    status=$? tried=$((tried + 1))
    if ((status == 0)); then unseen=$((unseen + 1)); else told=$((told + 1)); fi
    wrong=$(judge "$job" "$place" "$status")
    if [[ -n $wrong ]]; then
      failed=$((failed + 1))
      echo "FAILED  $job, $kind $k ($(failed_call "$place/log")): $wrong"
      rm -rf "$place"
    else
      passed=$((passed + 1))
      places+=("$place")
    fi
    if ((${#places[@]} >= 100)); then
      look "$job" "$kind" "${places[@]}"
      rm -rf "${places[@]}"
      places=()
    fi
  done
  ((${#places[@]} == 0)) || look "$job" "$kind" "${places[@]}"
  rm -rf "${places[@]}"
  printf '%s, %s: %d of %d calls: %d ended it with a message, %d did not matter\n' "$job" "$kind" \
    "$tried" "$calls" "$told" "$unseen"
}

# What resume goes on from: the last but one step, or one before, if that cannot be read.
"${train[@]}" --steps=4 --checkpoint="$folder/saved" --checkpoint-every=1 --checkpoint-keep=3 \
  >/dev/null 2>&1
rm -r "$folder/saved/training-1/step-00000004"
for job in "${jobs[@]}"; do
  for kind in memory files; do
    [[ $job == */* && $job != */$kind ]] || try_all "${job%/*}" "$kind"
  done
done
echo "$passed passed, $failed failed"
((failed == 0))

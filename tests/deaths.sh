#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Ranks that die at random steps, in random ways, on threads and under mpirun: the job must end within
# 5 s with a failure that names rank and cause, and leave no process, no shared memory and no file.
#   tests/deaths.sh [HOW MANY (200)] [SEED] [BUILD FOLDER]
# The last line is "N passed, M failed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
count=${1:-200} seed=${2:-$RANDOM} build=${3:-build}
RANDOM=$seed
export OPENBLAS_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
slow=30 # seconds after which the stacks of a job are written
kinds=(kill segv exit os_exit memory table full error)

# What the end says, by kind and transport: of a process that is killed, its parent tells. LuaJIT
# itself may crash where memory ends in code that it has compiled.
cause_of() { # kind, transport, rank
  case "$1 $2" in
    'kill threads') echo '' ;;
    'kill mpirun') echo 'signal 9|Killed' ;;
    segv\ *) echo "rank $3 crashed: signal 11 .segmentation fault." ;;
    'exit threads') echo 'a rank called exit' ;;
    'exit mpirun') echo "exited without|called .*finalize|improperly|terminat" ;;
    os_exit\ *) echo "rank $3: .*os.exit.0. in a recipe" ;;
    memory\ *) echo "rank $3: .*(memory|MEMORY|bytes)" ;;
    table\ *) echo "rank $3: .*not enough memory|rank $3 crashed" ;;
    'full threads') echo "rank [0-9]+: .*memory|rank [0-9]+ crashed" ;; # it is that of all ranks
    'full mpirun') echo "rank $3: .*memory|rank $3 crashed" ;;
    error\ *) echo "rank $3: .*on purpose" ;;
  esac
}

processes_of() { # job: those that have its mark in their environment
  grep -lsz "^NEAP_DEATH=$1\$" /proc/[0-9]*/environ 2>/dev/null | grep -oE '[0-9]+'
}

left_processes() { processes_of "$1" | wc -l; }

# What the processes of a job wait for: by gdb where there is one, else what the kernel says.
stacks() { # job
  local pid task
  for pid in $(processes_of "$1"); do
    printf -- '-- process %d, child of %s: %s\n' "$pid" "$(awk '/^PPid/ { print $2 }' "/proc/$pid/status")" \
      "$(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c1-150)"
    if command -v gdb >/dev/null; then
      timeout 20 gdb -p "$pid" -batch -ex 'thread apply all backtrace 16' 2>/dev/null | grep -E '^(Thread|#)'
    else
      for task in /proc/"$pid"/task/*; do cat "$task/comm" "$task/wchan" && echo; done
    fi
  done
}

# Waits for a job that runs in the background; of one that takes long it writes the stacks.
wait_for() { # process, job, file for the stacks
  local turns=0
  while kill -0 "$1"; do
    sleep 0.05
    ((++turns == 20 * slow)) && stacks "$2" >"$3"
  done
  wait "$1"
}

try() { # number
  local kind=${kinds[RANDOM % ${#kinds[@]}]} ranks=$((RANDOM % 3 + 2)) transport=threads why='' now cause
  local victim=$((RANDOM % ranks)) at=$((RANDOM % 6)) folder=$work/$1
  ((RANDOM % 2)) && transport=mpirun
  mkdir -p "$folder/tmp" "$folder/shm"
  local run=("$build/neap" run tests/cli/recipes/dies.lua --layers=2 --hidden=16 --heads=1 --kv-heads=1
    --experts=4 --ffn=16 --slots=4 --batch=4 --sequence=16 --steps=8 --no-store --timeout=60
    "--kind=$kind" "--victim=$victim" "--at=$at" "--mark=$folder/mark")
  if [[ $transport == threads ]]; then run+=(-n "$ranks"); else run=(mpirun --oversubscribe -n "$ranks" "${run[@]}"); fi
  (
    [[ $kind == table || $kind == full ]] && ulimit -v 1600000
    export TMPDIR=$folder/tmp NEAP_FLIGHT='' NEAP_DEATH=$$-$1 OMPI_MCA_btl_vader_backing_directory=$folder/shm
    exec timeout 60 "${run[@]}"
  ) >"$folder/out" 2>&1 </dev/null &
  wait_for $! "$$-$1" "$folder/stacks"
  local status=$?
  now=$(date +%s.%N)
  ((status == 0)) && why="exit status 0"
  [[ -e $folder/mark ]] || why+="; it did not come so far"
  [[ -e $folder/mark ]] && awk -v a="$(stat -c %.Y "$folder/mark")" -v b="$now" \
    'BEGIN { exit !(b - a > 5) }' && why+="; it ended after $(awk -v a="$(stat -c %.Y "$folder/mark")" -v b="$now" 'BEGIN { print b - a }') s"
  cause=$(cause_of "$kind" "$transport" "$victim")
  [[ -z $cause ]] || grep -qE "$cause" "$folder/out" || why+="; cause not told"
  sleep 0.2
  (($(left_processes "$$-$1"))) && why+="; processes are left"
  [[ -z $(find "$folder/shm" -mindepth 1 | head -1) ]] || why+="; shared memory is left"
  [[ -z $(find "$folder/tmp" -mindepth 1 | head -1) ]] || why+="; files are left: $(find "$folder/tmp" -mindepth 1 | head -3 | tr '\n' ' ')"
  if [[ -z $why ]]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    printf 'FAILED  %d (%s, %s, %d ranks, rank %d, step %d, status %d)%s\n' "$1" "$kind" "$transport" \
      "$ranks" "$victim" "$at" "$status" "$why"
    tail -n 15 "$folder/out" | sed 's/^/        /'
    [[ -e $folder/stacks ]] && sed 's/^/        /' "$folder/stacks"
  fi
  rm -rf "$folder"
}

echo "seed $seed"
exec 3>&2 2>/dev/null # bash's own words about children that are killed
for ((i = 0; i < count; i++)); do try "$i"; done
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))

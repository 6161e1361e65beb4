#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What ./neap test runs: everything a change must pass. The last line is "N passed, M failed".
#   ./neap test                           all parts: some minutes on 2 cores
#   ./neap test --long                    besides, what takes minutes (specs see NEAP_LONG=1)
#   ./neap test tests/spec/base/json_spec.lua    one spec (or C test: tests/c/comm/operations.c)
# The release build is build/, made by the launcher; the sanitizers' builds are made here. Jobs run
# one more at a time than there are cores. A job is one program; its output is in build/test-logs. A
# job that dies, hangs or prints no counts is a failure by itself. How long it may take is told in
# seconds of a machine that does nothing else: on a busy one they pass more slowly.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
logs=build/test-logs
seconds_per_job=300 # 1800 with --long
cores=$(nproc)

export OPENBLAS_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export NEAP_STORE= # runs of tests are not recorded, unless they say where
export NEAP_FLIGHT= # nor what their ranks have called last
export ASAN_OPTIONS=allocator_may_return_null=1
# MPI keeps memory until the process ends, in modules that are gone by then: no leaks under mpirun.
export OMPI_MCA_mca_base_env_list=ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=0
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:allocator_may_return_null=1:suppressions=$PWD/tests/tsan.supp

# Program of a C test in a build folder.
program_of() {
  local name=${2#*tests/}
  name=${name%.c} name=${name#fake/} name=${name#c/}
  printf '%s/tests/test_%s' "$1" "${name//\//_}"
}

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' tests/run.sh
  exit 0
fi

if [[ "${1:-}" == --long ]]; then
  export NEAP_LONG=1
  seconds_per_job=1800
  shift
fi

if (($#)); then
  status=0
  for test in "$@"; do
    [[ -e $test ]] || { echo "neap: $test: no such test; they are in tests/, --help tells more" >&2; exit 2; }
  done
  for test in "$@"; do
    case "$test" in
      *.c) "$(program_of build "$test")" || status=1 ;;
      *) build/neap lua tests/busted.lua "$test" || status=1 ;;
    esac
  done
  exit $status
fi

# ---- jobs ----

names=() commands=()
job() { names+=("$1"); commands+=("$2"); }

shopt -s nullglob globstar
specs=(tests/spec/**/*_spec.lua tests/cli/*_spec.lua)
# All but those that sanitizers have nothing to say to (whether pages and notebooks are true, what
# memory is estimated to be), and those that kill programs at set moments or limit their address
# space, which sanitizers stretch and need. And without --long those whose C others run, too, with
# less: commands about the run store, tables and pages, clusters at their full size, trainings in all
# their ways.
specs_of_code=()
for test in "${specs[@]}"; do
  case "$test" in
    */docs_spec.lua | */readme_spec.lua | */help_spec.lua | */reference_spec.lua | */notebook_spec.lua | \
      */dry_run_spec.lua | */checkpoint_spec.lua | */hang_spec.lua | */faults_spec.lua | */install_spec.lua) ;;
    */sweep_spec.lua | */runs_spec.lua | */compare_spec.lua | */metric_spec.lua | */json_spec.lua | \
      */report_spec.lua | */cli_spec.lua | */launcher_spec.lua | */simulate_spec.lua | */check_spec.lua)
      [[ -z ${NEAP_LONG:-} ]] || specs_of_code+=("$test")
      ;;
    *) specs_of_code+=("$test") ;;
  esac
done
c_tests=() cuda_tests=()
for test in tests/c/**/*.c tests/fake/fake_*.c; do
  case "$test" in */cuda/*) cuda_tests+=("$test") ;; *) c_tests+=("$test") ;; esac
done

# What the head of a C test says that its ranks run on: "threads", or transports between processes.
runs_on() { sed -nE 's/^ \* Runs on: ([a-z0-9, ]+)\.$/\1/p' "$1" | tr -s ', ' '\n'; }
running_on() { grep -lE "^ \* Runs on:.*\b$1\b" "${c_tests[@]}"; }

# Options of AddressSanitizer for a spec. Child processes that end or crash in the middle of things
# because the spec wants it leave leaks behind, and no report of theirs is wanted.
asan_options() {
  case "$1" in
    tests/cli/* | tests/spec/policy/* | tests/spec/train/*) echo "$ASAN_OPTIONS:detect_leaks=0:handle_segv=0" ;;
    *) echo "$ASAN_OPTIONS" ;;
  esac
}

suite() { # build folder, specs: these and all C tests. Specs see NEAP_SANITIZED, if so not empty
  local test
  for test in "${c_tests[@]}"; do job "$1 $test" "$(program_of "$1" "$test")"; done
  for test in "${@:2}"; do
    job "$1 $test" \
      "NEAP_SANITIZED=${1#build} ASAN_OPTIONS=$(asan_options "$test") $1/neap lua tests/busted.lua $test"
  done
}

on_gpu() { # tests of CUDA builds; without a GPU they say that they were skipped
  local test
  for test in "${cuda_tests[@]}"; do
    [[ -x $(program_of build "$test") ]] && job "build $test" "$(program_of build "$test")"
  done
}

under_mpirun() { # the rank tests that know how
  local test n transport
  for test in "${c_tests[@]}"; do
    for transport in $(runs_on "$test" | grep -vx threads); do
      for n in 1 2 4; do
        job "mpirun -n $n $test $transport" \
          "mpirun --oversubscribe -n $n $(program_of build "$test") $transport"
      done
    done
  done
}

by_fake_nccl() { # the transport for GPUs, without one: its errors and its reports of failures
  local program=build/tests/test_fake_comm n
  for n in 2 4; do
    job "mpirun -n $n fake NCCL" "mpirun --oversubscribe -n $n $program mpi"
  done
  job 'mpirun -n 2 fake NCCL over TCP' "mpirun --oversubscribe -n 2 $program tcp"
  job 'mpirun -n 2 fake NCCL that fails' "mpirun --oversubscribe -n 2 $program fail"
  job 'mpirun -n 2 fake NCCL that is slow' "mpirun --oversubscribe -n 2 $program slow"
  job 'mpirun -n 2 fake NCCL, a rank that hangs' "mpirun --oversubscribe -n 2 $program hang"
  job 'mpirun -n 2 fake NCCL, too old' "FAKE_NCCL_VERSION=22800 mpirun --oversubscribe -n 2 \
    $program absent 'share a GPU, which needs NCCL 2.30'"
  job 'mpirun -n 2 no NCCL' "NEAP_NCCL=/nowhere/libnccl.so.2 mpirun --oversubscribe -n 2 \
    $program absent 'nccl: cannot be loaded (/nowhere/libnccl.so.2'"
}

style() { # each tool prints counts of files
  local files="git ls-files --cached --others --exclude-standard"
  job luacheck "$files '*.lua' | xargs luacheck -q &&
    $files '*.lua' | wc -l | sed 's/\$/ passed, 0 failed/'"
  job clang-format "$files '*.c' '*.h' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror &&
    $files '*.c' '*.h' '*.cu' '*.cuh' | wc -l | sed 's/\$/ passed, 0 failed/'"
}

threads_under_tsan() {
  local test
  for test in $(running_on threads) tests/fake/fake_comm.c; do job "build-tsan $test" "$(program_of build-tsan "$test")"; done
}

# ---- running them ----

# Ends a job that has used up its seconds. A second counts as the share of it that each of the
# running programs could compute: less on a machine that others use too.
watch_job() { # process group, log
  local used=0 load
  while ((used < seconds_per_job * 100)); do
    sleep 1
    read -r load _ </proc/loadavg
    load=$((10#${load/./}))
    used=$((used + (load > cores * 100 ? cores * 10000 / load : 100)))
  done
  printf '\nended: its %d seconds are over\n' "$seconds_per_job" >>"$2"
  kill -TERM -- "-$1" 2>/dev/null && sleep 10 && kill -KILL -- "-$1" 2>/dev/null
}

run_job() { # index: writes INDEX.log and INDEX.status: exit status, seconds, seconds of processor
  local start=$SECONDS status=0 pid watcher
  setsid bash -c "${commands[$1]}
    status=\$?; times >'$logs/$1.times'; exit \$status" >"$logs/$1.log" 2>&1 </dev/null &
  pid=$!
  trap 'kill -TERM -- "-$pid" 2>/dev/null; exit 143' TERM
  watch_job "$pid" "$logs/$1.log" &
  watcher=$!
  wait "$pid"
  status=$?
  kill "$watcher" 2>/dev/null
  wait "$watcher" 2>/dev/null
  printf '%s %s %s\n' "$status" "$((SECONDS - start))" "$(processor_seconds "$logs/$1.times")" \
    >"$logs/$1.status"
}

processor_seconds() { # what bash's times has written: of the shell, then of its children
  [[ -e $1 ]] || { echo 0; return; }
  tr -s ' ms\n' ' ' <"$1" |
    awk '{ for (i = 1; i < NF; i += 2) sum += 60 * $i + $(i + 1) } END { printf "%d", sum }'
}

# Ctrl-C ends what is running.
trap 'kill $(jobs -p) 2>/dev/null; wait; exit 130' INT TERM

# What takes longest comes first, so that no core waits for it in the end.
LONGEST='(train|docs|checkpoint|check|notebook|simulate|session|hang)_spec|moe/layer'

# Runs the jobs from first on, one more at a time than there are cores: some only wait.
run_jobs() {
  local i order=() rest=()
  for ((i = $1; i < ${#names[@]}; i++)); do
    if [[ ${names[i]} =~ $LONGEST ]]; then order+=("$i"); else rest+=("$i"); fi
  done
  for i in "${order[@]}" "${rest[@]}"; do
    while (($(jobs -rp | wc -l) > cores)); do wait -n; done
    run_job "$i" &
  done
  wait
}

passed=0 failed=0

# Counts in a log: busted's line if there is one, else the sum of "N passed, M failed" lines, of
# which mpirun gives one a rank.
counts_of() {
  sed -nE -e 's/\x1b\[[0-9;]*m//g' \
    -e 's/^([0-9]+) passed, ([0-9]+) failed$/c \1 \2 0/p' \
    -e 's/^([0-9]+) success(es)? \/ ([0-9]+) failures? \/ ([0-9]+) errors?.*$/busted \1 \3 \4/p' "$1" |
    awk '{ p[$1] += $2; f[$1] += $3 + $4; kind[$1] = 1 }
      END { k = ("busted" in kind) ? "busted" : "c"; if (k in kind) print p[k], f[k] }'
}

count_job() { # index
  local log=$logs/$1.log status=1 seconds=0 busy=0 p f
  read -r status seconds busy <"$logs/$1.status" || true
  read -r p f < <(counts_of "$log")
  if [[ -z "${p:-}" ]]; then p=0 f=1; fi
  if ((status != 0 && f == 0)); then f=1; fi
  passed=$((passed + p)) failed=$((failed + f))
  if ((f)); then
    printf 'FAILED  %s: %d passed, %d failed, exit status %d (%s)\n' "${names[$1]}" "$p" "$f" \
      "$status" "$log"
    tail -n 40 "$log" | sed 's/^/        /'
  elif ((seconds >= 10)); then
    printf 'ok      %s: %d passed (%d s, %d s of processor)\n' "${names[$1]}" "$p" "$seconds" "$busy"
  else
    printf 'ok      %s: %d passed\n' "${names[$1]}" "$p"
  fi
}

counted=0
run_part() { # title: runs and counts the jobs added since the last part
  local first=$counted
  printf '== %s\n' "$1"
  run_jobs "$first"
  for ((; counted < ${#names[@]}; counted++)); do count_job "$counted"; done
}

build_with() { # folder, sanitizers: 0 if the build is there
  grep -qsx "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$1/CMakeCache.txt" || rm -rf "$1" # of a moved clone
  mkdir -p "$1"
  { [[ -f $1/build.ninja ]] || cmake -S . -B "$1" -G Ninja -DCMAKE_BUILD_TYPE=Debug \
      -DCMAKE_C_FLAGS_DEBUG='-O1 -g' -DNEAP_SANITIZE="$2"; } >"$1/build.log" 2>&1 &&
    ninja -C "$1" >>"$1/build.log" 2>&1 && return
  printf 'FAILED  %s: does not build (%s)\n' "$1" "$1/build.log"
  tail -n 20 "$1/build.log"
  failed=$((failed + 1))
  return 1
}

rm -rf "$logs"
mkdir -p "$logs"
began=$SECONDS
style
run_part 'style'
suite build "${specs[@]}"
on_gpu
under_mpirun
by_fake_nccl
job 'calls that fail, every 997th' 'tests/faults.sh 997 7'
run_part 'release build'
if build_with build-asan address,undefined; then
  suite build-asan "${specs_of_code[@]}"
  run_part 'under AddressSanitizer and UBSan'
fi
if build_with build-tsan thread; then
  threads_under_tsan
  run_part 'ranks as threads, under ThreadSanitizer'
fi
if [[ -n "${NEAP_LONG:-}" ]]; then
  tests/fuzz/run.sh --build >"$logs/fuzz-build.log" 2>&1
  for target in csv gzip safetensors checkpoint texts json manifest cluster sweep; do
    job "fuzzed $target" "tests/fuzz/run.sh 60 $target"
  done
  for name in train checkpoint resume replay store; do
    job "failed allocations, $name" "tests/faults.sh 1 1 $name/memory"
    job "failed files, $name" "tests/faults.sh 1 1 $name/files"
  done
  run_part 'fuzzers, and every call that can fail'
  for spec in "${specs_of_code[@]}"; do
    [[ $spec == tests/cli/* ]] || job "garbage collected always, $spec" \
      "NEAP_COLLECT=always MALLOC_PERTURB_=165 build/neap lua tests/busted.lua $spec"
  done
  run_part 'garbage collected at every allocation'
  job '10,000 steps' 'tests/endurance.sh'
  job 'ranks that die' 'tests/deaths.sh 200'
  job '1,000 kills' 'tests/checkpoints.sh 1000 10000 20'
  run_part 'what takes long'
fi
printf '%d jobs in %d s\n' "${#names[@]}" "$((SECONDS - began))"
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))

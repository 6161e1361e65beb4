#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a machine with a GPU is for: builds, tests the kernels and the engine there, and measures.
#   tests/gpu.sh [test|sanitize|bench|several|all] [BUILD FOLDER]
# several: what needs more than one GPU, one rank each, in processes over NCCL and in threads.
# Each slice takes less than 10 minutes after the build; without one, all are run. Needs what the CPU
# needs, nvcc, and a driver; cuBLAS, NCCL and compute-sanitizer where they are found. A build folder
# with a program but without CMakeCache.txt was carried here, and is used as it is. The CPU's own
# tests are ./neap test's. The last line is "N passed, M failed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
slice=all
case "${1:-}" in test | sanitize | bench | several | all)
  slice=$1
  shift
  ;;
esac
build=${1:-build}

wanted() { [[ $slice == all || $slice == "$1" ]]; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || exit 1
if [[ -f $build/CMakeCache.txt || ! -x $build/neap ]]; then
  if ! { cmake -S . -B "$build" -G Ninja && ninja -C "$build"; } >"$work/build.log" 2>&1; then
    tail -n 30 "$work/build.log"
    exit 1
  fi
fi
"$build/neap" doctor
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# ---- checks, several at a time ----

beside=4
passed=0 failed=0
names=()

# One check is a command; what it found is the last line of its output. start runs it beside at most
# three others; report waits for all, and they are counted and shown in the order they were started.
start() { # name, command
  while (($(jobs -rp | wc -l) >= beside)); do wait -n; done
  show_ended
  local i=${#names[@]}
  names+=("$1")
  { "${@:2}"; echo $? >"$work/$i.ended"; mv "$work/$i.ended" "$work/$i.status"; } \
    >"$work/$i.log" 2>&1 </dev/null &
}

report() {
  wait
  show_ended
}

shown=0
show_ended() { # those whose turn it is
  while [[ -f $work/$shown.status ]]; do
    count "${names[shown]}" "$(<"$work/$shown.status")" "$work/$shown.log"
    shown=$((shown + 1))
  done
}

count() { # name, status, log: one check; of a failed one the end of all that it has said
  local found
  found=$(grep . "$3" | tail -n 1 | cut -c1-160)
  if (($2 == 0)) && [[ $found == skipped* ]]; then
    printf '%-8s%s\n' skipped "$1: ${found#skipped: }"
  elif (($2 == 0)); then
    passed=$((passed + 1))
    printf '%-8s%s\n' ok "$1${found:+: $found}"
  else
    failed=$((failed + 1))
    found="status $2"
    if (($2 == 124 || $2 == 137)); then found='its time was over'; fi
    printf '%-8s%s\n' FAILED "$1: $found"
    tail -n 40 "$3" | sed 's/^/        /'
  fi
}

# ---- test ----

test_kernels() {
  local program
  for program in "$build"/tests/test_*_cuda_*; do start "$(basename "$program")" timeout 240 "$program"; done
  report
}

# NCCL between processes that share the GPUs there are: every collective, and the results' digests
# beside those of the same operations in host memory by MPI. NCCL 2.30 or later is needed to share.
shares() { "$build/neap" doctor | grep -q '^nccl .*can share a GPU'; }
exchange() { # ranks
  if (($1 > $(nvidia-smi -L | wc -l))) && ! shares; then
    echo 'skipped: fewer GPUs, and NCCL 2.30 or later is needed to share them'
    return
  fi
  local over=(timeout 120 mpirun --oversubscribe -n "$1") output status
  output=$("${over[@]}" "$build/tests/test_comm_cuda_operations" mpi 2>&1)
  status=$?
  echo "$output"
  ((status == 0)) || return "$status"
  grep '^skipped' <<<"$output" && return
  [[ $(grep '^digest' <<<"$output") == "$("${over[@]}" "$build/tests/test_comm_operations" mpi |
    grep '^digest')" ]] || { echo 'the digests are not those of the same operations by MPI'; return 1; }
  grep passed <<<"$output" | head -n 1
}
test_nccl() {
  local ranks
  for ranks in 2 4 8; do
    start "NCCL, $ranks ranks" exchange "$ranks"
    report # one after the other: processes take turns on a GPU
  done
}

# The same training on two threads and on two processes: the same bits.
cat >"$work/same.lua" <<'END'
local json = require 'neap.base.json'
local function digests(path)
  local list = {}
  for _, row in ipairs(json.decode(assert(io.open(path)):read '*a').rows) do
    list[#list + 1] = row.digest
  end
  return table.concat(list, ' ')
end
local a, b = ...
a, b = digests(a), digests(b)
print(a, b)
return a == b and #a > 0 and 0 or 1
END
processes() {
  if (($(nvidia-smi -L | wc -l) < 2)) && ! shares; then
    echo 'skipped: NCCL 2.30 or later is needed'
    return
  fi
  local options=(experiments/quickstart.lua --device=cuda --no-store --json --steps=8 --slots=16
    --text=english --trace= '--policies=static,laer')
  "$build/neap" run "${options[@]}" -n 2 >"$work/threads.json" &&
    timeout 120 mpirun --oversubscribe -n 2 "$build/neap" run "${options[@]}" \
      >"$work/processes.json" &&
    "$build/neap" lua "$work/same.lua" "$work"/{threads,processes}.json
}
test_processes() { # alone: a plan that is late, which a loaded machine makes, changes the bits
  start 'quickstart on 2 threads and 2 processes' processes
  report
}

# The same training run on both devices: losses agree within rounding. On the GPU the first
# loss, which is that of a forward with equal parameters, has the same bits under every layout, split
# and number of ranks.
train() { # file, device, ranks, options: the losses of each policy, to the file
  timeout 240 "$build/neap" run experiments/quickstart.lua --device="$2" -n "$3" --no-store --json --steps=8 \
    --text=english --trace= "${@:4}" >"$1"
}
cat >"$work/compare.lua" <<'END'
local arg, json = { ... }, require 'neap.base.json'
local function losses(path)
  local list = {}
  for _, row in ipairs(json.decode(assert(io.open(path)):read '*a').rows) do
    list[#list + 1] = row.losses
  end
  return list
end
local allowed, cpu, apart, first, same = tonumber(arg[1]), losses(arg[2]), 0, nil, true
for i = 3, #arg do
  for row, list in ipairs(losses(arg[i])) do
    first = first or list[1]
    same = same and list[1] == first
    for step, loss in ipairs(list) do
      apart = math.max(apart, math.abs(loss - cpu[row][step]))
    end
  end
end
print(('losses at most %g apart from the CPU; first losses %s'):format(apart,
  same and 'have the same bits' or 'differ'))
return same and apart < allowed and 0 or 1
END
# With exact sums all losses have the same bits under every policy and number of ranks.
cat >"$work/digests.lua" <<'END'
local json, seen, count = require 'neap.base.json', {}, 0
for _, path in ipairs { ... } do
  for _, row in ipairs(json.decode(assert(io.open(path)):read '*a').rows) do
    if not seen[row.digest] then seen[row.digest], count = true, count + 1 end
  end
end
return count == 1 and 0 or 1
END
start_training() { # name, options with the dtype
  local ranks
  start "quickstart, $1, on the CPU" train "$work/cpu.$1.json" cpu 8 "${@:2}"
  for ranks in 8 4 1; do
    start "quickstart, $1, on the GPU, $ranks ranks" \
      train "$work/cuda$ranks.$1.json" cuda "$ranks" --slots=$((32 / ranks)) "${@:2}"
  done
  for ranks in 8 3; do
    start "quickstart, $1, exact, on the GPU, $ranks ranks" \
      train "$work/exact$ranks.$1.json" cuda "$ranks" --exact --slots=$((32 / ranks)) "${@:2}"
  done
}
compare_training() { # name, the largest difference between losses of CPU and GPU
  start "losses, $1, on CPU and GPU" \
    "$build/neap" lua "$work/compare.lua" "$2" "$work/cpu.$1.json" "$work"/cuda{8,4,1}."$1".json
  start "exact losses, $1, are the same under all policies and ranks" \
    "$build/neap" lua "$work/digests.lua" "$work"/exact{8,3}."$1".json
}
test_training() {
  start_training f32 --dtype=f32
  start_training bf16 --dtype=bf16
  start_training fp8 --dtype=bf16 --unshard=fp8 --dispatch=fp8
  start_training sigmoid --dtype=bf16 --scores=sigmoid --bias-rate=0.01 --router-f32 \
    --shared-experts=1 --dense-layers=1
  report
  compare_training f32 2e-3
  compare_training bf16 3e-2
  compare_training fp8 5e-2
  compare_training sigmoid 5e-2
  report
}

# The spans of every track nest: one that begins inside another ends there.
cat >"$work/nest.lua" <<'END'
local path, json = ..., require 'neap.base.json'
local tracks, spans, apart = {}, 0, 0
for _, event in ipairs(json.decode(assert(io.open(path)):read '*a').traceEvents) do
  if event.ph == 'X' then
    local name = event.pid .. '.' .. event.tid
    local open = tracks[name] or {}
    tracks[name], spans = open, spans + 1
    while open[#open] and open[#open].ts + open[#open].dur <= event.ts + 1e-3 do
      open[#open] = nil
    end
    local outer = open[#open]
    if outer and event.ts + event.dur > outer.ts + outer.dur + 1e-3 then apart = apart + 1 end
    open[#open + 1] = event
  end
end
print(('%d spans, %d do not nest'):format(spans, apart))
return spans > 100 and apart == 0 and 0 or 1
END
timeline() {
  train /dev/null cuda 8 --timeline="$work/timeline.json" --schedule=neap:chunks=2 &&
    "$build/neap" lua "$work/nest.lua" "$work/timeline.json"
}
# neap.torch on torch's tensors and streams.
in_torch() {
  python3 -c 'import torch' 2>/dev/null || { echo 'skipped: no torch'; return; }
  NEAP_LIBRARY=$PWD/$build/libneap.so PYTHONPATH=python timeout 240 \
    python3 tests/python/test_torch.py Cuda CudaRanks
}
test_torch() {
  start 'a MoE layer in PyTorch' in_torch
  report
}

test_timeline() {
  start 'a timeline on the GPU' timeline
  report
}

# Policies, splits, schedules, shard groups and ranks that share the GPU: one digest.
check() {
  timeout 300 "$build/neap" run experiments/quickstart.lua --device=cuda --check \
    --policies=static,hot,late,neap,lplb 2>&1
}
test_check() {
  start 'one digest under every policy' check
  report
}

# 500 steps with a new layout at each: what the processes hold does not grow.
test_endurance() {
  start '500 steps with new layouts' env NEAP_PROGRAM="$build/neap" timeout 240 tests/endurance.sh \
    500 2 --device=cuda --hidden=64 --ffn=64 --sequence=32 --warm=0.5 --resident-mark=8192 \
    --heap-mark=1024 --device-mark=1024
  report
}

# ---- sanitize ----

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
each=200   # seconds of one check
latest=260 # seconds into the slice at which the last check starts

sanitize() { # tool, command
  if ((SECONDS - began > latest)); then
    echo "skipped: the slice's time is over"
    return
  fi
  timeout --kill-after=5 "$each" "$sanitizer" --tool "$1" --error-exitcode 9 --print-limit 10 "${@:2}"
}

sanitize_all() {
  if [[ -z $sanitizer ]]; then
    echo 'skipped: compute-sanitizer is not found'
    return
  fi
  began=$SECONDS
  local tool name size
  local small=("$build/neap" run experiments/quickstart.lua --device=cuda -n 2 --layers=1 --hidden=32
    --heads=2 --kv-heads=1 --ffn=24 --experts=4 --slots=3 --batch=4 --sequence=16 --steps=2
    --text=english --policies=minimax --trace= --no-store --in-process)
  for tool in memcheck racecheck initcheck synccheck; do
    size=
    [[ $tool == racecheck ]] && size=small # it is the slowest by far
    case $tool in
    initcheck)
      # It reports reads by the copies between ranks, of memory that other ranks' kernels have
      # written and in a different number each time. What fresh memory holds does not matter: on
      # the CPU, results are the same whatever malloc fills it with.
      echo 'skipped: initcheck of trainings, whose copies between ranks it misreads'
      ;;
    racecheck) # aborts when several ranks start these kernels; test_kernels_cuda_attention covers them
      start "$tool, a small training" sanitize "$tool" "${small[@]}"
      start "$tool, a small training in bf16 without attention" sanitize "$tool" \
        --kernel-regex-exclude kns=tensor_ "${small[@]}" --dtype=bf16
      ;;
    *)
      start "$tool, a small training" sanitize "$tool" "${small[@]}"
      start "$tool, a small training in bf16" sanitize "$tool" "${small[@]}" --dtype=bf16
      ;;
    esac
    for name in kernels_cuda_{rows,rmsnorm,rotary,elementwise,reduce,softmax_loss,router} \
      kernels_cuda_{attention,gemm,experts,choices,exact,fp8,fp8_rows} device_cuda_random; do
      start "$tool, test_$name" sanitize "$tool" "$build/tests/test_$name" ${size:+"$size"}
    done
  done
  report
}

# ---- bench ----

bench() { # seconds, options
  echo "== neap bench ${*:2}"
  timeout "$1" "$build/neap" bench "${@:2}" --device=cuda
  count "bench ${*:2}" $? /dev/null
}

bench_all() {
  bench 180 moe
  bench 60 unshard --dtype=bf16 --experts=8 --slots=2 --hidden=4096 --ffn=14336
  bench 60 unshard --dtype=bf16 --experts=128 --slots=16 --hidden=2048 --ffn=768
  bench 120 step --schedules=none,neap --warm-up=2 --repeats=3
  bench 150 step --torch --ranks=1 --node-size=1 --slots=16 --repeats=10
  bench 170 predict
  # 1.3 B parameters; one checkpoint in 100 steps is to cost less than 2 %
  bench 300 checkpoint --ranks=1 --slots=16 --layers=12 --hidden=1024 --heads=16 --kv-heads=16 \
    --ffn=2048 --experts=16 --sequence=1024 --batch=16 --rounds=1
}

# ---- several ----

# The same bench in processes over NCCL, a rank on every GPU there is, and in threads.
on_all() { # seconds, options
  echo "== $gpus GPUs, mpirun and NCCL: neap bench ${*:2}"
  timeout "$1" mpirun -n "$gpus" "$build/neap" bench "${@:2}" --device=cuda
  count "NCCL, bench ${*:2}" $? /dev/null
  echo "== $gpus GPUs, threads and peer copies: neap bench ${*:2}"
  timeout "$1" "$build/neap" bench "${@:2}" --device=cuda --ranks="$gpus"
  count "threads, bench ${*:2}" $? /dev/null
}

several_all() {
  gpus=$(nvidia-smi -L | wc -l)
  if ((gpus < 2)); then
    echo 'skipped   several: there is one GPU'
    return
  fi
  export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0} # multicast is not needed, and not on every host
  test_nccl
  test_processes
  # 8,192 tokens a rank on shapes with published figures for 2, 4 and 8 GPUs
  on_all 120 moe --shape=own --hidden=2048 --ffn=768 --experts=128 --top-k=8 --tokens=8192
  on_all 120 moe --shape=own --hidden=4096 --ffn=14336 --experts=8 --top-k=2 --tokens=8192
  on_all 60 unshard --dtype=bf16 --experts=8 --slots=2 --hidden=4096 --ffn=14336 --repeats=30
  on_all 60 unshard --dtype=bf16 --experts=128 --slots=16 --hidden=2048 --ffn=768 --repeats=30
  on_all 200 step --schedules=none,laer,neap --slots=$((32 / gpus)) --repeats=5
  echo "== $gpus GPUs: neap run experiments/quickstart.lua"
  timeout 300 mpirun -n "$gpus" "$build/neap" run experiments/quickstart.lua --device=cuda --no-store \
    --text=english --trace= --policies=static,laer,minimax,neap,late --layers=12 --hidden=1024 \
    --experts=16 --sequence=1024 --batch=32 --slots=$((32 / gpus)) --steps=30 --schedule=neap
  count 'NCCL, quickstart at 12 layers' $? /dev/null
}

if wanted test; then
  test_kernels
  test_nccl
  test_torch
  test_processes
  test_training
  test_timeline
  test_check
  test_endurance
fi
if wanted sanitize; then sanitize_all; fi
if wanted bench; then bench_all; fi
if wanted several; then several_all; fi

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))

#!/usr/bin/env bash
# What a machine with a GPU is for: builds, tests the kernels and the engine there, and measures.
#   tests/gpu.sh [test|sanitize|bench|all] [BUILD FOLDER]
# Each slice takes less than 10 minutes after the build; without one, all are run. Needs what the CPU
# needs, nvcc, and a driver; cuBLAS, NCCL and compute-sanitizer where they are found. The CPU's own
# tests are ./neap test's. The last line is "N passed, M failed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
slice=all
case "${1:-}" in test | sanitize | bench | all)
  slice=$1
  shift
  ;;
esac
build=${1:-build}
passed=0 failed=0

count() { # name, status: one check
  if (($2 == 0)); then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  printf '%-8s%s\n' "$( (($2 == 0)) && echo ok || echo FAILED)" "$1"
}

wanted() { [[ $slice == all || $slice == "$1" ]]; }

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || exit 1
if command -v cmake >/dev/null; then # else a build was carried here
  cmake -S . -B "$build" -G Ninja >/dev/null && ninja -C "$build" >"$build/build.log" 2>&1 ||
    { tail -n 30 "$build/build.log"; exit 1; }
fi
"$build/neap" doctor
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# ---- test ----

test_kernels() {
  for program in "$build"/tests/test_cuda_*; do
    output=$("$program" 2>&1)
    status=$?
    count "$(basename "$program"): $(tail -n 1 <<<"$output")" "$status"
    ((status == 0)) || head -n 20 <<<"$output"
  done
}

# NCCL between processes that share the GPUs there are: every collective, and the results' digests
# beside those of the same operations in host memory by MPI. NCCL 2.30 or later is needed to share.
test_nccl() {
  for ranks in 2 4 8; do
    over=(timeout 120 mpirun --oversubscribe -n "$ranks")
    output=$("${over[@]}" "$build/tests/test_cuda_comm" mpi 2>&1)
    status=$?
    if ((status == 0)) && ! grep -q '^skipped' <<<"$output"; then
      [[ $(grep '^digest' <<<"$output") == "$("${over[@]}" "$build/tests/test_comm" mpi |
        grep '^digest')" ]]
      status=$?
    fi
    count "NCCL, $ranks ranks: $(grep -E '^skipped|passed' <<<"$output" | head -n 1)" "$status"
    ((status == 0)) || head -n 20 <<<"$output"
  done
}

# The same training on two threads and on two processes: the same bits.
cat >"$work/same.lua" <<'END'
local json = require 'neap.json'
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
test_processes() {
  if ! "$build/neap" doctor | grep -q '^nccl .*can share a GPU'; then
    echo 'skipped: a training over NCCL: 2.30 or later is needed'
    return
  fi
  local options=(experiments/quickstart.lua --device=cuda --no-store --json --steps=8 --slots=16
    --text=english --trace= --policies=static,laer)
  "$build/neap" run "${options[@]}" -n 2 >"$work/threads.json"
  timeout 120 mpirun --oversubscribe -n 2 "$build/neap" run "${options[@]}" >"$work/processes.json"
  "$build/neap" lua "$work/same.lua" "$work"/{threads,processes}.json
  count 'quickstart on 2 threads and 2 processes' $?
}

# The same training run on both devices: losses agree within rounding. On the GPU the first
# loss, which is that of a forward with equal parameters, has the same bits under every layout, split
# and number of ranks.
train() { # device, ranks, options: the losses of each policy
  "$build/neap" run experiments/quickstart.lua --device="$1" -n "$2" --no-store --json --steps=8 \
    --text=english --trace= "${@:3}"
}
cat >"$work/compare.lua" <<'END'
local arg, json = { ... }, require 'neap.json'
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
local json, seen, count = require 'neap.json', {}, 0
for _, path in ipairs { ... } do
  for _, row in ipairs(json.decode(assert(io.open(path)):read '*a').rows) do
    if not seen[row.digest] then seen[row.digest], count = true, count + 1 end
  end
end
return count == 1 and 0 or 1
END
test_training() { # dtype, the largest difference between losses of CPU and GPU
  train cpu 8 --dtype="$1" >"$work/cpu.json"
  count "quickstart in $1 on the CPU" $?
  for ranks in 8 4 1; do
    train cuda "$ranks" --dtype="$1" --slots=$((32 / ranks)) >"$work/cuda$ranks.json"
    count "quickstart in $1 on the GPU, $ranks ranks" $?
  done
  "$build/neap" lua "$work/compare.lua" "$2" "$work"/cpu.json "$work"/cuda{8,4,1}.json
  count "losses in $1 on CPU and GPU" $?
  for ranks in 8 3; do
    train cuda "$ranks" --dtype="$1" --exact --slots=$((32 / ranks)) >"$work/exact$ranks.json"
    count "quickstart in $1, exact, on the GPU, $ranks ranks" $?
  done
  "$build/neap" lua "$work/digests.lua" "$work"/exact{8,3}.json
  count "exact losses in $1 are the same under all policies and ranks" $?
}

# The spans of every track nest: one that begins inside another ends there.
cat >"$work/nest.lua" <<'END'
local path, json = ..., require 'neap.json'
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
test_timeline() {
  train cuda 8 --timeline="$work/timeline.json" --schedule=neap:chunks=2 >/dev/null
  "$build/neap" lua "$work/nest.lua" "$work/timeline.json"
  count 'a timeline on the GPU' $?
}

# ---- sanitize ----

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)

sanitize() { # tool, name, command: for at most 2 minutes
  if ((SECONDS - began > 480)); then
    echo "skipped $1 $2: the slice's time is over"
    return
  fi
  local output status
  output=$(timeout 120 "$sanitizer" --tool "$1" --error-exitcode 9 --print-limit 10 "${@:3}" 2>&1)
  status=$?
  count "$1 $2: $(grep 'SUMMARY' <<<"$output" | tail -n 1)" "$status"
  ((status == 0)) || grep -E '=========|neap:' <<<"$output" | head -n 20
}

sanitize_all() {
  if [[ -z $sanitizer ]]; then
    echo 'skipped: compute-sanitizer is not found'
    return
  fi
  local began=$SECONDS tool program
  local small=("$build/neap" run experiments/quickstart.lua --device=cuda -n 2 --layers=1 --hidden=32
    --heads=2 --kv-heads=1 --ffn=24 --experts=4 --slots=3 --batch=4 --sequence=16 --steps=2
    --text=english --policies=minimax --trace= --no-store --in-process)
  for tool in memcheck racecheck initcheck synccheck; do
    sanitize "$tool" 'a small training' "${small[@]}"
    sanitize "$tool" 'a small training in bf16' "${small[@]}" --dtype=bf16
    for program in rows attention random products; do
      sanitize "$tool" "test_cuda_$program" "$build/tests/test_cuda_$program"
    done
  done
}

# ---- bench ----

bench_all() {
  local options
  for options in '--experts=8 --slots=2 --hidden=4096 --ffn=14336' \
    '--experts=128 --slots=16 --hidden=2048 --ffn=768'; do
    # shellcheck disable=SC2086
    timeout 120 "$build/neap" bench unshard --device=cuda $options
    count "bench unshard $options" $?
  done
  timeout 240 "$build/neap" bench step --device=cuda
  count 'bench step' $?
}

if wanted test; then
  test_kernels
  test_nccl
  test_processes
  test_training f32 2e-3
  test_training bf16 3e-2
  test_timeline
fi
if wanted sanitize; then sanitize_all; fi
if wanted bench; then bench_all; fi

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))

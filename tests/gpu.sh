#!/usr/bin/env bash
# What a machine with a GPU is for: builds, tests the kernels and the engine there, and measures.
#   tests/gpu.sh [BUILD FOLDER]
# Needs what the CPU needs, nvcc, and a driver; cuBLAS where it is found. The CPU's own tests are
# ./neap test's. The last line is "N passed, M failed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${1:-build}
passed=0 failed=0

count() { # name, status: one check
  if (($2 == 0)); then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  printf '%-8s%s\n' "$( (($2 == 0)) && echo ok || echo FAILED)" "$1"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || exit 1
cmake -S . -B "$build" -G Ninja >/dev/null && ninja -C "$build" >"$build/build.log" 2>&1 ||
  { tail -n 30 "$build/build.log"; exit 1; }
"$build/neap" doctor

for program in "$build"/tests/test_cuda_*; do
  output=$("$program" 2>&1)
  status=$?
  count "$(basename "$program"): $(tail -n 1 <<<"$output")" "$status"
  ((status == 0)) || head -n 20 <<<"$output"
done

# NCCL between processes that share the GPUs there are: every collective, and the results' digests
# beside those of the same operations in host memory by MPI. NCCL 2.30 or later is needed to share.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
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

# The same training run on both devices: losses agree within F32's rounding. On the GPU the first
# loss, which is that of a forward with equal parameters, has the same bits under every layout, split
# and number of ranks.
train() { # device, ranks, options: the losses of each policy
  "$build/neap" run experiments/quickstart.lua --device="$1" -n "$2" --no-store --json --steps=8 \
    --text=english --trace= "${@:3}"
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/compare.lua" <<'END'
local arg, json = { ... }, require 'neap.json'
local function losses(path)
  local list = {}
  for _, row in ipairs(json.decode(assert(io.open(path)):read '*a').rows) do
    list[#list + 1] = row.losses
  end
  return list
end
local cpu, apart, first, same = losses(arg[1]), 0, nil, true
for i = 2, #arg do
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
return same and apart < 2e-3 and 0 or 1
END
train cpu 8 >"$work/cpu.json"
count 'quickstart on the CPU' $?
for ranks in 8 4 1; do
  train cuda "$ranks" --slots=$((32 / ranks)) >"$work/cuda$ranks.json"
  count "quickstart on the GPU, $ranks ranks" $?
done
"$build/neap" lua "$work/compare.lua" "$work"/cpu.json "$work"/cuda{8,4,1}.json
count 'losses on CPU and GPU' $?

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))

#!/usr/bin/env bash
# Fuzzes the readers of files with libFuzzer, under AddressSanitizer and UBSan, from Debian's clang.
#   tests/fuzz/run.sh [SECONDS]      default: 60; finds stay in build-fuzz/ as crash-* files
# What has been found is kept in tests/fuzz/found/ and tried first. The last line is
# "N passed, M failed".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1:-60} folder=build-fuzz
mkdir -p "$folder/corpus" tests/fuzz/found
sources=(core/data/safetensors.c core/data/trace.c core/data/trace_csv.c core/base/status.c
  core/base/memory.c)
clang -g -O1 -std=gnu11 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
  -Wno-everything -Icore/include -Icore -Ikernels tests/fuzz/trace.c "${sources[@]}" -lz \
  -o "$folder/fuzz_trace"
if [[ -z "$(ls "$folder/corpus")" ]]; then
  head -c 3000 experiments/traces/quickstart.safetensors >"$folder/corpus/cut.safetensors"
  printf 'step,layer,rank,e0,e1\n0,0,0,1,2\n0,0,1,3,4\n' | tee "$folder/corpus/small.csv" |
    gzip -n >"$folder/corpus/small.csv.gz"
  printf '\x40\0\0\0\0\0\0\0{"load":{"dtype":"I32","shape":[1,1,1,2],"data_offsets":[0,8]}} \1\0\0\0\2\0\0\0' \
    >"$folder/corpus/small.safetensors"
fi
shopt -s nullglob
for find in tests/fuzz/found/*; do "$folder/fuzz_trace" "$find" >/dev/null 2>&1; done
if "$folder/fuzz_trace" -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=512 -print_final_stats=1 \
  -artifact_prefix="$folder/" "$folder/corpus" >"$folder/log" 2>&1; then
  grep -E 'number_of_executed_units|peak_rss' "$folder/log"
  echo '1 passed, 0 failed'
else
  tail -40 "$folder/log"
  echo '0 passed, 1 failed'
  exit 1
fi

#!/usr/bin/env bash
# Which lines of core the tests run, by gcov: per file and in all.
#   tests/coverage.sh [TEST…]      default: all C tests and specs; some minutes
# Builds into build-coverage/. The last line is the share of core's lines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=build-coverage
export OPENBLAS_NUM_THREADS=1 NEAP_STORE= OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG='-O1 -g --coverage' \
  -DCMAKE_CUDA_COMPILER=NOTFOUND >/dev/null 2>&1
ninja -C "$folder" >"$folder/build.log" 2>&1 || { tail -n 20 "$folder/build.log"; exit 1; }
find "$folder" -name '*.gcda' -delete
tests=("$@")
((${#tests[@]})) || mapfile -t tests < <(ls "$folder"/tests/test_*; find tests/spec tests/cli -name '*_spec.lua' | sort)
for test in "${tests[@]}"; do
  case $test in
    *.lua) "$folder/neap" lua tests/busted.lua "$test" >"$folder/log" 2>&1 || echo "failed: $test" ;;
    *) "$test" >"$folder/log" 2>&1 || echo "failed: $test" ;;
  esac
done
objects=$folder/CMakeFiles/libneap.dir/core
(cd "$objects" && find . -name '*.gcda' -execdir gcov -n {} + 2>/dev/null) |
  awk -v root="$PWD/" '/^File/ { file = $2; gsub("\x27", "", file); sub(root, "", file) }
    /^Lines executed/ && file ~ /^core\// && file ~ /\.c$/ {
      split($2, p, ":"); share = p[2] + 0; lines = $4; all += lines; run += lines * share / 100
      printf "%6.1f %% of %4d  %s\n", share, lines, file; file = "" }
    END { printf "%.1f %% of the %d lines of core\n", all ? 100 * run / all : 0, all }'

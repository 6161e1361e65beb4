#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Which lines of core the tests run, by gcov: per file and in all. At least 90 % of them must be run,
# and all of those that check layouts and write and read checkpoints.
#   tests/coverage.sh [TEST…]      default: all C tests and specs; some minutes
#   tests/coverage.sh --missed     besides, which lines of the files that must be whole are not run
# Builds into build-coverage/. A line counts as run if any program has run it: the tests with a device
# that is none compile some files into themselves. The last two lines are the two shares.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=build-coverage
least=90
whole='^core/(layout/layout|data/(checkpoint_reader|checkpoint_writer|tensors_writer|durable))[.]c$'
missed=0
[[ "${1:-}" != --missed ]] || { missed=1; shift; }
export OPENBLAS_NUM_THREADS=1 NEAP_STORE= NEAP_FLIGHT= OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
[[ -f $folder/build.ninja ]] || cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DNEAP_CUDA=off \
  -DCMAKE_C_FLAGS_DEBUG='-O1 -g --coverage' >/dev/null 2>&1
ninja -C "$folder" >"$folder/build.log" 2>&1 || { tail -n 20 "$folder/build.log"; exit 1; }
tests=("$@")
if ((${#tests[@]} == 0)); then
  find "$folder" -name '*.gcda' -delete
  mapfile -t tests < <(ls "$folder"/tests/test_*; find tests/spec tests/cli -name '*_spec.lua' | sort)
  for mode in mpi fail slow hang; do tests+=("mpirun --oversubscribe -n 2 $folder/tests/test_fake_comm $mode"); done
  tests+=("mpirun --oversubscribe -n 2 $folder/tests/test_comm_operations mpi")
fi
for test in "${tests[@]}"; do
  case $test in
    mpirun*) $test >"$folder/log" 2>&1 || echo "failed: $test" ;;
    none) ;; # what earlier ones have run
    *.lua) "$folder/neap" lua tests/busted.lua "$test" >"$folder/log" 2>&1 || echo "failed: $test" ;;
    *) "$test" >"$folder/log" 2>&1 || echo "failed: $test" ;;
  esac
done

# "file line times" of every line of core that has code, of every object that has been run.
lines() {
  (cd "$folder" && find CMakeFiles -path '*/core/*' -name '*.gcda' -print0 |
    xargs -0 -n 40 gcov -t 2>/dev/null) |
    awk -F: '{ gsub(/ /, "", $1) }
      $2 + 0 == 0 && $3 == "Source" { file = $4; sub(/^(.*\/)?core\//, "core/", file) }
      $2 + 0 > 0 && $1 != "-" && file ~ /^core\/.*[.]c$/ {
        print file, $2 + 0, $1 ~ /^[#=]/ ? 0 : 1 }'
}

lines | awk -v whole="$whole" -v least="$least" -v missed="$missed" '
  { line = $1 " " $2; if (!(line in run)) all[$1]++
    if ($3 && !run[line]) done_of[$1]++
    run[line] = run[line] || $3 }
  END {
    for (file in all) {
      printf "%6.1f %% of %4d  %s\n", 100 * done_of[file] / all[file], all[file], file | "sort -k5"
      lines += all[file]; ran += done_of[file]
      if (file ~ whole) { must += all[file]; has += done_of[file] }
    }
    close("sort -k5")
    if (missed)
      for (line in run) if (!run[line] && (split(line, p, " ") && p[1] ~ whole)) print "not run: " p[1] ":" p[2] | "sort -t: -k2,2 -k3n"
    close("sort -t: -k2,2 -k3n")
    printf "%.1f %% of the %d lines of core (at least %d)\n", lines ? 100 * ran / lines : 0, lines, least
    printf "%.1f %% of the %d lines of layouts and checkpoints (100)\n", must ? 100 * has / must : 0, must
    exit !(lines && 100 * ran >= least * lines && must && has == must)
  }'

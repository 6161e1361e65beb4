#!/usr/bin/env bash
# A replay in which the k-th allocation finds no memory: for every k, or every STRIDE-th, a message
# and one of the exit statuses that are documented, never a signal.
#   tests/fuzz/allocations.sh [STRIDE]      default: 53; the last line is "N passed, M failed"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
stride=${1:-53} passed=0 failed=0 folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
gcc -O1 -shared -fPIC -o "$folder/fail.so" tests/fuzz/alloc_fail.c
{
  echo 'step,layer,rank,e0,e1'
  for step in {0..6}; do printf '%s,0,0,27,228\n%s,0,1,968,895\n' "$step" "$step"; done
} >"$folder/small.csv"
for ((k = 1; k < 9000; k += stride)); do
  status=0
  ALLOC_FAIL=$k LD_PRELOAD="$folder/fail.so" timeout 60 build/neap replay --no-store --in-process \
    --trace "$folder/small.csv" --slots 1 --node-size 2 --policy static+minimax --policy neap \
    --policy laer >/dev/null 2>"$folder/errors" || status=$?
  if ((status <= 5)) && { ((status == 0)) || grep -q . "$folder/errors"; }; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "allocation $k: exit status $status: $(tail -n 1 "$folder/errors")"
  fi
done
echo "$passed passed, $failed failed"
((failed == 0))

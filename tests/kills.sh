#!/usr/bin/env bash
# Kills trainings that write checkpoints all the time, at random moments, and lets them go on.
#   tests/kills.sh [KILLS [SEED]]      default: 50 kills, about a minute of one core
# After every kill all checksums of what is left are compared; a training that comes to its end must
# have the digest of one that was never killed. The last line is "N passed, M failed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
kills=${1:-50}
RANDOM=${2:-1}
neap=${NEAP_PROGRAM:-build/neap}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OPENBLAS_NUM_THREADS=1 NEAP_STORE= NEAP_FLIGHT=
train=("$neap" run tests/cli/recipes/saved.lua --json --steps=300 --hurry)
digest_of() { grep -o '"digest":"[^"]*"' <<<"$1"; }
expected=$(digest_of "$("${train[@]}" 2>/dev/null)")
passed=0 failed=0 ends=0 killed=0 resumed=0
fail() { failed=$((failed + 1)); printf 'FAILED  kill %d: %s\n' "$killed" "$1"; }
while ((killed < kills)); do
  ranks=$((1 + RANDOM % 4))
  # A process group of its own, so that one kill ends all of it.
  setsid "${train[@]}" -n "$ranks" --slots=$((7 / ranks + 1)) --checkpoint="$folder/saved" \
    --checkpoint-every=$((1 + RANDOM % 3)) --resume >"$folder/out" 2>"$folder/err" &
  pid=$!
  sleep "0.$(printf '%03d' $((50 + RANDOM % 700)))"
  kill -9 -- "-$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
  status=$?
  killed=$((killed + 1))
  grep -q 'goes on after step' "$folder/err" && resumed=$((resumed + 1))
  if grep -qE 'damaged|truncated|cannot be read|Traceback|traceback' "$folder/err"; then
    fail "$(tail -n 3 "$folder/err")"
  elif ((status == 0)); then # it was faster
    ends=$((ends + 1))
    if [[ $(digest_of "$(<"$folder/out")") == "$expected" ]]; then passed=$((passed + 1)); else fail 'another digest'; fi
    rm -rf "$folder/saved"
  elif ((status != 137)); then
    fail "status $status: $(tail -n 3 "$folder/err")"
  elif compgen -G "$folder/saved/training-1/step-*" >/dev/null &&
    ! "$neap" checkpoint check "$folder/saved" >"$folder/out" 2>&1; then
    fail "$(tail -n 3 "$folder/out")"
  else
    passed=$((passed + 1))
  fi
done
if compgen -G "$folder/saved/training-1/step-*/manifest.json" >/dev/null; then
  last=$("${train[@]}" -n 3 --slots=3 --checkpoint="$folder/saved" --resume 2>/dev/null)
  if [[ $(digest_of "$last") == "$expected" ]]; then passed=$((passed + 1)); else fail 'another digest at the end'; fi
fi
printf '%d kills; %d runs went on from a checkpoint, %d came to their end\n' "$killed" "$resumed" "$ends"
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))

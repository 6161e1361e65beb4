#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checkpoints under attack, in three parts:
#   kills    trainings that write checkpoints all the time are killed at random moments and go on;
#            after every kill all checksums of what is left are compared, and a training that comes
#            to its end must have the digest of one that was never killed
#   flips    a checkpoint with one bit changed, or cut or longer, anywhere in its files: it must be
#            refused, and whole again when it is mended
#   resumes  a training that is stopped at a random step goes on on other ranks, nodes and slots,
#            under other policies, on threads or under mpirun: the same digest
#   tests/checkpoints.sh [KILLS (50) [FLIPS (1000) [RESUMES (3) [SEED (1)]]]]
# The default takes less than a minute of one core. The last line is "N passed, M failed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
kills=${1:-50} flips=${2:-1000} resumes=${3:-3}
RANDOM=${4:-1}
neap=${NEAP_PROGRAM:-build/neap}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OPENBLAS_NUM_THREADS=1 NEAP_STORE= NEAP_FLIGHT=
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
recipe=(run tests/cli/recipes/saved.lua --json)
passed=0 failed=0
pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); printf 'FAILED  %s\n' "$1"; }
digest_of() { grep -o '"digest":"[^"]*"' <<<"$1"; }

# ---- kills ----

train=("$neap" "${recipe[@]}" --steps=100 --hurry)
killed=0 ends=0 resumed=0

kill_once() { # expected digest
  local ranks=$((1 + RANDOM % 4)) pid status
  # A process group of its own, so that one kill ends all of it.
  setsid "${train[@]}" -n "$ranks" --slots=$((7 / ranks + 1)) --checkpoint="$folder/saved" \
    --checkpoint-every=$((1 + RANDOM % 3)) --resume >"$folder/out" 2>"$folder/err" &
  pid=$!
  if ((RANDOM % 8)); then # most have begun to train, however slowly the machine starts them
    while [[ ! -s $folder/err ]] && kill -0 "$pid"; do sleep 0.01; done
  fi
  sleep "0.$(printf '%03d' $((RANDOM % 250)))"
  kill -9 -- "-$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
  status=$?
  killed=$((killed + 1))
  grep -q 'goes on after step' "$folder/err" && resumed=$((resumed + 1))
  if grep -qE 'damaged|truncated|cannot be read|Traceback|traceback' "$folder/err"; then
    fail "kill $killed: $(tail -n 3 "$folder/err")"
  elif ((status == 0)); then # it was faster
    ends=$((ends + 1))
    if [[ $(digest_of "$(<"$folder/out")") == "$1" ]]; then pass; else fail "kill $killed: another digest"; fi
    rm -rf "$folder/saved"
  elif ((status != 137)); then
    fail "kill $killed: status $status: $(tail -n 3 "$folder/err")"
  elif compgen -G "$folder/saved/training-1/step-*" >/dev/null &&
    ! "$neap" checkpoint check "$folder/saved" >"$folder/out" 2>&1; then
    fail "kill $killed: $(tail -n 3 "$folder/out")"
  else
    pass
  fi
}

kill_all() {
  local expected last
  expected=$(digest_of "$("${train[@]}" 2>/dev/null)")
  while ((killed < kills)); do kill_once "$expected"; done
  if compgen -G "$folder/saved/training-1/step-*/manifest.json" >/dev/null; then
    last=$("${train[@]}" -n 3 --slots=3 --checkpoint="$folder/saved" --resume 2>/dev/null)
    if [[ $(digest_of "$last") == "$expected" ]]; then pass; else fail 'another digest at the end'; fi
  fi
  printf '%d kills; %d runs went on from a checkpoint, %d came to their end\n' "$killed" "$resumed" "$ends"
}

# ---- flips ----

flip_all() {
  local said p f
  "$neap" "${recipe[@]}" --steps=4 --checkpoint="$folder/whole" >/dev/null 2>&1
  said=$("$neap" lua tests/flips.lua "$folder"/whole/training-1/step-* "$flips" "$RANDOM")
  echo "$said"
  read -r p f < <(sed -nE 's/^([0-9]+) flips found, ([0-9]+) not$/\1 \2/p' <<<"$said")
  passed=$((passed + ${p:-0})) failed=$((failed + ${f:-1}))
}

# ---- resumes ----

resume_once() { # number, expected digest
  local first=$((1 + RANDOM % 11)) ranks=$((1 + RANDOM % 5)) from=$((1 + RANDOM % 5)) said
  local policies=(laer static neap late hot eplb) saved=$folder/resumed
  local how=(--node-size=$((1 + RANDOM % 3)) --slots=$((7 / ranks + 1 + RANDOM % 2))
    "--policies=${policies[RANDOM % 6]}" --die=0) run=("$neap" "${recipe[@]}" -n "$ranks")
  ((ranks > 1 && RANDOM % 3 == 0)) &&
    run=(mpirun --oversubscribe -n "$ranks" "$neap" "${recipe[@]}")
  rm -rf "$saved"
  "$neap" "${recipe[@]}" -n "$from" --slots=$((7 / from + 1)) --checkpoint="$saved" \
    --checkpoint-every=1 --die="$first" >/dev/null 2>&1
  said=$("${run[@]}" "${how[@]}" --checkpoint="$saved" --resume 2>"$folder/err")
  if [[ $(digest_of "$said") == "$2" ]] && grep -q "goes on after step $first" "$folder/err"; then
    pass
  else
    fail "resume $1: step $first, $from ranks, then ${run[*]} ${how[*]}: $(tail -n 3 "$folder/err")"
  fi
}

resume_all() {
  local expected i
  expected=$(digest_of "$("$neap" "${recipe[@]}" 2>/dev/null)")
  for ((i = 1; i <= resumes; i++)); do resume_once "$i" "$expected"; done
  printf '%d resumes\n' "$resumes"
}

exec 2>/dev/null # bash's own words about children that are killed
((kills)) && kill_all
((flips)) && flip_all
((resumes)) && resume_all
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fuzzes what reads files and tables that others have written, with libFuzzer under AddressSanitizer
# and UBSan, from Debian's clang. An input may take twice its bytes and 64 MB of memory, and 10 s.
#   tests/fuzz/run.sh [SECONDS] [TARGET…]      default: 60 seconds each, all targets
#   tests/fuzz/run.sh --runs=N [TARGET…]       N executions each
#   tests/fuzz/run.sh --build                  only builds
# Needs build/ for targets in Lua. Finds stay in build-fuzz/TARGET/ as crash-* files; those of the
# past are kept in tests/fuzz/found/ as TARGET-*, and tried first. Begins with tests/fuzz/seeds/.
# A line per target says how many executions there were and what they took; the last line is
# "N passed, M failed".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
in_c=(csv gzip safetensors checkpoint texts tokens) in_lua=(json manifest cluster sweep formats)
limit=-max_total_time=60
case "${1:-}" in
  --runs=*) limit=-runs=${1#--runs=}; shift ;;
  --build) limit=; shift ;;
  [0-9]*) limit=-max_total_time=$1; shift ;;
esac
targets=("$@")
((${#targets[@]})) || targets=("${in_c[@]}" "${in_lua[@]}")
folder=build-fuzz
mkdir -p "$folder/objects"
flags=(-g -O1 -std=gnu11 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
  -Wall -Wextra -Icore/include -Icore -Ikernels -Itests/fuzz
  $(pkg-config --cflags luajit))
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=0:quarantine_size_mb=16:malloc_context_size=4 UBSAN_OPTIONS=print_stacktrace=1

# What the targets in C read with; core/data/text_corpus.c with files that are in memory.
sources=(core/data/safetensors.c core/data/unpack.c core/data/source.c core/data/unpack_gzip.c core/data/unpack_xz.c
  core/data/unpack_zstd.c core/data/tokens.c core/data/trace.c core/data/csv.c core/data/trace_csv.c core/data/durable.c
  core/data/checkpoint_reader.c core/data/tensors_writer.c core/base/status.c core/base/memory.c
  core/base/dtype.c core/base/random.c core/layout/topology.c core/moe/shard_range.c)
in_memory=(-Dfopen=fuzz_fopen -Dlstat=fuzz_lstat -Dgzopen=fuzz_gzopen)

compile() { # source, object, more flags: makes it if it is older than what it is made of
  [[ -n $(find "$2" -newer "$1" -newer "$newest" 2>/dev/null) ]] || clang "${flags[@]}" "${@:3}" -c "$1" -o "$2"
}

# The newest header, which all objects are made again for.
newest=$(find core kernels tests/fuzz -name '*.h' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2)

build() { # target, unless it is newer than what it is made of
  [[ -z $(find core kernels tests/fuzz -name '*.[ch]' -newer "$folder/fuzz_$1" 2>&1) ]] && return
  local source objects=() linked=(-fsanitize=fuzzer,address,undefined) about=() name used=()
  [[ " ${in_lua[*]} " == *" $1 "* ]] || used=("${sources[@]}")
  for source in "${used[@]}" tests/fuzz/fuzz.c; do
    name=$(basename "$source" .c)
    objects+=("$folder/objects/$name.o")
    compile "$source" "${objects[-1]}"
  done
  if [[ " ${in_lua[*]} " == *" $1 "* ]]; then
    about=(-DFUZZ_HOME="\"$PWD\"" -DFUZZ_TARGET="\"$1\"")
    clang -g -O2 -std=gnu11 -Itests/fuzz $(pkg-config --cflags luajit) "${about[@]}" \
      -c tests/fuzz/lua.c -o "$folder/objects/lua_$1.o"
    read -ra linked <<<"${linked[*]} $(pkg-config --libs luajit)"
    source=$folder/objects/lua_$1.o
  else
    source=tests/fuzz/$1.c
  fi
  if [[ $1 == texts ]]; then
    compile core/data/text_corpus.c "$folder/objects/text_corpus.o" "${in_memory[@]}"
    objects+=("$folder/objects/text_corpus.o")
    for name in text text_files text_parts; do
      compile "core/data/$name.c" "$folder/objects/$name.o"
      objects+=("$folder/objects/$name.o")
    done
  fi
  clang "${flags[@]}" "$source" "${objects[@]}" "${linked[@]}" -lz -o "$folder/fuzz_$1"
}

# Runs a target; its line on stdout, and whether all was well.
fuzz() {
  local target=$1 program=$folder/fuzz_$1 place=$folder/$1 status=0 finds more=()
  mkdir -p "$place/corpus"
  [[ " ${in_lua[*]} " == *" $1 "* ]] && more+=(-detect_leaks=0) # what Lua will collect is none
  [[ -e tests/fuzz/$target.dict ]] && more+=(-dict="tests/fuzz/$target.dict")
  "$program" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 "${more[@]}" \
    -artifact_prefix="$place/" $limit "$place/corpus" "tests/fuzz/seeds/$target" \
    >"$place/log" 2>&1 || status=$?
  finds=$((status != 0))
  printf '%s: %s executions, %d finds, %s MB at most (of them %s for an input, besides 2 x its bytes)\n' \
    "$target" "$(stat_of "$place/log" number_of_executed_units)" "$finds" \
    "$(stat_of "$place/log" peak_rss_mb)" \
    "$(sed -nE 's/^fuzz: most memory.*: (.*) MB$/\1/p' "$place/log")"
  ((finds == 0)) || tail -n 40 "$place/log"
  return $finds
}

stat_of() { sed -nE "s/^stat::$2: +//p" "$1"; }

for target in "${targets[@]}"; do build "$target"; done
[[ -n $limit ]] || exit 0
shopt -s nullglob
passed=0 failed=0
for target in "${targets[@]}"; do
  ok=1
  for find in tests/fuzz/found/"$target"-*; do
    "$folder/fuzz_$target" -timeout=10 -detect_leaks=0 "$find" >"$folder/log" 2>&1 && continue
    ok=0
    echo "$find: is a find again"
    tail -n 20 "$folder/log"
  done
  ((ok)) && fuzz "$target" || ok=0
  passed=$((passed + ok)) failed=$((failed + 1 - ok))
done
echo "$passed passed, $failed failed"
((failed == 0))

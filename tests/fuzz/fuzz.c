/* SPDX-License-Identifier: Apache-2.0 */
/* Memory is counted: an input may take twice its bytes and 64 MB, of all allocations together. */
#define _GNU_SOURCE
#include "fuzz.h"

#include <sanitizer/allocator_interface.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

enum {
  PER_BYTE = 2,
  BESIDES = 64 << 20,
  FILES = 4,
  PLACES = 1 << 14,
  HEAD = 10,
  BLOCK = 5,
  TAIL = 8
};

static int64_t live, limit = INT64_MAX, least_left = INT64_MAX; /* bytes; what was left at worst */

__attribute__((used, section("__libfuzzer_extra_counters"))) static uint8_t places[PLACES];

void fuzz_visit(uint32_t place)
{
  static uint32_t last;
  uint32_t edge = (place ^ last) * 2654435761u >> 18;
  last = place >> 1;
  places[edge]++;
}

void fuzz_fail(const char *format, ...)
{
  va_list args;
  va_start(args, format);
  limit = INT64_MAX;
  fprintf(stderr, "\nfuzz: ");
  vfprintf(stderr, format, args);
  fprintf(stderr, "\n");
  va_end(args);
  abort();
}

void fuzz_count(int64_t bytes)
{
  live += bytes;
  if (live > limit)
    fuzz_fail("%lld bytes of memory more than an input may take", (long long)(live - limit));
  if (limit < INT64_MAX && limit - live < least_left)
    least_left = limit - live;
}

static void on_malloc(const volatile void *memory, size_t bytes)
{
  (void)memory;
  fuzz_count((int64_t)bytes);
}

static void on_free(const volatile void *memory)
{
  live -= memory ? (int64_t)__sanitizer_get_allocated_size(memory) : 0;
}

static void tell(void)
{
  double most = least_left < INT64_MAX ? BESIDES - (double)least_left : 0;
  printf("fuzz: most memory besides 2 x input: %.1f MB\n", most / 1e6);
}

__attribute__((weak)) void fuzz_prepare(void)
{
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
  (void)argc;
  (void)argv;
  fuzz_prepare();
  atexit(tell);
  return __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) ? 0 : 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
  limit = live + PER_BYTE * (int64_t)bytes + BESIDES;
  fuzz_one(data, bytes);
  limit = INT64_MAX;
  return 0;
}

/* ---- inputs ---------------------------------------------------------------------------------- */

uint8_t fuzz_byte(fuzz_input *input)
{
  return input->at < input->end ? *input->at++ : 0;
}

size_t fuzz_left(const fuzz_input *input)
{
  return (size_t)(input->end - input->at);
}

fuzz_input fuzz_part(fuzz_input *input, size_t most)
{
  size_t bytes = fuzz_byte(input);
  bytes += (size_t)fuzz_byte(input) << 8;
  bytes = bytes < most ? bytes : most;
  bytes = bytes < fuzz_left(input) ? bytes : fuzz_left(input);
  fuzz_input part = {input->at, input->at + bytes};
  input->at += bytes;
  return part;
}

/* ---- files ----------------------------------------------------------------------------------- */

const char *fuzz_file(int number, const void *data, size_t bytes)
{
  static int files[FILES];
  static char paths[FILES][64];
  if (!files[number]) {
    files[number] = memfd_create("input", MFD_CLOEXEC);
    snprintf(paths[number], sizeof paths[number], "/proc/self/fd/%d", files[number]);
  }
  if (ftruncate(files[number], 0) || pwrite(files[number], data, bytes, 0) != (ssize_t)bytes)
    fuzz_fail("no file in memory");
  return paths[number];
}

static uint8_t *put_little(uint8_t *to, uint32_t value, int bytes)
{
  for (int i = 0; i < bytes; i++)
    *to++ = (uint8_t)(value >> (8 * i));
  return to;
}

static uint8_t *put_member(uint8_t *to, const uint8_t *data, size_t bytes)
{
  static const uint8_t head[HEAD] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255};
  memcpy(to, head, HEAD);
  to += HEAD;
  *to++ = 1; /* the last block, stored */
  to = put_little(to, (uint32_t)bytes, 2);
  to = put_little(to, ~(uint32_t)bytes, 2);
  memcpy(to, data, bytes);
  to = put_little(to + bytes, (uint32_t)crc32(0, data, (uInt)bytes), 4);
  return put_little(to, (uint32_t)bytes, 4);
}

uint8_t *fuzz_members(const uint8_t *data, size_t bytes, int members, size_t *packed)
{
  enum { MOST = 65535 };
  size_t each = bytes / (size_t)members + 1, count = 0;
  each = each < MOST ? each : MOST;
  uint8_t *all = malloc(bytes + (bytes / each + 1) * (HEAD + BLOCK + TAIL)), *to = all;
  do {
    size_t part = bytes - count < each ? bytes - count : each;
    to = put_member(to, data + count, part);
    count += part;
  } while (count < bytes);
  *packed = (size_t)(to - all);
  return all;
}

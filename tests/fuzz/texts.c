/* SPDX-License-Identifier: Apache-2.0 */
/* Texts: a package's list of files, and the files, packed or not. An input is the list, behind two
 * bytes that tell how long, and what all files hold. Files are in memory, whatever their path. */
#include "base/status.h"
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

enum { MISSING = 7, FOLDER = 6 };

static fuzz_input list, content;
static int packed_in; /* members, 0: as it is */

/* What core/data/text_corpus.c calls here instead of those of libc and zlib (run.sh). */
FILE *fuzz_fopen(const char *path, const char *mode);
int fuzz_lstat(const char *path, struct stat *info);
gzFile fuzz_gzopen(const char *path, const char *mode);

static int ends_with(const char *path, const char *end)
{
  size_t length = strlen(path), tail = strlen(end);
  return length >= tail && !strcmp(path + length - tail, end);
}

/* The bytes of the files; to be freed. */
static uint8_t *bytes_of(const char *path, size_t *bytes)
{
  int packed = packed_in && (ends_with(path, ".gz") || ends_with(path, ".dz"));
  if (packed)
    return fuzz_members(content.at, fuzz_left(&content), packed_in, bytes);
  *bytes = fuzz_left(&content);
  uint8_t *copy = malloc(*bytes + 1);
  memcpy(copy, content.at, *bytes);
  return copy;
}

FILE *fuzz_fopen(const char *path, const char *mode)
{
  size_t bytes = 0;
  if (ends_with(path, ".list"))
    return fuzz_left(&list) ? fmemopen((void *)(uintptr_t)list.at, fuzz_left(&list), mode) : NULL;
  uint8_t *all = bytes_of(path, &bytes);
  FILE *file = fopen(fuzz_file(0, all, bytes), mode);
  free(all);
  return file;
}

int fuzz_lstat(const char *path, struct stat *info)
{
  int kind = path[strlen(path) / 2] % 8;
  *info = (struct stat){.st_mode = kind == FOLDER ? S_IFDIR : S_IFREG,
                        .st_size = (off_t)fuzz_left(&content)};
  return kind == MISSING ? -1 : 0;
}

gzFile fuzz_gzopen(const char *path, const char *mode)
{
  size_t bytes = 0;
  uint8_t *all = bytes_of(path, &bytes);
  gzFile file = gzopen(fuzz_file(1, all, bytes), mode);
  free(all);
  return file;
}

static void sample(const neap_text *text, uint8_t length)
{
  int32_t ids[256], targets[256];
  int64_t size = neap_text_size(text);
  for (int part = 0; part < 3; part++) {
    int status = neap_text_sample(text, 1, length, 3, length, part, 256, ids, targets);
    for (int i = 0; !status && i < length; i++)
      if (ids[i] < 0 || ids[i] > 255 || (i && targets[i - 1] != ids[i]))
        fuzz_fail("id %d of %lld bytes", ids[i], (long long)size);
  }
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
  fuzz_input input = {data, data + bytes};
  int64_t limit = 1 + 16 * fuzz_byte(&input);
  int corpus = fuzz_byte(&input);
  uint8_t length = fuzz_byte(&input);
  packed_in = fuzz_byte(&input) % 4;
  list = fuzz_part(&input, bytes);
  content = input;
  neap_text *text = NULL;
  int status = neap_text_open(neap_text_name(corpus % neap_text_count()), "", limit, &text);
  if (status && status != NEAP_FORMAT && status != NEAP_ABSENT)
    fuzz_fail("status %d: %s", status, neap_error_message());
  if (status)
    return;
  if (neap_text_size(text) > limit)
    fuzz_fail("%lld bytes; the limit is %lld", (long long)neap_text_size(text), (long long)limit);
  sample(text, length);
  neap_text_close(text);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A rank's file of a checkpoint, and sealed texts: with honest checksums over any bytes, what is
 * accepted can be read; with one changed byte it cannot. */
#include "data/checkpoint.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { SUM_BYTES = 4 };

static int open_and_read(const char *path, const neap_checkpoint_file *about, size_t bytes)
{
  neap_checkpoint_reader *reader = NULL;
  int status = neap_checkpoint_reader_open(path, about, &reader), dtype;
  if (status)
    return status;
  int32_t ndim;
  const int64_t *dims;
  const char *name;
  uint8_t *to = malloc(bytes + 1);
  for (int64_t i = 0; (name = neap_checkpoint_reader_tensor(reader, i, &dtype, &ndim, &dims));
       i++) {
    int64_t count = 1;
    for (int32_t axis = 0; axis < ndim; axis++)
      count *= dims[axis];
    int failed = neap_checkpoint_reader_read(reader, name, dtype, 0, count, to);
    if (failed && failed != NEAP_FORMAT && failed != NEAP_SHAPE) /* the same name twice: SHAPE */
      fuzz_fail("tensor %lld: %s", (long long)i, neap_error_message());
    status = status ? status : failed;
  }
  if (!status)
    status = neap_checkpoint_reader_check(reader);
  neap_checkpoint_reader_close(reader);
  free(to);
  return status;
}

static uint8_t *put_sum(uint8_t *to, uint32_t sum)
{
  for (int i = 0; i < SUM_BYTES; i++)
    *to++ = (uint8_t)(sum >> (8 * i));
  return to;
}

/* A file of one chunk: length, header, data, checksum. */
static void read_file(fuzz_input input, size_t bytes)
{
  int damage = fuzz_byte(&input) & 1;
  size_t at = fuzz_byte(&input) + 256u * fuzz_byte(&input);
  uint8_t by = fuzz_byte(&input);
  fuzz_input header = fuzz_part(&input, bytes);
  size_t head = fuzz_left(&header), body = NEAPI_LENGTH_BYTES + head + fuzz_left(&input);
  uint8_t *file = calloc(1, body + SUM_BYTES);
  file[0] = (uint8_t)head;
  file[1] = (uint8_t)(head >> 8);
  memcpy(file + NEAPI_LENGTH_BYTES, header.at, body - NEAPI_LENGTH_BYTES);
  put_sum(file + body, (uint32_t)crc32(0, file, (uInt)body));
  neap_checkpoint_file about = {(int64_t)body + SUM_BYTES,
                                (uint32_t)crc32(0, file + body, SUM_BYTES)};
  if (damage)
    file[at % (body + SUM_BYTES)] ^= by;
  int status = open_and_read(fuzz_file(0, file, body + SUM_BYTES), &about, body);
  if (status && status != NEAP_FORMAT && status != NEAP_SHAPE)
    fuzz_fail("status %d: %s", status, neap_error_message());
  if (!status && damage && by)
    fuzz_fail("a changed byte was not found");
  free(file);
}

/* Bytes as a whole file, with what a manifest might say of it. */
static void read_any(fuzz_input input, size_t bytes)
{
  neap_checkpoint_file about = {fuzz_byte(&input), 0};
  about.bytes = about.bytes == 255 ? (int64_t)fuzz_left(&input) - 1 : about.bytes;
  for (int i = 0; i < SUM_BYTES; i++)
    about.seal = about.seal << 8 | fuzz_byte(&input);
  size_t all = fuzz_left(&input);
  if (all >= SUM_BYTES && !about.seal)
    about = (neap_checkpoint_file){(int64_t)all,
                                   (uint32_t)crc32(0, input.at + all - SUM_BYTES, SUM_BYTES)};
  int status = open_and_read(fuzz_file(0, input.at, all), &about, bytes);
  if (status && status != NEAP_FORMAT && status != NEAP_SHAPE)
    fuzz_fail("status %d: %s", status, neap_error_message());
}

static void read_sealed(fuzz_input input)
{
  neap_sealed *sealed = NULL;
  int status = neap_sealed_read(fuzz_file(1, input.at, fuzz_left(&input)), &sealed);
  if (status && status != NEAP_FORMAT)
    fuzz_fail("status %d: %s", status, neap_error_message());
  if (!status) {
    int64_t length = 0;
    const char *text = neap_sealed_text(sealed, &length);
    if ((size_t)length != fuzz_left(&input) || memcmp(text, input.at, (size_t)length))
      fuzz_fail("another text");
    neap_sealed_close(sealed);
  }
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
  fuzz_input input = {data, data + bytes};
  int how = fuzz_byte(&input) % 4;
  if (how < 2)
    read_file(input, bytes);
  else if (how == 2)
    read_any(input, bytes);
  else
    read_sealed(input);
}

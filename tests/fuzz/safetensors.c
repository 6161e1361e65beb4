/* SPDX-License-Identifier: Apache-2.0 */
/* Safetensors: traces, and the tensors of any writer. An input is a header, behind two bytes that
 * tell how long, and the data; or a file as it is. */
#include "data/checkpoint.h"
#include "data/trace.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

/* Loads that were accepted are all there and none is negative. */
static void read_trace(const uint8_t *file, size_t bytes)
{
  neap_trace trace = {0};
  int status = neapi_trace_parse("input", (const char *)file, (int64_t)bytes, &trace);
  if (status && status != NEAP_FORMAT)
    fuzz_fail("status %d: %s", status, neap_error_message());
  int64_t count = status ? 0 : neapi_trace_count(trace.shape, 0);
  if (count < 0 || count > (int64_t)bytes)
    fuzz_fail("%lld loads in %zu bytes", (long long)count, bytes);
  for (int64_t i = 0; i < count; i++)
    if (trace.load[i] < 0)
      fuzz_fail("load %d", trace.load[i]);
  neapi_header_free(&trace.header);
  free(trace.memory);
  free(trace.notes);
}

/* Every tensor of a known type can be read. */
static void read_tensors(const uint8_t *file, size_t bytes)
{
  neap_checkpoint_reader *reader = NULL;
  int status = neap_checkpoint_reader_open(fuzz_file(0, file, bytes), NULL, &reader), dtype;
  if (status && status != NEAP_FORMAT)
    fuzz_fail("status %d: %s", status, neap_error_message());
  if (status)
    return;
  int32_t ndim;
  const int64_t *dims;
  const char *name;
  for (int64_t i = 0; (name = neap_checkpoint_reader_tensor(reader, i, &dtype, &ndim, &dims));
       i++) {
    int64_t count = 1;
    if (dtype < 0)
      continue;
    for (int32_t axis = 0; axis < ndim; axis++)
      count *= dims[axis];
    uint8_t *to = malloc(bytes + 1);
    if (neap_checkpoint_reader_read(reader, name, dtype, 0, count, to))
      fuzz_fail("tensor %lld: %s", (long long)i, neap_error_message());
    free(to);
  }
  neap_checkpoint_reader_check(reader);
  neap_checkpoint_reader_close(reader);
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
  fuzz_input input = {data, data + bytes};
  uint8_t how = fuzz_byte(&input);
  if (how & 1) {
    read_trace(input.at, fuzz_left(&input));
    read_tensors(input.at, fuzz_left(&input));
    return;
  }
  fuzz_input header = fuzz_part(&input, bytes);
  size_t head = fuzz_left(&header), all = NEAPI_LENGTH_BYTES + head + fuzz_left(&input);
  uint8_t *file = calloc(1, all);
  file[0] = (uint8_t)head;
  file[1] = (uint8_t)(head >> 8);
  memcpy(file + NEAPI_LENGTH_BYTES, header.at, head + fuzz_left(&input));
  if (how & 2)
    read_trace(file, all);
  else
    read_tensors(file, all);
  free(file);
}

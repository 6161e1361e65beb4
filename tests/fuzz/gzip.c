/* SPDX-License-Identifier: Apache-2.0 */
/* Trace files, packed: members that are whole give what their text gives, all else an error or
 * whole loads. Of the input the first byte says how it is packed, then come what is damaged, and
 * where. */
#include "data/trace.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { AS_IT_IS = 0, WHOLE = 1, MOST_MEMBERS = 8 };

/* What the file at a path gives; the loads are read as a user of the library does. */
static int open_file(const char *path, int64_t *shape, uint64_t *sum)
{
  neap_trace *trace = NULL;
  int status = neap_trace_open(path, &trace);
  if (status)
    return status;
  neap_trace_shape(trace, shape);
  int64_t cells = shape[NEAPI_RANKS] * shape[NEAPI_EXPERTS];
  int64_t *load = malloc((size_t)cells * sizeof *load);
  for (int64_t step = 0; step < shape[NEAPI_STEPS]; step++)
    for (int64_t layer = 0; layer < shape[NEAPI_LAYERS]; layer++) {
      if (neap_trace_load(trace, step, layer, load))
        fuzz_fail("no load: %s", neap_error_message());
      for (int64_t i = 0; i < cells; i++) {
        if (load[i] < 0 || load[i] > INT32_MAX)
          fuzz_fail("load %lld", (long long)load[i]);
        *sum = *sum * 31 + (uint64_t)load[i];
      }
    }
  free(load);
  neap_trace_close(trace);
  return NEAP_OK;
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
  fuzz_input input = {data, data + bytes};
  int how = fuzz_byte(&input) % 4, members = 1 + fuzz_byte(&input) % MOST_MEMBERS;
  size_t damaged = fuzz_byte(&input) + 256u * fuzz_byte(&input), length = fuzz_left(&input);
  uint8_t by = fuzz_byte(&input);
  int64_t shape[2][NEAPI_TRACE_DIMS] = {{0}};
  uint64_t sum[2] = {0};
  length = fuzz_left(&input);
  int status = open_file(fuzz_file(0, input.at, length), shape[0], &sum[0]);
  if (how != AS_IT_IS) {
    size_t packed = 0;
    uint8_t *file = fuzz_members(input.at, length, members, &packed);
    if (how != WHOLE)
      file[damaged % packed] ^= by;
    int again = open_file(fuzz_file(1, file, packed), shape[1], &sum[1]);
    /* gzip in gzip is unpacked once */
    int same = again == status && !memcmp(shape[0], shape[1], sizeof shape[0]) && sum[0] == sum[1];
    if (how == WHOLE && !same && !(length > 1 && input.at[0] == 0x1f && input.at[1] == 0x8b))
      fuzz_fail("packed: status %d, plain: %d: %s", again, status, neap_error_message());
    status = status ? status : again;
    free(file);
  }
  if (status && status != NEAP_FORMAT)
    fuzz_fail("status %d: %s", status, neap_error_message());
}

/* SPDX-License-Identifier: Apache-2.0 */
/* CSV of loads: an error, or loads that are still the same when they are written and read again. */
#include "data/trace.h"
#include "fuzz.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CELLS = 4096, CELL_BYTES = 12 };

static char *write_csv(const neap_trace *trace, int64_t rows, int64_t *length)
{
  const int64_t *shape = trace->shape, experts = shape[NEAPI_EXPERTS];
  char *text = malloc((size_t)((rows + 1) * (experts + 4) * CELL_BYTES)), *at = text;
  at += sprintf(at, "step,layer,rank");
  for (int64_t e = 0; e < experts; e++)
    at += sprintf(at, ",e%" PRId64, e);
  for (int64_t row = rows - 1; row >= 0; row--) {
    int64_t of_step = row / shape[NEAPI_RANKS];
    at += sprintf(at, "\r\n%" PRId64 ",%" PRId64 ",%" PRId64, of_step / shape[NEAPI_LAYERS],
                  of_step % shape[NEAPI_LAYERS], row % shape[NEAPI_RANKS]);
    for (int64_t e = 0; e < experts; e++)
      at += sprintf(at, ",%d", trace->load[row * experts + e]);
  }
  at += sprintf(at, "\n");
  *length = at - text;
  return text;
}

static void check_again(const neap_trace *trace, int64_t rows)
{
  neap_trace again = {0};
  int64_t length = 0, count = rows * trace->shape[NEAPI_EXPERTS];
  char *text = write_csv(trace, rows, &length);
  if (neapi_trace_parse_csv("again", text, length, &again))
    fuzz_fail("refused when written again: %s", neap_error_message());
  if (memcmp(again.shape, trace->shape, sizeof again.shape) ||
      memcmp(again.load, trace->load, (size_t)count * sizeof *again.load))
    fuzz_fail("other loads when written again");
  free(again.memory);
  free(again.notes);
  free(text);
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
  neap_trace trace = {0};
  int status = neapi_trace_parse_csv("input", (const char *)data, (int64_t)bytes, &trace);
  if (status && status != NEAP_FORMAT)
    fuzz_fail("status %d: %s", status, neap_error_message());
  if (!status) {
    int64_t count = neapi_trace_count(trace.shape, 0);
    for (int64_t i = 0; i < count; i++)
      if (trace.load[i] < 0)
        fuzz_fail("load %d", trace.load[i]);
    if (count < 1)
      fuzz_fail("no loads");
    if (count <= MOST_CELLS)
      check_again(&trace, count / trace.shape[NEAPI_EXPERTS]);
  }
  free(trace.memory);
  free(trace.notes);
}

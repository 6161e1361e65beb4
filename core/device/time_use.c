/* SPDX-License-Identifier: Apache-2.0 */
/* Where the time of a rank goes, of its spans, measured or simulated: the one definition of exposed
 * communication. */
#include "device/timeline.h"

#include "base/memory.h"

#include <stdbool.h>
#include <stdlib.h>

/* A span that no later one has held so far. */
typedef struct {
  double begin, length;
} outer_span;

int neap_span_computes(int32_t id)
{
  switch (id) {
  case NEAP_SPAN_STEP:
  case NEAP_SPAN_PLAN:
  case NEAP_SPAN_HOST:
  case NEAP_SPAN_UNSHARD:
  case NEAP_SPAN_REDUCE:
  case NEAP_SPAN_REFRESH:
  case NEAP_SPAN_WAIT:
    return 0;
  default:
    return id >= 0 && id < NEAP_SPANS;
  }
}

/* inner: seconds of spans inside this one. */
static void add(neap_time_use *use, const neap_span *span, double inner)
{
  double all = span->end - span->begin;
  bool known = span->waits_for > NEAP_COMPUTE && span->waits_for < NEAP_STREAMS;
  use->seconds = use->seconds + all - inner;
  if (span->id == NEAP_SPAN_WAIT)
    use->exposed[known ? span->waits_for : NEAP_COMPUTE] += all;
  if (neap_span_computes(span->id))
    use->computing = use->computing + all - inner;
}

int neap_spans_time_use(const neap_span *spans, int64_t count, neap_time_use *out)
{
  outer_span *outer = neapi_alloc((count + 1) * (int64_t)sizeof *outer, "timeline");
  if (!outer)
    return NEAP_MEMORY;
  int64_t depth = 0;
  *out = (neap_time_use){0};
  for (int64_t i = 0; i < count; i++) {
    if (spans[i].stream != NEAP_COMPUTE)
      continue;
    double inner = 0;
    while (depth && outer[depth - 1].begin >= spans[i].begin)
      inner += outer[--depth].length;
    outer[depth++] = (outer_span){spans[i].begin, spans[i].end - spans[i].begin};
    add(out, &spans[i], inner);
  }
  free(outer);
  return NEAP_OK;
}

int neap_timeline_time_use(const neap_timeline *timeline, neap_time_use *out)
{
  int64_t lost, count = neap_timeline_count(timeline, &lost);
  neap_span *spans = neapi_alloc((count + 1) * (int64_t)sizeof *spans, "timeline");
  if (!spans)
    return NEAP_MEMORY;
  count = neap_timeline_spans(timeline, count, spans);
  int status = neap_spans_time_use(spans, count, out);
  free(spans);
  return status;
}

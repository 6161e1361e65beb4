/* SPDX-License-Identifier: Apache-2.0 */
/* Timelines: a ring of spans for every rank, and the variable by which a thread finds its own. */
#include "device/timeline.h"

#include "base/memory.h"
#include "base/nvtx.h"
#include "device/timestamps.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct neap_timeline {
  int32_t references; /* atomic: the handle, and requests that will write */
  int64_t step;       /* of spans to come; of the rank's own thread, as layer */
  int32_t layer;
  pthread_mutex_t lock;    /* of what follows */
  int64_t capacity, count; /* count: recorded since the last clear */
  neap_span *spans;        /* [capacity] the i-th is at i % capacity */
  bool timed;              /* the times of spans are those of timestamps, where there are any */
  neapi_timestamps timestamps;
};

enum { TIMESTAMPS_PER_SPAN = 2 };

static _Thread_local neap_timeline *current;
static _Thread_local neap_span next; /* the label of the next request */
static _Thread_local int announced;
static _Thread_local struct {
  int32_t layer, label, depth; /* label: of the next request, or -1 */
  int32_t spans[16];           /* that have begun: the d-th at d % 16 */
} here = {.layer = -1, .label = -1};

#define SPAN_NAME(id, name, phase) name,
#define SPAN_PHASE(id, name, phase) phase,
static const char *const span_names[] = {NEAP_SPAN_LIST(SPAN_NAME)};
static const char *const span_phases[] = {NEAP_SPAN_LIST(SPAN_PHASE)};
static const char *const stream_names[] = {"compute", "tokens", "unshard", "reduce", "late"};

const char *neap_span_name(int32_t id)
{
  return id >= 0 && id < NEAP_SPANS ? span_names[id] : NULL;
}

const char *neap_span_phase(int32_t id)
{
  return id >= 0 && id < NEAP_SPANS ? span_phases[id] : NULL;
}

const char *neap_stream_name(int32_t stream)
{
  return stream >= 0 && stream < NEAP_STREAMS ? stream_names[stream] : NULL;
}

/* ---- life ------------------------------------------------------------------------------------ */

int neap_timeline_open(int64_t capacity, neap_timeline **out)
{
  if (capacity < 1 || capacity > 1ll << 28)
    return neapi_fail(NEAP_ARGUMENT, "timeline: a capacity of %lld spans; allowed are 1 to 2^28",
                      (long long)capacity);
  neap_timeline *t = neapi_alloc_zero(sizeof *t, "timeline");
  if (!t)
    return NEAP_MEMORY;
  t->spans = neapi_alloc(capacity * (int64_t)sizeof *t->spans, "timeline");
  if (!t->spans) {
    free(t);
    return NEAP_MEMORY;
  }
  t->references = 1;
  t->layer = -1;
  t->capacity = capacity;
  pthread_mutex_init(&t->lock, NULL);
  *out = t;
  return NEAP_OK;
}

static void release(neap_timeline *t)
{
  if (__atomic_sub_fetch(&t->references, 1, __ATOMIC_ACQ_REL))
    return;
  pthread_mutex_destroy(&t->lock);
  neapi_timestamps_free(&t->timestamps);
  free(t->spans);
  free(t);
}

void neap_timeline_close(neap_timeline *t)
{
  if (!t)
    return;
  if (current == t)
    current = NULL;
  release(t);
}

/* On a GPU whose clock cannot be read, spans keep the host's times. */
static void begin_timestamps(neap_timeline *t)
{
  pthread_mutex_lock(&t->lock);
  t->timed =
      neapi_on_gpu() && !neapi_timestamps_begin(&t->timestamps, TIMESTAMPS_PER_SPAN * t->capacity);
  pthread_mutex_unlock(&t->lock);
}

void neap_timeline_use(neap_timeline *t)
{
  current = t;
  announced = 0;
  if (t)
    begin_timestamps(t);
}

void neap_timeline_step(int64_t step)
{
  if (current)
    current->step = step;
}

int32_t neap_timeline_layer(int32_t layer)
{
  int32_t before = here.layer;
  here.layer = layer;
  if (current)
    current->layer = layer;
  return before;
}

void neapi_timeline_where(int32_t *layer, int32_t *phase)
{
  *layer = here.layer;
  *phase = here.depth > 0 ? here.spans[(here.depth - 1) % 16] : -1;
  if (here.label >= 0)
    *phase = here.label;
  here.label = -1;
}

/* ---- recording ------------------------------------------------------------------------------- */

static void record(neap_timeline *t, const neap_span *span)
{
  pthread_mutex_lock(&t->lock);
  t->spans[t->count++ % t->capacity] = *span;
  pthread_mutex_unlock(&t->lock);
}

void neapi_timeline_span(int id, int32_t chunk, double begin, double end)
{
  if (!current)
    return;
  record(current, &(neap_span){.begin = begin,
                               .end = end,
                               .step = current->step,
                               .id = id,
                               .stream = NEAP_COMPUTE,
                               .layer = current->layer,
                               .chunk = chunk,
                               .waits_for = -1});
}

/* Timestamps ascend, so the clock is read where nobody else records one. */
static double record_timestamp(neap_timeline *t)
{
  pthread_mutex_lock(&t->lock);
  double now = neap_clock();
  neapi_timestamps_record(&t->timestamps, now);
  pthread_mutex_unlock(&t->lock);
  return now;
}

double neapi_timeline_now(void)
{
  return current && current->timed ? record_timestamp(current) : neap_clock();
}

double neap_timeline_begin(int id)
{
  neapi_nvtx_begin(neap_span_name(id));
  here.spans[here.depth++ % 16] = id;
  return current ? neapi_timeline_now() : 0;
}

void neap_timeline_end(int id, double begin)
{
  neapi_nvtx_end();
  here.depth -= here.depth > 0;
  if (current && begin > 0 && neap_span_name(id))
    neapi_timeline_span(id, -1, begin, neapi_timeline_now());
}

double neapi_host_begin(void)
{
  return neapi_on_gpu() ? neap_timeline_begin(NEAP_SPAN_HOST) : 0;
}

void neapi_host_end(double begin)
{
  if (neapi_on_gpu())
    neap_timeline_end(NEAP_SPAN_HOST, begin);
}

/* ---- requests -------------------------------------------------------------------------------- */

void neapi_timeline_label(int id, int stream, int32_t chunk)
{
  here.label = id;
  if (!current)
    return;
  announced = 1;
  next = (neap_span){.id = id, .stream = stream, .chunk = chunk};
}

void neapi_span_label_take(neapi_span_label *p)
{
  p->timeline = current;
  if (!current)
    return;
  __atomic_add_fetch(&current->references, 1, __ATOMIC_RELAXED);
  p->span = announced ? next : (neap_span){.stream = NEAP_COMPUTE, .chunk = -1};
  p->span.step = current->step;
  p->span.layer = current->layer;
  p->span.waits_for = -1;
  announced = 0;
}

void neapi_span_label_drop(neapi_span_label *p)
{
  if (p->timeline)
    release(p->timeline);
}

double neapi_span_label_now(const neapi_span_label *p, int32_t gpu)
{
  neap_timeline *t = p->span.stream == NEAP_COMPUTE ? NULL : p->timeline;
  bool timestamps = gpu && t && t->timed && neapi_on_gpu();
  return timestamps ? record_timestamp(t) : neap_clock();
}

void neapi_span_label_ran(const neapi_span_label *p, double begin, double end)
{
  if (!p->timeline || p->span.stream == NEAP_COMPUTE)
    return;
  neap_span span = p->span;
  span.begin = begin;
  span.end = end;
  record(p->timeline, &span);
}

void neapi_span_label_waited(const neapi_span_label *p, double begin, double end)
{
  if (!current)
    return;
  neap_span span = {.begin = begin, .end = end, .id = NEAP_SPAN_WAIT, .layer = -1, .chunk = -1};
  span.step = current->step;
  span.waits_for = -1;
  if (p->timeline) {
    span.layer = p->span.layer;
    span.chunk = p->span.chunk;
    span.waits_for = p->span.stream == NEAP_COMPUTE ? -1 : p->span.stream;
  }
  record(current, &span);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Gives a span the GPU's times. Exchanges that the host makes and those of the GPU share streams,
 * whose clocks agree to some microseconds: *ends[stream] is the last one's end, at the least. */
static void resolve_span(const neapi_timestamps *timestamps, neap_span *span, double *ends)
{
  span->begin = neapi_timestamps_time(timestamps, span->begin);
  span->end = neapi_timestamps_time(timestamps, span->end);
  if (span->stream != NEAP_COMPUTE) {
    double *end = &ends[span->stream];
    span->begin = span->begin < *end ? *end : span->begin;
    *end = span->end > *end ? span->end : *end;
  }
  span->end = span->end < span->begin ? span->begin : span->end;
}

int neap_timeline_resolve(neap_timeline *t)
{
  double ends[NEAP_STREAMS] = {0};
  pthread_mutex_lock(&t->lock);
  int status = t->timed ? neapi_timestamps_resolve(&t->timestamps) : NEAP_OK;
  int64_t first = t->count > t->capacity ? t->count - t->capacity : 0;
  for (int64_t i = first; !status && t->timed && i < t->count; i++)
    resolve_span(&t->timestamps, &t->spans[i % t->capacity], ends);
  t->timed = t->timed && status;
  pthread_mutex_unlock(&t->lock);
  return status;
}

void neap_timeline_clear(neap_timeline *t)
{
  pthread_mutex_lock(&t->lock);
  t->count = 0;
  pthread_mutex_unlock(&t->lock);
}

int64_t neap_timeline_count(const neap_timeline *timeline, int64_t *lost)
{
  neap_timeline *t = (neap_timeline *)timeline;
  pthread_mutex_lock(&t->lock);
  int64_t kept = t->count < t->capacity ? t->count : t->capacity;
  *lost = t->count - kept;
  pthread_mutex_unlock(&t->lock);
  return kept;
}

int64_t neap_timeline_spans(const neap_timeline *timeline, int64_t capacity, neap_span *out)
{
  neap_timeline *t = (neap_timeline *)timeline;
  pthread_mutex_lock(&t->lock);
  int64_t kept = t->count < t->capacity ? t->count : t->capacity;
  kept = kept < capacity ? kept : capacity;
  for (int64_t i = 0; i < kept; i++)
    out[i] = t->spans[(t->count - kept + i) % t->capacity];
  pthread_mutex_unlock(&t->lock);
  return kept;
}

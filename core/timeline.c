/* Timelines: a ring of spans for every rank, and the variable by which a thread finds its own. */
#include "timeline.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct neap_timeline {
  int32_t references; /* atomic: the handle, and requests that will write */
  int64_t step;       /* of spans to come; of the rank's own thread, as layer */
  int32_t layer;
  pthread_mutex_t lock; /* of what follows */
  int64_t room, count;  /* count: recorded since the last clear */
  neap_span *spans;     /* [room] the i-th is at i % room */
};

static _Thread_local neap_timeline *current;
static _Thread_local neap_span next; /* the purpose of the next request */
static _Thread_local int announced;

#define SPAN_NAME(id, name, phase) name,
#define SPAN_PHASE(id, name, phase) phase,
static const char *const span_names[] = {NEAP_SPAN_LIST(SPAN_NAME)};
static const char *const span_phases[] = {NEAP_SPAN_LIST(SPAN_PHASE)};
static const char *const stream_names[] = {"compute", "tokens", "unshard", "reduce"};

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

/* ---- life ---------------------------------------------------------------------------------- */

int neap_timeline_open(int64_t room, neap_timeline **out)
{
  if (room < 1 || room > 1ll << 28)
    return neapi_fail(NEAP_ARGUMENT, "timeline: room for %lld spans; allowed are 1 to 2^28",
                      (long long)room);
  neap_timeline *t = neapi_alloc_zero(sizeof *t, "timeline");
  if (!t)
    return NEAP_MEMORY;
  t->spans = neapi_alloc(room * (int64_t)sizeof *t->spans, "timeline");
  if (!t->spans) {
    free(t);
    return NEAP_MEMORY;
  }
  t->references = 1;
  t->layer = -1;
  t->room = room;
  pthread_mutex_init(&t->lock, NULL);
  *out = t;
  return NEAP_OK;
}

static void release(neap_timeline *t)
{
  if (__atomic_sub_fetch(&t->references, 1, __ATOMIC_ACQ_REL))
    return;
  pthread_mutex_destroy(&t->lock);
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

void neap_timeline_use(neap_timeline *t)
{
  current = t;
  announced = 0;
}

void neap_timeline_step(int64_t step)
{
  if (current)
    current->step = step;
}

int32_t neap_timeline_layer(int32_t layer)
{
  if (!current)
    return -1;
  int32_t before = current->layer;
  current->layer = layer;
  return before;
}

/* ---- recording ----------------------------------------------------------------------------- */

static void record(neap_timeline *t, const neap_span *span)
{
  pthread_mutex_lock(&t->lock);
  t->spans[t->count++ % t->room] = *span;
  pthread_mutex_unlock(&t->lock);
}

int neap_timeline_add(neap_timeline *t, const neap_span *span)
{
  if (!neap_span_name(span->id) || !neap_stream_name(span->stream))
    return neapi_fail(NEAP_ARGUMENT, "timeline: span %d of stream %d; there are %d and %d",
                      span->id, span->stream, NEAP_SPANS, NEAP_STREAMS);
  if (!(span->begin <= span->end))
    return neapi_fail(NEAP_ARGUMENT, "timeline: span %s begins at %.9f s and ends at %.9f s",
                      span_names[span->id], span->begin, span->end);
  record(t, span);
  return NEAP_OK;
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

double neap_timeline_begin(void)
{
  return current ? neap_clock() : 0;
}

void neap_timeline_end(int id, double begin)
{
  if (current && begin > 0 && neap_span_name(id))
    neapi_timeline_span(id, -1, begin, neap_clock());
}

/* ---- requests ------------------------------------------------------------------------------ */

void neapi_timeline_purpose(int id, int stream, int32_t chunk)
{
  if (!current)
    return;
  announced = 1;
  next = (neap_span){.id = id, .stream = stream, .chunk = chunk};
}

void neapi_purpose_take(neapi_purpose *p)
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

void neapi_purpose_drop(neapi_purpose *p)
{
  if (p->timeline)
    release(p->timeline);
}

void neapi_purpose_ran(const neapi_purpose *p, double begin, double end)
{
  if (!p->timeline || p->span.stream == NEAP_COMPUTE)
    return;
  neap_span span = p->span;
  span.begin = begin;
  span.end = end;
  record(p->timeline, &span);
}

void neapi_purpose_waited(const neapi_purpose *p, double begin, double end)
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

/* ---- reading ------------------------------------------------------------------------------- */

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
  int64_t kept = t->count < t->room ? t->count : t->room;
  *lost = t->count - kept;
  pthread_mutex_unlock(&t->lock);
  return kept;
}

int64_t neap_timeline_spans(const neap_timeline *timeline, int64_t room, neap_span *out)
{
  neap_timeline *t = (neap_timeline *)timeline;
  pthread_mutex_lock(&t->lock);
  int64_t kept = t->count < t->room ? t->count : t->room;
  kept = kept < room ? kept : room;
  for (int64_t i = 0; i < kept; i++)
    out[i] = t->spans[(t->count - kept + i) % t->room];
  pthread_mutex_unlock(&t->lock);
  return kept;
}

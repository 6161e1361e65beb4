/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spans of a GPU, without one: timeline.c and timestamps.c over a device of this file, whose clock
 * is another and whose streams come to what is enqueued later than the host enqueues it; and
 * threads that write to one recorder while another reads it.
 * Runs on: threads.
 */
#include "check.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>

#include "device/timeline.c"
#include "device/timestamps.c"

/* ---- the device ------------------------------------------------------------------------------ */

struct neapi_timestamp {
  double time;
};

static const double SKEW = 1234.5; /* of the device's clock */
static const double LAG = 0.01;    /* seconds until a stream comes to what is enqueued, at least */
static _Thread_local double stream_time;
static _Thread_local bool late;
static bool on_gpu = true;
static int opened;

void *neapi_alloc(int64_t bytes, const char *what)
{
  (void)what;
  return malloc((size_t)bytes);
}

void *neapi_alloc_zero(int64_t bytes, const char *what)
{
  (void)what;
  return calloc(1, (size_t)bytes);
}

int neapi_fail(int status, const char *format, ...)
{
  (void)format;
  return status;
}

bool neapi_on_gpu(void)
{
  return on_gpu;
}

int neapi_stream_wait(void)
{
  return NEAP_OK;
}

int neapi_timestamp_open(neapi_timestamp **out)
{
  *out = malloc(sizeof **out);
  __atomic_add_fetch(&opened, 1, __ATOMIC_RELAXED);
  return NEAP_OK;
}

void neapi_timestamp_close(neapi_timestamp *event)
{
  __atomic_sub_fetch(&opened, 1, __ATOMIC_RELAXED);
  free(event);
}

/* Each comes 1 ms after the one before it, or when it is set, if that is later. */
int neapi_timestamp_record(neapi_timestamp *event)
{
  double now = neap_clock() + SKEW + (late ? LAG : 0), after = stream_time + 1e-3;
  event->time = stream_time = late && after > now ? after : now;
  return NEAP_OK;
}

int neapi_timestamp_wait(neapi_timestamp *event)
{
  (void)event;
  return NEAP_OK;
}

int neapi_timestamp_seconds(neapi_timestamp *from, neapi_timestamp *to, double *out)
{
  *out = to->time - from->time;
  return NEAP_OK;
}

/* ---- tests ----------------------------------------------------------------------------------- */

enum { CAPACITY = 16, MOST_SPANS = 64 };

static neap_span spans[MOST_SPANS];

static neap_timeline *start(int64_t capacity)
{
  neap_timeline *t = NULL;
  late = false; /* while the clocks are compared */
  check(!neap_timeline_open(capacity, &t), "open failed");
  neap_timeline_use(t);
  late = true;
  return t;
}

static int64_t finish(neap_timeline *t)
{
  neap_timeline_use(NULL);
  check(!neap_timeline_resolve(t), "resolve failed");
  return neap_timeline_spans(t, MOST_SPANS, spans);
}

/* Spans nest, and are where the device was, not where the host was. */
static void test_device_times(void)
{
  neap_timeline *t = start(CAPACITY);
  double outer = neap_timeline_begin(NEAP_SPAN_STEP);
  for (int i = 0; i < 3; i++)
    neap_timeline_end(NEAP_SPAN_HEAD, neap_timeline_begin(NEAP_SPAN_HEAD));
  neap_timeline_end(NEAP_SPAN_STEP, outer);
  double end = neap_clock();
  check(finish(t) == 4, "spans are missing");
  const neap_span *step = &spans[3];
  check(step->begin - outer > 0.9 * LAG && step->begin - outer < LAG + 1e-2,
        "the step begins %g s after the host's", step->begin - outer);
  check(step->end - step->begin > 6.9e-3 && step->end > end, "the step takes %g s",
        step->end - step->begin);
  for (int i = 0; i < 3; i++) {
    check(spans[i].begin >= step->begin && spans[i].end <= step->end, "head %d is outside", i);
    check(fabs(spans[i].end - spans[i].begin - 1e-3) < 1e-6 || i == 0, "head %d takes %g s", i,
          spans[i].end - spans[i].begin);
    check(!i || spans[i].begin >= spans[i - 1].end, "heads %d and before overlap", i);
  }
  neap_span again = *step;
  check(!neap_timeline_resolve(t), "a second resolve fails");
  neap_timeline_spans(t, MOST_SPANS, spans);
  check(spans[3].begin == again.begin, "a second resolve moves spans");
  neap_timeline_close(t);
  check(opened == 0, "%d events are left", opened);
}

/* An exchange that another thread runs, in a stream of its own. */
static void *run_request(void *argument)
{
  neapi_span_label *purpose = argument;
  late = true;
  double begin = neapi_span_label_now(purpose, 1);
  neapi_span_label_ran(purpose, begin, neapi_span_label_now(purpose, 1));
  begin = neapi_span_label_now(purpose, 0); /* its buffers are the host's */
  neapi_span_label_ran(purpose, begin, neapi_span_label_now(purpose, 0));
  return NULL;
}

static void test_requests(void)
{
  neap_timeline *t = start(CAPACITY);
  neapi_span_label purpose;
  neapi_timeline_label(NEAP_SPAN_UNSHARD, NEAP_UNSHARD, -1);
  neapi_span_label_take(&purpose);
  pthread_t thread;
  double before = neap_clock();
  pthread_create(&thread, NULL, run_request, &purpose);
  pthread_join(thread, NULL);
  double begin = neapi_timeline_now();
  neapi_span_label_waited(&purpose, begin, neapi_timeline_now());
  neapi_span_label_drop(&purpose);
  check(finish(t) == 3, "spans are missing");
  check(spans[0].begin - before > 0.9 * LAG, "the exchange begins at the host's time");
  check(spans[1].begin >= spans[0].end && spans[1].end >= spans[1].begin, "exchanges overlap");
  check(spans[2].id == NEAP_SPAN_WAIT && spans[2].waits_for == NEAP_UNSHARD &&
            spans[2].begin - begin > 0.9 * LAG,
        "the wait is not the device's");
  neap_timeline_close(t);
  check(opened == 0, "%d events are left", opened);
}

/* A ring that is too small: the latest spans are there, those without marks at the host's times. */
static void test_capacity(void)
{
  enum { SPANS = 5 * CAPACITY };
  neap_timeline *t = start(CAPACITY);
  double first = neap_clock();
  for (int i = 0; i < SPANS; i++)
    neap_timeline_end(NEAP_SPAN_HEAD, neap_timeline_begin(NEAP_SPAN_HEAD));
  check(finish(t) == CAPACITY, "the ring is not full");
  for (int i = 0; i < CAPACITY; i++)
    check(spans[i].begin >= first && spans[i].end >= spans[i].begin, "span %d", i);
  neap_timeline_clear(t);
  late = false;
  neap_timeline_use(t);
  late = true;
  double begin = neap_timeline_begin(NEAP_SPAN_HEAD);
  neap_timeline_end(NEAP_SPAN_HEAD, begin);
  check(finish(t) == 1 && spans[0].begin - begin > 0.9 * LAG, "marks do not come again");
  neap_timeline_close(t);
}

/* On the CPU there are no marks and no spans of the host. */
static void test_cpu(void)
{
  on_gpu = false;
  neap_timeline *t = start(CAPACITY);
  neapi_host_end(neapi_host_begin());
  double begin = neap_timeline_begin(NEAP_SPAN_HEAD);
  neap_timeline_end(NEAP_SPAN_HEAD, begin);
  check(finish(t) == 1 && spans[0].begin == begin && !opened, "the CPU sets marks");
  neap_timeline_close(t);
  on_gpu = true;
}

enum { WRITERS = 4, EACH = 2000, RING = 700 };

/* ---- one recorder, many threads -------------------------------------------------------------- */

typedef struct {
  neap_timeline *timeline;
  int32_t writer;
} writer;

static void *write_spans(void *argument)
{
  writer *w = argument;
  for (int i = 0; i < EACH; i++) {
    neap_span span = {.begin = i, .end = i + 1, .step = i, .layer = w->writer};
    record(w->timeline, &span);
  }
  return NULL;
}

/* Whatever is there, each writer's spans are whole, and follow each other without gaps. */
static int64_t read_spans(const neap_timeline *timeline)
{
  static neap_span spans[RING];
  int64_t kept = neap_timeline_spans(timeline, RING, spans), last[WRITERS] = {0};
  bool whole = true;
  for (int64_t i = 0; i < kept; i++) {
    int32_t by = spans[i].layer;
    whole = whole && by >= 0 && by < WRITERS && spans[i].begin == (double)spans[i].step;
    if (whole && last[by])
      whole = spans[i].step == last[by];
    if (whole)
      last[by] = spans[i].step + 1;
  }
  check(whole, "a span of %lld is torn or out of order", (long long)kept);
  return kept;
}

static void test_threads(void)
{
  neap_timeline *timeline;
  pthread_t ids[WRITERS];
  writer writers[WRITERS];
  int64_t lost = 0;
  if (!check(!neap_timeline_open(RING, &timeline), "no timeline"))
    return;
  for (int32_t i = 0; i < WRITERS; i++) {
    writers[i] = (writer){timeline, i};
    pthread_create(&ids[i], NULL, write_spans, &writers[i]);
  }
  for (int i = 0; i < 20; i++)
    read_spans(timeline);
  for (int i = 0; i < WRITERS; i++)
    pthread_join(ids[i], NULL);
  check(read_spans(timeline) == RING, "the ring is not full");
  neap_timeline_count(timeline, &lost);
  check(lost == WRITERS * EACH - RING, "%lld spans were lost", (long long)lost);
  neap_timeline_close(timeline);
}

int main(void)
{
  test_device_times();
  test_requests();
  test_capacity();
  test_cpu();
  test_threads();
  return check_done();
}

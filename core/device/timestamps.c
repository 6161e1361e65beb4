/* SPDX-License-Identifier: Apache-2.0 */
/* Timestamps: a pool of events, and where the GPU's clock stands to the host's. */
#include "device/timestamps.h"

#include "base/memory.h"

#include <stdlib.h>

enum { ROUND_TRIPS = 4 };

static int allocate(neapi_timestamps *m, int64_t capacity)
{
  if (m->capacity)
    return NEAP_OK;
  m->events = neapi_alloc_zero(capacity * (int64_t)sizeof *m->events, "timeline: timestamps");
  m->times = neapi_alloc(capacity * 8, "timeline: timestamps");
  m->reached = neapi_alloc(capacity * 8, "timeline: timestamps");
  int status = m->events && m->times && m->reached ? NEAP_OK : NEAP_MEMORY;
  if (!status)
    status = neapi_timestamp_open(&m->origin);
  if (!status)
    m->capacity = capacity;
  else
    neapi_timestamps_free(m);
  return status;
}

/* Sets the origin, and tells how long it took until the host knew that the GPU was there. */
static int round_trip(neapi_timestamps *m, double *seconds)
{
  double begin = neap_clock();
  int status = neapi_timestamp_record(m->origin);
  if (!status)
    status = neapi_timestamp_wait(m->origin);
  *seconds = neap_clock() - begin;
  m->origin_time = begin + *seconds / 2;
  return status;
}

/* The origin's time is known to half of its round trip: one is taken that is as fast as the fastest
 * of the first few, or nearly. */
static int set_origin(neapi_timestamps *m)
{
  double seconds = 0, fastest = 1;
  int status = neapi_stream_wait();
  for (int i = 0; !status && i < ROUND_TRIPS; i++) {
    status = round_trip(m, &seconds);
    fastest = seconds < fastest ? seconds : fastest;
  }
  for (int i = 0; !status && seconds > 1.2 * fastest && i < ROUND_TRIPS; i++)
    status = round_trip(m, &seconds);
  return status;
}

int neapi_timestamps_begin(neapi_timestamps *m, int64_t capacity)
{
  m->count = 0;
  int status = allocate(m, capacity);
  return status ? status : set_origin(m);
}

void neapi_timestamps_record(neapi_timestamps *m, double time)
{
  if (m->count == m->capacity)
    return;
  if (m->count == m->made) {
    if (neapi_timestamp_open(&m->events[m->made]))
      return;
    m->made++;
  }
  if (!neapi_timestamp_record(m->events[m->count]))
    m->times[m->count++] = time;
}

int neapi_timestamps_resolve(neapi_timestamps *m)
{
  int status = neapi_stream_wait(); /* sleeps in the end; waiting for an event would spin */
  for (int64_t i = 0; !status && i < m->count; i++) {
    double since = 0;
    status = neapi_timestamp_wait(m->events[i]);
    if (!status)
      status = neapi_timestamp_seconds(m->origin, m->events[i], &since);
    m->reached[i] = m->origin_time + since;
  }
  return status;
}

double neapi_timestamps_time(const neapi_timestamps *m, double time)
{
  int64_t low = 0, high = m->count;
  while (low < high) {
    int64_t middle = (low + high) / 2;
    if (m->times[middle] < time)
      low = middle + 1;
    else
      high = middle;
  }
  return low < m->count && m->times[low] == time ? m->reached[low] : time;
}

void neapi_timestamps_free(neapi_timestamps *m)
{
  for (int64_t i = 0; i < m->made; i++)
    neapi_timestamp_close(m->events[i]);
  if (m->origin)
    neapi_timestamp_close(m->origin);
  free(m->events);
  free(m->times);
  free(m->reached);
  *m = (neapi_timestamps){0};
}

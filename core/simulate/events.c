/* Events of a running program: a heap of those that are to come. Events of equal time happen in the
 * order in which they were posted. */
#include "simulate/cluster.h"

#include <stdlib.h>

static bool before(const neapi_sim_event *a, const neapi_sim_event *b)
{
  return a->time < b->time || (a->time == b->time && a->order < b->order);
}

int neapi_cluster_post(neap_cluster *c, double time, neapi_sim_transfer *transfer)
{
  if (c->event_count == c->event_capacity) {
    int64_t capacity = c->event_capacity ? 2 * c->event_capacity : 256;
    void *events = realloc(c->events, (size_t)capacity * sizeof *c->events);
    if (!events)
      return neapi_fail(NEAP_MEMORY, "cluster: no memory for %lld events", (long long)capacity);
    c->events = events;
    c->event_capacity = capacity;
  }
  neapi_sim_event event = {time, c->order++, transfer, ++transfer->version};
  int64_t i = c->event_count++;
  for (; i > 0 && before(&event, &c->events[(i - 1) / 2]); i = (i - 1) / 2)
    c->events[i] = c->events[(i - 1) / 2];
  c->events[i] = event;
  return NEAP_OK;
}

neapi_sim_event neapi_cluster_take_first(neap_cluster *c)
{
  neapi_sim_event first = c->events[0], last = c->events[--c->event_count];
  int64_t i = 0, child = 1;
  for (; child < c->event_count; child = 2 * i + 1) {
    if (child + 1 < c->event_count && before(&c->events[child + 1], &c->events[child]))
      child++;
    if (!before(&c->events[child], &last))
      break;
    c->events[i] = c->events[child];
    i = child;
  }
  if (c->event_count)
    c->events[i] = last;
  return first;
}

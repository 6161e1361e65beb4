/* SPDX-License-Identifier: Apache-2.0 */
/* Events of a running program: a heap of those that are to come. Events of equal time happen in the
 * order in which they were posted. */
#include "base/heap.h"
#include "simulate/cluster.h"

#include <stdlib.h>

static inline bool before(neapi_sim_event a, neapi_sim_event b)
{
  return a.time < b.time || (a.time == b.time && a.order < b.order);
}

NEAPI_HEAP(heap, neapi_sim_event, int64_t, before)

/* Makes space for one more event. */
static int reserve(neap_cluster *c)
{
  if (c->event_count < c->event_capacity)
    return NEAP_OK;
  int64_t capacity = c->event_capacity ? 2 * c->event_capacity : 256;
  void *events = realloc(c->events, (size_t)capacity * sizeof *c->events);
  if (!events)
    return neapi_fail(NEAP_MEMORY, "cluster: no memory for %lld events", (long long)capacity);
  c->events = events;
  c->event_capacity = capacity;
  return NEAP_OK;
}

int neapi_cluster_post(neap_cluster *c, double time, neapi_sim_transfer *transfer)
{
  int status = reserve(c);
  if (status)
    return status;
  heap_push(c->events, &c->event_count,
            (neapi_sim_event){time, c->order++, transfer, 0, ++transfer->version});
  return NEAP_OK;
}

int neapi_cluster_post_work(neap_cluster *c, double time, int32_t rank)
{
  int status = reserve(c);
  if (!status)
    heap_push(c->events, &c->event_count,
              (neapi_sim_event){time, c->order++, NULL, rank, ++c->state[rank].version});
  return status;
}

neapi_sim_event neapi_cluster_take_first(neap_cluster *c)
{
  return heap_pop(c->events, &c->event_count);
}

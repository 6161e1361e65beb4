/* SPDX-License-Identifier: Apache-2.0 */
/* What the times of a program tell: who was busy, who waited for what, and the chain of operations
 * that made the step as long as it is. */
#include "layout/groups.h"
#include "simulate/cluster.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int require(const neap_cluster *c, int32_t op)
{
  if (!c->done)
    return neapi_fail(NEAP_ARGUMENT, "cluster: the program has not been run since it was changed");
  if (op < 0 || op >= c->count)
    return neapi_fail(NEAP_ARGUMENT, "cluster: no operation %d; allowed are 0 to %d", op,
                      c->count - 1);
  return NEAP_OK;
}

int neap_cluster_times(const neap_cluster *c, int32_t op, const double **begin, const double **end)
{
  int status = require(c, op);
  if (status)
    return status;
  *begin = c->ops[op].begin;
  *end = c->ops[op].end;
  return NEAP_OK;
}

/* The operation that ended last among those that op waited for on a rank, its queue's last one
 * included; -1: none. */
static int32_t cause(const neap_cluster *c, const neapi_cluster_op *op, int32_t rank)
{
  int32_t best = op->index ? c->queue[op->queue][op->index - 1] : -1;
  for (int32_t i = 0; i < op->count; i++)
    if (best < 0 || c->ops[op->after[i]].end[rank] > c->ops[best].end[rank])
      best = op->after[i];
  return best;
}

/* Adds, for one operation of compute, busy time of all ranks, and their work. */
static void add_compute(const neap_cluster *c, const neapi_cluster_op *op, neap_cluster_figures *s,
                        double *work)
{
  const neap_topology *t = c->topology;
  for (int32_t r = 0; r < t->ranks; r++) {
    s->busy[NEAP_COMPUTE] += (op->end[r] - op->begin[r]) / t->ranks;
    *work += op->common + (op->each ? op->each[r] : 0);
  }
}

static void add_exchange(const neap_cluster *c, const neapi_cluster_op *op, neap_cluster_figures *s)
{
  for (int32_t r = 0; r < c->topology->ranks; r++)
    s->busy[op->stream] += (op->end[r] - op->begin[r]) / c->topology->ranks;
}

/* The rank and operation that end last. */
static void find_last(const neap_cluster *c, int32_t *op, int32_t *rank)
{
  *op = *rank = 0;
  for (int32_t i = 0; i < c->count; i++)
    for (int32_t r = 0; r < c->topology->ranks; r++)
      if (c->ops[i].end[r] > c->ops[*op].end[*rank]) {
        *op = i;
        *rank = r;
      }
}

/* ---- waits ----------------------------------------------------------------------------------- */

typedef struct {
  neap_span *spans;
  int64_t capacity, count;
} wait_list;

/* A wait, if it takes time. step: the operation that waits, or -1. */
static void add_wait(wait_list *list, double begin, double end, int32_t step, int32_t waits_for)
{
  if (!(end > begin))
    return;
  if (list->count < list->capacity)
    list->spans[list->count] = (neap_span){.begin = begin,
                                           .end = end,
                                           .step = step,
                                           .id = NEAP_SPAN_WAIT,
                                           .stream = NEAP_COMPUTE,
                                           .layer = -1,
                                           .chunk = -1,
                                           .waits_for = waits_for};
  list->count++;
}

/* As a thread waits: for one operation after the other, in the order in which they are named. */
static void find_waits(const neap_cluster *c, int32_t rank, wait_list *list)
{
  double last = 0;
  for (int32_t i = 0; i < c->queued[NEAP_COMPUTE]; i++) {
    int32_t id = c->queue[NEAP_COMPUTE][i];
    const neapi_cluster_op *op = &c->ops[id];
    for (int32_t k = 0; k < op->count; k++) {
      const neapi_cluster_op *before = &c->ops[op->after[k]];
      add_wait(list, last, before->end[rank], id, before->stream);
      last = fmax(last, before->end[rank]);
    }
    last = op->end[rank];
  }
  add_wait(list, last, c->total, -1, -1);
}

int neap_cluster_waits(const neap_cluster *c, int32_t rank, neap_span *spans, int64_t capacity,
                       int64_t *count)
{
  int status = require(c, 0);
  if (status)
    return status;
  if (rank < 0 || rank >= c->topology->ranks)
    return neapi_fail(NEAP_ARGUMENT, "cluster: no rank %d; allowed are 0 to %d", rank,
                      c->topology->ranks - 1);
  wait_list list = {spans, capacity, 0};
  find_waits(c, rank, &list);
  *count = list.count;
  return NEAP_OK;
}

/* What is exposed, mean over ranks. */
static int add_exposed(const neap_cluster *c, neap_cluster_figures *s)
{
  int64_t most = 1;
  for (int32_t i = 0; i < c->queued[NEAP_COMPUTE]; i++)
    most += c->ops[c->queue[NEAP_COMPUTE][i]].count;
  neap_span *spans = neapi_alloc(most * (int64_t)sizeof *spans, "cluster");
  int status = spans ? NEAP_OK : NEAP_MEMORY;
  for (int32_t r = 0; !status && r < c->topology->ranks; r++) {
    wait_list list = {spans, most, 0};
    neap_time_use use;
    find_waits(c, r, &list);
    status = neap_spans_time_use(spans, list.count, &use);
    for (int32_t stream = 0; !status && stream < NEAP_STREAMS; stream++)
      s->exposed[stream] += use.exposed[stream] / c->topology->ranks;
  }
  free(spans);
  return status;
}

/* ---- figures --------------------------------------------------------------------------------- */

int neap_cluster_report(const neap_cluster *c, neap_cluster_figures *out)
{
  const neap_topology *t = c->topology;
  int status = require(c, 0);
  if (status)
    return status;
  neap_cluster_figures s = {.seconds = c->total};
  double work = 0, speed = 0;
  for (int32_t i = 0; i < c->count; i++)
    if (c->ops[i].stream == NEAP_COMPUTE)
      add_compute(c, &c->ops[i], &s, &work);
    else
      add_exchange(c, &c->ops[i], &s);
  for (int32_t r = 0; r < t->ranks; r++)
    speed += t->speed[r];
  s.ideal = work / speed;
  find_last(c, &s.last_op, &s.last_rank);
  status = add_exposed(c, &s);
  if (!status)
    *out = s;
  return status;
}

int neap_cluster_operation(const neap_cluster *c, int32_t id, neap_cluster_span *out)
{
  int status = require(c, id);
  if (status)
    return status;
  const neapi_cluster_op *op = &c->ops[id];
  neap_cluster_span s = {.stream = op->stream};
  for (int32_t r = 0; r < c->topology->ranks; r++) {
    double seconds = op->end[r] - op->begin[r];
    s.mean += seconds / c->topology->ranks;
    if (seconds > s.most || r == 0) {
      s.most = seconds;
      s.slowest = r;
    }
  }
  *out = s;
  return NEAP_OK;
}

int neap_cluster_critical(const neap_cluster *c, int32_t *ops, int32_t *ranks, int64_t capacity,
                          int64_t *count)
{
  int status = require(c, 0);
  if (status)
    return status;
  int32_t op, rank;
  int64_t length = 0;
  find_last(c, &op, &rank);
  for (; op >= 0; length++) {
    const neapi_cluster_op *o = &c->ops[op];
    if (o->stream != NEAP_COMPUTE)
      rank = o->transfers[neapi_group_of(c->topology, o->group, rank)].latest;
    if (length < capacity) {
      ops[length] = op;
      ranks[length] = rank;
    }
    op = cause(c, o, rank);
  }
  *count = length;
  return NEAP_OK;
}

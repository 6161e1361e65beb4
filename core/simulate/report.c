/* What the times of a program tell: who was busy, who waited for what, and the chain of operations
 * that made the step as long as it is. */
#include "layout/groups.h"
#include "simulate/cluster.h"

#include <math.h>
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

/* Adds, for one operation of compute, busy and waiting time of all ranks. */
static void add_compute(const neap_cluster *c, const neapi_cluster_op *op, neap_cluster_figures *s,
                        double *work)
{
  const neap_topology *t = c->topology;
  const neapi_cluster_op *last = NULL;
  if (op->index)
    last = &c->ops[c->queue[NEAP_COMPUTE][op->index - 1]];
  for (int32_t r = 0; r < t->ranks; r++) {
    double seconds = op->end[r] - op->begin[r], gap = op->begin[r] - (last ? last->end[r] : 0);
    s->busy[NEAP_COMPUTE] += seconds / t->ranks;
    *work += seconds * t->speed[r];
    if (gap > 0)
      s->waited[c->ops[cause(c, op, r)].stream] += gap / t->ranks;
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
  for (int32_t r = 0; r < t->ranks; r++) {
    speed += t->speed[r];
    s.idle_end += (c->total - c->state[r].last[NEAP_COMPUTE]) / t->ranks;
  }
  s.ideal = work / speed;
  find_last(c, &s.last_op, &s.last_rank);
  *out = s;
  return NEAP_OK;
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

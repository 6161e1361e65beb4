/* SPDX-License-Identifier: Apache-2.0 */
/* Running a program: events are transfers that begin to move, or end. Between them every rank goes
 * as far as it can. Deterministic: events of equal time happen in the order in which they were
 * posted. */
#include "layout/groups.h"
#include "simulate/cluster.h"

#include <math.h>
#include <string.h>

/* ---- ranks ----------------------------------------------------------------------------------- */

/* When all that an operation waits for on a rank has ended; negative if something has not. */
static double ready_at(const neap_cluster *c, const neapi_cluster_op *op, int32_t rank)
{
  const neapi_sim_rank *s = &c->state[rank];
  double ready = s->last[op->queue];
  for (int32_t i = 0; i < op->count; i++) {
    const neapi_cluster_op *other = &c->ops[op->after[i]];
    if (s->cursor[other->queue] <= other->index)
      return -1;
    ready = other->end[rank] > ready ? other->end[rank] : ready;
  }
  return ready;
}

/* Without interference the end is known at once; else it is an event. */
static int compute(neap_cluster *c, neapi_cluster_op *op, int32_t rank, double ready)
{
  neapi_sim_rank *s = &c->state[rank];
  double seconds = op->common + (op->each ? op->each[rank] : 0);
  op->begin[rank] = ready;
  if (!c->slowed[0] || seconds == 0) {
    op->end[rank] = ready + seconds / c->topology->speed[rank];
    s->last[op->queue] = op->end[rank];
    s->cursor[op->queue]++;
    return NEAP_OK;
  }
  s->arrived[op->queue] = s->working = true;
  s->left = seconds;
  s->rate = 0;
  s->since = ready;
  int status = neapi_cluster_computes(c, rank, 1, ready);
  return status ? status : neapi_cluster_pace(c, rank, ready);
}

static int arrive(neap_cluster *c, neapi_cluster_op *op, int32_t rank, double ready)
{
  neapi_sim_transfer *f = &op->transfers[neapi_group_of(c->topology, op->group, rank)];
  c->state[rank].arrived[op->queue] = true;
  if (ready > f->begin || f->latest < 0) {
    f->begin = ready > f->begin ? ready : f->begin;
    f->latest = rank;
  }
  if (--f->missing)
    return NEAP_OK;
  bool far = f->last_node - f->first_node > 1;
  double latency = far ? c->links.far_latency : c->links.latency;
  return neapi_cluster_post(c, f->begin + latency + f->set_up + op->common, f);
}

/* Goes on with one queue of a rank; *moved if anything could be done. */
static int advance_queue(neap_cluster *c, int32_t rank, int32_t queue, bool *moved)
{
  neapi_sim_rank *s = &c->state[rank];
  while (s->cursor[queue] < c->queued[queue] && !s->arrived[queue]) {
    neapi_cluster_op *op = &c->ops[c->queue[queue][s->cursor[queue]]];
    double ready = ready_at(c, op, rank);
    if (ready < 0)
      return NEAP_OK;
    *moved = true;
    int status = queue == NEAP_COMPUTE ? compute(c, op, rank, ready) : arrive(c, op, rank, ready);
    if (status)
      return status;
  }
  return NEAP_OK;
}

static int advance(neap_cluster *c, int32_t rank)
{
  bool moved = true;
  int status = NEAP_OK;
  while (moved && !status) {
    moved = false;
    for (int32_t q = 0; q < NEAP_STREAMS && !status; q++)
      status = advance_queue(c, rank, q, &moved);
  }
  return status;
}

/* ---- transfers ------------------------------------------------------------------------------- */

/* Seconds that a transfer needs of its busiest link, and of its messages. */
static double full_seconds(const neap_topology *t, const neapi_cluster_op *op,
                           const neapi_sim_transfer *f)
{
  double most = f->alone;
  for (int32_t r = f->first; op->each && r < f->last; r++)
    most = op->each[r] > most ? op->each[r] : most;
  for (int32_t n = f->first_node; op->uplink && n < f->last_node; n++) {
    int32_t first = t->first_rank[n], last = t->first_rank[n + 1];
    int32_t from = first > f->first ? first : f->first, to = last < f->last ? last : f->last;
    double seconds = op->uplink[n] * (to - from) / (last - first);
    most = seconds > most ? seconds : most;
  }
  return most;
}

static void prepare(neap_cluster *c, int32_t id)
{
  const neap_topology *t = c->topology;
  neapi_cluster_op *op = &c->ops[id];
  for (int32_t i = 0; i < op->transfer_count; i++) {
    neapi_sim_transfer *f = &op->transfers[i];
    *f = (neapi_sim_transfer){.op = id, .latest = -1, .set_up = f->set_up, .alone = f->alone};
    neapi_group_ranks(t, op->group, i, &f->first, &f->last);
    f->first_node = t->node_of[f->first];
    f->last_node = t->node_of[f->last - 1] + 1;
    f->missing = f->last - f->first;
    f->full = f->left = full_seconds(t, op, f);
  }
}

static int begin_to_move(neap_cluster *c, neapi_sim_transfer *f, double time)
{
  f->moving = true;
  f->since = time;
  f->rate = 0;
  for (int32_t r = f->first; r < f->last; r++) {
    c->state[r].moving[c->ops[f->op].queue] = f;
    f->computing += c->state[r].working;
  }
  int status = neapi_cluster_share(c, f, time);
  for (int32_t r = f->first; r < f->last && !status; r++)
    status = neapi_cluster_pace(c, r, time);
  return status;
}

static int finish(neap_cluster *c, neapi_sim_transfer *f, double time)
{
  neapi_cluster_op *op = &c->ops[f->op];
  int status = NEAP_OK;
  for (int32_t r = f->first; r < f->last; r++) {
    neapi_sim_rank *s = &c->state[r];
    op->begin[r] = f->begin;
    op->end[r] = s->last[op->queue] = time;
    s->cursor[op->queue]++;
    s->arrived[op->queue] = false;
    s->moving[op->queue] = NULL;
  }
  if (f->moving)
    status = neapi_cluster_share(c, f, time);
  for (int32_t r = f->first; r < f->last && !status; r++)
    status = neapi_cluster_pace(c, r, time);
  for (int32_t r = f->first; r < f->last && !status; r++)
    status = advance(c, r);
  return status;
}

/* A rank has computed what it was at. */
static int finish_work(neap_cluster *c, int32_t rank, double time)
{
  neapi_sim_rank *s = &c->state[rank];
  neapi_cluster_op *op = &c->ops[c->queue[NEAP_COMPUTE][s->cursor[NEAP_COMPUTE]++]];
  op->end[rank] = s->last[NEAP_COMPUTE] = time;
  s->arrived[NEAP_COMPUTE] = s->working = false;
  int status = neapi_cluster_computes(c, rank, -1, time);
  return status ? status : advance(c, rank);
}

static int run(neap_cluster *c)
{
  int status = NEAP_OK;
  for (int32_t r = 0; r < c->topology->ranks && !status; r++)
    status = advance(c, r);
  while (c->event_count && !status) {
    neapi_sim_event event = neapi_cluster_take_first(c);
    neapi_sim_transfer *f = event.transfer;
    if (event.version != (f ? f->version : c->state[event.rank].version))
      continue;
    if (!f)
      status = finish_work(c, event.rank, event.time);
    else if (!f->moving && f->full > 0)
      status = begin_to_move(c, f, event.time);
    else
      status = finish(c, f, event.time);
  }
  return status;
}

int neap_cluster_run(neap_cluster *c)
{
  int32_t ranks = c->topology->ranks;
  memset(c->state, 0, (size_t)ranks * sizeof *c->state);
  c->event_count = c->order = c->visit = 0;
  for (int32_t i = 0; i < c->count; i++)
    prepare(c, i);
  int status = run(c);
  if (status)
    return status;
  c->total = 0;
  for (int32_t r = 0; r < ranks; r++)
    for (int32_t q = 0; q < NEAP_STREAMS; q++)
      c->total = fmax(c->total, c->state[r].last[q]);
  c->done = true;
  return NEAP_OK;
}

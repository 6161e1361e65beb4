/* SPDX-License-Identifier: Apache-2.0 */
/* Cluster: machines that are only described, and programs of operations for their ranks. Running a
 * program is in run.c, what its times tell in report.c. */
#include "simulate/cluster.h"

#include "base/memory.h"
#include "layout/groups.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct neapi_block {
  neapi_block *next;
  int64_t size, used;
  char *data;
};

static const int64_t BLOCK = 1 << 20;

/* ---- memory of a program --------------------------------------------------------------------- */

static neapi_block *add_block(neap_cluster *c, int64_t bytes)
{
  neapi_block *block = neapi_alloc_zero(sizeof *block, "cluster");
  if (!block)
    return NULL;
  block->size = bytes > BLOCK ? bytes : BLOCK;
  block->data = neapi_alloc(block->size, "cluster");
  if (!block->data) {
    free(block);
    return NULL;
  }
  if (c->block) {
    block->next = c->block->next;
    c->block->next = block;
  } else {
    c->blocks = block;
  }
  return block;
}

void *neapi_cluster_take(neap_cluster *c, int64_t bytes)
{
  bytes = (bytes + 63) / 64 * 64;
  while (c->block && c->block->used + bytes > c->block->size && c->block->next) {
    c->block = c->block->next;
    c->block->used = 0;
  }
  if (!c->block || c->block->used + bytes > c->block->size) {
    neapi_block *block = add_block(c, bytes);
    if (!block)
      return NULL;
    c->block = block;
  }
  void *memory = c->block->data + c->block->used;
  c->block->used += bytes;
  return memory;
}

static void *take_copy(neap_cluster *c, const double *values, int64_t count)
{
  double *copy = neapi_cluster_take(c, 8 * count);
  if (copy)
    memcpy(copy, values, 8ul * (size_t)count);
  return copy;
}

/* ---- open and close -------------------------------------------------------------------------- */

static int check_above_zero(const char *field, double value, const char *unit)
{
  if (value > 0 && !isnan(value))
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "cluster: %s is %g %s; it must be above 0 (inf: no limit)",
                    field, value, unit);
}

static int check_latency(const char *field, double value)
{
  if (value >= 0 && isfinite(value))
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "cluster: %s is %g s; it must be 0 or more and finite", field,
                    value);
}

static int check_rates(const neap_links *links)
{
  if (links->rates < 0 || links->rates > NEAP_RATES)
    return neapi_fail(NEAP_ARGUMENT, "cluster: %d rates; allowed are 0 to %d", links->rates,
                      NEAP_RATES);
  double size = 0, seconds = 0;
  for (int32_t i = 0; i < links->rates; i++) {
    double bytes = links->sizes[i], rate = links->rate[i];
    if (!(rate > 0 && isfinite(rate)) || !(bytes > size && isfinite(bytes)) ||
        bytes / rate < seconds)
      return neapi_fail(
          NEAP_ARGUMENT,
          "cluster: rate %d is %g B/s for messages of %g bytes; rates must be above 0, "
          "sizes grow, and no message take less time than a smaller one",
          i, rate, bytes);
    size = bytes;
    seconds = bytes / rate;
  }
  return NEAP_OK;
}

static int check_interference(const neap_links *links)
{
  for (int32_t a = 0; a < NEAP_STREAMS; a++)
    for (int32_t b = 0; b < NEAP_STREAMS; b++)
      if (!(links->interference[a][b] >= 0 && isfinite(links->interference[a][b])))
        return neapi_fail(NEAP_ARGUMENT,
                          "cluster: interference of %s with %s is %g; it must be 0 or more and "
                          "finite",
                          neap_stream_name(b), neap_stream_name(a), links->interference[a][b]);
  return NEAP_OK;
}

static int check_links(const neap_links *links)
{
  int status = check_above_zero("port", links->port, "B/s");
  if (!status)
    status = check_above_zero("uplink", links->uplink, "B/s");
  if (!status)
    status = check_latency("latency", links->latency);
  if (!status)
    status = check_latency("far_latency", links->far_latency);
  if (!status)
    status = check_latency("peer", links->peer);
  if (!status)
    status = check_latency("far_peer", links->far_peer);
  if (!status)
    status = check_rates(links);
  return status ? status : check_interference(links);
}

int neap_cluster_open(neap_topology *topology, const neap_links *links, neap_cluster **out)
{
  int status = check_links(links);
  if (status)
    return status;
  neap_cluster *c = neapi_alloc_zero(sizeof *c, "cluster");
  if (!c)
    return NEAP_MEMORY;
  int64_t ranks = topology->ranks;
  c->topology = neapi_topology_share(topology);
  c->links = *links;
  for (int32_t a = 0; a < NEAP_STREAMS; a++)
    for (int32_t b = 0; b < NEAP_STREAMS; b++)
      c->slowed[a != NEAP_COMPUTE && b != NEAP_COMPUTE] |= links->interference[a][b] > 0;
  c->state = neapi_alloc(ranks * (int64_t)sizeof *c->state, "cluster");
  c->rate_at = neapi_alloc(NEAP_STREAMS * ranks * 8, "cluster");
  c->seen = neapi_alloc(NEAP_STREAMS * ranks * (int64_t)sizeof *c->seen, "cluster");
  c->wants = neapi_alloc(NEAP_STREAMS * ranks * 8, "cluster");
  if (!c->state || !c->rate_at || !c->seen || !c->wants) {
    neap_cluster_close(c);
    return NEAP_MEMORY;
  }
  *out = c;
  return NEAP_OK;
}

void neap_cluster_close(neap_cluster *c)
{
  if (!c)
    return;
  while (c->blocks) {
    neapi_block *next = c->blocks->next;
    free(c->blocks->data);
    free(c->blocks);
    c->blocks = next;
  }
  for (int32_t q = 0; q < NEAP_STREAMS; q++)
    free(c->queue[q]);
  free(c->ops);
  free(c->state);
  free(c->rate_at);
  free(c->events);
  free(c->seen);
  free(c->wants);
  neap_topology_close(c->topology);
  free(c);
}

void neap_cluster_clear(neap_cluster *c)
{
  c->count = 0;
  c->done = false;
  memset(c->queued, 0, sizeof c->queued);
  c->block = c->blocks;
  if (c->block)
    c->block->used = 0;
}

/* ---- operations ------------------------------------------------------------------------------ */

static int check_numbers(const char *what, const double *values, int32_t count, const char *unit)
{
  for (int32_t i = 0; values && i < count; i++)
    if (!(values[i] >= 0 && isfinite(values[i])))
      return neapi_fail(NEAP_ARGUMENT, "cluster: %s of %s %d are %g; allowed: 0 or more, finite",
                        what, unit, i, values[i]);
  return NEAP_OK;
}

static int check_after(const neap_cluster *c, const int32_t *after, int32_t count)
{
  if (count < 0 || count > NEAPI_AFTER)
    return neapi_fail(NEAP_ARGUMENT, "cluster: an operation after %d others; allowed are 0 to %d",
                      count, NEAPI_AFTER);
  for (int32_t i = 0; i < count; i++)
    if (after[i] < 0 || after[i] >= c->count)
      return neapi_fail(NEAP_ARGUMENT, "cluster: after operation %d; allowed are 0 to %d", after[i],
                        c->count - 1);
  return NEAP_OK;
}

/* Makes space for one more operation in the list and the queues. */
static int grow(neap_cluster *c)
{
  if (c->count < c->capacity)
    return NEAP_OK;
  int32_t capacity = c->capacity ? 2 * c->capacity : 1024;
  void *ops = realloc(c->ops, (size_t)capacity * sizeof *c->ops);
  if (!ops)
    return neapi_fail(NEAP_MEMORY, "cluster: no memory for %d operations", capacity);
  c->ops = ops;
  for (int32_t q = 0; q < NEAP_STREAMS; q++) {
    void *queue = realloc(c->queue[q], 4ul * (size_t)capacity);
    if (!queue)
      return neapi_fail(NEAP_MEMORY, "cluster: no memory for %d operations", capacity);
    c->queue[q] = queue;
  }
  c->capacity = capacity;
  return NEAP_OK;
}

static int add(neap_cluster *c, neapi_cluster_op *op, const int32_t *after, int32_t count,
               int32_t *id)
{
  int64_t bytes = 8ll * c->topology->ranks;
  int status = grow(c);
  if (status)
    return status;
  op->begin = neapi_cluster_take(c, bytes);
  op->end = op->begin ? neapi_cluster_take(c, bytes) : NULL;
  if (!op->end)
    return NEAP_MEMORY;
  op->count = count;
  if (count)
    memcpy(op->after, after, 4ul * (size_t)count);
  op->queue = op->stream != NEAP_COMPUTE && c->links.queued ? NEAP_TOKENS : op->stream;
  op->index = c->queued[op->queue]++;
  c->queue[op->queue][op->index] = c->count;
  c->ops[c->count] = *op;
  *id = c->count++;
  c->done = false;
  return NEAP_OK;
}

int neap_cluster_compute(neap_cluster *c, double common, const double *each, const int32_t *after,
                         int32_t count, int32_t *id)
{
  int32_t ranks = c->topology->ranks;
  int status = check_numbers("seconds", &common, 1, "operation");
  if (!status)
    status = check_numbers("seconds", each, ranks, "rank");
  if (!status)
    status = check_after(c, after, count);
  if (status)
    return status;
  neapi_cluster_op op = {.stream = NEAP_COMPUTE, .common = common};
  if (each && !(op.each = take_copy(c, each, ranks)))
    return NEAP_MEMORY;
  return add(c, &op, after, count, id);
}

/* Seconds of links from bytes. */
static int take_links(neap_cluster *c, neapi_cluster_op *op, const double *port,
                      const double *uplink)
{
  const neap_topology *t = c->topology;
  if (port && !(op->each = take_copy(c, port, t->ranks)))
    return NEAP_MEMORY;
  if (uplink && !(op->uplink = take_copy(c, uplink, t->nodes)))
    return NEAP_MEMORY;
  for (int32_t r = 0; port && r < t->ranks; r++)
    op->each[r] /= c->links.port;
  for (int32_t n = 0; uplink && n < t->nodes; n++)
    op->uplink[n] /= c->links.uplink;
  op->transfer_count = neapi_group_count(t, op->group);
  op->transfers = neapi_cluster_take(c, op->transfer_count * (int64_t)sizeof *op->transfers);
  if (!op->transfers)
    return NEAP_MEMORY;
  neapi_cluster_set_up(c, op, port);
  return NEAP_OK;
}

int neap_cluster_exchange(neap_cluster *c, int32_t stream, int32_t group, int32_t peers,
                          double delay, const double *port, const double *uplink,
                          const int32_t *after, int32_t count, int32_t *id)
{
  if (stream <= NEAP_COMPUTE || stream >= NEAP_STREAMS)
    return neapi_fail(NEAP_ARGUMENT, "cluster: no stream %d for exchanges; allowed are %d to %d",
                      stream, NEAP_COMPUTE + 1, NEAP_STREAMS - 1);
  if (peers < NEAP_PEERS_NONE || peers > NEAP_PEERS_NODES)
    return neapi_fail(NEAP_ARGUMENT, "cluster: no peers %d; allowed are %d to %d", peers,
                      NEAP_PEERS_NONE, NEAP_PEERS_NODES);
  int status = neapi_group_check(c->topology, group, "cluster");
  if (!status)
    status = check_numbers("seconds", &delay, 1, "operation");
  if (!status)
    status = check_numbers("bytes", port, c->topology->ranks, "rank");
  if (!status)
    status = check_numbers("bytes", uplink, c->topology->nodes, "node");
  if (!status)
    status = check_after(c, after, count);
  neapi_cluster_op op = {.stream = stream, .group = group, .peers = peers, .common = delay};
  if (!status)
    status = take_links(c, &op, port, uplink);
  return status ? status : add(c, &op, after, count, id);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of planner neap, and what layouts it takes. */
#include "plan/neap/state.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_FEW = 512 };

static const char WHO[] = "planner neap";

/* Cells of a node are as equal as can be, and no larger than NEAPI_CELL_RANKS. */
static void cut_cells(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  for (int32_t g = 0; g < t->nodes; g++) {
    int32_t ranks = t->first_rank[g + 1] - t->first_rank[g];
    int32_t parts = (ranks + NEAPI_CELL_RANKS - 1) / NEAPI_CELL_RANKS;
    for (int32_t i = 0; i < parts; i++)
      n->cell_first[n->cells++] = t->first_rank[g] + (int32_t)((int64_t)ranks * i / parts);
  }
  n->cell_first[n->cells] = t->ranks;
}

static void describe(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  double sum = 0;
  for (int32_t r = 0; r < t->ranks; r++)
    sum += t->speed[r];
  for (int32_t r = 0; r < t->ranks; r++)
    n->levels.speed[r] = n->speed[r] = t->speed[r] * t->ranks / sum;
  n->whole = true;
  for (int32_t g = 0; g < t->nodes; g++)
    n->whole &= neapi_neap_node_slots(t, g) >= t->experts;
  n->few = t->slots <= MOST_FEW;
  cut_cells(n);
}

/* The next array of that many bytes in the state's one block; only counts while there is none. */
static void *take(neapi_neap *n, int64_t bytes)
{
  int64_t at = n->bytes;
  n->bytes += (bytes + 63) / 64 * 64;
  return n->memory ? n->memory + at : NULL;
}

static void lay_out(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  int64_t pairs = (int64_t)t->nodes * t->experts, both = (int64_t)t->experts + t->ranks;
  n->bytes = 0;
  n->cell_first = take(n, 4ll * t->ranks + 4);
  n->speed = take(n, 8ll * t->ranks);
  n->load = take(n, 8 * pairs);
  n->total = take(n, 8ll * t->experts);
  n->drift = take(n, 8ll * t->experts);
  for (int32_t i = 0; i < 2; i++)
    n->recent[i] = take(n, 8 * pairs);
  n->shares = take(n, 8ll * NEAPI_PAST * t->experts);
  n->logs = take(n, 8ll * NEAPI_PAST * t->experts);
  n->expert_of = take(n, 4ll * t->slots);
  n->start = take(n, 4ll * t->slots);
  n->best = take(n, 4ll * t->slots);
  n->even = take(n, 4ll * t->slots);
  n->late_slot = take(n, 4ll * t->ranks);
  n->count = take(n, 4ll * t->experts);
  n->node_count = take(n, 4 * pairs);
  n->away = take(n, 8ll * t->experts);
  n->order = take(n, 4 * both);
  n->each = take(n, 8ll * t->experts);
  n->used = take(n, 8ll * t->ranks);
  n->free_slots = take(n, 4ll * t->ranks);
  n->pending = take(n, 4ll * t->nodes);
  n->held = take(n, 4ll * t->experts);
  n->heap = take(n, (int64_t)sizeof *n->heap * both);
  n->mask = take(n, (int64_t)t->ranks * t->experts);
  n->node_cells = take(n, 4 * pairs);
  n->holders = take(n, 4ll * t->experts);
  n->work = take(n, 4ll * t->experts);
  n->variance = take(n, 4ll * t->experts);
  n->critical = take(n, (int64_t)sizeof *n->critical * t->ranks);
  n->stuck = take(n, (int64_t)sizeof *n->stuck * t->experts);
  n->room = take(n, (int64_t)sizeof *n->room * t->experts);
  n->kept_part = take(n, (int64_t)sizeof *n->kept_part * t->slots);
  n->kept_load = take(n, (int64_t)sizeof *n->kept_load * t->ranks);
  n->harm = take(n, 4ll * t->slots);
  n->missing = take(n, 4ll * t->nodes);
  n->deviation = take(n, 8ll * t->experts);
  n->levels.speed = take(n, 4ll * t->ranks);
  n->levels.work = take(n, (int64_t)sizeof *n->levels.work * t->experts);
  n->levels.part = take(n, (int64_t)sizeof *n->levels.part * t->slots);
  n->levels.load = take(n, (int64_t)sizeof *n->levels.load * t->ranks);
  n->levels.head = take(n, 4ll * t->experts);
  n->levels.next = take(n, 4ll * t->slots);
  n->levels.count = take(n, 4ll * t->experts);
  n->levels.expert_of = n->expert_of;
  n->levels.topology = t;
}

void neapi_neap_close(void *scratch)
{
  neapi_neap *n = scratch;
  if (!n)
    return;
  free(n->memory);
  free(n);
}

int neapi_neap_open(const neap_topology *topology, void **scratch)
{
  neapi_neap *n = neapi_alloc_zero(sizeof *n, WHO);
  if (!n)
    return NEAP_MEMORY;
  n->topology = topology;
  lay_out(n);
  n->memory = neapi_alloc(n->bytes, WHO);
  if (!n->memory) {
    neapi_neap_close(n);
    return NEAP_MEMORY;
  }
  lay_out(n);
  describe(n);
  *scratch = n;
  return NEAP_OK;
}

bool neapi_neap_has_no_doubles(neapi_neap *n, const int32_t *expert_of)
{
  const neap_topology *t = n->topology;
  memset(n->held, 0, sizeof *n->held * t->experts);
  for (int32_t r = 0; r < t->ranks; r++) {
    int32_t slots = t->first_slot[r + 1] - t->first_slot[r], different = 0;
    for (int32_t s = t->first_slot[r]; s < t->first_slot[r + 1]; s++) {
      different += n->held[expert_of[s]] != (uint32_t)r + 1;
      n->held[expert_of[s]] = r + 1;
    }
    if (different < (slots < t->experts ? slots : t->experts))
      return false;
  }
  return true;
}

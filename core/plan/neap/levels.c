/* SPDX-License-Identifier: Apache-2.0 */
/* Pouring experts' work over ranks; see levels.h. */
#include "plan/neap/levels.h"

#include <string.h>

enum { NONE = -1, ROUNDS = 2 };

/* ---- one expert, on the slots of a list from first up to last, which is not of them ---------- */

/* Takes the expert's work out of its ranks. Returns their speed. */
static float take_out(neapi_levels *l, int32_t first, int32_t last, neapi_lanes *sum)
{
  float speed = 0;
  for (int32_t s = first; s != last; s = l->next[s]) {
    neapi_lanes *load = &l->load[l->topology->rank_of[s]];
    const neapi_lanes *part = &l->part[s];
    for (int32_t i = 0; i < NEAPI_LANES; i++) {
      load->of[i] -= part->of[i];
      sum->of[i] += load->of[i];
    }
    speed += l->speed[l->topology->rank_of[s]];
  }
  return speed;
}

/* Lowers the level to what ranks below it need to take the work. */
static void lower(const neapi_levels *l, int32_t first, int32_t last, const neapi_lanes *work,
                  neapi_lanes *level)
{
  neapi_lanes sum = *work, speed = {{0}};
  for (int32_t s = first; s != last; s = l->next[s]) {
    int32_t rank = l->topology->rank_of[s];
    const neapi_lanes *load = &l->load[rank];
    float own = l->speed[rank];
    for (int32_t i = 0; i < NEAPI_LANES; i++) {
      float open = load->of[i] < level->of[i] * own ? 1.0f : 0.0f;
      sum.of[i] += open * load->of[i];
      speed.of[i] += open * own;
    }
  }
  for (int32_t i = 0; i < NEAPI_LANES; i++)
    level->of[i] = sum.of[i] / (speed.of[i] > 0 ? speed.of[i] : 1.0f);
}

/* Puts the work up to the level; what that is too much, since the level may still be too high, is
 * taken off everywhere. */
static void put_in(neapi_levels *l, int32_t first, int32_t last, const neapi_lanes *work,
                   const neapi_lanes *level)
{
  neapi_lanes total = {{0}};
  for (int32_t s = first; s != last; s = l->next[s]) {
    int32_t rank = l->topology->rank_of[s];
    const neapi_lanes *load = &l->load[rank];
    neapi_lanes *part = &l->part[s];
    for (int32_t i = 0; i < NEAPI_LANES; i++) {
      float below = level->of[i] * l->speed[rank] - load->of[i];
      part->of[i] = below > 0 ? below : 0;
      total.of[i] += part->of[i];
    }
  }
  for (int32_t i = 0; i < NEAPI_LANES; i++)
    total.of[i] = work->of[i] / (total.of[i] > 1e-12f ? total.of[i] : 1e-12f);
  for (int32_t s = first; s != last; s = l->next[s]) {
    neapi_lanes *load = &l->load[l->topology->rank_of[s]], *part = &l->part[s];
    for (int32_t i = 0; i < NEAPI_LANES; i++) {
      part->of[i] *= total.of[i];
      load->of[i] += part->of[i];
    }
  }
}

static void pour(neapi_levels *l, int32_t first, int32_t last, const neapi_lanes *work)
{
  neapi_lanes level = *work;
  float speed = take_out(l, first, last, &level);
  for (int32_t i = 0; i < NEAPI_LANES; i++)
    level.of[i] /= speed;
  for (int32_t i = 0; i < ROUNDS && l->next[first] != last; i++)
    lower(l, first, last, work, &level);
  put_in(l, first, last, work, &level);
}

void neapi_levels_pour(neapi_levels *l, int32_t expert)
{
  pour(l, l->head[expert], NONE, &l->work[expert]);
}

/* ---- layouts --------------------------------------------------------------------------------- */

static void link(neapi_levels *l, int32_t slot, int32_t expert)
{
  l->expert_of[slot] = expert;
  l->next[slot] = l->head[expert];
  l->head[expert] = slot;
  l->count[expert]++;
}

static void unlink_slot(neapi_levels *l, int32_t slot)
{
  int32_t expert = l->expert_of[slot], *at = &l->head[expert];
  while (*at != slot)
    at = &l->next[*at];
  *at = l->next[slot];
  l->count[expert]--;
}

void neapi_levels_settle(neapi_levels *l)
{
  for (int32_t e = 0; e < l->topology->experts; e++)
    if (l->count[e] > 1)
      neapi_levels_pour(l, e);
}

void neapi_levels_fill(neapi_levels *l, int32_t rounds)
{
  const neap_topology *t = l->topology;
  memset(l->part, 0, sizeof *l->part * (size_t)t->slots);
  memset(l->load, 0, sizeof *l->load * (size_t)t->ranks);
  memset(l->count, 0, sizeof *l->count * (size_t)t->experts);
  for (int32_t e = 0; e < t->experts; e++)
    l->head[e] = NONE;
  for (int32_t s = t->slots - 1; s >= 0; s--) {
    int32_t after = l->head[l->expert_of[s]]; /* on the same rank: it stands for both */
    if (after == NONE || t->rank_of[after] != t->rank_of[s])
      link(l, s, l->expert_of[s]);
  }
  for (int32_t e = 0; e < t->experts; e++)
    if (l->count[e] == 1)
      neapi_levels_pour(l, e);
  for (int32_t i = 0; i < rounds; i++)
    neapi_levels_settle(l);
}

void neapi_levels_put(neapi_levels *l, int32_t slot, int32_t expert)
{
  neapi_lanes *load = &l->load[l->topology->rank_of[slot]], *part = &l->part[slot];
  unlink_slot(l, slot);
  for (int32_t i = 0; i < NEAPI_LANES; i++) {
    load->of[i] -= part->of[i];
    part->of[i] = 0;
  }
  link(l, slot, expert);
}

void neapi_levels_most(const neapi_levels *l, neapi_lanes *most)
{
  memset(most, 0, sizeof *most);
  for (int32_t r = 0; r < l->topology->ranks; r++) {
    float pace = 1 / l->speed[r];
    for (int32_t i = 0; i < NEAPI_LANES; i++) {
      float level = l->load[r].of[i] * pace;
      most->of[i] = level > most->of[i] ? level : most->of[i];
    }
  }
}

/* ---- what has to leave its node -------------------------------------------------------------- */

/* Pours each node's own work of an expert over its slots on the node. */
static void pour_near(neapi_levels *l, int32_t expert, const double *node_load)
{
  const neap_topology *t = l->topology;
  double total = 0;
  for (int32_t g = 0; g < t->nodes; g++)
    total += node_load[(int64_t)g * t->experts + expert];
  for (int32_t first = l->head[expert], last; first != NONE; first = last) {
    int32_t node = t->node_of[t->rank_of[first]];
    float part = total > 0 ? node_load[(int64_t)node * t->experts + expert] / total : 0;
    neapi_lanes work;
    for (int32_t i = 0; i < NEAPI_LANES; i++)
      work.of[i] = part * l->work[expert].of[i];
    for (last = first; last != NONE && t->node_of[t->rank_of[last]] == node;)
      last = l->next[last];
    pour(l, first, last, &work);
  }
}

double neapi_levels_excess(const neapi_levels *levels, const double *node_load,
                           const neapi_lanes *most, int32_t rounds, neapi_lanes *part,
                           neapi_lanes *load)
{
  neapi_levels near = *levels;
  const neap_topology *t = near.topology;
  double sum = 0;
  near.part = part;
  near.load = load;
  memset(part, 0, sizeof *part * (size_t)t->slots);
  memset(load, 0, sizeof *load * (size_t)t->ranks);
  for (int32_t i = 0; i < rounds; i++)
    for (int32_t e = 0; e < t->experts; e++)
      pour_near(&near, e, node_load);
  for (int32_t r = 0; r < t->ranks; r++)
    for (int32_t i = 0; i < NEAPI_LANES; i++) {
      float above = load[r].of[i] - most->of[i] * near.speed[r];
      sum += above > 0 ? above : 0;
    }
  return sum / NEAPI_LANES;
}

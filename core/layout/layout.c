/* SPDX-License-Identifier: Apache-2.0 */
/* Layout: the expert of every slot, validated, hashed and indexed both ways. */
#include "layout/layout.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

int neap_layout_open(neap_topology *topology, neap_layout **out)
{
  neap_layout *l = neapi_alloc_zero(sizeof *l, "layout");
  if (!l)
    return NEAP_MEMORY;
  l->topology = neapi_topology_share(topology);
  l->expert_of = neapi_alloc(topology->slots * 4ll, "layout");
  l->first = neapi_alloc_zero(topology->experts * 4ll + 4, "layout");
  l->by_expert = neapi_alloc(topology->slots * 4ll, "layout");
  l->index_of = neapi_alloc(topology->slots * 4ll, "layout");
  l->rank_at = neapi_alloc(topology->slots * 4ll, "layout");
  if (!l->expert_of || !l->first || !l->by_expert || !l->index_of || !l->rank_at) {
    neap_layout_close(l);
    return NEAP_MEMORY;
  }
  memset(l->expert_of, -1, topology->slots * 4ul);
  *out = l;
  return NEAP_OK;
}

void neap_layout_close(neap_layout *l)
{
  if (!l)
    return;
  neap_topology_close(l->topology);
  free(l->expert_of);
  free(l->first);
  free(l->by_expert);
  free(l->index_of);
  free(l->rank_at);
  free(l);
}

static int check(const neap_topology *t, const int32_t *expert_of)
{
  for (int32_t s = 0; s < t->slots; s++)
    if (expert_of[s] < 0 || expert_of[s] >= t->experts) {
      int32_t rank = t->rank_of[s];
      return neapi_fail(NEAP_LAYOUT,
                        "layout: slot %d of rank %d holds expert %d; allowed are 0 to %d",
                        s - t->first_slot[rank], rank, expert_of[s], t->experts - 1);
    }
  return NEAP_OK;
}

/* Counting sort of slots by expert; fails if an expert has none. */
static int build_index(const neap_topology *t, const int32_t *expert_of, int32_t *first,
                       int32_t *by_expert)
{
  memset(first, 0, t->experts * 4ul + 4);
  for (int32_t s = 0; s < t->slots; s++)
    first[expert_of[s] + 1]++;
  for (int32_t e = 0; e < t->experts; e++) {
    if (!first[e + 1])
      return neapi_fail(NEAP_LAYOUT, "layout: expert %d is in no slot; every expert needs one", e);
    first[e + 1] += first[e];
  }
  for (int32_t s = 0; s < t->slots; s++)
    by_expert[first[expert_of[s]]++] = s;
  memmove(first + 1, first, t->experts * 4ul);
  first[0] = 0;
  return NEAP_OK;
}

/* FNV-1a over 32-bit words (Fowler, Noll and Vo), with the slots' number first. */
static uint64_t hash_of(const neap_layout *l)
{
  uint64_t hash = 0xcbf29ce484222325u ^ (uint32_t)l->topology->slots;
  for (int32_t s = 0; s < l->topology->slots; s++)
    hash = (hash ^ (uint32_t)l->expert_of[s]) * 0x100000001b3u;
  return hash ^ hash >> 29;
}

/* The rest of the index, and the hash, of a layout that was found to be good. */
static void finish(neap_layout *l)
{
  for (int32_t i = 0; i < l->topology->slots; i++) {
    l->index_of[l->by_expert[i]] = i;
    l->rank_at[i] = l->topology->rank_of[l->by_expert[i]];
  }
  l->hash = hash_of(l);
  l->valid = true;
}

int neapi_layout_index(neap_layout *l)
{
  l->valid = false;
  int status = check(l->topology, l->expert_of);
  if (!status)
    status = build_index(l->topology, l->expert_of, l->first, l->by_expert);
  if (!status)
    finish(l);
  return status;
}

int neap_layout_set(neap_layout *l, const int32_t *expert_of)
{
  const neap_topology *t = l->topology;
  int status = check(t, expert_of);
  if (status)
    return status;
  int32_t *first = neapi_alloc(t->experts * 4ll + 4 + t->slots * 4ll, "layout");
  if (!first)
    return NEAP_MEMORY;
  int32_t *by_expert = first + t->experts + 1;
  status = build_index(t, expert_of, first, by_expert);
  if (!status) {
    memcpy(l->expert_of, expert_of, t->slots * 4ul);
    memcpy(l->first, first, t->experts * 4ul + 4);
    memcpy(l->by_expert, by_expert, t->slots * 4ul);
    finish(l);
  }
  free(first);
  return status;
}

int neapi_layout_require(const neap_layout *l, const neap_topology *t, const char *who)
{
  if (!l->valid)
    return neapi_fail(NEAP_ARGUMENT, "%s: the layout has never been set", who);
  if (l->topology != t && (l->topology->slots != t->slots || l->topology->experts != t->experts ||
                           l->topology->ranks != t->ranks))
    return neapi_fail(
        NEAP_ARGUMENT,
        "%s: the layout is for %d ranks, %d slots and %d experts; expected are %d, %d "
        "and %d",
        who, l->topology->ranks, l->topology->slots, l->topology->experts, t->ranks, t->slots,
        t->experts);
  return NEAP_OK;
}

int neapi_layout_same(const char *who, const char *what, uint64_t hash, uint64_t expected)
{
  if (hash == expected || !hash || !expected)
    return NEAP_OK;
  return neapi_fail(NEAP_LAYOUT,
                    "%s: %s of layout %016llx, the tokens were dispatched by %016llx; a layer's "
                    "layout may not change within its step",
                    who, what, (unsigned long long)hash, (unsigned long long)expected);
}

/* The experts of one rank's slots in another order: those of base where they are there. */
static void align_rank(const neap_topology *t, int32_t rank, const int32_t *base,
                       const int32_t *expert_of, int32_t *out)
{
  int32_t first = t->first_slot[rank], end = t->first_slot[rank + 1], next = first;
  for (int32_t s = first; s < end; s++)
    out[s] = -1;
  for (int32_t s = first; s < end; s++) { /* as many copies as both have */
    int32_t here = 0, before = 0;
    for (int32_t i = first; i < end; i++)
      here += expert_of[i] == base[s];
    for (int32_t i = first; i < s; i++)
      before += base[i] == base[s];
    if (before < here)
      out[s] = base[s];
  }
  for (int32_t s = first; s < end; s++) { /* the rest, in their order */
    int32_t here = 0, taken = 0;
    for (int32_t i = first; i < s; i++)
      here += expert_of[i] == expert_of[s];
    for (int32_t i = first; i < end; i++)
      taken += out[i] == expert_of[s] && base[i] == expert_of[s];
    if (here < taken)
      continue;
    while (out[next] >= 0)
      next++;
    out[next] = expert_of[s];
  }
}

int neap_layout_align(neap_layout *l, const neap_layout *base)
{
  const neap_topology *t = l->topology;
  int status = neapi_layout_require(l, t, "layout align");
  if (!status)
    status = neapi_layout_require(base, t, "layout align");
  if (status)
    return status;
  int32_t *out = neapi_alloc(t->slots * 4ll, "layout align");
  if (!out)
    return NEAP_MEMORY;
  for (int32_t r = 0; r < t->ranks; r++)
    align_rank(t, r, base->expert_of, l->expert_of, out);
  memcpy(l->expert_of, out, t->slots * 4ul);
  free(out);
  return neapi_layout_index(l);
}

int32_t neap_layout_arrivals(const neap_layout *base, const neap_layout *l, int32_t *most)
{
  const neap_topology *t = l->topology;
  int32_t all = 0, largest = 0;
  for (int32_t r = 0; r < t->ranks; r++) {
    int32_t arriving = 0;
    for (int32_t s = t->first_slot[r]; s < t->first_slot[r + 1]; s++) {
      bool there = false;
      for (int32_t i = t->first_slot[r]; i < t->first_slot[r + 1]; i++)
        there |=
            base->expert_of[i] == l->expert_of[s] || (i < s && l->expert_of[i] == l->expert_of[s]);
      arriving += !there;
    }
    all += arriving;
    largest = arriving > largest ? arriving : largest;
  }
  if (most)
    *most = largest;
  return all;
}

/* What is copied has been checked. */
int neap_layout_copy(neap_layout *to, const neap_layout *from)
{
  const neap_topology *t = to->topology;
  int status = neapi_layout_require(from, t, "layout copy");
  if (status)
    return status;
  memcpy(to->expert_of, from->expert_of, t->slots * 4ul);
  memcpy(to->first, from->first, t->experts * 4ul + 4);
  memcpy(to->by_expert, from->by_expert, t->slots * 4ul);
  finish(to);
  return NEAP_OK;
}

const int32_t *neap_layout_experts(const neap_layout *l)
{
  return l->expert_of;
}

neap_topology *neap_layout_topology(const neap_layout *l)
{
  return l->topology;
}

uint64_t neap_layout_hash(const neap_layout *l)
{
  return l->valid ? l->hash : hash_of(l);
}

int32_t neap_layout_changed(const neap_layout *a, const neap_layout *b)
{
  int32_t changed = 0;
  for (int32_t s = 0; s < a->topology->slots; s++)
    changed += a->expert_of[s] != b->expert_of[s];
  return changed;
}

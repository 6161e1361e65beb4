/* SPDX-License-Identifier: Apache-2.0 */
/* How arrays are cut over ranks: which elements of an expert each rank owns, and which it sends to
 * its shard group. */
#include "moe/shards.h"

void neap_cut(int64_t size, int64_t granule, int32_t parts, int32_t index, int64_t *begin,
              int64_t *end)
{
  int64_t each = (size + parts - 1) / parts;
  each = (each + granule - 1) / granule * granule;
  *begin = each * index < size ? each * index : size;
  *end = size - *begin < each ? size : *begin + each;
}

static neapi_shard_range range_of(const neap_shards *s, int64_t size, int32_t count, int32_t index)
{
  neapi_shard_range range;
  neap_cut(size, s->granule, count, index, &range.begin, &range.end);
  return range;
}

bool neapi_shards_resident(const neap_shards *s, int32_t expert, int32_t rank)
{
  return s->resident && neapi_topology_at_home(s->topology, expert, rank);
}

const void *neapi_shards_own(const neap_shards *s, int32_t expert)
{
  if (!neapi_shards_resident(s, expert, s->rank))
    return NULL;
  return s->now.working + s->now.working_at[expert];
}

/* Of an expert that is resident: cut over its homes, one in each run of ranks. */
static neapi_shard_range home_range(const neap_shards *s, int32_t expert, int32_t rank, bool whole)
{
  int32_t run = s->topology->homes;
  if (!neapi_topology_at_home(s->topology, expert, rank))
    return (neapi_shard_range){0, 0};
  return whole ? (neapi_shard_range){0, s->sizes[expert]}
               : range_of(s, s->sizes[expert], s->ranks / run, rank / run);
}

neapi_shard_range neapi_shards_master(const neap_shards *s, int32_t expert, int32_t rank)
{
  return s->resident ? home_range(s, expert, rank, false)
                     : range_of(s, s->sizes[expert], s->ranks, rank);
}

neapi_shard_range neapi_shards_working(const neap_shards *s, int32_t expert, int32_t rank)
{
  return s->resident
             ? home_range(s, expert, rank, true)
             : range_of(s, s->sizes[expert], s->group_size[rank], rank - s->group_first[rank]);
}

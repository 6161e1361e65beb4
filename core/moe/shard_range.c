/* Which elements of an expert each rank owns, and which it sends to its shard group. */
#include "moe/shards.h"

/* The index-th of parts contiguous ranges of ceil(size / parts) elements. */
static neapi_range cut(int64_t size, int32_t parts, int32_t index)
{
  int64_t each = (size + parts - 1) / parts, begin = each * index, end = begin + each;
  return (neapi_range){begin < size ? begin : size, end < size ? end : size};
}

neapi_range neapi_shards_master(const neap_shards *s, int32_t expert, int32_t rank)
{
  return cut(s->sizes[expert], s->ranks, rank);
}

neapi_range neapi_shards_working(const neap_shards *s, int32_t expert, int32_t rank)
{
  return cut(s->sizes[expert], s->group_size[rank], rank - s->group_first[rank]);
}

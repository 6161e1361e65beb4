/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of ranks. */
#include "layout/groups.h"

int neapi_group_check(const neap_topology *t, int32_t group, const char *who)
{
  if (group == NEAP_GROUP_ALL || group == NEAP_GROUP_NODE || (group >= 1 && group <= t->ranks))
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT,
                    "%s: shard group is %d; allowed are 1 to %d ranks per group, %d (all) and %d "
                    "(node)",
                    who, group, t->ranks, NEAP_GROUP_ALL, NEAP_GROUP_NODE);
}

int32_t neapi_group_count(const neap_topology *t, int32_t group)
{
  if (group == NEAP_GROUP_ALL)
    return 1;
  return group == NEAP_GROUP_NODE ? t->nodes : (t->ranks + group - 1) / group;
}

void neapi_group_ranks(const neap_topology *t, int32_t group, int32_t index, int32_t *first,
                       int32_t *last)
{
  if (group == NEAP_GROUP_NODE) {
    *first = t->first_rank[index];
    *last = t->first_rank[index + 1];
    return;
  }
  int32_t size = group == NEAP_GROUP_ALL ? t->ranks : group;
  *first = index * size;
  *last = t->ranks - *first < size ? t->ranks : *first + size;
}

int32_t neapi_group_of(const neap_topology *t, int32_t group, int32_t rank)
{
  if (group == NEAP_GROUP_NODE)
    return t->node_of[rank];
  return group == NEAP_GROUP_ALL ? 0 : rank / group;
}

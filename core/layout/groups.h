/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of ranks, as shard groups and exchanges of a simulated cluster take them: all ranks, those
 * of each node, or so many consecutive ones each, the last group perhaps fewer. */
#ifndef NEAP_GROUPS_H
#define NEAP_GROUPS_H

#include "layout/topology.h"

/* ARGUMENT unless group is NEAP_GROUP_ALL, NEAP_GROUP_NODE or 1 to the number of ranks. */
int neapi_group_check(const neap_topology *topology, int32_t group, const char *who);
int32_t neapi_group_count(const neap_topology *topology, int32_t group);
/* Ranks [*first, *last) of the index-th group. */
void neapi_group_ranks(const neap_topology *topology, int32_t group, int32_t index, int32_t *first,
                       int32_t *last);
/* The group that a rank is in. */
int32_t neapi_group_of(const neap_topology *topology, int32_t group, int32_t rank);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a topology, for layouts, planners and splits. */
#ifndef NEAP_TOPOLOGY_H
#define NEAP_TOPOLOGY_H

#include "base/status.h"

#include <stdbool.h>

struct neap_topology {
  int32_t ranks, nodes, experts, slots;
  int32_t homes;       /* ranks of a run in which every expert has a home; 0: they have none */
  int32_t *node_of;    /* [ranks] */
  int32_t *first_rank; /* [nodes + 1] */
  int32_t *first_slot; /* [ranks + 1] */
  int32_t *rank_of;    /* [slots] rank of a slot */
  double *cost;        /* [experts] */
  double *speed;       /* [ranks] */
  int32_t references;  /* atomic */
};

/* Another owner of the topology; given back with neap_topology_close. */
neap_topology *neapi_topology_share(const neap_topology *topology);

/* Whether an expert is at home on a rank, of a topology with homes. */
bool neapi_topology_at_home(const neap_topology *topology, int32_t expert, int32_t rank);

/* The rank of an expert's home among those of the run that rank is in. */
int32_t neapi_topology_home_of(const neap_topology *topology, int32_t expert, int32_t rank);

/* The slots of a rank in so many parts, in order, as even as can be: the part that a slot belongs
 * to, and how many slots, of count, the first so many parts have. */
int32_t neapi_topology_chunk(const neap_topology *topology, int32_t slot, int32_t parts);
int32_t neapi_slots_before(int32_t count, int32_t parts, int32_t part);

#endif

/* The inside of a topology, for layouts, planners and splits. */
#ifndef NEAP_TOPOLOGY_H
#define NEAP_TOPOLOGY_H

#include "base/status.h"

struct neap_topology {
  int32_t ranks, nodes, experts, slots;
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

/* The slots of a rank in so many parts, in order, as even as can be: the part that a slot belongs
 * to, and how many slots, of count, the first so many parts have. */
int32_t neapi_topology_chunk(const neap_topology *topology, int32_t slot, int32_t parts);
int32_t neapi_slots_before(int32_t count, int32_t parts, int32_t part);

#endif

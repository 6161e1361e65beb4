/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a layout, for planners, splits and shards. */
#ifndef NEAP_LAYOUT_H
#define NEAP_LAYOUT_H

#include "layout/topology.h"

#include <stdbool.h>

struct neap_layout {
  neap_topology *topology;
  bool valid;         /* set at least once */
  int32_t *expert_of; /* [slots] */
  int32_t *first;     /* [experts + 1] where an expert's slots start in by_expert */
  int32_t *by_expert; /* [slots] slots, ascending within an expert */
  int32_t *index_of;  /* [slots] a slot's index in by_expert */
  int32_t *rank_at;   /* [slots] rank of the slot at an index of by_expert */
  uint64_t hash;      /* of expert_of; while valid */
};

/* The layout's slots, to be written by a planner that then calls neapi_layout_index. */
static inline int32_t *neapi_layout_edit(neap_layout *layout)
{
  return layout->expert_of;
}

/* Checks what is in expert_of and builds the index by expert; the layout is valid if this is OK. */
int neapi_layout_index(neap_layout *layout);

/* Reports ARGUMENT unless the layout has been set and is of this topology. who: the caller. */
int neapi_layout_require(const neap_layout *layout, const neap_topology *topology, const char *who);

/* Reports LAYOUT unless both hashes are of one layout, or one of them is 0: not known. who: the
 * caller; what: that is of the other layout. */
int neapi_layout_same(const char *who, const char *what, uint64_t hash, uint64_t expected);

#endif

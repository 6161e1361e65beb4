/* SPDX-License-Identifier: Apache-2.0 */
/* Work of nodes and experts flowing into slots: the graph behind the splits minimax and local.
 *
 * Work is counted in whole units (tokens, when all experts cost the same). A group is a node and an
 * expert that has replicas there; its work either stays (near) or leaves for the expert's pool, at
 * the price of the expert's weight a unit. A pool's work may go to every replica of the expert
 * (far). Each rank takes work up to its capacity. Vertices: ranks, then groups, then pools. */
#ifndef NEAP_FLOW_NETWORK_H
#define NEAP_FLOW_NETWORK_H

#include "layout/layout.h"

enum { NEAPI_FLOW_WEIGHTS = 8 };

typedef struct {
  const neap_topology *topology;
  const neap_layout *layout;
  bool leaving;          /* groups may send work to the pool (minimax), or not (local) */
  int32_t groups;        /* numbered by expert, then node */
  int32_t *group_of;     /* [slots] */
  int32_t *group_first;  /* [slots + 1] where a group's slots start in layout->by_expert */
  int32_t *group_expert; /* [slots] */
  int32_t *group_node;   /* [slots] */
  int32_t *weight;       /* [experts] of the caller: price of leaving, 1 to NEAPI_FLOW_WEIGHTS */
  int32_t *expert_group; /* [experts + 1] first group of an expert */
  int64_t *near; /* [slots] by index in layout->by_expert, of the caller: work from the own node */
  int64_t *far;  /* [slots] the same: work from the pool */
  int64_t *supply;   /* [slots] a group's own work */
  int64_t *left;     /* [slots] of it, what is not near */
  int64_t *outside;  /* [experts] work of the nodes that lack the expert */
  int64_t *excess;   /* [experts] in the pool and in no slot */
  int64_t *capacity; /* [ranks] work that it can still take */
  /* Of one search. */
  bool pooled;     /* the pools take chunk */
  bool grouped;    /* some work is in groups, not outside */
  bool weighted;   /* weights differ */
  bool cheap;      /* leaving counts */
  int32_t degree;  /* only groups whose expert has this weight are sources; 0: all */
  int32_t *length; /* [vertices] of the shortest path to a rank with capacity */
  int32_t *cursor, *queue, *later, *path;
  uint8_t *queued;
} neapi_flow_network;

int neapi_flow_open(const neap_topology *topology, neapi_flow_network *flow);
void neapi_flow_close(neapi_flow_network *flow);

/* Groups of a layout. The caller then fills supply and outside. */
void neapi_flow_build(neapi_flow_network *flow, const neap_layout *layout);
/* All work back to where it came from: nothing near or far. Keeps capacity. */
void neapi_flow_reset(neapi_flow_network *flow);

/* As much near work as the node's ranks can take, on top of what is there. Returns what is left. */
int64_t neapi_flow_fill_node(neapi_flow_network *flow, int32_t node);
/* What all groups have left, and what is outside, becomes excess of the pools. */
void neapi_flow_pool(neapi_flow_network *flow);
/* Moves excess into slots until it is gone or stuck. cheap: over cheapest paths, so that the least
 * work crosses nodes, if it did before. Returns what is stuck. */
int64_t neapi_flow_spread(neapi_flow_network *flow, bool cheap);

/* Groups' work that is not near: in slots of other nodes, once nothing is stuck. */
int64_t neapi_flow_left(const neapi_flow_network *flow);
/* After a cheap spread with nothing stuck: how much less work would leave its node, per unit, if
 * every rank took a little more work, in proportion to its speed; INFINITY if some ranks' work has
 * nowhere else to go. */
double neapi_flow_relief(neapi_flow_network *flow, const double *speed);

/* After a fill or spread that left work: marks the full ranks that the stuck work is confined to.
 * member[ranks] is set; returns the work that they must share: what they have and what is stuck. */
int64_t neapi_flow_cut_node(neapi_flow_network *flow, int32_t node, uint8_t *member);
int64_t neapi_flow_cut(neapi_flow_network *flow, uint8_t *member);
/* After neapi_flow_cut: whether all work of the expert is confined to the member ranks. */
bool neapi_flow_confines(const neapi_flow_network *flow, int32_t expert);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What a layout is expected to cost when tokens follow the rule lite: for planners that compare
 * layouts. Fractional tokens; O(ranks x experts) per load, O(slots + nodes x experts) per
 * layout. */
#ifndef NEAP_COST_H
#define NEAP_COST_H

#include "plan/packer.h"

typedef struct {
  const neap_topology *topology;
  const double *load; /* [ranks][experts] as given to neapi_cost_model_load */
  double *node_load;  /* [nodes][experts] tokens of a node's sources */
  double *pool;       /* [experts] tokens of nodes without a replica */
  double *rank_work;  /* [ranks] of the layout costed last */
  int32_t *on_node;   /* [nodes][experts] replicas */
  int32_t *replicas;  /* [experts] */
} neapi_cost_model;

typedef struct {
  double max_work, mean_work; /* as in neap_balance */
  double near_tokens;         /* to another rank of the source's node */
  double far_tokens;          /* to another node */
} neapi_cost;

int neapi_cost_model_open(const neap_topology *topology, neapi_cost_model **out);
void neapi_cost_model_close(neapi_cost_model *model);
void neapi_cost_model_load(neapi_cost_model *model, const double *load);
neapi_cost neapi_cost_model_layout(neapi_cost_model *model, const int32_t *expert_of);

/* Scratch memory of planners that place replicas and keep the cheapest of several layouts. */
typedef struct {
  void *packer;
  neapi_cost_model *model;
  int32_t *candidate; /* [slots] */
} neapi_layout_search;

int neapi_layout_search_open(const neap_topology *topology, void **out);
void neapi_layout_search_close(void *search);

#endif

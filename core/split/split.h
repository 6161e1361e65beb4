/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a split, shared by its rules.
 *
 * Three forms. A pooled split (minimax, local) gives every slot two numbers: tokens from its own
 * node's sources (near) and tokens from a common pool (far) into which every node puts what it has
 * left. A rule split (lite, even) shares a source's tokens evenly over a group of replicas. A table
 * split holds every number. Who sends what follows from prefix sums in rank order, so that any rank
 * can compute its own row or column alone.
 *
 * Pooled, exactly, for one expert:
 *   1. A slot first takes tokens of its own rank's source, as many as near allows (slots of a rank
 *      in their order).
 *   2. The tokens that sources of a node still have, ordered by source rank, go to the near tokens
 *      that the node's slots still have, in slot order.
 *   3. Tokens left after that enter the pool, nodes in order, within a node in the order of 2; the
 *      far tokens are taken from the pool in slot order over all ranks.
 * What compute must promise: near, far >= 0; near of a node's slots <= the node's tokens; near and
 * far of all slots together = the expert's tokens.
 *
 * Rule form, exactly: of t tokens over k replicas, each gets t / k, and those at indices
 * (source + j) mod k, j < t mod k, one more: over many sources no replica is favoured. */
#ifndef NEAP_SPLIT_H
#define NEAP_SPLIT_H

#include "layout/layout.h"

typedef struct neapi_split_rule neapi_split_rule;

struct neap_split {
  neap_topology *topology;
  const neapi_split_rule *rule;
  double price;        /* of far work; 0: the least max load comes first */
  neap_layout *layout; /* the split's own copy */
  int64_t *load;       /* [ranks][experts] own copy of the counts */
  int64_t *next_load;  /* [ranks][experts] where the next ones are copied to */
  int64_t *near, *far; /* [slots] pooled form, by index in layout->by_expert */
  int64_t *table;      /* [ranks][slots] table form; allocated at first use */
  enum { NEAPI_SPLIT_NONE, NEAPI_SPLIT_POOLED, NEAPI_SPLIT_RULE, NEAPI_SPLIT_TABLE } form;
  void *scratch; /* of the rule */

  /* Known before a rule's compute is called: */
  int64_t *node_load; /* [nodes][experts] tokens of a node's sources */
  int64_t *next_node_load;
  int32_t *node_first; /* [nodes + 1][experts] where in layout->by_expert the replicas of an expert
                          on node n start; row n + 1 has their end */

  /* Made after it, pooled form: */
  int64_t *own;        /* [slots] by index: step 1's tokens */
  int64_t *far_before; /* [slots + 1] by index: sum of far of the indices before */
  int64_t *near_left;  /* [nodes][experts] near of a node's slots less own */
  int64_t *pool_first; /* [nodes][experts] where in the expert's pool a node's tokens start */
  int64_t *before;     /* [experts] scratch */
  int64_t *sums;       /* [slots + 1] scratch */
  int64_t *stay_rank;  /* [ranks] scratch */
  int64_t *stay_node;  /* [nodes] scratch */
};

struct neapi_split_rule {
  const char *name;
  bool prices; /* knows the price of far work */
  int (*open)(const neap_topology *topology, void **scratch);
  void (*close)(void *scratch);
  /* Pooled: fills near and far from layout and load. Rule form: NULL. */
  int (*compute)(neap_split *split);
  /* Rule form: the replicas that sources of a node share an expert's tokens over, as a range of
   * indices in layout->by_expert. Pooled: NULL. */
  void (*group)(const neap_split *split, int32_t node, int32_t expert, int32_t *first,
                int32_t *count);
};

extern const neapi_split_rule neapi_split_lite, neapi_split_even, neapi_split_local,
    neapi_split_minimax;

/* What each form does for split.c: prepare after compute, then the public functions' work. */
void neapi_pooled_prepare(neap_split *split);
void neapi_pooled_row(const neap_split *split, int32_t source, int64_t *row);
void neapi_pooled_column(const neap_split *split, int32_t rank, int64_t *column);
/* own[ranks]: tokens that stay on their source's rank; near[nodes]: on its node. */
void neapi_pooled_paths(const neap_split *split, int64_t *own, int64_t *near);
void neapi_even_row(const neap_split *split, int32_t source, int64_t *row);
void neapi_even_column(const neap_split *split, int32_t rank, int64_t *column);
void neapi_even_slots(const neap_split *split, int64_t *tokens);
void neapi_even_paths(const neap_split *split, int64_t *own, int64_t *near);

#endif

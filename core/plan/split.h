/* The inside of a split, shared by its rules.
 *
 * Two forms. A pooled split (minimax, local) gives every slot two amounts: tokens from its own
 * node's sources (near) and tokens from a common pool (far) into which every node puts what it has
 * left. Who sends what then follows from prefix sums in rank order, so that any rank can compute
 * its own row or column alone. A rule split (lite, even) is a formula of one source's counts. A
 * table split holds every amount. */
#ifndef NEAP_SPLIT_H
#define NEAP_SPLIT_H

#include "layout.h"

typedef struct neapi_split_rule neapi_split_rule;

struct neap_split {
  neap_topology *topology;
  const neapi_split_rule *rule;
  neap_layout *layout; /* the split's own copy */
  int64_t *load;       /* [ranks][experts] own copy of the counts */
  int64_t *near, *far; /* [slots] pooled form */
  int64_t *table;      /* [ranks][slots] table form; allocated at first use */
  enum { NEAPI_SPLIT_NONE, NEAPI_SPLIT_POOLED, NEAPI_SPLIT_RULE, NEAPI_SPLIT_TABLE } form;
  void *scratch; /* of the rule */
};

struct neapi_split_rule {
  const char *name;
  int (*open)(const neap_topology *topology, void **scratch);
  void (*close)(void *scratch);
  /* Pooled: fills near and far from layout and load. Rule form: NULL. */
  int (*compute)(neap_split *split);
  /* Rule form: one source's amounts [slots] (all set, others 0). Pooled: NULL. */
  void (*row)(const neap_split *split, int32_t source, int64_t *amount);
};

extern const neapi_split_rule neapi_split_lite, neapi_split_even, neapi_split_local,
    neapi_split_minimax;

#endif

/* What the files of planner neap share.
 *
 * Work is in units of what a rank of mean speed does, so that all work is as much as the ranks are
 * many. Ranks are arranged in cells of at most 8 ranks of one node: small enough to look at every
 * set of them.
 *
 * Words of this planner:
 *   forecast   the next step's load, from the last steps' (forecast.c)
 *   drift      how far an expert's load went from step to step of late: the logarithm of the ratio
 *   spread     the error that the forecast of a node's load of an expert is taken to have, relative
 *   sample     the forecast, or the forecast disturbed by such errors: what a layout must carry
 *   home       a replica that an expert needs to have its work done, and the work meant for one
 *   away       work of nodes that have no replica of the expert: it leaves its node
 *   toll       what that costs, as a penalty on the least max load
 *   risk       of a cell: what the work that is bound to a set of ranks is expected to exceed their
 *              speed by, summed over all sets (cell.h)
 *   caution    weight of risk against work that leaves its node: a safety factor
 *   cut        the ranks and experts that decide a sample's least max load: too much work lives
 *              only there; the experts are tight
 *   rival      the greedy layout where another one is searched from: the cheaper of the two stays
 * and of the flow (split/flow_network.h): near, far, pool, excess. */
#ifndef NEAP_STATE_H
#define NEAP_STATE_H

#include "base/heap.h"
#include "plan/neap/cell.h"
#include "plan/planner.h"
#include "split/flow_network.h"

enum { NEAPI_SAMPLES = 65 };

typedef struct {
  const neap_topology *topology;
  char *memory; /* the one block behind all arrays */
  int64_t bytes;
  int32_t cells;
  int32_t *cell_first; /* [cells + 1] first rank of a cell */
  double *speed;       /* [ranks] relative to the mean */
  bool whole;          /* every node has a slot for every expert */

  /* Chosen by parameters. */
  double spread;  /* least error that a node's predicted load of an expert has, relative */
  double caution; /* weight of risk against tokens that leave their node */
  double home;    /* work that one replica is meant for, at the least */

  /* Forecast. */
  double *load;      /* [nodes][experts] work of a node's tokens */
  double *total;     /* [experts] of all nodes */
  double *drift;     /* [experts] largest change of an expert's log load of late */
  double *recent[2]; /* [nodes][experts] of two steps, as differences from the mean node */
  double *shares[2]; /* [experts] of two steps, all nodes */

  /* The layout in the making. */
  int32_t *expert_of;  /* [slots] */
  int32_t *count;      /* [experts] replicas */
  int32_t *node_count; /* [nodes][experts] replicas on a node */
  double *away;        /* [experts] work of the nodes without a replica */

  /* Of the greedy start. */
  int32_t *order;        /* [experts] by work; behind it [ranks] set aside */
  double *each;          /* [experts] work of one replica */
  double *used;          /* [ranks] work placed, / speed */
  int32_t *free_slots;   /* [ranks] */
  int32_t *pending;      /* [nodes] slots not yet given away */
  uint32_t *held;        /* [experts] rank + 1 that is being filled and has it */
  neapi_heap_item *heap; /* [experts or ranks] */

  /* Of the search. */
  neapi_cell cell;
  uint8_t *mask;          /* [cells][experts] the cell's ranks that hold it, as bits */
  int32_t *node_cells;    /* [nodes][experts] cells of a node that hold it */
  int32_t *holders;       /* [experts] cells that hold it */
  float *work, *variance; /* [experts] of the cell at hand, were they in it */
  int32_t samples;
  bool late;             /* only the last slot of each rank may change */
  int32_t *start, *best; /* [slots] */
  int32_t *rival;        /* [slots] the greedy layout, when the previous one is a start, too */

  /* Of the repair. */
  neapi_flow_network flow;
  double *sample;                     /* [samples][experts] */
  uint8_t *tight;                     /* [samples][experts] of the last cut of a sample */
  int32_t flows;                      /* that may still be looked for */
  int32_t confined[4], confine_count; /* heaviest experts of a cut */
  double leaving;                     /* work that has no replica on its node */
  double toll;                        /* what it costs, / ranks */
  neap_layout indexed;                /* the layout, by expert; its topology is the planner's */
  uint8_t *member;                    /* [ranks] of a cut */
} neapi_neap;

int neapi_neap_open(const neap_topology *topology, void **scratch);
void neapi_neap_close(void *scratch);

/* load, total and drift. */
void neapi_neap_forecast(neapi_neap *n, const neapi_plan_input *input);
/* A layout from the forecast alone, in expert_of. */
void neapi_neap_greedy(neapi_neap *n);
/* What the layout in expert_of costs: work that leaves its node, and weighted risk. */
double neapi_neap_cost(neapi_neap *n);
/* Improves the layout in expert_of, cell by cell; effort: changes looked at, a cell. */
void neapi_neap_search(neapi_neap *n, double effort);
/* Draws the samples that evaluate and repair look at: the forecast, and that disturbed. */
void neapi_neap_draw(neapi_neap *n, int32_t samples);
/* What the layout costs: least max loads of the samples, and work that leaves its node; INFINITY if
 * that is not below limit. Balanced: every sample can be split evenly. */
double neapi_neap_evaluate(neapi_neap *n, double limit, bool *balanced);
/* Changes the layout as long as that makes it cheaper; flows: how many may be looked for. */
void neapi_neap_repair(neapi_neap *n, int32_t flows);

/* Whether a layout holds an expert on a rank twice only where the rank has every expert. */
bool neapi_neap_has_no_doubles(neapi_neap *n, const int32_t *expert_of);

/* Replicas of an expert on a node. */
static inline int32_t *neapi_neap_on_node(const neapi_neap *n, int32_t node, int32_t expert)
{
  return &n->node_count[(int64_t)node * n->topology->experts + expert];
}

static inline int32_t neapi_neap_node_slots(const neap_topology *t, int32_t node)
{
  return t->first_slot[t->first_rank[node + 1]] - t->first_slot[t->first_rank[node]];
}

#endif

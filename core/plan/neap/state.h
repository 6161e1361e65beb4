/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of planner neap share.
 *
 * Work is in units of what a rank of mean speed does, so that all work is as much as the ranks are
 * many. Ranks are arranged in cells of at most 8 ranks of one node: small enough to look at every
 * set of them.
 *
 * Words of this planner:
 *   forecast   the next step's load, from the last steps' (forecast.c)
 *   drift      how far an expert's load went from step to step of late: the logarithm of the ratio
 *   deviation  of an expert's log load from the forecast: what the last steps' forecasts were off
 *              by
 *   sample     the forecast, or the forecast disturbed by such errors: what a layout must carry
 *   level      a rank's work / its speed
 *   critical   in a sample: a rank that is, or nearly is, the fullest; if not all are equally full
 *   home       a replica that an expert needs to have its work done, and the work meant for one
 *   away       work of nodes that have no replica of the expert: it leaves its node
 *   toll       what that costs, as a penalty on the fullest level
 *   risk       of a cell: what the work that is bound to a set of ranks is expected to exceed their
 *              speed by, summed over all sets (cell.h)
 *   caution    weight of risk against work that leaves its node: a safety factor
 *   start      a layout that the climb may begin with; the cheapest one does */
#ifndef NEAP_STATE_H
#define NEAP_STATE_H

#include "base/heap.h"
#include "plan/neap/cell.h"
#include "plan/neap/levels.h"
#include "plan/planner.h"

enum { NEAPI_PAST = 16 }; /* steps of history that are looked at */

typedef struct {
  const neap_topology *topology;
  char *memory; /* the one block behind all arrays */
  int64_t bytes;
  int32_t cells;
  int32_t *cell_first; /* [cells + 1] first rank of a cell */
  double *speed;       /* [ranks] relative to the mean */
  bool whole;          /* every node has a slot for every expert */
  bool few;            /* so few slots that there is time for more than the least */

  /* Chosen by parameters. */
  double spread;  /* error of a node's predicted load of an expert, relative, where it is unknown */
  double caution; /* weight of risk against tokens that leave their node */
  double home;    /* work that one replica is meant for, at the least */

  /* Forecast. */
  double *load;      /* [nodes][experts] work of a node's tokens */
  double *total;     /* [experts] of all nodes */
  double *drift;     /* [experts] largest change of an expert's log load of late */
  double *deviation; /* [experts] of the log load from the forecast */
  double *recent[2]; /* [nodes][experts] of two steps, as differences from the mean node */
  double *shares;    /* [NEAPI_PAST][experts] of the last steps, all nodes */
  double *logs;      /* [NEAPI_PAST][experts] their logarithms, less the mean */

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

  /* Of the climb. */
  bool late;             /* one slot of each rank may change */
  int32_t *late_slot;    /* [ranks] late: which has changed; -1: none */
  int32_t *even;         /* [slots] as many of every expert */
  int32_t *start, *best; /* [slots]; late: start is the layout so far */
  neapi_levels levels;
  neapi_lanes most, gain; /* the fullest level; what a unit of work off critical ranks gains */
  neapi_lanes *critical;  /* [ranks] 1 where a rank is among the fullest */
  neapi_lanes *stuck;     /* [experts] work on critical ranks */
  neapi_lanes *room;      /* [experts] what its ranks can still take */
  neapi_lanes *kept_part, *kept_load; /* [slots], [ranks] before a change */
  float *harm;                        /* [slots] what giving the slot's expert up costs */
  int32_t *missing;                   /* [nodes] expert that would keep most work there, or -1 */
  int32_t tries;                      /* changes that may still be tried */
  double leaving;                     /* work that has no replica on its node */
  double excess;                      /* work that finds no room on its node */
  double toll;                        /* what it costs, / ranks */
  const int32_t *previous;            /* [slots] the layout in force; NULL: none that counts */
  int32_t changed;                    /* slots that differ from it */
  double change_price;                /* of one changed slot of every rank */
} neapi_neap;

int neapi_neap_open(const neap_topology *topology, void **scratch);
void neapi_neap_close(void *scratch);

/* load, total, drift and deviation. */
void neapi_neap_forecast(neapi_neap *n, const neapi_plan_input *input);
/* A layout from the forecast alone, in expert_of. Returns whether it depends on n->home. */
bool neapi_neap_greedy(neapi_neap *n);
/* Another one: replicas by load over all ranks, or, even, as many of each expert. */
void neapi_neap_spread(neapi_neap *n, bool even);
/* Improves the layout in expert_of, cell by cell; effort: changes looked at, per cell. */
void neapi_neap_search(neapi_neap *n, double effort);
/* Samples, side by side, for judge and climb; which: those of another number are as good. */
void neapi_neap_draw(neapi_neap *n, int32_t which);
/* What a layout costs that every sample can be split evenly over, and no work leaves. */
double neapi_neap_ideal(void);
/* What the layout in expert_of costs over the samples; one that is not below least may be too
 * low. */
double neapi_neap_judge(neapi_neap *n, double least);
/* Changes the layout as long as that makes it cheaper; tries: how many changes may be tried.
 * Returns what it costs. */
double neapi_neap_climb(neapi_neap *n, int32_t tries);
/* Whether a layout holds an expert on a rank twice only where the rank has every expert. */
bool neapi_neap_has_no_doubles(neapi_neap *n, const int32_t *expert_of);

/* The toll of work that leaves its node, at this price in the split, and at least at another
 * one. */
static inline double neapi_neap_toll(const neapi_neap *n, double least, double price)
{
  price = price < 20 ? price : 20; /* more changes no layout */
  return (price > least ? price : least) / n->topology->ranks;
}

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

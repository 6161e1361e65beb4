/* SPDX-License-Identifier: Apache-2.0 */
/* A cell: up to 8 ranks of one node that planner neap arranges together.
 *
 * Work is in units of what a mean rank does. For every set of the cell's ranks, the work of the
 * experts that live only there has a mean and a variance; what is expected to exceed the set's
 * speed has to leave it. The sum over all sets is the cell's risk. */
#ifndef NEAP_CELL_H
#define NEAP_CELL_H

#include <stdint.h>

enum { NEAPI_CELL_RANKS = 8, NEAPI_CELL_SETS = 256, NEAPI_ABSENT = 256 };

typedef struct {
  int32_t sets;                    /* 2^ranks, at least 8 */
  float speed;                     /* of all ranks: the work of a whole node is known */
  float variance;                  /* of all experts in the cell */
  float capacity[NEAPI_CELL_SETS]; /* speed of a set; huge where there is no such set */
  float mean[NEAPI_CELL_SETS];     /* work that lives only in a set */
  float spread[NEAPI_CELL_SETS];   /* its variance, if experts were independent */
  /* Made by neapi_cell_settle: */
  float above[NEAPI_CELL_SETS];     /* mean + 3 deviations - capacity */
  float weight[NEAPI_CELL_SETS];    /* risk is weight * above^4, where above is positive */
  float price[NEAPI_CELL_SETS + 1]; /* risk of a little more work that lives on a set of ranks; 0
                                       for NEAPI_ABSENT */
} neapi_cell;

/* An expert with that work moves from one set of ranks to another; NEAPI_ABSENT: not in the
 * cell. */
typedef struct {
  float work, variance;
  int32_t from, to;
} neapi_move;

/* Empty cell of ranks with those speeds. */
void neapi_cell_clear(neapi_cell *cell, int32_t ranks, const double *speed);
void neapi_cell_apply(neapi_cell *cell, const neapi_move *move);
/* Takes stock after changes; returns the risk. */
float neapi_cell_settle(neapi_cell *cell);
/* Risk as if two moves had been made; deviations stay as they are. */
float neapi_cell_risk(const neapi_cell *cell, const neapi_move move[2]);

#endif

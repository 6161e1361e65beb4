/* SPDX-License-Identifier: Apache-2.0 */
/* How full ranks get under a layout, for all samples side by side.
 *
 * The split that makes the sum of squares of the ranks' levels (work / speed) least also makes the
 * largest level least, since what the ranks can be given is a base polytope (Fujishige 1980). It is
 * found expert by expert: one expert's work is poured over its ranks while the others' stays, again
 * and again (coordinate descent). A few rounds come close; after a change of one slot one is
 * enough. Loops over samples are innermost, so that a processor's vectors work on them. */
#ifndef NEAP_LEVELS_H
#define NEAP_LEVELS_H

#include "layout/topology.h"

enum { NEAPI_LANES = 32 };

/* A number per sample. */
typedef struct {
  float of[NEAPI_LANES];
} neapi_lanes;

typedef struct {
  const neap_topology *topology;
  float *speed;       /* [ranks] relative to the mean */
  int32_t *expert_of; /* [slots] of the caller */
  neapi_lanes
      *work; /* [experts] of the caller: all ranks together can do as much as they are many */
  neapi_lanes *part; /* [slots] work of a slot */
  neapi_lanes *load; /* [ranks] work of a rank */
  int32_t *head;     /* [experts] a slot of it; -1: none */
  int32_t *next;     /* [slots] the next slot of its expert, or -1 */
  int32_t *count;    /* [experts] replicas */
} neapi_levels;

/* Takes the layout in expert_of and pours all work, for so many rounds. Of several slots of an
 * expert on a rank one takes all; the others may not be put. */
void neapi_levels_fill(neapi_levels *levels, int32_t rounds);
/* Pours all experts' work once more. */
void neapi_levels_settle(neapi_levels *levels);
/* Pours one expert's work over its ranks. */
void neapi_levels_pour(neapi_levels *levels, int32_t expert);
/* A slot gets another expert, which the rank lacks; the old one has other replicas, or gets one
 * before it is poured. */
void neapi_levels_put(neapi_levels *levels, int32_t slot, int32_t expert);
/* The fullest rank's level. */
void neapi_levels_most(const neapi_levels *levels, neapi_lanes *most);
/* Work that nodes have for experts they hold, but that their ranks cannot take up to the levels
 * most: mean over samples. node_load[nodes][experts]: where work comes from; part[slots] and
 * load[ranks] are overwritten. Only right after neapi_levels_fill. */
double neapi_levels_excess(const neapi_levels *levels, const double *node_load,
                           const neapi_lanes *most, int32_t rounds, neapi_lanes *part,
                           neapi_lanes *load);

#endif

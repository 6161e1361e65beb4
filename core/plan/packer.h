/* SPDX-License-Identifier: Apache-2.0 */
/* What planners have in common: how many replicas an expert gets, and on which ranks they go. */
#ifndef NEAP_PACKER_H
#define NEAP_PACKER_H

#include "base/heap.h"
#include "plan/planner.h"

#include <stddef.h>

/* Scratch memory of a planner for one topology. An area is a range of ranks; replicas of an expert
 * are spread over areas first (LAER: the nodes; EPLB: one area of all ranks). */
typedef struct {
  const neap_topology *topology;
  double *work;                 /* [experts] tokens x cost */
  int32_t *count;               /* [experts] replicas wanted */
  int32_t *order;               /* [experts] experts, as neapi_packer_sort left them */
  double *rank_work;            /* [ranks] of what has been placed */
  int32_t *free_slots;          /* [ranks] */
  uint64_t *holds;              /* [ranks][words] experts on a rank, as bits */
  int32_t words;                /* 64-bit words per rank in holds */
  neapi_heap_item *expert_heap; /* [experts] */
  neapi_heap_item *rank_heap; /* [ranks] ranks with free slots, an area's from its first rank on */
  neapi_heap_item *area_heap; /* [ranks] */
  int32_t *area_size;         /* [ranks] ranks in an area's heap */
  const int32_t *area_first;  /* [areas + 1] first rank of an area */
  int32_t areas;
  int32_t *aside;     /* [ranks] taken out while one expert is placed */
  int32_t *expert_of; /* [slots] where placements are written */
} neapi_packer;

int neapi_packer_open(const neap_topology *topology, void **packer);
void neapi_packer_close(void *packer);

/* work[e] from load[ranks][experts]. */
void neapi_packer_weigh(neapi_packer *packer, const double *load);

/* The same plus a trifle each, for planners that share slots out among all experts: those without
 * tokens tie fairly. */
void neapi_packer_weigh_all(neapi_packer *packer, const double *load);

/* order[n]: the experts of set (NULL: all), by work per replica (or work, if count is 0), largest
 * first. */
void neapi_packer_sort(neapi_packer *packer, const int32_t *set, int32_t n);

/* Sets count of the experts in set[n] (NULL: all): start each, then the one with the most work
 * per replica gains 1 (or step, once it has step) until all slots are used or every expert has cap.
 * One that cannot get a whole step keeps what it has, and slots may be left. */
void neapi_packer_replicate(neapi_packer *packer, const int32_t *set, int32_t n, int32_t slots,
                            int32_t start, int32_t step, int32_t cap);

/* Starts an empty placement in expert_of[slots]. */
void neapi_packer_begin(neapi_packer *packer, int32_t *expert_of);

/* Restricts neapi_packer_spread to areas of ranks: first_rank[areas + 1]. */
void neapi_packer_areas(neapi_packer *packer, const int32_t *first_rank, int32_t areas);

/* Puts count replicas of work each on ranks that have free slots: the next one always to the areas
 * with the fewest of them so far, there to the least loaded rank; if those areas are full, to the
 * least loaded rank of any. doubles: also to a rank that has one already; otherwise replicas that
 * no other rank has a slot for are left out. */
void neapi_packer_spread(neapi_packer *packer, int32_t expert, int32_t count, double work,
                         bool doubles);

bool neapi_packer_holds(const neapi_packer *packer, int32_t rank, int32_t expert);

/* Puts one replica on a rank, which must have a free slot. */
void neapi_packer_put(neapi_packer *packer, int32_t rank, int32_t expert, double work);

/* Fills what is left: each free slot gets the expert with the most work per replica among those
 * that its rank lacks (any, if it lacks none). */
void neapi_packer_fill(neapi_packer *packer);

/* Fills what is left, for planners without a use for the slots: with what the rank had in previous
 * (may be NULL), so that nothing travels for it, then, where experts have homes, with those of the
 * rank once more, else with the experts that follow those of the rank, cyclically. */
void neapi_packer_fill_held(neapi_packer *packer, const neap_layout *previous);

/* Fills what is left, but for ranks without experts at home, with copies of a rank's own experts,
 * which are in its first slots, as many as it has at home; those with the fewest replicas first.
 * For planners that keep experts at home: tokens find no other rank through them. */
void neapi_packer_fill_own(neapi_packer *packer);

/* Experts at home, for planners that move load away from there: rank r's are those from home(r) up
 * to, not including, home(r + 1); at most its slots, every expert on one rank. */
int32_t neapi_packer_home(const neap_topology *topology, int32_t rank);

/* Starts a placement with every expert at home, with all of its work. */
void neapi_packer_begin_home(neapi_packer *packer, int32_t *expert_of);

/* Work placed on the ranks from first up to, not including, last, divided by their speed. */
double neapi_packer_ideal(const neapi_packer *packer, int32_t first, int32_t last);

/* What a rank may have at most, by its speed, less what it has: below 0 if it has too much. most:
 * per unit of speed, as neapi_packer_ideal. */
double neapi_packer_slack(const neapi_packer *packer, int32_t rank, double most);

/* Moves an expert's work between ranks; to gets a replica if it has none (and must have a free
 * slot). */
void neapi_packer_move(neapi_packer *packer, int32_t expert, int32_t from, int32_t to, double work);

#endif

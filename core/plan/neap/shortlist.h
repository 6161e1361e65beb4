/* SPDX-License-Identifier: Apache-2.0 */
/* The most promising changes of a layout, by an estimate; their worth is worked out later. */
#ifndef NEAP_SHORTLIST_H
#define NEAP_SHORTLIST_H

#include <stdint.h>

typedef struct {
  double score;                   /* what the change promises, or once worked out gains */
  int32_t slot, expert;           /* the slot gets that expert */
  int32_t other;                  /* the slot's goes to that slot of the expert; -1: nowhere */
  int32_t slot_mask, expert_mask; /* search: where the slot's and that expert will be */
} neapi_change;

/* best: so many at most, the best first. */
typedef struct {
  int32_t count, most;
  neapi_change *best;
} neapi_shortlist;

/* What a change must promise more than to come on the list, and at least that. */
static inline double neapi_shortlist_least(const neapi_shortlist *list, double least)
{
  double last = list->count < list->most ? least : list->best[list->count - 1].score;
  return last > least ? last : least;
}

/* Puts a change on the list, if it is among the best. */
static inline void neapi_shortlist_add(neapi_shortlist *list, neapi_change c)
{
  int32_t i = list->count < list->most ? list->count++ : list->most;
  for (; i > 0 && c.score > list->best[i - 1].score; i--)
    if (i < list->most)
      list->best[i] = list->best[i - 1];
  if (i < list->most)
    list->best[i] = c;
}

#endif

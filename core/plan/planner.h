/* SPDX-License-Identifier: Apache-2.0 */
/* What a planner is made of. A new planner is one file that defines a neapi_planner_kind and its
 * name in the list below. */
#ifndef NEAP_PLANNER_H
#define NEAP_PLANNER_H

#include "layout/layout.h"

#include <stdbool.h>

enum { NEAPI_PARAMETERS = 8 };

/* What a plan function gets. */
typedef struct {
  const neap_topology *topology;
  const double *load;           /* [ranks][experts], checked: finite, >= 0; the newest of history */
  const double *const *history; /* [steps] loads, oldest first, checked like load */
  int32_t steps;
  const neap_layout *previous; /* may be NULL */
  const double *parameter;     /* values, in the order of the kind's list */
  uint64_t seed;
  void *scratch; /* what the kind's open made, or NULL */
} neapi_plan_input;

typedef struct {
  const char *name;
  neap_parameter parameters[NEAPI_PARAMETERS]; /* up to the first without a name */
  /* Scratch memory for a topology; both may be NULL. */
  int (*open)(const neap_topology *topology, void **scratch);
  void (*close)(void *scratch);
  /* Writes expert_of[slots]. */
  int (*plan)(const neapi_plan_input *input, int32_t *expert_of);
  bool at_home; /* begins with experts at home: each run of homes is a topology of its own */
} neapi_planner_kind;

/* Whether two planners are of one topology and kind, with the same parameters. */
bool neapi_planner_alike(const neap_planner *a, const neap_planner *b);

/* All planners, in the order in which they are listed. */
/* clang-format off */
#define NEAPI_PLANNERS(X) \
  X(static) X(random) X(eplb) X(flexmoe) X(laer) X(llep) X(moonep) X(ultraep) X(fastermoe) \
  X(lplb) X(maxtext) X(neap) X(late)
/* clang-format on */

#define NEAPI_DECLARE(name) extern const neapi_planner_kind neapi_plan_##name;
NEAPI_PLANNERS(NEAPI_DECLARE)
#undef NEAPI_DECLARE

#endif

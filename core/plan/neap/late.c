/* SPDX-License-Identifier: Apache-2.0 */
/* Planner late: gives one slot of every rank, whichever, another expert on the exact counts, for
 * whoever accepts one expert's transfer per rank on the critical path. All other slots keep theirs.
 *
 * It is neap's climb with the counts as the only sample: an expert that the fullest ranks have too
 * much of gets a slot of another rank, or changes places with one there. */
#include "plan/neap/state.h"

#include <math.h>
#include <string.h>

enum { TRIES, FAR_PRICE };

static int late_plan(const neapi_plan_input *input, int32_t *expert_of)
{
  neapi_neap *n = input->scratch;
  neapi_plan_input exact = *input;
  exact.steps = 1;
  n->late = true;
  n->previous = NULL;
  n->change_price = 0;
  n->home = 0.45;
  n->spread = 0;
  n->toll = neapi_neap_toll(n, 0.2, input->parameter[FAR_PRICE]);
  neapi_neap_forecast(n, &exact);
  if (input->previous && neapi_neap_has_no_doubles(n, input->previous->expert_of))
    memcpy(n->expert_of, input->previous->expert_of, sizeof *n->expert_of * n->topology->slots);
  else
    neapi_neap_greedy(n);
  memcpy(n->start, n->expert_of, sizeof *n->start * n->topology->slots);
  for (int32_t r = 0; r < n->topology->ranks; r++)
    n->late_slot[r] = -1;
  neapi_neap_draw(n, 0);
  neapi_neap_climb(n, input->parameter[TRIES]);
  memcpy(expert_of, n->expert_of, sizeof *expert_of * n->topology->slots);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_late = {
    "late",
    {{"tries", "changes that may be tried", 200, 0, 1e6, 1},
     {"far_price", "what work across nodes costs in the split", 0, 0, 1e6, 0}},
    neapi_neap_open,
    neapi_neap_close,
    late_plan,
    false};

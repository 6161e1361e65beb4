/* Planner late: fills the last slot of every rank on the exact counts, for whoever accepts one
 * expert's transfer per rank on the critical path. All other slots stay as they were planned
 * before.
 *
 * It is neap's repair with the counts as the only sample: a flow finds the least max load of the
 * layout and the ranks that have too much; an expert that lives only there gets the late slot of
 * another rank. */
#include "plan/neap/state.h"

#include <math.h>
#include <string.h>

enum { FLOWS };

static int late_plan(const neapi_plan_input *input, int32_t *expert_of)
{
  neapi_neap *n = input->scratch;
  neapi_plan_input exact = *input;
  exact.steps = 1;
  n->late = true;
  n->home = 0.45;
  n->toll = 0.2 / n->topology->ranks;
  neapi_neap_forecast(n, &exact);
  if (input->previous && neapi_neap_has_no_doubles(n, input->previous->expert_of))
    memcpy(n->expert_of, input->previous->expert_of, sizeof *n->expert_of * n->topology->slots);
  else
    neapi_neap_greedy(n);
  neapi_neap_draw(n, 1);
  neapi_neap_repair(n, input->parameter[FLOWS]);
  memcpy(expert_of, n->expert_of, sizeof *expert_of * n->topology->slots);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_late = {
    "late",
    {{"flows", "flows that may be looked for: about two a slot that changes", 100, 0, 1e6, 1}},
    neapi_neap_open,
    neapi_neap_close,
    late_plan};

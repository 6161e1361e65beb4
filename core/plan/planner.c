/* SPDX-License-Identifier: Apache-2.0 */
/* The registry of planners, and what every plan goes through: checked in, checked out. */
#include "plan/planner.h"

#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A run of ranks in which every expert has a home, which is planned by itself. */
typedef struct {
  neap_topology *topology;
  neap_planner *planner;
  neap_layout *previous, *layout;
  int32_t first_rank, first_slot;
} home_run;

struct neap_planner {
  neap_topology *topology;
  const neapi_planner_kind *kind;
  double value[NEAPI_PARAMETERS];
  void *scratch;
  int32_t *expert_of; /* [slots] the answer, until it is known to be good */
  home_run *runs;     /* [run_count] of a planner that begins at home, where there are several */
  int32_t run_count;
};

#define NEAPI_ADDRESS(name) &neapi_plan_##name,
static const neapi_planner_kind *const kinds[] = {NEAPI_PLANNERS(NEAPI_ADDRESS)};
#undef NEAPI_ADDRESS

enum { KINDS = sizeof kinds / sizeof *kinds };

int32_t neap_planner_count(void)
{
  return KINDS;
}

const char *neap_planner_name(int32_t index)
{
  return index >= 0 && index < KINDS ? kinds[index]->name : NULL;
}

static int unknown_name(const char *name)
{
  char known[512] = "";
  for (int32_t i = 0, used = 0; i < KINDS && used < (int32_t)sizeof known; i++)
    used +=
        snprintf(known + used, sizeof known - (size_t)used, "%s%s", i ? ", " : "", kinds[i]->name);
  return neapi_fail(NEAP_ARGUMENT, "planner: no planner is called '%s'; known are %s", name, known);
}

/* ---- runs of homes --------------------------------------------------------------------------- */

static int open_run_topology(const neap_topology *t, int32_t first, neap_topology **out)
{
  int32_t *node_of = neapi_alloc(2ll * t->homes * 4, "planner");
  if (!node_of)
    return NEAP_MEMORY;
  int32_t *slots_of = node_of + t->homes;
  for (int32_t r = 0; r < t->homes; r++) {
    node_of[r] = t->node_of[first + r] - t->node_of[first];
    slots_of[r] = t->first_slot[first + r + 1] - t->first_slot[first + r];
  }
  int status =
      neap_topology_open(t->homes, t->experts, node_of, slots_of, t->cost, t->speed + first, out);
  free(node_of);
  return status ? status : neap_topology_set_homes(*out, t->homes);
}

static int open_run(const neap_planner *p, int32_t first, home_run *run)
{
  run->first_rank = first;
  run->first_slot = p->topology->first_slot[first];
  int status = open_run_topology(p->topology, first, &run->topology);
  if (!status)
    status = neap_planner_open(run->topology, p->kind->name, &run->planner);
  if (!status)
    status = neap_layout_open(run->topology, &run->previous);
  return status ? status : neap_layout_open(run->topology, &run->layout);
}

static int open_runs(neap_planner *p)
{
  const neap_topology *t = p->topology;
  int32_t count = t->homes ? t->ranks / t->homes : 1;
  if (count == 1 || !p->kind->at_home)
    return NEAP_OK;
  p->runs = neapi_alloc_zero(count * (int64_t)sizeof *p->runs, "planner");
  if (!p->runs)
    return NEAP_MEMORY;
  int status = NEAP_OK;
  for (; !status && p->run_count < count; p->run_count++)
    status = open_run(p, p->run_count * t->homes, &p->runs[p->run_count]);
  return status;
}

static void close_runs(neap_planner *p)
{
  for (int32_t i = 0; i < p->run_count; i++) {
    neap_layout_close(p->runs[i].layout);
    neap_layout_close(p->runs[i].previous);
    neap_planner_close(p->runs[i].planner);
    neap_topology_close(p->runs[i].topology);
  }
  free(p->runs);
}

/* Plans a run on the loads of its own ranks; previous of another kind of policy may lack experts
 * there, and is left out then. */
static int plan_run(const neap_planner *p, home_run *run, const neapi_plan_input *in,
                    const double **loads)
{
  const neap_topology *t = p->topology;
  const neap_layout *previous = NULL;
  for (int32_t i = 0; i < in->steps; i++)
    loads[i] = in->history[i] + (int64_t)run->first_rank * t->experts;
  if (in->previous && !neap_layout_set(run->previous, in->previous->expert_of + run->first_slot))
    previous = run->previous;
  memcpy(run->planner->value, p->value, sizeof p->value);
  int status =
      neap_planner_plan_history(run->planner, loads, in->steps, previous, in->seed, run->layout);
  if (!status)
    memcpy(p->expert_of + run->first_slot, run->planner->expert_of, run->topology->slots * 4ul);
  return status;
}

static int plan_runs(const neap_planner *p, const neapi_plan_input *in)
{
  const double **loads = neapi_alloc(in->steps * (int64_t)sizeof *loads, "planner");
  int status = loads ? NEAP_OK : NEAP_MEMORY;
  for (int32_t i = 0; !status && i < p->run_count; i++)
    status = plan_run(p, &p->runs[i], in, loads);
  free(loads);
  return status;
}

/* ---- life ------------------------------------------------------------------------------------ */

int neap_planner_open(neap_topology *topology, const char *name, neap_planner **out)
{
  const neapi_planner_kind *kind = NULL;
  for (int32_t i = 0; i < KINDS; i++)
    if (!strcmp(kinds[i]->name, name))
      kind = kinds[i];
  if (!kind)
    return unknown_name(name);
  neap_planner *p = neapi_alloc_zero(sizeof *p, "planner");
  if (!p)
    return NEAP_MEMORY;
  p->topology = neapi_topology_share(topology);
  p->kind = kind;
  for (int32_t i = 0; i < NEAPI_PARAMETERS; i++)
    p->value[i] = kind->parameters[i].value;
  p->expert_of = neapi_alloc(topology->slots * 4ll, "planner");
  int status = p->expert_of ? NEAP_OK : NEAP_MEMORY;
  if (!status)
    status = open_runs(p);
  if (!status && kind->open && !p->runs)
    status = kind->open(topology, &p->scratch);
  if (status) {
    neap_planner_close(p);
    return status;
  }
  *out = p;
  return NEAP_OK;
}

void neap_planner_close(neap_planner *p)
{
  if (!p)
    return;
  close_runs(p);
  if (p->kind->close)
    p->kind->close(p->scratch);
  neap_topology_close(p->topology);
  free(p->expert_of);
  free(p);
}

bool neapi_planner_alike(const neap_planner *a, const neap_planner *b)
{
  return a->topology == b->topology && a->kind == b->kind &&
         !memcmp(a->value, b->value, sizeof a->value);
}

const neap_parameter *neap_planner_parameter(const neap_planner *p, int32_t index)
{
  if (index < 0 || index >= NEAPI_PARAMETERS || !p->kind->parameters[index].name)
    return NULL;
  return &p->kind->parameters[index];
}

int neap_planner_set(neap_planner *p, const char *parameter, double value)
{
  for (int32_t i = 0; i < NEAPI_PARAMETERS && p->kind->parameters[i].name; i++) {
    const neap_parameter *known = &p->kind->parameters[i];
    if (strcmp(known->name, parameter))
      continue;
    if (!(value >= known->low && value <= known->high))
      return neapi_fail(NEAP_ARGUMENT, "planner %s: %s is %g; allowed are %g to %g", p->kind->name,
                        parameter, value, known->low, known->high);
    p->value[i] = value;
    return NEAP_OK;
  }
  return neapi_fail(NEAP_ARGUMENT, "planner %s: it has no parameter '%s'", p->kind->name,
                    parameter);
}

/* Loads add up without overflow up to here. */
static const double LOAD_MAX = 1e200;

static int check_load(const neap_planner *p, const double *load)
{
  const neap_topology *t = p->topology;
  int64_t cells = (int64_t)t->ranks * t->experts;
  int bad = 0;
  for (int64_t i = 0; i < cells; i++)
    bad |= !(load[i] >= 0 && load[i] <= LOAD_MAX);
  for (int64_t i = 0; bad && i < cells; i++)
    if (!(load[i] >= 0 && load[i] <= LOAD_MAX))
      return neapi_fail(
          NEAP_ARGUMENT, "planner %s: the load of rank %d for expert %d is %g; allowed are 0 to %g",
          p->kind->name, (int)(i / t->experts), (int)(i % t->experts), load[i], LOAD_MAX);
  return NEAP_OK;
}

/* What is wrong with the arguments of a plan. */
static int check_plan(const neap_planner *p, const double *const *loads, int32_t steps,
                      const neap_layout *previous, const neap_layout *out)
{
  const neap_topology *t = p->topology;
  int status = NEAP_OK;
  if (steps < 1)
    return neapi_fail(NEAP_ARGUMENT, "planner %s: %d loads; at least 1 is needed", p->kind->name,
                      steps);
  for (int32_t i = 0; i < steps && !status; i++)
    status = check_load(p, loads[i]);
  if (!status && previous)
    status = neapi_layout_require(previous, t, "planner: previous layout");
  if (!status && out->topology->slots != t->slots)
    status = neapi_fail(NEAP_ARGUMENT, "planner: the layout has %d slots; the topology has %d",
                        out->topology->slots, t->slots);
  return status;
}

int neap_planner_plan_history(neap_planner *p, const double *const *loads, int32_t steps,
                              const neap_layout *previous, uint64_t seed, neap_layout *out)
{
  const neap_topology *t = p->topology;
  int status = check_plan(p, loads, steps, previous, out);
  if (status)
    return status;
  neapi_plan_input input = {t,        loads[steps - 1], loads, steps,
                            previous, p->value,         seed,  p->scratch};
  status = p->runs ? plan_runs(p, &input) : p->kind->plan(&input, p->expert_of);
  if (status)
    return status;
  memcpy(neapi_layout_edit(out), p->expert_of, t->slots * 4ul);
  status = neapi_layout_index(out);
  if (status)
    neapi_fail_prefix("planner %s", p->kind->name);
  return status;
}

int neap_planner_plan(neap_planner *p, const double *load, const neap_layout *previous,
                      uint64_t seed, neap_layout *out)
{
  return neap_planner_plan_history(p, &load, 1, previous, seed, out);
}

/* The registry of planners, and what every plan goes through: checked in, checked out. */
#include "plan/planner.h"

#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct neap_planner {
  neap_topology *topology;
  const neapi_planner_kind *kind;
  double value[NEAPI_PARAMETERS];
  void *scratch;
  int32_t *expert_of; /* [slots] the answer, until it is known to be good */
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
  if (!status && kind->open)
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
  if (p->kind->close)
    p->kind->close(p->scratch);
  neap_topology_close(p->topology);
  free(p->expert_of);
  free(p);
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
  status = p->kind->plan(&input, p->expert_of);
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

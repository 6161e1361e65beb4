/* SPDX-License-Identifier: Apache-2.0 */
/* Planners: valid layouts on random topologies and loads (100,000 with --long), no expert twice on
 * a rank, repeatable; static against its definition; checks of input. The published ones:
 * rules.c. */
#include "problem.h"

#include <pthread.h>
#include <stdlib.h>

enum { THREADS = 2 };

/* Zeros, ties, one hot expert, one hot source, heavy tails, tiny and huge scales. */
static void draw_load(generator *g, problem *c)
{
  int32_t kind = draw(g, 6), hot = draw(g, c->experts), source = draw(g, c->ranks);
  for (int32_t i = 0; i < c->ranks * c->experts; i++) {
    double u = (1 + draw(g, 1 << 20)) * 0x1p-20;
    bool chosen = i % c->experts == hot || i / c->experts == source;
    c->load[i] = kind == 0   ? 0
                 : kind == 1 ? 7
                 : kind == 2 ? (chosen ? 5000 : draw(g, 3))
                 : kind == 3 ? 100 / (u * u)
                 : kind == 4 ? u * 1e-9
                             : u * 1e12;
  }
}

static bool repeats(const problem *c, const int32_t *expert_of)
{
  const neap_topology *t = c->topology;
  for (int32_t r = 0; r < t->ranks; r++) {
    int32_t first = t->first_slot[r], held = 0, slots = t->first_slot[r + 1] - first;
    uint64_t seen = 0;
    for (int32_t s = first; s < first + slots; s++) {
      held += !(seen >> expert_of[s] & 1);
      seen |= 1ull << expert_of[s];
    }
    if (held < slots && held < t->experts)
      return true;
  }
  return false;
}

/* Planners that put an expert on a rank twice, as published, are asked not to. */
static void choose_parameters(neap_planner *planner)
{
  const neap_parameter *parameter;
  for (int32_t i = 0; (parameter = neap_planner_parameter(planner, i)); i++) {
    const char *name = parameter->name;
    if (!strcmp(name, "doubles"))
      check(!neap_planner_set(planner, name, 0), "doubles");
    if (!strcmp(name, "chunk") || !strcmp(name, "min_tokens"))
      check(!neap_planner_set(planner, name, 10), "%s", name);
    if (!strcmp(name, "effort")) /* neap's search: its default is tried by the others */
      check(!neap_planner_set(planner, name, 20), "%s", name);
  }
}

static void check_planner(const problem *c, const char *name, bool as_published,
                          const neap_layout *previous, uint64_t seed)
{
  neap_planner *planner;
  neap_layout *a, *b;
  check(!neap_planner_open(c->topology, name, &planner), "open: %s", neap_error_message());
  if (!as_published)
    choose_parameters(planner);
  check(!neap_layout_open(c->topology, &a) && !neap_layout_open(c->topology, &b), "layouts");
  check(!neap_planner_plan(planner, c->load, previous, seed, a), "plan: %s", neap_error_message());
  check(!neap_planner_plan(planner, c->load, previous, seed, b), "plan: %s", neap_error_message());
  check(!neap_layout_changed(a, b), "%s: plans twice differently", name);
  check(as_published || !repeats(c, neap_layout_experts(a)), "%s: twice on a rank, %d ranks", name,
        c->ranks);
  neap_layout_close(a);
  neap_layout_close(b);
  neap_planner_close(planner);
}

static void *try_topologies(void *stream)
{
  generator g = {(uint64_t)(intptr_t)stream, 0};
  problem *c = malloc(sizeof *c);
  int32_t names = neap_planner_count();
  int64_t topologies = check_cases(12000, 100000) / THREADS;
  for (int64_t i = 0; i < topologies; i++) {
    open_problem(&g, c, false);
    draw_load(&g, c);
    neap_layout *previous;
    neap_planner *planner;
    check(!neap_layout_open(c->topology, &previous), "layout");
    check(!neap_planner_open(c->topology, "random", &planner), "random");
    check(!neap_planner_plan(planner, c->load, NULL, (uint64_t)i, previous), "random");
    for (int32_t k = 0; k < names; k++)
      check_planner(c, neap_planner_name(k), i % 8 == 0, i % 3 ? previous : NULL, (uint64_t)i);
    neap_planner_close(planner);
    neap_layout_close(previous);
    neap_topology_close(c->topology);
  }
  free(c);
  return NULL;
}

static void test_properties(void)
{
  pthread_t threads[THREADS];
  for (intptr_t i = 0; i < THREADS; i++)
    check(!pthread_create(&threads[i], NULL, try_topologies, (void *)(i + 1)), "thread");
  for (int32_t i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
}

/* Device d holds experts i * (E/C) + d mod (E/C), where C divides E and ranks are enough. */
static void test_static(void)
{
  for (int32_t slots = 1; slots < 5; slots++)
    for (int32_t stride = 1; stride < 8; stride++)
      for (int32_t ranks = stride; ranks <= RANKS; ranks++) {
        problem c = {.ranks = ranks, .experts = slots * stride};
        int32_t slots_of[RANKS];
        for (int32_t r = 0; r < ranks; r++)
          slots_of[r] = slots;
        check(!neap_topology_open(ranks, c.experts, NULL, slots_of, NULL, NULL, &c.topology), "%s",
              neap_error_message());
        neap_layout *layout = plan_once(&c, "static", NULL, 0);
        for (int32_t s = 0; s < ranks * slots; s++)
          check(neap_layout_experts(layout)[s] == s % slots * stride + s / slots % stride,
                "static: slot %d of %d ranks holds %d", s, ranks, neap_layout_experts(layout)[s]);
        neap_layout_close(layout);
        neap_topology_close(c.topology);
      }
}

static void check_message(int status, const char *a, const char *b)
{
  const char *message = neap_error_message();
  check(status == NEAP_ARGUMENT, "status %d", status);
  check(strstr(message, a) && strstr(message, b), "message: %s", message);
}

static void test_input(void)
{
  generator g = {5, 0};
  problem *c = malloc(sizeof *c);
  open_problem(&g, c, true);
  draw_load(&g, c);
  neap_planner *planner;
  neap_layout *layout, *empty;
  check_message(neap_planner_open(c->topology, "lear", &planner), "lear", "laer");
  check(!neap_planner_open(c->topology, "laer", &planner), "laer");
  check(!neap_layout_open(c->topology, &layout) && !neap_layout_open(c->topology, &empty), "open");
  check_message(neap_planner_set(planner, "noeven", 1), "laer", "noeven");
  check_message(neap_planner_set(planner, "no_even", 2), "no_even", "0 to 1");
  check_message(neap_planner_set(planner, "no_even", NAN), "no_even", "nan");
  check_message(neap_planner_plan(planner, c->load, empty, 0, layout), "previous", "never");
  c->load[0] = NAN;
  check_message(neap_planner_plan(planner, c->load, NULL, 0, layout), "rank 0", "expert 0");
  c->load[0] = -1;
  check_message(neap_planner_plan(planner, c->load, NULL, 0, layout), "expert 0", "-1");
  check(neap_planner_name(-1) == NULL && neap_planner_name(neap_planner_count()) == NULL, "names");
  neap_planner_close(planner);
  neap_planner_close(NULL);
  neap_layout_close(layout);
  neap_layout_close(empty);
  neap_topology_close(c->topology);
  free(c);
}

int main(void)
{
  test_input();
  test_static();
  test_properties();
  return check_done();
}

/* Planners: valid layouts on random topologies and loads (100,000 with --long), no expert twice on
 * a rank, repeatable; static and laer against their definitions, written naively; checks of
 * input. */
#include "check.h"
#include "layout/topology.h"

#include <pthread.h>
#include <stdlib.h>

enum { RANKS = 16, EXPERTS = 48, SLOTS = RANKS * 6, THREADS = 2 };

typedef struct {
  uint64_t stream, drawn;
} generator;

static int32_t draw(generator *g, int32_t below)
{
  return (int32_t)(neap_random_bits(11, g->stream, g->drawn++) % (uint64_t)below);
}

typedef struct {
  neap_topology *topology;
  int32_t ranks, experts, slots, nodes;
  double load[RANKS * EXPERTS];
} problem;

/* Any nodes and slots; even: the same slots a rank, costs and speeds of 1. */
static void open_problem(generator *g, problem *c, bool even)
{
  int32_t node_of[RANKS] = {0}, slots_of[RANKS], each = 1 + draw(g, 5), size = 1 + draw(g, 9);
  bool ragged = !even && draw(g, 2);
  double cost[EXPERTS], speed[RANKS];
  c->ranks = 1 + draw(g, RANKS);
  c->slots = 0;
  for (int32_t r = 0; r < c->ranks; r++) {
    node_of[r] = r ? node_of[r - 1] + (ragged ? !draw(g, 4) : r % size == 0) : 0;
    slots_of[r] = ragged ? 1 + draw(g, 6) : each;
    speed[r] = ragged ? 0.25 * (1 + draw(g, 8)) : 1;
    c->slots += slots_of[r];
  }
  c->nodes = node_of[c->ranks - 1] + 1;
  c->experts = 1 + draw(g, c->slots < EXPERTS ? c->slots : EXPERTS);
  for (int32_t e = 0; e < c->experts; e++)
    cost[e] = ragged ? 0.5 * (1 + draw(g, 6)) : 1;
  check(!neap_topology_open(c->ranks, c->experts, node_of, slots_of, cost, speed, &c->topology),
        "topology: %s", neap_error_message());
}

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
  const char *name;
  for (int32_t i = 0; (name = neap_planner_parameter(planner, i, NULL, NULL)); i++) {
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

static neap_layout *plan_once(const problem *c, const char *name, const char *parameter)
{
  neap_planner *planner;
  neap_layout *layout;
  check(!neap_planner_open(c->topology, name, &planner), "open: %s", neap_error_message());
  if (parameter)
    check(!neap_planner_set(planner, parameter, 1), "set: %s", neap_error_message());
  check(!neap_layout_open(c->topology, &layout), "layout");
  check(!neap_planner_plan(planner, c->load, NULL, 1, layout), "plan: %s", neap_error_message());
  neap_planner_close(planner);
  return layout;
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
        neap_layout *layout = plan_once(&c, "static", NULL);
        for (int32_t s = 0; s < ranks * slots; s++)
          check(neap_layout_experts(layout)[s] == s % slots * stride + s / slots % stride,
                "static: slot %d of %d ranks holds %d", s, ranks, neap_layout_experts(layout)[s]);
        neap_layout_close(layout);
        neap_topology_close(c.topology);
      }
}

/* LAER's relocation by scans: items of load / replicas, heaviest first; of the ranks with a free
 * slot those on the nodes with the fewest of the expert; there the least loaded, lowest first. */
static void relocate(const problem *c, const int32_t *count, int32_t *expert_of)
{
  const neap_topology *t = c->topology;
  double work[EXPERTS] = {0}, rank_work[RANKS] = {0};
  int32_t used[RANKS] = {0}, on_node[RANKS][EXPERTS] = {{0}};
  bool done[EXPERTS] = {false};
  for (int32_t i = 0; i < c->ranks * c->experts; i++)
    work[i % c->experts] += c->load[i];
  for (int32_t i = 0; i < c->experts; i++) {
    int32_t e = -1;
    for (int32_t k = 0; k < c->experts; k++)
      if (!done[k] && (e < 0 || work[k] / count[k] > work[e] / count[e]))
        e = k;
    done[e] = true;
    for (int32_t k = 0; k < count[e]; k++) {
      int32_t best = -1;
      for (int32_t r = 0; r < c->ranks; r++) {
        if (t->first_slot[r] + used[r] == t->first_slot[r + 1])
          continue;
        int32_t here = on_node[t->node_of[r]][e];
        int32_t there = best < 0 ? here : on_node[t->node_of[best]][e];
        if (best < 0 || here < there || (here == there && rank_work[r] < rank_work[best]))
          best = r;
      }
      expert_of[t->first_slot[best] + used[best]++] = e;
      on_node[t->node_of[best]][e]++;
      rank_work[best] += work[e] / count[e];
    }
  }
}

/* Its replicas by scans: one a node if that fits, else one; then the largest load a replica. */
static void replicate(const problem *c, int32_t *count)
{
  double work[EXPERTS] = {0};
  bool fits = c->experts * c->nodes <= c->slots;
  int32_t left = c->slots;
  for (int32_t i = 0; i < c->ranks * c->experts; i++)
    work[i % c->experts] += c->load[i];
  for (int32_t e = 0; e < c->experts; e++)
    left -= count[e] = fits ? c->nodes : 1;
  while (left) {
    int32_t best = 0;
    for (int32_t e = 1; e < c->experts; e++)
      if (work[e] / count[e] > work[best] / count[best])
        best = e;
    int32_t gain = count[best] >= c->nodes ? c->nodes : 1;
    gain = gain < left ? gain : left;
    count[best] += gain;
    left -= gain;
  }
}

static void check_laer(const problem *c, const int32_t *count, const char *without)
{
  int32_t expected[SLOTS];
  relocate(c, count, expected);
  neap_layout *got = plan_once(c, "laer", without);
  int32_t same = !memcmp(neap_layout_experts(got), expected, 4ul * c->slots);
  check(same, "laer with %s differs: %d ranks, %d nodes, %d experts, %d slots", without, c->ranks,
        c->nodes, c->experts, c->slots);
  neap_layout_close(got);
}

static void test_laer(void)
{
  generator g = {99, 0};
  problem *c = malloc(sizeof *c);
  for (int32_t i = 0; i < 2000; i++) {
    int32_t count[EXPERTS];
    open_problem(&g, c, true);
    for (int32_t k = 0; k < c->ranks * c->experts; k++)
      c->load[k] = 1 + draw(&g, 1 << 30);
    replicate(c, count);
    check_laer(c, count, "no_even");
    for (int32_t e = 0; e < c->experts; e++)
      count[e] = c->slots / c->experts;
    if (c->slots % c->experts == 0)
      check_laer(c, count, "no_pq");
    neap_topology_close(c->topology);
  }
  free(c);
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
  test_laer();
  test_properties();
  return check_done();
}

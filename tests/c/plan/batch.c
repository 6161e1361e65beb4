/* SPDX-License-Identifier: Apache-2.0 */
/* Plans of many layers on several threads are those of one thread, and errors name the plan. */
#include "plan/problem.h"

#include <neap.h>
#include <string.h>

enum { LAYERS = 13, THREADS = 3, STEPS = 3 };

typedef struct {
  neap_topology *topology;
  double loads[LAYERS][STEPS][8 * 12];
  const double *history[LAYERS][STEPS];
  neap_planner *planners[THREADS];
  neap_layout *alone[LAYERS], *batch[LAYERS];
  neap_plan_task tasks[LAYERS];
} scene;

static scene open_scene(const char *name)
{
  scene s = {0};
  int32_t node_of[8], slots_of[8];
  for (int32_t r = 0; r < 8; r++) {
    node_of[r] = r / 4;
    slots_of[r] = 3;
  }
  check(!neap_topology_open(8, 12, node_of, slots_of, NULL, NULL, &s.topology), "%s",
        neap_error_message());
  for (int32_t i = 0; i < THREADS; i++)
    check(!neap_planner_open(s.topology, name, &s.planners[i]), "%s", neap_error_message());
  for (int32_t l = 0; l < LAYERS; l++)
    check(!neap_layout_open(s.topology, &s.alone[l]) && !neap_layout_open(s.topology, &s.batch[l]),
          "%s", neap_error_message());
  return s;
}

static void fill(scene *s)
{
  for (int32_t l = 0; l < LAYERS; l++) {
    for (int32_t i = 0; i < STEPS; i++) {
      s->history[l][i] = s->loads[l][i];
      for (int32_t k = 0; k < 8 * 12; k++)
        s->loads[l][i][k] = exp(neap_random_normal(5, l, k % 12)) * (100 + k % 7 + i);
    }
    s->tasks[l] = (neap_plan_task){s->history[l], STEPS, NULL, l, s->batch[l]};
  }
}

static void close_scene(scene *s)
{
  for (int32_t l = 0; l < LAYERS; l++) {
    neap_layout_close(s->alone[l]);
    neap_layout_close(s->batch[l]);
  }
  for (int32_t i = 0; i < THREADS; i++)
    neap_planner_close(s->planners[i]);
  neap_topology_close(s->topology);
}

static void test_same_plans(const char *name)
{
  static scene s;
  s = open_scene(name);
  fill(&s);
  for (int32_t l = 0; l < LAYERS; l++)
    check(!neap_planner_plan_history(s.planners[0], s.history[l], STEPS, NULL, l, s.alone[l]), "%s",
          neap_error_message());
  for (int32_t threads = 1; threads <= THREADS; threads++) {
    check(!neap_planner_plan_batch(s.planners, threads, s.tasks, LAYERS), "%s",
          neap_error_message());
    for (int32_t l = 0; l < LAYERS; l++)
      check(neap_layout_changed(s.alone[l], s.batch[l]) == 0, "%s: layer %d differs on %d threads",
            name, l, threads);
  }
  close_scene(&s);
}

static void test_errors(void)
{
  static scene s;
  s = open_scene("neap");
  fill(&s);
  s.loads[7][1][3] = s.loads[11][0][0] = -1;
  check(neap_planner_plan_batch(s.planners, THREADS, s.tasks, LAYERS) == NEAP_ARGUMENT &&
            strstr(neap_error_message(), "plan 7 of 13") &&
            strstr(neap_error_message(), "rank 0 for expert 3"),
        "%s", neap_error_message());
  check(neap_planner_plan_batch(s.planners, 0, s.tasks, LAYERS) == NEAP_ARGUMENT &&
            strstr(neap_error_message(), "1 to 64"),
        "%s", neap_error_message());
  check(!neap_planner_set(s.planners[2], "effort", 7), "%s", neap_error_message());
  check(neap_planner_plan_batch(s.planners, 3, s.tasks, LAYERS) == NEAP_ARGUMENT &&
            strstr(neap_error_message(), "threads 0 and 2"),
        "%s", neap_error_message());
  close_scene(&s);
}

int main(void)
{
  for (int32_t i = 0; i < neap_planner_count(); i++)
    test_same_plans(neap_planner_name(i));
  test_errors();
  return check_done();
}

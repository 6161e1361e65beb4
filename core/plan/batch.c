/* SPDX-License-Identifier: Apache-2.0 */
/* Plans of many layers on several threads. */
#include "plan/planner.h"

#include <pthread.h>
#include <stdio.h>

enum { MOST_THREADS = 64, MESSAGE = 512 };

/* What one thread plans: every stride-th task from first on, up to the first that fails. */
typedef struct {
  neap_planner *planner;
  const neap_plan_task *tasks;
  int32_t first, count, stride;
  int32_t failed; /* that task; count: none */
  int status;
  char message[MESSAGE];
} share;

static void *plan_share(void *argument)
{
  share *s = argument;
  for (int32_t i = s->first; i < s->count; i += s->stride) {
    const neap_plan_task *t = &s->tasks[i];
    s->status =
        neap_planner_plan_history(s->planner, t->loads, t->steps, t->previous, t->seed, t->out);
    if (s->status) {
      s->failed = i;
      snprintf(s->message, sizeof s->message, "%s", neap_error_message());
      break;
    }
  }
  return NULL;
}

static int check_planners(neap_planner *const *planners, int32_t threads)
{
  if (threads < 1 || threads > MOST_THREADS)
    return neapi_fail(NEAP_ARGUMENT, "planner: %d threads; allowed are 1 to %d", threads,
                      MOST_THREADS);
  for (int32_t i = 1; i < threads; i++)
    for (int32_t k = 0; k < i; k++)
      if (planners[i] == planners[k] || !neapi_planner_alike(planners[i], planners[k]))
        return neapi_fail(NEAP_ARGUMENT,
                          "planner: those of threads %d and %d must be two, of one topology, "
                          "planner and parameters",
                          k, i);
  return NEAP_OK;
}

/* The first task's error, in the caller's thread. */
static int report(const share *shares, int32_t threads, int32_t count)
{
  const share *first = NULL;
  for (int32_t i = 0; i < threads; i++)
    if (shares[i].failed < (first ? first->failed : count))
      first = &shares[i];
  return first
             ? neapi_fail(first->status, "plan %d of %d: %s", first->failed, count, first->message)
             : NEAP_OK;
}

int neap_planner_plan_batch(neap_planner *const *planners, int32_t threads,
                            const neap_plan_task *tasks, int32_t count)
{
  share shares[MOST_THREADS];
  pthread_t ids[MOST_THREADS];
  bool started[MOST_THREADS] = {false};
  int status = check_planners(planners, threads);
  if (status)
    return status;
  for (int32_t i = 0; i < threads; i++)
    shares[i] = (share){planners[i], tasks, i, count, threads, count, NEAP_OK, ""};
  for (int32_t i = 1; i < threads; i++)
    started[i] = !pthread_create(&ids[i], NULL, plan_share, &shares[i]);
  for (int32_t i = 0; i < threads; i++)
    if (!started[i])
      plan_share(&shares[i]); /* the caller's, and what no thread could be had for */
  for (int32_t i = 1; i < threads; i++)
    if (started[i])
      pthread_join(ids[i], NULL);
  return report(shares, threads, count);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* One thread of the process looks after NCCL's communicators: it asks each for errors, which come
 * at any time, and how long its latest operation has been under way. */
#include "comm/watchdog.h"
#include "comm/nccl/endpoint.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { INTERVAL = 100000000 /* ns */ };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* taken before an endpoint's */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static neapi_endpoint *endpoints;
static bool running;

static void look_at(neapi_endpoint *endpoint)
{
  neapi_nccl_operation *watched = &endpoint->watched;
  int error = NCCL_SUCCESS;
  char what[200];
  if (endpoint->failed || !endpoint->comm)
    return;
  int called = endpoint->nccl->async_error(endpoint->comm, &error);
  error = called ? called : error;
  if (error != NCCL_SUCCESS && error != NCCL_IN_PROGRESS)
    neapi_nccl_fail_error(endpoint, &watched->call, error);
  neapi_nccl_go_on(endpoint);
  if (!endpoint->failed && endpoint->limit > 0 && neap_clock() - watched->begun > endpoint->limit &&
      !neapi_stream_event_reached(watched->end)) {
    snprintf(what, sizeof what,
             "not done after %g s: another rank has ended, or calls something else",
             endpoint->limit);
    neapi_watchdog_late(&watched->call, watched->begun);
    neapi_nccl_fail(endpoint, &watched->call, what);
  }
}

static void sleep_a_while(void)
{
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += INTERVAL;
  until.tv_sec += until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  pthread_cond_timedwait(&changed, &lock, &until);
}

/* An endpoint that is busy is asked another time. */
static void *watch(void *argument)
{
  pthread_mutex_lock(&lock);
  while (endpoints) {
    for (neapi_endpoint *endpoint = endpoints; endpoint; endpoint = endpoint->next)
      if (!pthread_mutex_trylock(&endpoint->lock)) {
        look_at(endpoint);
        pthread_mutex_unlock(&endpoint->lock);
      }
    sleep_a_while();
  }
  running = false;
  pthread_mutex_unlock(&lock);
  return argument;
}

/* The thread takes no signals: they are the program's business. */
static int start(void)
{
  pthread_t thread;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&thread, NULL, watch, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error)
    return neapi_fail(NEAP_SYSTEM, "comm: cannot start a thread: %s", strerror(error));
  pthread_detach(thread);
  running = true;
  return NEAP_OK;
}

int neapi_nccl_watch(neapi_endpoint *endpoint)
{
  pthread_mutex_lock(&lock);
  endpoint->next = endpoints;
  endpoints = endpoint;
  int status = running ? NEAP_OK : start();
  pthread_mutex_unlock(&lock);
  return status;
}

void neapi_nccl_unwatch(neapi_endpoint *endpoint)
{
  pthread_mutex_lock(&lock);
  for (neapi_endpoint **at = &endpoints; *at; at = &(*at)->next)
    if (*at == endpoint) {
      *at = endpoint->next;
      break;
    }
  pthread_cond_signal(&changed);
  pthread_mutex_unlock(&lock);
}

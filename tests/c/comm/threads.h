/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a test's body once per rank: over threads of a world of its own, or over MPI. */
#ifndef NEAP_TEST_THREADS_H
#define NEAP_TEST_THREADS_H

#include "check.h"
#include "neap.h"

#include <pthread.h>

enum { MOST = 8 }; /* ranks */

/* world is NULL over MPI. */
typedef void rank_body(neap_comm *comm, neap_world *world, int which);

typedef struct {
  neap_world *world;
  rank_body *body;
  int rank, which;
} rank_thread;

static void *run_thread(void *argument)
{
  rank_thread *t = argument;
  neap_comm *comm;
  if (check(!neap_comm_open_local(t->world, t->rank, &comm), "%s", neap_error_message())) {
    t->body(comm, t->world, t->which);
    neap_comm_close(comm);
  }
  return NULL;
}

static void run_threads(int ranks, rank_body *body, int which)
{
  neap_world *world;
  pthread_t ids[MOST];
  rank_thread threads[MOST];
  if (!check(!neap_world_open(ranks, &world), "%s", neap_error_message()))
    return;
  for (int r = 0; r < ranks; r++) {
    threads[r] = (rank_thread){world, body, r, which};
    pthread_create(&ids[r], NULL, run_thread, &threads[r]);
  }
  for (int r = 0; r < ranks; r++)
    pthread_join(ids[r], NULL);
  neap_world_close(world);
}

/* Runs the body over the processes of mpirun, linked by MPI or as open does it, and counts the
 * checks of all ranks together. Returns this process's rank, or -1 if they cannot be linked. */
__attribute__((unused)) static int run_processes(int (*open)(neap_comm **out), rank_body *body,
                                                 int which)
{
  neap_comm *comm;
  if (!check(!open(&comm), "%s", neap_error_message()))
    return -1;
  body(comm, NULL, which);
  int64_t counts[2] = {check_passed, check_failed};
  check(!neap_comm_all_reduce(comm, counts, 2, NEAP_I64, NEAP_SUM), "%s", neap_error_message());
  int rank = neap_comm_rank(comm);
  neap_comm_close(comm);
  check_passed = (int)counts[0];
  check_failed = (int)counts[1];
  return rank;
}

__attribute__((unused)) static int run_mpi(rank_body *body, int which)
{
  return run_processes(neap_comm_open_mpi, body, which);
}

/* A communicator over TCP of the ranks of another one, which tells them each other's ports. */
__attribute__((unused)) static int link_by_tcp(neap_comm *by, neap_comm **out)
{
  neap_listener *listener = NULL;
  int32_t ports[64];
  const char *hosts[64];
  int64_t counts[64];
  int status = neap_listener_open("127.0.0.1", &listener);
  if (status)
    return status;
  int ranks = neap_comm_size(by);
  for (int r = 0; r < ranks; r++) {
    counts[r] = 1;
    hosts[r] = "127.0.0.1";
  }
  int32_t port = neap_listener_port(listener);
  status = neap_comm_all_gather(by, &port, ports, counts, NEAP_I32);
  if (!status)
    status = neap_comm_open_tcp(listener, neap_comm_rank(by), ranks, hosts, ports, 42, out);
  neap_listener_close(listener);
  return status;
}

__attribute__((unused)) static int open_tcp(neap_comm **out)
{
  neap_comm *mpi;
  int status = neap_comm_open_mpi(&mpi);
  if (!status)
    status = link_by_tcp(mpi, out);
  neap_comm_close(status ? NULL : mpi);
  return status;
}

__attribute__((unused)) static int run_tcp(rank_body *body, int which)
{
  return run_processes(open_tcp, body, which);
}

/* Starts to send bytes of data to every rank, this one included, and to receive theirs, in rank
 * order, in all. */
static inline int start_all(neap_comm *comm, const void *data, int64_t bytes, void *all,
                            neap_request **out)
{
  int ranks = neap_comm_size(comm);
  neap_message send[64], recv[64];
  for (int r = 0; r < ranks; r++) {
    send[r] = (neap_message){(void *)(uintptr_t)data, bytes, r};
    recv[r] = (neap_message){(char *)all + r * bytes, bytes, r};
  }
  return neap_comm_exchange_start(comm, send, ranks, recv, ranks, out);
}

#endif

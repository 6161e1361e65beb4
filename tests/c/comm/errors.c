/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators that fail: arguments, ranks that disagree, leave or die. Nobody hangs, and
 * everybody is told why.
 * Runs on: threads.
 */
#include "comm/threads.h"

#include <stdlib.h>

static void expect(int status, int wanted, const char *part)
{
  check(status == wanted, "status %s, not %s", neap_status_name(status), neap_status_name(wanted));
  check(strstr(neap_error_message(), part) != NULL, "message \"%s\" lacks \"%s\"",
        neap_error_message(), part);
}

/* ---- arguments: refused before anything is sent, so the communicator stays usable ------------ */

static void plain_arguments(neap_comm *comm, int ranks, char *data)
{
  expect(neap_comm_barrier(NULL), NEAP_ARGUMENT, "no communicator");
  expect(neap_comm_split(NULL, 0, &comm), NEAP_ARGUMENT, "no communicator");
  expect(neap_comm_exchange_start(comm, NULL, 0, NULL, 0, NULL), NEAP_ARGUMENT, "out is NULL");
  expect(neap_comm_broadcast(comm, data, 4, ranks), NEAP_ARGUMENT, "root");
  expect(neap_comm_broadcast(comm, data, 4, -1), NEAP_ARGUMENT, "root -1");
  expect(neap_comm_broadcast(comm, data, -4, 0), NEAP_ARGUMENT, "-4");
  expect(neap_comm_broadcast(comm, NULL, 4, 0), NEAP_ARGUMENT, "NULL");
  expect(neap_comm_all_reduce(comm, data, -1, NEAP_F32, NEAP_SUM), NEAP_ARGUMENT, "count is -1");
  expect(neap_comm_all_reduce(comm, data, INT64_MAX / 2, NEAP_F32, NEAP_SUM), NEAP_ARGUMENT,
         "count");
  expect(neap_comm_all_reduce(comm, data, 1, 9, NEAP_SUM), NEAP_ARGUMENT, "dtype 9");
  expect(neap_comm_all_reduce(comm, data, 1, -1, NEAP_SUM), NEAP_ARGUMENT, "dtype -1");
  expect(neap_comm_all_reduce(comm, data, 1, NEAP_BF16, NEAP_SUM), NEAP_ARGUMENT, "bf16");
  expect(neap_comm_all_reduce(comm, data, 1, NEAP_F32, 3), NEAP_ARGUMENT, "operation 3");
  expect(neap_request_wait(NULL), NEAP_ARGUMENT, "no request");
}

static void list_arguments(neap_comm *comm, int ranks, char *data)
{
  int64_t counts[MOST] = {0}, other[MOST] = {0};
  expect(neap_comm_all_gather(comm, data, data, NULL, NEAP_U8), NEAP_ARGUMENT, "counts is NULL");
  counts[ranks - 1] = -3;
  expect(neap_comm_all_gather(comm, data, data, counts, NEAP_U8), NEAP_ARGUMENT, "-3");
  counts[ranks - 1] = 1;
  expect(neap_comm_all_gather(comm, data, data, counts, 6), NEAP_ARGUMENT, "dtype 6");
  expect(neap_comm_reduce_scatter(comm, NULL, data, counts, NEAP_I32, NEAP_MIN), NEAP_ARGUMENT,
         "send is NULL");
  expect(neap_comm_all_to_all(comm, data, counts, NULL, counts, NEAP_U8), NEAP_ARGUMENT,
         "recv is NULL");
  for (int r = 0; r < ranks; r++)
    other[r] = INT64_MAX / 2 + 1;
  if (ranks > 1)
    expect(neap_comm_all_gather(comm, data, data, other, NEAP_U8), NEAP_ARGUMENT, "add up to");
  memset(other, 0, sizeof other);
  other[neap_comm_rank(comm)] = 2;
  counts[ranks - 1] = 0;
  expect(neap_comm_all_to_all(comm, data, other, data + 32, counts, NEAP_U8), NEAP_SHAPE, "itself");
}

static void message_arguments(neap_comm *comm, int ranks, char *data)
{
  neap_message message = {data, 4, ranks}, two[2] = {{data, 4, 0}, {data, 3, 0}};
  expect(neap_comm_exchange(comm, &message, 1, NULL, 0), NEAP_ARGUMENT, "peer");
  message = (neap_message){NULL, 4, 0};
  expect(neap_comm_exchange(comm, NULL, 0, &message, 1), NEAP_ARGUMENT, "NULL");
  message = (neap_message){data, -1, 0};
  expect(neap_comm_exchange(comm, NULL, 0, &message, 1), NEAP_ARGUMENT, "-1 bytes");
  expect(neap_comm_exchange(comm, NULL, 1, NULL, 0), NEAP_ARGUMENT, "no list");
  expect(neap_comm_exchange(comm, NULL, -1, NULL, 0), NEAP_ARGUMENT, "-1 send");
  two[0].peer = two[1].peer = neap_comm_rank(comm);
  expect(neap_comm_exchange(comm, two, 2, two, 1), NEAP_SHAPE, "itself");
  expect(neap_comm_exchange(comm, two, 1, two + 1, 1), NEAP_SHAPE, "itself");
}

static void arguments(neap_comm *comm, neap_world *world, int which)
{
  (void)world;
  (void)which;
  char data[64] = {0};
  plain_arguments(comm, neap_comm_size(comm), data);
  list_arguments(comm, neap_comm_size(comm), data);
  message_arguments(comm, neap_comm_size(comm), data);
  check(!neap_comm_barrier(comm), "%s", neap_error_message());
}

static void world_arguments(void)
{
  neap_world *world;
  neap_comm *comm, *again;
  expect(neap_world_open(0, &world), NEAP_ARGUMENT, "0 ranks");
  expect(neap_comm_open_local(NULL, 0, &comm), NEAP_ARGUMENT, "no world");
  check(!neap_world_open(2, &world), "%s", neap_error_message());
  expect(neap_comm_open_local(world, 2, &comm), NEAP_ARGUMENT, "rank 2");
  check(!neap_comm_open_local(world, 1, &comm), "%s", neap_error_message());
  expect(neap_comm_open_local(world, 1, &again), NEAP_ARGUMENT, "open already");
  check(!strcmp(neap_comm_transport(comm), "local"), "transport %s", neap_comm_transport(comm));
  neap_world_close(world); /* the communicator keeps it alive */
  neap_comm_close(comm);
  neap_comm_close(NULL);
  neap_world_close(NULL);
}

/* ---- ranks that disagree: rank 0 on one side, the others on the other ------------------------ */

/* Parts of the message that all ranks get. */
static const char *const quarrels[][6] = {
    {"operations", "rank 0 calls broadcast of 400 bytes", "all_reduce(sum) of 44 bytes", "rank 1"},
    {"sizes", "rank 0 calls broadcast of 400 bytes", "broadcast of 404 bytes", "rank 1"},
    {"roots", "rank 0", "root 0", "rank 1", "root 1"},
    {"large or small", "rank 0", "of 80 bytes", "rank 1", "of 400000 bytes"},
    {"reductions", "rank 0", "(sum)", "rank 1", "(max)"},
    {"all_to_all", "all_to_all: rank 0 sends 3 bytes to rank 1, which receives 2 bytes"},
    {"gather", "all_gather", "rank 0", "rank 1", "bytes"},
    {"one message more", "exchange", "rank 0 ", "sends ", "rank 1"}, /* rank 1 may have passed it */
    {"one goes on", "rank 0 calls barrier", "rank 1 calls exchange"},
    {"split", "rank 0 calls split", "rank 1 calls duplicate"},
};

static int quarrel_lists(neap_comm *comm, int which, bool first, char *data)
{
  int64_t counts[MOST], other[MOST];
  for (int r = 0; r < MOST; r++)
    counts[r] = other[r] = 2;
  if (which == 5) {
    other[1] = first ? 3 : 2;
    return neap_comm_all_to_all(comm, data, other, data + 200, counts, NEAP_U8);
  }
  counts[first ? 0 : 1] = 3;
  return neap_comm_all_gather(comm, data, data + 200, counts, NEAP_U8);
}

static int quarrel(neap_comm *comm, int which, char *data)
{
  bool first = neap_comm_rank(comm) == 0;
  neap_message message = {data, 8, 1};
  neap_comm *other;
  switch (which) {
  case 0:
    return first ? neap_comm_broadcast(comm, data, 400, 0)
                 : neap_comm_all_reduce(comm, data, 11, NEAP_I32, NEAP_SUM);
  case 1:
    return neap_comm_broadcast(comm, data, first ? 400 : 404, 0);
  case 2:
    return neap_comm_broadcast(comm, data, 400, first ? 0 : 1);
  case 3:
    return neap_comm_all_reduce(comm, data, first ? 20 : 100000, NEAP_F32, NEAP_SUM);
  case 4:
    return neap_comm_all_reduce(comm, data, 10, NEAP_F32, first ? NEAP_SUM : NEAP_MAX);
  case 7:
    return neap_comm_exchange(comm, &message, first, NULL, 0);
  case 8:
    return first ? neap_comm_barrier(comm) : neap_comm_exchange(comm, NULL, 0, NULL, 0);
  case 9:
    return first ? neap_comm_split(comm, 0, &other) : neap_comm_duplicate(comm, &other);
  default:
    return quarrel_lists(comm, which, first, data);
  }
}

/* The error comes at once or, to ranks that the quarrel does not concern, with the next
 * operation. */
static void quarrelling(neap_comm *comm, neap_world *world, int which)
{
  (void)world;
  char *data = calloc(1, 400000);
  int status = quarrel(comm, which, data);
  if (!status)
    status = neap_comm_barrier(comm);
  const char *const *parts = quarrels[which];
  check(status == NEAP_COMM, "%s: status %s", parts[0], neap_status_name(status));
  if (neap_comm_size(comm) == 2)
    for (int i = 1; parts[i]; i++)
      check(strstr(neap_error_message(), parts[i]) != NULL, "%s: message \"%s\" lacks \"%s\"",
            parts[0], neap_error_message(), parts[i]);
  check(neap_comm_barrier(comm) == NEAP_COMM, "%s: usable again", parts[0]);
  free(data);
}

/* ---- ranks that die or leave ----------------------------------------------------------------- */

static const char lost[] = "rank 0 lost its way";

/* Rank 0 dies while the others wait in two communicators. */
static void aborting(neap_comm *comm, neap_world *world, int which)
{
  (void)which;
  neap_comm *other, *late;
  check(!neap_comm_duplicate(comm, &other), "%s", neap_error_message());
  if (neap_comm_rank(comm) == 0)
    neap_world_abort(world, lost);
  else {
    double value = 1, all[MOST];
    neap_request *request;
    int status = start_all(other, &value, sizeof value, all, &request);
    check(!status, "%s", neap_error_message());
    expect(neap_comm_barrier(comm), NEAP_COMM, lost);
    expect(neap_request_wait(request), NEAP_COMM, lost);
  }
  expect(neap_comm_duplicate(comm, &late), NEAP_COMM, lost);
  expect(neap_comm_barrier(other), NEAP_COMM, lost);
  neap_comm_close(other);
}

/* The world ends at any moment of traffic with large messages: buffers are freed right away, which
 * a reader that had not stopped would touch. */
static void aborting_traffic(neap_comm *comm, neap_world *world, int which)
{
  enum { COUNT = 40000 };
  int rank = neap_comm_rank(comm), status = NEAP_OK;
  for (int i = 0; !status; i++) {
    if (rank == which % 4 && i == which)
      neap_world_abort(world, lost);
    float *data = calloc(COUNT, sizeof *data);
    float *all = malloc((size_t)neap_comm_size(comm) * COUNT * sizeof *all);
    neap_request *request = NULL;
    status = start_all(comm, data, COUNT * (int64_t)sizeof *data, all, &request);
    if (!status)
      status = neap_request_wait(request);
    free(data);
    free(all);
  }
  expect(status, NEAP_COMM, lost);
}

/* Rank 0 closes while the others still want to talk to it. */
static void leaving(neap_comm *comm, neap_world *world, int which)
{
  (void)world;
  (void)which;
  if (neap_comm_rank(comm) > 0)
    expect(neap_comm_barrier(comm), NEAP_COMM, "rank 0 has closed");
}

/* ---- the same over TCP ----------------------------------------------------------------------- */

static void tcp_arguments(void)
{
  neap_listener *listener;
  neap_comm *comm;
  const char *hosts[] = {"127.0.0.1", "127.0.0.1"};
  int32_t ports[] = {1, 1};
  expect(neap_listener_open("", &listener), NEAP_ARGUMENT, "empty");
  expect(neap_listener_open("no.such.host.invalid", &listener), NEAP_SYSTEM, "no.such.host");
  check(!neap_listener_open("127.0.0.1", &listener), "%s", neap_error_message());
  check(neap_listener_port(listener) > 0, "port %d", neap_listener_port(listener));
  expect(neap_comm_open_tcp(listener, 1, 1, hosts, ports, 0, &comm), NEAP_ARGUMENT, "rank 1 of 1");
  expect(neap_comm_open_tcp(NULL, 0, 1, hosts, ports, 0, &comm), NEAP_ARGUMENT, "NULL");
  expect(neap_comm_open_tcp(listener, 1, 2, hosts, ports, 0, &comm), NEAP_COMM,
         "rank 1 does not reach rank 0 at 127.0.0.1, port 1");
  neap_listener_close(listener);
  neap_listener_close(NULL);
}

/* What ranks cannot agree on fails on all of them, without a wait for one that has given up. */
static void quarrelling_by_tcp(neap_comm *by, neap_world *world, int which)
{
  (void)world;
  neap_comm *comm;
  char *data = calloc(1, 400000);
  if (check(!link_by_tcp(by, &comm), "%s", neap_error_message())) {
    check(!strcmp(neap_comm_transport(comm), "tcp"), "transport %s", neap_comm_transport(comm));
    int status = quarrel(comm, which, data);
    if (!status)
      status = neap_comm_barrier(comm);
    check(status == NEAP_COMM, "%s: status %s", quarrels[which][0], neap_status_name(status));
    check(neap_comm_barrier(comm) == NEAP_COMM, "%s: usable again", quarrels[which][0]);
    neap_comm_close(comm);
  }
  free(data);
}

static void leaving_by_tcp(neap_comm *by, neap_world *world, int which)
{
  (void)world;
  (void)which;
  neap_comm *comm;
  if (!check(!link_by_tcp(by, &comm), "%s", neap_error_message()))
    return;
  if (neap_comm_rank(comm) > 0)
    expect(neap_comm_barrier(comm), NEAP_COMM, "has closed its end");
  neap_comm_close(comm);
}

int main(void)
{
  run_threads(1, arguments, 0);
  run_threads(3, arguments, 0);
  world_arguments();
  for (size_t q = 0; q < sizeof quarrels / sizeof *quarrels; q++)
    for (int ranks = 2; ranks <= 4; ranks++)
      run_threads(ranks, quarrelling, (int)q);
  run_threads(4, aborting, 0);
  for (int i = 0; i < 20; i++)
    run_threads(4, aborting_traffic, i);
  run_threads(3, leaving, 0);
  tcp_arguments();
  static const int over_tcp[] = {0, 1, 3, 5, 6, 8, 9};
  for (size_t i = 0; i < sizeof over_tcp / sizeof *over_tcp; i++)
    for (int ranks = 2; ranks <= 4; ranks++)
      run_threads(ranks, quarrelling_by_tcp, over_tcp[i]);
  run_threads(3, leaving_by_tcp, 0);
  return check_done();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A long random sequence of all operations of a communicator, against a serial reference that every
 * rank computes for itself from the seed. Buffers are in host memory, or where sequence_memory puts
 * them. */
#ifndef NEAP_TEST_COMM_SEQUENCE_H
#define NEAP_TEST_COMM_SEQUENCE_H

#include "comm/threads.h"

#include <inttypes.h>
#include <stdlib.h>

/* Where buffers are: put takes a host buffer of malloc and gives what operations use; get copies
 * that to the host; drop is the end of it. */
typedef struct {
  char *(*put)(char *host, int64_t bytes);
  void (*get)(char *host, char *buffer, int64_t bytes);
  void (*drop)(char *buffer, int64_t bytes);
} buffer_place;

static char *put_on_host(char *host, int64_t bytes)
{
  (void)bytes;
  return host;
}

static void get_from_host(char *host, char *buffer, int64_t bytes)
{
  memcpy(host, buffer, (size_t)bytes);
}

static void drop_on_host(char *buffer, int64_t bytes)
{
  (void)bytes;
  free(buffer);
}

static buffer_place sequence_memory = {put_on_host, get_from_host, drop_on_host};

enum { PENDING = 6 };

enum { BROADCAST, ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, EXCHANGE, BARRIER, KINDS };

/* One operation of the sequence, the same on all ranks but for the buffers. */
typedef struct {
  int kind, dtype, op, root, async;
  uint64_t key;
  int64_t counts[MOST][MOST]; /* elements from rank to rank; row 0 where one list is enough */
  int64_t count;
  char *send, *recv;
  int64_t send_bytes, recv_bytes;
  neap_request *request;
} task;

/* ---- random choices -------------------------------------------------------------------------- */

static int64_t below(uint64_t key, uint64_t index, int64_t limit)
{
  return (int64_t)(neap_random_bits(77, key, index) % (uint64_t)limit);
}

static int64_t random_count(uint64_t key, uint64_t index)
{
  static const int64_t limits[] = {1, 2, 40, 700, 700, 5000};
  return below(key, 2 * index, limits[below(key, 2 * index + 1, 6)]);
}

/* Element i of rank's contribution. */
static void put_element(char *to, int dtype, int64_t i, uint64_t key, int rank)
{
  uint64_t bits = neap_random_bits(key, (uint64_t)rank, (uint64_t)i);
  double real = ((double)(bits >> 12) / 4503599627370496.0 - 0.5) * (bits & 7 ? 1.0 : 1e6);
  float single = (float)real;
  int64_t size = neap_dtype_size(dtype);
  const void *from = dtype == NEAP_F32   ? (void *)&single
                     : dtype == NEAP_F64 ? (void *)&real
                                         : &bits;
  memcpy(to + i * size, from, (size_t)size);
}

static char *filled(int dtype, int64_t count, uint64_t key, int rank)
{
  char *data = malloc((size_t)(count * neap_dtype_size(dtype)) + 1);
  for (int64_t i = 0; i < count; i++)
    put_element(data, dtype, i, key, rank);
  return data;
}

/* ---- the reference --------------------------------------------------------------------------- */

#define REDUCE(type, plus)                                                                         \
  do {                                                                                             \
    type a, b;                                                                                     \
    memcpy(&a, sum, sizeof a);                                                                     \
    memcpy(&b, x, sizeof b);                                                                       \
    a = op == NEAP_SUM ? (type)(plus) : op == NEAP_MAX ? (b > a ? b : a) : (b < a ? b : a);        \
    memcpy(sum, &a, sizeof a);                                                                     \
  } while (0)

static void reduce_one(char *sum, const char *x, int dtype, int op)
{
  if (dtype == NEAP_F32)
    REDUCE(float, a + b);
  else if (dtype == NEAP_F64)
    REDUCE(double, a + b);
  else if (dtype == NEAP_I32)
    REDUCE(int32_t, (uint32_t)a + (uint32_t)b);
  else
    REDUCE(int64_t, (uint64_t)a + (uint64_t)b);
}

/* The reduction of elements [from, from + count) of all ranks' contributions. */
static void reference_reduce(const task *t, int ranks, int64_t from, int64_t count, char *out)
{
  int64_t size = neap_dtype_size(t->dtype);
  char *x = malloc((size_t)((from + count) * size) + 1);
  for (int r = 0; r < ranks; r++)
    for (int64_t i = from; i < from + count; i++) {
      put_element(x, t->dtype, i, t->key, r);
      if (r)
        reduce_one(out + (i - from) * size, x + i * size, t->dtype, t->op);
      else
        memcpy(out + (i - from) * size, x + i * size, (size_t)size);
    }
  free(x);
}

static int64_t sum_before(const int64_t *counts, int64_t stride, int rank)
{
  int64_t sum = 0;
  for (int r = 0; r < rank; r++)
    sum += counts[r * stride];
  return sum;
}

/* What rank must find in recv. */
static void reference(const task *t, int rank, int ranks, char *out)
{
  int64_t size = neap_dtype_size(t->dtype), at = 0;
  if (t->kind == ALL_REDUCE)
    reference_reduce(t, ranks, 0, t->count, out);
  else if (t->kind == REDUCE_SCATTER)
    reference_reduce(t, ranks, sum_before(t->counts[0], 1, rank), t->counts[0][rank], out);
  else if (t->kind == BROADCAST)
    for (int64_t i = 0; i < t->count; i++)
      put_element(out, t->dtype, i, t->key, t->root);
  else if (t->kind != BARRIER)
    for (int from = 0; from < ranks; from++) {
      bool gather = t->kind == ALL_GATHER;
      int64_t first = gather ? 0 : sum_before(t->counts[from], 1, rank);
      int64_t count = gather ? t->counts[0][from] : t->counts[from][rank];
      char *all = filled(t->dtype, first + count, t->key, from);
      memcpy(out + at, all + first * size, (size_t)(count * size));
      at += count * size;
      free(all);
    }
}

/* ---- running one operation ------------------------------------------------------------------- */

static void make(task *t, uint64_t seed, int index, int ranks)
{
  uint64_t key = seed * 1000 + (uint64_t)index;
  memset(t, 0, sizeof *t);
  t->key = key;
  t->kind = (int)below(key, 1, KINDS + 7);
  if (t->kind >= KINDS) /* half of all: exchanges alone are started and waited for later */
    t->kind = EXCHANGE;
  bool reduces = t->kind == ALL_REDUCE || t->kind == REDUCE_SCATTER;
  t->dtype = (int)below(key, 2, reduces ? 4 : 6);
  t->op = (int)below(key, 3, 3);
  t->root = (int)below(key, 4, ranks);
  t->async = t->kind == EXCHANGE && below(key, 5, 4);
  t->count = random_count(key, 50) * (below(key, 6, 4) ? 1 : 10);
  for (int a = 0; a < ranks; a++)
    for (int b = 0; b < ranks; b++)
      t->counts[a][b] = random_count(key, (uint64_t)(100 + a * MOST + b));
}

/* The elements between each two ranks as two or three messages, empty ones among them. */
static int64_t messages(const task *t, int rank, int ranks, bool sending, neap_message *list)
{
  int64_t size = neap_dtype_size(t->dtype), n = 0;
  for (int part = 0; part < 3; part++)
    for (int step = 0; step < ranks; step++) {
      int peer = (rank + (sending ? step : ranks - step)) % ranks;
      int from = sending ? rank : peer, to = sending ? peer : rank;
      int64_t first =
          sending ? sum_before(t->counts[from], 1, to) : sum_before(&t->counts[0][to], MOST, from);
      int64_t count = t->counts[from][to], begin = count * part / 3, end = count * (part + 1) / 3;
      bool two = count % 4 == 1;
      if (two && part == 1)
        end = count;
      if (!two || part < 2)
        list[n++] = (neap_message){(sending ? t->send : t->recv) + (first + begin) * size,
                                   (end - begin) * size, peer};
    }
  return n;
}

static int start_lists(neap_comm *comm, task *t, int rank, int ranks)
{
  int64_t to[MOST], from[MOST];
  for (int r = 0; r < ranks; r++) {
    to[r] = t->counts[rank][r];
    from[r] = t->counts[r][rank];
  }
  if (t->kind == ALL_TO_ALL)
    return neap_comm_all_to_all(comm, t->send, to, t->recv, from, t->dtype);
  neap_message send[3 * MOST], recv[3 * MOST];
  int64_t sends = messages(t, rank, ranks, true, send);
  int64_t recvs = messages(t, rank, ranks, false, recv);
  return t->async ? neap_comm_exchange_start(comm, send, sends, recv, recvs, &t->request)
                  : neap_comm_exchange(comm, send, sends, recv, recvs);
}

static int start(neap_comm *comm, task *t, int rank, int ranks)
{
  int64_t bytes = t->count * neap_dtype_size(t->dtype), *counts = t->counts[0];
  switch (t->kind) {
  case BROADCAST:
    return neap_comm_broadcast(comm, t->recv, bytes, t->root);
  case ALL_REDUCE:
    return neap_comm_all_reduce(comm, t->recv, t->count, t->dtype, t->op);
  case ALL_GATHER:
    return neap_comm_all_gather(comm, t->send, t->recv, counts, t->dtype);
  case REDUCE_SCATTER:
    return neap_comm_reduce_scatter(comm, t->send, t->recv, counts, t->dtype, t->op);
  case BARRIER:
    return neap_comm_barrier(comm);
  default:
    return start_lists(comm, t, rank, ranks);
  }
}

/* Buffers as the operation takes them. */
static void prepare(task *t, int rank, int ranks)
{
  int64_t size = neap_dtype_size(t->dtype), send = t->count, recv = t->count;
  if (t->kind == ALL_GATHER) {
    send = t->counts[0][rank];
    recv = sum_before(t->counts[0], 1, ranks);
  } else if (t->kind == REDUCE_SCATTER) {
    send = sum_before(t->counts[0], 1, ranks);
    recv = t->counts[0][rank];
  } else if (t->kind == ALL_TO_ALL || t->kind == EXCHANGE) {
    send = sum_before(t->counts[rank], 1, ranks);
    recv = sum_before(&t->counts[0][rank], MOST, ranks);
  } else if (t->kind == BARRIER)
    send = recv = 0;
  bool in_place = t->kind == ALL_REDUCE || (t->kind == BROADCAST && rank == t->root);
  t->send_bytes = in_place ? 0 : send * size;
  t->recv_bytes = recv * size;
  t->send = filled(t->dtype, in_place ? 0 : send, t->key, rank);
  t->recv = in_place ? filled(t->dtype, recv, t->key, rank) : calloc(1, (size_t)t->recv_bytes + 1);
  t->send = sequence_memory.put(t->send, t->send_bytes);
  t->recv = sequence_memory.put(t->recv, t->recv_bytes);
}

static uint64_t mix(uint64_t digest, const char *data, int64_t bytes)
{
  for (int64_t i = 0; i < bytes; i++)
    digest = (digest ^ (unsigned char)data[i]) * 1099511628211u;
  return digest;
}

static uint64_t finish(task *t, int rank, int ranks)
{
  if (t->request)
    check(!neap_request_wait(t->request), "wait: %s", neap_error_message());
  char *expected = calloc(1, (size_t)t->recv_bytes + 1);
  char *got = calloc(1, (size_t)t->recv_bytes + 1);
  sequence_memory.drop(t->send, t->send_bytes);
  sequence_memory.get(got, t->recv, t->recv_bytes);
  sequence_memory.drop(t->recv, t->recv_bytes);
  reference(t, rank, ranks, expected);
  check_same(got, expected, t->recv_bytes, "rank %d of %d: operation %d dtype %d differs", rank,
             ranks, t->kind, t->dtype);
  uint64_t digest = mix(t->key, got, t->recv_bytes);
  free(expected);
  free(got);
  return digest;
}

/* The whole sequence; up to PENDING operations are under way at once, finished in random order.
 * Returns a digest of the results of all ranks. */
static uint64_t run_all(neap_comm *comm, uint64_t seed, int ops)
{
  int rank = neap_comm_rank(comm), ranks = neap_comm_size(comm), pending = 0;
  task tasks[PENDING];
  uint64_t digest = 0;
  for (int i = 0; i < ops; i++) {
    task *t = &tasks[pending++];
    make(t, seed, i, ranks);
    prepare(t, rank, ranks);
    check(!start(comm, t, rank, ranks), "start %d: %s", t->kind, neap_error_message());
    while (pending == PENDING || (pending && below(seed, (uint64_t)(i * 10 + pending), 3) == 0)) {
      int64_t pick = below(seed, (uint64_t)(100000 + i), pending);
      digest ^= finish(&tasks[pick], rank, ranks);
      tasks[pick] = tasks[--pending];
    }
  }
  while (pending)
    digest ^= finish(&tasks[--pending], rank, ranks);
  int64_t mine = (int64_t)digest, all[MOST], ones[MOST] = {1, 1, 1, 1, 1, 1, 1, 1};
  check(!neap_comm_all_gather(comm, &mine, all, ones, NEAP_I64), "%s", neap_error_message());
  return mix(seed, (char *)all, 8 * ranks);
}

#endif

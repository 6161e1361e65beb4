/*
 * Communicators: a long random sequence of all operations against a serial reference that every
 * rank computes for itself from the seed; several communicators at once; progress without calls.
 * Without arguments over threads, 1 to 8 ranks; with "mpi" over the processes of mpirun. "digest"
 * lines tell all results: the same number of ranks gives the same digest over every transport.
 */
#include "ranks/threads.h"

#include <inttypes.h>
#include <stdlib.h>

enum { OPS = 120, PENDING = 6 };

enum { BROADCAST, ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, EXCHANGE, BARRIER, KINDS };

/* One operation of the sequence, the same on all ranks but for the buffers. */
typedef struct {
  int kind, dtype, op, root, async;
  uint64_t key;
  int64_t counts[MOST][MOST]; /* elements from rank to rank; row 0 where one list is enough */
  int64_t count;
  char *send, *recv;
  int64_t recv_bytes;
  neap_request *request;
} task;

/* ---- random choices ----------------------------------------------------------------------------
 */

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
static void put(char *to, int dtype, int64_t i, uint64_t key, int rank)
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
    put(data, dtype, i, key, rank);
  return data;
}

/* ---- the reference
 * ------------------------------------------------------------------------------- */

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
      put(x, t->dtype, i, t->key, r);
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
      put(out, t->dtype, i, t->key, t->root);
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

/* ---- running one operation
 * ----------------------------------------------------------------------- */

static void make(task *t, uint64_t seed, int index, int ranks)
{
  uint64_t key = seed * 1000 + (uint64_t)index;
  memset(t, 0, sizeof *t);
  t->key = key;
  t->kind = (int)below(key, 1, KINDS);
  bool reduces = t->kind == ALL_REDUCE || t->kind == REDUCE_SCATTER;
  t->dtype = (int)below(key, 2, reduces ? 4 : 6);
  t->op = (int)below(key, 3, 3);
  t->root = (int)below(key, 4, ranks);
  t->async = (int)below(key, 5, 3) > 0;
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
    return t->async
               ? neap_comm_all_to_all_start(comm, t->send, to, t->recv, from, t->dtype, &t->request)
               : neap_comm_all_to_all(comm, t->send, to, t->recv, from, t->dtype);
  neap_message send[3 * MOST], recv[3 * MOST];
  int64_t sends = messages(t, rank, ranks, true, send);
  int64_t recvs = messages(t, rank, ranks, false, recv);
  return t->async ? neap_comm_exchange_start(comm, send, sends, recv, recvs, &t->request)
                  : neap_comm_exchange(comm, send, sends, recv, recvs);
}

static int start(neap_comm *comm, task *t, int rank, int ranks)
{
  int64_t bytes = t->count * neap_dtype_size(t->dtype), *counts = t->counts[0];
  neap_request **out = &t->request;
  switch (t->kind) {
  case BROADCAST:
    return t->async ? neap_comm_broadcast_start(comm, t->recv, bytes, t->root, out)
                    : neap_comm_broadcast(comm, t->recv, bytes, t->root);
  case ALL_REDUCE:
    return t->async ? neap_comm_all_reduce_start(comm, t->recv, t->count, t->dtype, t->op, out)
                    : neap_comm_all_reduce(comm, t->recv, t->count, t->dtype, t->op);
  case ALL_GATHER:
    return t->async ? neap_comm_all_gather_start(comm, t->send, t->recv, counts, t->dtype, out)
                    : neap_comm_all_gather(comm, t->send, t->recv, counts, t->dtype);
  case REDUCE_SCATTER:
    return t->async ? neap_comm_reduce_scatter_start(comm, t->send, t->recv, counts, t->dtype,
                                                     t->op, out)
                    : neap_comm_reduce_scatter(comm, t->send, t->recv, counts, t->dtype, t->op);
  case BARRIER:
    return t->async ? neap_comm_barrier_start(comm, out) : neap_comm_barrier(comm);
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
  t->recv_bytes = recv * size;
  t->send = in_place ? NULL : filled(t->dtype, send, t->key, rank);
  t->recv = in_place ? filled(t->dtype, recv, t->key, rank) : calloc(1, (size_t)t->recv_bytes + 1);
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
  reference(t, rank, ranks, expected);
  check_same(t->recv, expected, t->recv_bytes, "rank %d of %d: operation %d dtype %d differs", rank,
             ranks, t->kind, t->dtype);
  uint64_t digest = mix(t->key, t->recv, t->recv_bytes);
  free(expected);
  free(t->send);
  free(t->recv);
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

/* ---- more than one communicator, and progress
 * ------------------------------------------------------ */

static void run_split(neap_comm *comm)
{
  int rank = neap_comm_rank(comm), ranks = neap_comm_size(comm);
  neap_comm *half = NULL, *alone = NULL;
  if (!check(!neap_comm_split(comm, rank % 2 - 1, &half), "split: %s", neap_error_message()))
    return;
  check(neap_comm_size(half) == (ranks + 1 - rank % 2) / 2, "size %d", neap_comm_size(half));
  check(neap_comm_rank(half) == rank / 2, "rank %d", neap_comm_rank(half));
  if (!check(!neap_comm_split(half, -rank, &alone), "split: %s", neap_error_message()))
    return;
  check(neap_comm_size(alone) == 1, "size %d", neap_comm_size(alone));
  run_all(half, 5, 40);
  run_all(alone, 6, 20);
  neap_comm_close(half);
  run_all(alone, 7, 20);
  neap_comm_close(alone);
}

/* Ranks start operations of two communicators in opposite orders. */
static void run_duplicates(neap_comm *comm)
{
  int rank = neap_comm_rank(comm), ranks = neap_comm_size(comm);
  neap_comm *pair[2];
  check(!neap_comm_duplicate(comm, &pair[0]), "duplicate: %s", neap_error_message());
  check(!neap_comm_duplicate(comm, &pair[1]), "duplicate: %s", neap_error_message());
  for (int round = 0; round < 20; round++) {
    double sums[2] = {rank + 1, 10 * rank + round}, n = ranks;
    neap_request *requests[2];
    for (int i = 0; i < 2; i++) {
      int which = (i + rank) % 2;
      check(!neap_comm_all_reduce_start(pair[which], &sums[which], 1, NEAP_F64, NEAP_SUM,
                                        &requests[which]),
            "%s", neap_error_message());
    }
    for (int i = 0; i < 2; i++)
      check(!neap_request_wait(requests[(i + rank + 1) % 2]), "%s", neap_error_message());
    check(sums[0] == n * (n + 1) / 2, "sum %g", sums[0]);
    check(sums[1] == 5 * n * (n - 1) + n * round, "sum %g", sums[1]);
  }
  neap_comm_close(pair[0]);
  neap_comm_close(pair[1]);
}

/* A started operation gets done while its callers never call again. */
static void run_progress(neap_comm *comm)
{
  enum { COUNT = 50000 };
  int rank = neap_comm_rank(comm), ranks = neap_comm_size(comm);
  float *data = malloc(COUNT * sizeof *data);
  for (int i = 0; i < COUNT; i++)
    data[i] = (float)(rank + i % 10);
  neap_request *request;
  check(!neap_comm_all_reduce_start(comm, data, COUNT, NEAP_F32, NEAP_SUM, &request), "%s",
        neap_error_message());
  double begin = neap_clock(), work = 0;
  while (!neap_request_done(request) && neap_clock() < begin + 60)
    for (int i = 0; i < 1000; i++)
      work += i;
  check(neap_request_done(request), "no progress in 60 s (work %g)", work);
  check(!neap_request_wait(request), "%s", neap_error_message());
  float expected = (float)(ranks * (ranks - 1) / 2 + ranks * 7);
  check(data[COUNT - 3] == expected, "sum %g, not %g", (double)data[COUNT - 3], (double)expected);
  free(data);
}

/* Requests may be waited for after their communicator was closed. */
static void run_late_wait(neap_comm *comm)
{
  neap_comm *own;
  neap_request *request;
  int32_t value = neap_comm_rank(comm);
  check(!neap_comm_duplicate(comm, &own), "%s", neap_error_message());
  check(!neap_comm_all_reduce_start(own, &value, 1, NEAP_I32, NEAP_MAX, &request), "%s",
        neap_error_message());
  neap_comm_close(own);
  check(neap_request_done(request), "close did not wait for what was started");
  check(!neap_request_wait(request), "%s", neap_error_message());
  check(value == neap_comm_size(comm) - 1, "maximum %d", value);
}

static void run_account(neap_comm *comm)
{
  int ranks = neap_comm_size(comm);
  int64_t counts[MOST] = {5, 5, 5, 5, 5, 5, 5, 5}, before = neap_comm_bytes_sent(comm);
  int32_t send[5 * MOST] = {0}, recv[5 * MOST];
  check(!neap_comm_all_to_all(comm, send, counts, recv, counts, NEAP_I32), "%s",
        neap_error_message());
  int64_t sent = neap_comm_bytes_sent(comm) - before;
  check(sent == 20 * (ranks - 1), "%" PRId64 " bytes sent", sent);
  check(neap_comm_seconds_waited(comm) > 0, "no seconds waited");
}

/* A NaN of any rank stays in sums, maxima and minima. */
static void run_nan(neap_comm *comm)
{
  int rank = neap_comm_rank(comm), ranks = neap_comm_size(comm);
  for (int op = NEAP_SUM; op <= NEAP_MIN; op++) {
    double data[2] = {rank == ranks / 2 ? NAN : rank, rank};
    check(!neap_comm_all_reduce(comm, data, 2, NEAP_F64, op), "%s", neap_error_message());
    check(isnan(data[0]) && !isnan(data[1]), "operation %d: %g %g", op, data[0], data[1]);
  }
}

/* ---- main
 * ---------------------------------------------------------------------------------------- */

static void body(neap_comm *comm, neap_world *world, int which)
{
  (void)world;
  uint64_t digest = run_all(comm, (uint64_t)(40 + which), OPS);
  if (neap_comm_rank(comm) == 0)
    printf("digest %d %016" PRIx64 "\n", neap_comm_size(comm), digest);
  run_split(comm);
  run_duplicates(comm);
  run_progress(comm);
  run_late_wait(comm);
  run_account(comm);
  run_nan(comm);
}

int main(int argc, char **argv)
{
  static const int sizes[] = {1, 2, 3, 4, 6, 8};
  if (argc > 1 && !strcmp(argv[1], "mpi"))
    return run_mpi(body, 0) ? check_failed > 0 : check_done();
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    run_threads(sizes[i], body, 0);
  return check_done();
}

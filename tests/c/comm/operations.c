/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators: a long random sequence of all operations against a serial reference that every
 * rank computes for itself from the seed; several communicators at once; progress without calls.
 * Without arguments over threads, 1 to 8 ranks; with "mpi" over the processes of mpirun, with "tcp"
 * over TCP between them. "digest" lines tell all results: the same number of ranks gives the same
 * digest over every transport.
 * Runs on: threads, mpi, tcp.
 */
#include "comm/sequence.h"

enum { OPS = 120 };

/* ---- more than one communicator, and progress ------------------------------------------------ */

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
    double values[2] = {rank + 1, 10 * rank + round}, all[2][MOST], sums[2] = {0}, n = ranks;
    neap_request *requests[2];
    for (int i = 0; i < 2; i++) {
      int which = (i + rank) % 2;
      check(!start_all(pair[which], &values[which], 8, all[which], &requests[which]), "%s",
            neap_error_message());
    }
    for (int i = 0; i < 2; i++)
      check(!neap_request_wait(requests[(i + rank + 1) % 2]), "%s", neap_error_message());
    for (int r = 0; r < ranks; r++) {
      sums[0] += all[0][r];
      sums[1] += all[1][r];
    }
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
  float *data = malloc(COUNT * sizeof *data), *all = malloc((size_t)ranks * COUNT * sizeof *all);
  for (int i = 0; i < COUNT; i++)
    data[i] = (float)(rank + i % 10);
  neap_request *request;
  check(!start_all(comm, data, COUNT * (int64_t)sizeof *data, all, &request), "%s",
        neap_error_message());
  double begin = neap_clock(), work = 0;
  while (!neap_request_done(request) && neap_clock() < begin + 60)
    for (int i = 0; i < 1000; i++)
      work += i;
  check(neap_request_done(request), "no progress in 60 s (work %g)", work);
  check(!neap_request_wait(request), "%s", neap_error_message());
  for (int r = 0; r < ranks; r++) {
    float got = all[(int64_t)(r + 1) * COUNT - 3];
    check(got == (float)(r + 7), "%g of rank %d", (double)got, r);
  }
  free(data);
  free(all);
}

/* Requests may be waited for after their communicator was closed. */
static void run_late_wait(neap_comm *comm)
{
  neap_comm *own;
  neap_request *request;
  int32_t value = neap_comm_rank(comm), all[MOST];
  check(!neap_comm_duplicate(comm, &own), "%s", neap_error_message());
  check(!start_all(own, &value, 4, all, &request), "%s", neap_error_message());
  neap_comm_close(own);
  check(neap_request_done(request), "close did not wait for what was started");
  check(!neap_request_wait(request), "%s", neap_error_message());
  for (int r = 0; r < neap_comm_size(comm); r++)
    check(all[r] == r, "%d of rank %d", all[r], r);
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

/* ---- main ------------------------------------------------------------------------------------ */

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
  if (argc > 1 && !strcmp(argv[1], "tcp"))
    return run_tcp(body, 0) ? check_failed > 0 : check_done();
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    run_threads(sizes[i], body, 0);
  return check_done();
}

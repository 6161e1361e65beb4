/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What exchanges cost beside the same calls of NCCL alone. Under mpirun, every rank sends as many
 * bytes to every other: by grouped sends and receives of a communicator of this program's own, and
 * by neap_comm_exchange. Prints medians and rates per rank; checks the data of both.
 *   mpirun -n 8 build/tests/test_comm_cuda_nccl_alone [MEGABYTES A RANK SENDS]
 */
#include "kernels/cuda/gpu_test.h"

#include "comm/nccl/library.h"
#include "neap.h"

#include <dlfcn.h>
#include <limits.h>

enum { WARM_UP = 3, REPEATS = 15, MOST = 64 };

static neap_comm *world;
static int rank, ranks;
static size_t bytes; /* to each peer */
static char *from[MOST], *to[MOST];
static cudaStream_t stream;

/* ---- NCCL alone ------------------------------------------------------------------------------ */

static nccl_functions nccl;
static nccl_comm *alone;

#define FIND(place, name) (*(void **)&nccl.place = dlsym(library, name))

static bool find_nccl(void)
{
  const char *given = getenv("NEAP_NCCL");
  void *library = dlopen(given && *given ? given : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  return library && FIND(get_unique_id, "ncclGetUniqueId") &&
         FIND(init, "ncclCommInitRankConfig") && FIND(group_start, "ncclGroupStart") &&
         FIND(group_end, "ncclGroupEnd") && FIND(send, "ncclSend") && FIND(receive, "ncclRecv") &&
         FIND(destroy, "ncclCommDestroy");
}

static bool join_alone(void)
{
  nccl_id id;
  nccl_config config = {offsetof(nccl_config, blocking) + sizeof(int), 0xcafebeef, 21400, 1};
  memset(&id, 0, sizeof id);
  bool good = rank || !nccl.get_unique_id(&id);
  good = !neap_comm_broadcast(world, &id, sizeof id, 0) && good;
  return good && !nccl.init(&alone, ranks, id, rank, &config);
}

static int exchange_alone(void)
{
  int error = nccl.group_start();
  for (int p = 0; p < ranks; p++)
    if (p != rank) {
      error |= nccl.send(from[p], bytes, NCCL_INT8, p, alone, stream);
      error |= nccl.receive(to[p], bytes, NCCL_INT8, p, alone, stream);
    }
  return error | nccl.group_end();
}

static int exchange_by_neap(void)
{
  neap_message send[MOST], recv[MOST];
  int n = 0;
  for (int p = 0; p < ranks; p++)
    if (p != rank) {
      send[n] = (neap_message){from[p], (int64_t)bytes, p};
      recv[n++] = (neap_message){to[p], (int64_t)bytes, p};
    }
  return neap_comm_exchange(world, send, n, recv, n);
}

/* ---- measuring ------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Median seconds from all ranks' being ready to the last one's being done. */
static double measure(int (*exchange)(void), const char *name)
{
  double seconds[REPEATS];
  for (int i = 0; i < WARM_UP + REPEATS; i++) {
    must(cudaDeviceSynchronize());
    check(!neap_comm_barrier(world), "%s", neap_error_message());
    double begin = neap_clock();
    check(!exchange(), "%s: %s", name, neap_error_message());
    must(cudaDeviceSynchronize());
    check(!neap_comm_barrier(world), "%s", neap_error_message());
    seconds[i < WARM_UP ? 0 : i - WARM_UP] = neap_clock() - begin;
  }
  qsort(seconds, REPEATS, sizeof *seconds, by_size);
  return seconds[REPEATS / 2];
}

/* Rank p's message for rank q begins with the byte 1 + p * ranks + q. */
static void check_data(const char *name)
{
  for (int p = 0; p < ranks; p++) {
    unsigned char got[2] = {0, 0};
    if (p == rank)
      continue;
    must(cudaMemcpy(&got[0], to[p], 1, cudaMemcpyDefault));
    must(cudaMemcpy(&got[1], to[p] + bytes - 1, 1, cudaMemcpyDefault));
    unsigned char expected = (unsigned char)(1 + p * ranks + rank);
    check(got[0] == expected && got[1] == expected, "%s: rank %d got %d and %d from %d", name, rank,
          got[0], got[1], p);
    must(cudaMemset(to[p], 0, bytes));
  }
}

static void make_buffers(void)
{
  for (int p = 0; p < ranks; p++) {
    must(cudaMalloc((void **)&from[p], bytes));
    must(cudaMalloc((void **)&to[p], bytes));
    must(cudaMemset(from[p], 1 + rank * ranks + p, bytes));
    must(cudaMemset(to[p], 0, bytes));
  }
  must(cudaDeviceSynchronize());
}

static void compare(void)
{
  double seconds[2];
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  make_buffers();
  seconds[0] = measure(exchange_alone, "NCCL alone");
  check_data("NCCL alone");
  seconds[1] = measure(exchange_by_neap, "neap");
  check_data("neap");
  double sent = (double)bytes * (ranks - 1);
  if (!rank)
    printf(
        "%d ranks, %.1f MB sent by each: NCCL alone %.3f ms, %.1f GB/s; neap %.3f ms, %.1f GB/s, "
        "%.0f %%\n",
        ranks, sent / 1e6, 1e3 * seconds[0], sent / seconds[0] / 1e9, 1e3 * seconds[1],
        sent / seconds[1] / 1e9, 100 * seconds[0] / seconds[1]);
  nccl.destroy(alone);
}

int main(int argc, char **argv)
{
  if (gpu_absent())
    return 0;
  if (neap_comm_open_nccl(&world)) {
    printf("skipped: %s\n0 passed, 0 failed\n", neap_error_message());
    return 0;
  }
  rank = neap_comm_rank(world);
  ranks = neap_comm_size(world);
  bytes = (size_t)((argc > 1 ? atof(argv[1]) : 64) * 1e6) / (size_t)(ranks > 1 ? ranks - 1 : 1);
  if (ranks < 2 || ranks > MOST)
    printf("skipped: for 2 to %d ranks, under mpirun\n", MOST);
  else if (check(find_nccl() && join_alone(), "NCCL cannot be used"))
    compare();
  neap_comm_close(world);
  return rank ? check_failed > 0 : check_done();
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators on buffers of a GPU: what ranks enqueue is late, and buffers are overwritten and
 * freed as soon as an operation's wait has returned, so that an exchange that does not order its
 * streams meets wrong data. Includer: delay() makes what the calling thread enqueues later wait.
 * Without arguments over threads that share the GPU; with "mpi" over processes, by NCCL; with "tcp"
 * by NCCL over ranks that TCP has linked. "digest" lines are those of tests/c/comm/operations.c.
 */
#include "comm/sequence.h"
#include "comm/transport.h"
#include "device/cuda/cuda_device.h"

enum { OPS = 120 };

static void delay(void);

static void good(int error)
{
  check(!error, "device: %s", neapi_cuda_text(error));
}

static char *allocate(int64_t bytes)
{
  void *memory = NULL;
  good(neapi_cuda_alloc(false, bytes + 1, &memory));
  return memory;
}

/* Enqueued, however small. */
static void copy_there(char *to, const char *from, int64_t bytes)
{
  neapi_copy_segment piece = {to, from, bytes};
  good(neapi_cuda_copy_all(&piece, 1));
}

static void wipe(char *buffer, int64_t bytes)
{
  good(neapi_cuda_zero(buffer, bytes + 1));
}

/* The data come late. */
static char *put_on_gpu(char *host, int64_t bytes)
{
  char *staging = allocate(bytes), *buffer = allocate(bytes);
  if (bytes)
    good(neapi_cuda_copy(staging, host, bytes));
  wipe(buffer, bytes);
  delay();
  copy_there(buffer, staging, bytes);
  neapi_cuda_free(false, staging);
  free(host);
  return buffer;
}

static void get_from_gpu(char *host, char *buffer, int64_t bytes)
{
  char *staging = allocate(bytes);
  copy_there(staging, buffer, bytes);
  wipe(buffer, bytes);
  if (bytes)
    good(neapi_cuda_copy(host, staging, bytes));
  neapi_cuda_free(false, staging);
}

static void drop_on_gpu(char *buffer, int64_t bytes)
{
  wipe(buffer, bytes);
  neapi_cuda_free(false, buffer);
}

/* Halves of the ranks, each with operations of its own. */
static void run_halves(neap_comm *comm)
{
  neap_comm *half;
  if (!check(!neap_comm_split(comm, neap_comm_rank(comm) % 2, &half), "%s", neap_error_message()))
    return;
  run_all(half, 5, 30);
  neap_comm_close(half);
}

/* Ranks start operations of two communicators in opposite orders. */
static void run_opposite(neap_comm *comm)
{
  enum { COUNT = 3000 };
  int rank = neap_comm_rank(comm), ranks = neap_comm_size(comm);
  neap_comm *pair[2];
  for (int i = 0; i < 2; i++)
    check(!neap_comm_duplicate(comm, &pair[i]), "duplicate: %s", neap_error_message());
  for (int round = 0; round < 10; round++) {
    char *data[2], *all[2];
    neap_request *requests[2] = {0};
    for (int i = 0; i < 2; i++) {
      int which = (i + rank) % 2;
      int32_t *values = malloc(COUNT * sizeof *values);
      for (int j = 0; j < COUNT; j++)
        values[j] = (which + 1) * (rank + j + round);
      data[which] = put_on_gpu((char *)values, COUNT * 4);
      all[which] = put_on_gpu(calloc((size_t)ranks * COUNT, sizeof *values), ranks * COUNT * 4);
      check(!start_all(pair[which], data[which], COUNT * 4, all[which], &requests[which]), "%s",
            neap_error_message());
    }
    for (int i = 0; i < 2; i++) {
      int32_t *got = malloc((size_t)ranks * COUNT * sizeof *got), wrong = 0;
      check(!neap_request_wait(requests[i]), "%s", neap_error_message());
      get_from_gpu((char *)got, all[i], ranks * COUNT * 4);
      for (int j = 0; j < ranks * COUNT; j++)
        wrong += got[j] != (i + 1) * (j / COUNT + j % COUNT + round);
      check(!wrong, "round %d: %d values are wrong", round, wrong);
      drop_on_gpu(data[i], COUNT * 4);
      drop_on_gpu(all[i], ranks * COUNT * 4);
      free(got);
    }
  }
  neap_comm_close(pair[0]);
  neap_comm_close(pair[1]);
}

static void body(neap_comm *comm, neap_world *world, int which)
{
  if (world && !check(!neap_device_use(0), "%s", neap_error_message()))
    return;
  uint64_t digest = run_all(comm, (uint64_t)(40 + which), OPS);
  if (neap_comm_rank(comm) == 0)
    printf("digest %d %016" PRIx64 "\n", neap_comm_size(comm), digest);
  run_halves(comm);
  run_opposite(comm);
  check(!neap_comm_barrier(comm), "%s", neap_error_message());
}

/* NCCL over the ranks that TCP links: as a launcher other than mpirun has it. */
static int open_over_tcp(neap_comm **out)
{
  neap_comm *tcp;
  int32_t count = neap_device_count();
  int status = open_tcp(&tcp);
  if (status)
    return status;
  status = neap_device_use(count ? neap_comm_rank(tcp) % count : 0);
  if (!status)
    status = neap_comm_open_nccl_over(tcp, out);
  neap_comm_close(tcp);
  return status;
}

static int run_over(int argc, char **argv)
{
  static const int sizes[] = {1, 2, 3, 4, 8};
  sequence_memory = (buffer_place){put_on_gpu, get_from_gpu, drop_on_gpu};
  if (argc > 1 && !strcmp(argv[1], "mpi"))
    return run_processes(neap_comm_open_nccl, body, 0) ? check_failed > 0 : check_done();
  if (argc > 1 && !strcmp(argv[1], "tcp"))
    return run_processes(open_over_tcp, body, 0) ? check_failed > 0 : check_done();
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    run_threads(sizes[i], body, 0);
  return check_done();
}

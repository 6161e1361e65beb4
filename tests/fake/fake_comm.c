/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exchanges on a fake device, whose streams are threads that are late: gpu_comm.h. What of core
 * these need is compiled into this program. Without arguments over threads; with "mpi" by the fake
 * NCCL; with "fail" under mpirun, a failure of its that comes late; with "slow", groups that
 * take their time to start; with "hang", a rank that does not come; with "absent" and a text, an
 * error that has it.
 */
#include "comm/cuda/gpu_comm.h"
#include "device.h"

#include <stdlib.h>
#include <unistd.h>

static void sleep_there(void *argument)
{
  usleep((unsigned)(uintptr_t)argument);
}

static void delay(void)
{
  static _Thread_local unsigned turn;
  fake_enqueue(neapi_cuda_stream(), sleep_there, (void *)(uintptr_t)(turn++ % 5 ? 10 : 400));
}

/* Rank 1's third group fails, and rank 0 waits for it in vain. */
static int run_failure(void)
{
  neap_comm *comm;
  setenv("FAKE_NCCL_FAILS", "3", 1);
  neap_watch(0.5, 0, NULL);
  if (!check(!neap_comm_open_nccl(&comm), "%s", neap_error_message()))
    return check_done();
  int status = NEAP_OK, rank = neap_comm_rank(comm);
  char *data = put_on_gpu(calloc(1, 400), 400);
  neap_comm_step(7);
  for (int i = 0; i < 3 && !status; i++)
    status = neap_comm_all_reduce(comm, data, 100, NEAP_F32, NEAP_SUM);
  check(!status, "the failure came at once: %s", neap_error_message());
  neap_device_wait();
  while (!(status = neap_comm_all_reduce(comm, data, 100, NEAP_F32, NEAP_SUM)))
    usleep(1000);
  const char *message = neap_error_message();
  check(status == NEAP_COMM, "status %d", status);
  check(strstr(message, rank ? "rank 1, all_reduce(sum) of 400 bytes f32 (its operation "
                             : "rank 0, all_reduce(sum) of 400 bytes f32 (its operation "),
        "%s", message);
  check(strstr(message, ", step 7): ") != NULL, "%s", message);
  check(strstr(message, rank ? "remote process exited" : "not done after 0.5 s") != NULL, "%s",
        message);
  printf("%s\n", message);
  neap_comm_close(comm);
  return check_done();
}

/* Nobody is late who was slow to start and is looked at in the meantime and while it waits. */
static int run_slow(void)
{
  neap_comm *comm;
  setenv("FAKE_NCCL_POLLS", "800", 1);
  neap_watch(5, 0, NULL);
  if (!check(!neap_comm_open_nccl(&comm), "%s", neap_error_message()))
    return check_done();
  char *data = put_on_gpu(calloc(1, 400), 400);
  for (int i = 0; i < 4; i++) {
    if (neap_comm_rank(comm))
      usleep(300000);
    check(!neap_comm_all_reduce(comm, data, 100, NEAP_F32, NEAP_SUM), "%s", neap_error_message());
    check(!neap_device_wait(), "%s", neap_error_message());
  }
  neap_comm_close(comm);
  return check_done();
}

/* Rank 1 does not come to the third operation: rank 0 is told so. */
static int run_hang(void)
{
  neap_comm *comm;
  neap_watch(0.5, 0, NULL);
  if (!check(!neap_comm_open_nccl(&comm), "%s", neap_error_message()))
    return check_done();
  int status = NEAP_OK, rank = neap_comm_rank(comm);
  char *data = put_on_gpu(calloc(1, 400), 400);
  neap_comm_step(7);
  for (int i = 0; i < (rank ? 2 : 3) && !status; i++)
    status = neap_comm_all_reduce(comm, data, 100, NEAP_F32, NEAP_SUM);
  check(!status, "%s", neap_error_message());
  if (rank)
    usleep(3000000);
  while (!rank && !(status = neap_comm_all_reduce(comm, data, 100, NEAP_F32, NEAP_SUM)))
    usleep(1000);
  const char *verdict = neap_watch_verdict(NULL);
  if (!rank)
    check(verdict &&
              strstr(verdict, "rank 1 has not reached all_reduce(sum) of 400 bytes f32 (opera"),
          "%s", verdict ? verdict : "no verdict");
  if (!rank)
    check(verdict && strstr(verdict, ", step 7), in which rank 0 has been for ") &&
              strstr(verdict, "; rank 1 has called nothing for "),
          "%s", verdict ? verdict : "no verdict");
  neap_comm_close(comm);
  return check_done();
}

static int run_absent(const char *text)
{
  neap_comm *comm;
  check(neap_comm_open_nccl(&comm) == NEAP_ABSENT, "%s", neap_error_message());
  check(strstr(neap_error_message(), text) != NULL, "%s", neap_error_message());
  return check_done();
}

/* The fake NCCL lies beside this program. */
static void point_to_nccl(void)
{
  char path[1024];
  ssize_t length = readlink("/proc/self/exe", path, sizeof path - 32);
  while (length > 0 && path[length - 1] != '/')
    length--;
  strcpy(path + (length > 0 ? length : 0), "libfake_nccl.so");
  setenv("NEAP_NCCL", path, 0);
}

int main(int argc, char **argv)
{
  point_to_nccl();
  if (argc > 1 && !strcmp(argv[1], "fail"))
    return run_failure();
  if (argc > 1 && !strcmp(argv[1], "slow"))
    return run_slow();
  if (argc > 1 && !strcmp(argv[1], "hang"))
    return run_hang();
  if (argc > 2 && !strcmp(argv[1], "absent"))
    return run_absent(argv[2]);
  return run_over(argc, argv);
}

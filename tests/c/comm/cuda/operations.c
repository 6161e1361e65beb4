/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanges between ranks that share a GPU: gpu_comm.h. Under mpirun with "mpi", over NCCL, where
 * one can be used. */
#include "kernels/cuda/gpu_test.h"

#include "gpu_comm.h"

#include <unistd.h>

static void CUDART_CB sleep_there(void *argument)
{
  usleep((unsigned)(uintptr_t)argument);
}

static void delay(void)
{
  static _Thread_local unsigned turn;
  must(cudaLaunchHostFunc(cudaStreamPerThread, sleep_there,
                          (void *)(uintptr_t)(turn++ % 5 == 0 ? 400 : 10)));
}

/* NCCL that cannot be used here is no failure of Neap's. */
static bool nccl_absent(void)
{
  char text[512];
  if (!neap_nccl_describe(text, sizeof text))
    return false;
  printf("skipped: %s\n0 passed, 0 failed\n", neap_error_message());
  return true;
}

int main(int argc, char **argv)
{
  if (gpu_absent() || (argc > 1 && nccl_absent()))
    return 0;
  return run_over(argc, argv);
}

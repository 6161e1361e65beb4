/* SPDX-License-Identifier: Apache-2.0 */
/* Every CUDA table has every kernel: none of the CPU's, none that is missing. Needs no GPU. */
#include "kernels/kernel_test.h"

static void test_entries(kernels *k, kernels *plain)
{
#define CHECK_ENTRY(op) check(k->op && k->op != plain->op, "%s has no " #op " of its own", k->name);
  NEAPI_KERNELS(CHECK_ENTRY, CHECK_ENTRY)
#undef CHECK_ENTRY
}

int main(void)
{
  test_entries(neapi_kernels_cuda_f32(), neapi_kernels_f32());
  test_entries(neapi_kernels_cuda_bf16(), neapi_kernels_bf16());
  check(neapi_kernels_cuda_f32()->size == 4 && neapi_kernels_cuda_bf16()->size == 2, "sizes");
  return check_done();
}

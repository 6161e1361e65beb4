/* SPDX-License-Identifier: Apache-2.0 */
/* Every table has every kernel. */
#include "kernel_test.h"

static void test_entries(kernels *k)
{
#define CHECK_ENTRY(op) check(k->op != NULL, "%s has no " #op, k->name);
  NEAPI_KERNELS(CHECK_ENTRY, CHECK_ENTRY)
#undef CHECK_ENTRY
}

static void test_sizes(kernels *k, const char *name, int64_t size, int64_t acc_size)
{
  check(!strcmp(k->name, name), "%s is called %s", name, k->name);
  check(k->size == size && k->acc_size == acc_size, "%s: %d and %d bytes", name, (int)k->size,
        (int)k->acc_size);
}

/* What works on accs alone is one function of all tables with that acc. */
static void test_shared(kernels *k, kernels *other)
{
#define CHECK_OWN(op) check(k->op != other->op, "%s has " #op " of %s", k->name, other->name);
#define CHECK_SHARED(op) check(k->op == other->op, "%s has another " #op, k->name);
  NEAPI_KERNELS(CHECK_OWN, CHECK_SHARED)
#undef CHECK_OWN
#undef CHECK_SHARED
}

int main(void)
{
  test_entries(neapi_kernels_f32());
  test_entries(neapi_kernels_f64());
  test_entries(neapi_kernels_bf16());
  test_sizes(neapi_kernels_f32(), "f32", 4, 4);
  test_sizes(neapi_kernels_f64(), "f64", 8, 8);
  test_sizes(neapi_kernels_bf16(), "bf16", 2, 4);
  test_shared(neapi_kernels_bf16(), neapi_kernels_f32());
  return check_done();
}

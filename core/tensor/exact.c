/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exact sums over the tokens of all ranks: one all-reduce of column maxima, quanta from them, then
 * partial sums without rounding (words and method: kernels/exact.h).
 *
 * Why the bits suffice: a summand is an integer of at most `bits` bits times its quantum. A sum of
 * `total` of them has bits + log2(total) bits, a sum of products bits_a + bits_b + log2(total);
 * neither exceeds 53, so that no partial sum in any order is ever rounded.
 */
#include "tensor/tensor.h"

#include "base/memory.h"

#include <pthread.h>
#include <stdlib.h>

enum {
  DOUBLE_BITS = 53,
  SUMMAND_BITS = 48, /* at most, for the kernel's rounding; F32 has 24 */
  TOTAL_LOG = 36,    /* leaves the factors of a product 8 bits */
  RUN = 16384        /* tokens of a weight gradient whose factors are in memory at a time */
};

/* ---- scratch: one block per thread, which grows and is freed with the thread ----------------- */

typedef struct {
  void *memory;
  int64_t bytes;
} block;

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int key_failed;

static void free_block(void *value)
{
  block *b = value;
  neapi_memory_free(NEAPI_HOST, b->memory);
  free(b);
}

static void make_key(void)
{
  key_failed = pthread_key_create(&key, free_block);
}

/* Room for count doubles on this thread's device, to be released before its next call; NULL after
 * reporting MEMORY. A GPU's allocator keeps what is released, in the order of the stream. */
static double *scratch(int64_t count)
{
  if (neapi_on_gpu())
    return neapi_memory_alloc(NEAPI_GPU, count * 8, "exact sums");
  pthread_once(&once, make_key);
  block *b = key_failed ? NULL : pthread_getspecific(key);
  if (!b && !key_failed) {
    b = neapi_alloc_zero(sizeof *b, "exact sums");
    if (b && pthread_setspecific(key, b)) {
      free(b);
      b = NULL;
    }
  }
  if (!b) {
    neapi_fail(NEAP_MEMORY, "exact sums: no memory for a thread's scratch");
    return NULL;
  }
  if (b->bytes < count * 8) {
    neapi_memory_free(NEAPI_HOST, b->memory);
    b->bytes = 0;
    b->memory = neapi_memory_alloc(NEAPI_HOST, count * 8, "exact sums");
    if (b->memory)
      b->bytes = count * 8;
  }
  return b->memory;
}

static void release(double *memory)
{
  if (neapi_on_gpu())
    neapi_memory_free(NEAPI_GPU, memory);
}

/* ---- common steps ---------------------------------------------------------------------------- */

/* Least l with 2^l >= n. */
static int log2_up(int64_t n)
{
  return n > 1 ? 64 - __builtin_clzll((uint64_t)n - 1) : 0;
}

static int check_total(const char *operation, int64_t local, int64_t total)
{
  if (total < local || total < 0 || log2_up(total) > TOTAL_LOG)
    return neapi_fail(NEAP_ARGUMENT,
                      "%s: total is %lld; allowed are this rank's %lld to 2^%d, the same on every "
                      "rank",
                      operation, (long long)total, (long long)local, TOTAL_LOG);
  return NEAP_OK;
}

static int summand_bits(int64_t total)
{
  int bits = DOUBLE_BITS - log2_up(total);
  return bits < SUMMAND_BITS ? bits : SUMMAND_BITS;
}

static int reduce(neap_comm *comm, double *values, int64_t count, int op)
{
  return comm ? neap_comm_all_reduce(comm, values, count, NEAP_F64, op) : NEAP_OK;
}

/* Column maxima of x over all ranks into max, the quanta for them into quantum: (H) each. */
static int column_quantum(const char *operation, neap_comm *comm, const neap_tensor *x, int bits,
                          double *max, double *quantum)
{
  const neapi_kernels *k = neapi_tensor_kernels(x);
  int64_t t = x->dims[0], h = x->dims[1];
  int status = neapi_kernel_status_of(
      operation, k->exact_column_max(t, h, x->data, h, 0, max, neapi_stream()));
  if (!status)
    status = reduce(comm, max, h, NEAP_MAX);
  if (!status)
    status =
        neapi_kernel_status_of(operation, k->exact_quantum(h, bits, max, quantum, neapi_stream()));
  return status;
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* Quantises both factors and multiplies, a run of tokens at a time; quantum: (K + N), x's columns
 * first; qx, qdy: a run's. */
static int add_product(const neap_tensor *x, const neap_tensor *dy, const double *quantum,
                       double *qx, double *qdy, double *sum)
{
  const neapi_kernels *kernels = neapi_tensor_kernels(x);
  int64_t t = x->dims[0], k = x->dims[1], n = dy->dims[1];
  int status = 0;
  for (int64_t from = 0; !status && from < t; from += RUN) {
    int64_t run = t - from < RUN ? t - from : RUN;
    const char *left = x->data + from * k * kernels->size;
    const char *right = dy->data + from * n * kernels->size;
    status = kernels->exact_quantise(run, k, left, k, quantum, qx, neapi_stream());
    if (!status)
      status = kernels->exact_quantise(run, n, right, n, quantum + k, qdy, neapi_stream());
    if (!status)
      status =
          kernels->exact_gemm_tn(run, k, n, qx, quantum, qdy, quantum + k, sum, neapi_stream());
  }
  return neapi_kernel_status_of("exact weight_grad", status);
}

/* Grids of both factors, from one all-reduce; they share the bits that a product may have. */
static int product_quanta(neap_comm *comm, const neap_tensor *x, const neap_tensor *dy,
                          int64_t total, double *max, double *quantum)
{
  const neapi_kernels *kernels = neapi_tensor_kernels(x);
  int64_t t = x->dims[0], k = x->dims[1], n = dy->dims[1];
  int bits = DOUBLE_BITS - log2_up(total);
  int status = kernels->exact_column_max(t, k, x->data, k, 0, max, neapi_stream());
  if (!status)
    status = kernels->exact_column_max(t, n, dy->data, n, 0, max + k, neapi_stream());
  status = neapi_kernel_status_of("exact weight_grad", status);
  if (!status)
    status = reduce(comm, max, k + n, NEAP_MAX);
  if (status)
    return status;
  status = kernels->exact_quantum(k, bits / 2, max, quantum, neapi_stream());
  if (!status)
    status = kernels->exact_quantum(n, bits - bits / 2, max + k, quantum + k, neapi_stream());
  return neapi_kernel_status_of("exact weight_grad", status);
}

int neap_exact_weight_grad(neap_comm *comm, const neap_tensor *x, const neap_tensor *dy,
                           int64_t total, neap_tensor *sum)
{
  int status = neapi_tensor_real("exact weight_grad", "x", x);
  if (!status)
    status = neapi_tensor_matrix("exact weight_grad", "x", x, x->dtype, NEAPI_ANY, NEAPI_ANY);
  if (!status)
    status = neapi_tensor_matrix("exact weight_grad", "dy", dy, x->dtype, x->dims[0], NEAPI_ANY);
  if (!status)
    status =
        neapi_tensor_matrix("exact weight_grad", "sum", sum, NEAP_F64, x->dims[1], dy->dims[1]);
  if (!status)
    status = check_total("exact weight_grad", x->dims[0], total);
  if (status)
    return status;
  int64_t t = x->dims[0], k = x->dims[1], n = dy->dims[1], run = t < RUN ? t : RUN;
  double *max = scratch((2 + run) * (k + n));
  if (!max)
    return NEAP_MEMORY;
  double *quantum = max + k + n, *qx = quantum + k + n, *qdy = qx + run * k;
  status = product_quanta(comm, x, dy, total, max, quantum);
  if (!status)
    status = add_product(x, dy, quantum, qx, qdy, (double *)sum->data);
  release(max);
  return status;
}

int neap_exact_column_sum(neap_comm *comm, const neap_tensor *x, int64_t total, neap_tensor *sum)
{
  int status = neapi_tensor_real("exact column_sum", "x", x);
  if (!status)
    status = neapi_tensor_matrix("exact column_sum", "x", x, x->dtype, NEAPI_ANY, NEAPI_ANY);
  if (!status)
    status = neapi_tensor_vector("exact column_sum", "sum", sum, NEAP_F64, x->dims[1]);
  if (!status)
    status = check_total("exact column_sum", x->dims[0], total);
  if (status)
    return status;
  int64_t t = x->dims[0], h = x->dims[1];
  double *max = scratch(2 * h);
  if (!max)
    return NEAP_MEMORY;
  status = column_quantum("exact column_sum", comm, x, summand_bits(total), max, max + h);
  if (!status)
    status = neapi_kernel_status_of(
        "exact column_sum", neapi_tensor_kernels(x)->exact_column_sum(
                                t, h, x->data, h, max + h, (double *)sum->data, neapi_stream()));
  release(max);
  return status;
}

int neap_exact_scatter_add(neap_comm *comm, const neap_tensor *ids, const neap_tensor *dy,
                           int64_t total, neap_tensor *table)
{
  int status = neapi_tensor_real("exact scatter_add", "dy", dy);
  if (!status)
    status = neapi_tensor_matrix("exact scatter_add", "dy", dy, dy->dtype, NEAPI_ANY, NEAPI_ANY);
  if (!status)
    status =
        neapi_tensor_matrix("exact scatter_add", "table", table, NEAP_F64, NEAPI_ANY, dy->dims[1]);
  if (!status)
    status = neapi_tensor_ids("exact scatter_add", ids, dy->dims[0], 0, table->dims[0]);
  if (!status)
    status = check_total("exact scatter_add", dy->dims[0], total);
  if (status)
    return status;
  int64_t t = dy->dims[0], h = dy->dims[1];
  double *max = scratch(2 * h + (t + 1) / 2);
  if (!max)
    return NEAP_MEMORY;
  int32_t *near = (int32_t *)(max + 2 * h); /* a GPU reads them more than once */
  status = column_quantum("exact scatter_add", comm, dy, summand_bits(total), max, max + h);
  if (!status)
    status = neapi_copy(near, ids->data, t * 4);
  if (!status)
    status = neapi_kernel_status_of(
        "exact scatter_add",
        neapi_tensor_kernels(dy)->exact_scatter_add(t, h, near, dy->data, max + h,
                                                    (double *)table->data, neapi_stream()));
  release(max);
  return status;
}

int neapi_exact_squares(const char *operation, const neapi_kernels *kernels, int64_t count,
                        const void *x, double max, int64_t total, double *sum)
{
  double *pair = scratch(2);
  if (!pair)
    return NEAP_MEMORY;
  int status = neapi_copy(pair, sum, 16);
  if (!status)
    status = neapi_kernel_status_of(
        operation, kernels->exact_square_sum(count, x, max, total, pair, neapi_stream()));
  if (!status)
    status = neapi_copy(sum, pair, 16);
  release(pair);
  return status;
}

int neap_exact_sum_squares(neap_comm *comm, const neap_tensor *x, int64_t total, double *out)
{
  int status = neapi_tensor_real("exact sum_squares", "x", x);
  if (!status)
    status = check_total("exact sum_squares", x->count, total);
  if (status)
    return status;
  const neapi_kernels *k = neapi_tensor_kernels(x);
  double *largest = neapi_results(), max = 0, sum[2] = {0, 0};
  if (!largest)
    return NEAP_MEMORY;
  status = neapi_kernel_status_of("exact sum_squares",
                                  k->max_abs(x->count, x->data, largest, neapi_stream()));
  if (!status)
    status = neapi_stream_wait();
  max = *largest;
  if (!status)
    status = reduce(comm, &max, 1, NEAP_MAX);
  if (!status)
    status = neapi_exact_squares("exact sum_squares", k, x->count, x->data, max, total, sum);
  if (!status)
    status = reduce(comm, sum, 2, NEAP_SUM);
  if (!status)
    *out = sum[0] + sum[1];
  return status;
}

/* The sum of a column (count, 1) in host memory. */
static int sum_column(neap_comm *comm, const neap_tensor *column, int64_t total, double *out)
{
  double max, quantum, sum = 0;
  int status = column_quantum("exact sum", comm, column, summand_bits(total), &max, &quantum);
  if (!status)
    status = neapi_kernel_status_of(
        "exact sum", neapi_tensor_kernels(column)->exact_column_sum(
                         column->count, 1, column->data, 1, &quantum, &sum, neapi_stream()));
  if (!status)
    status = reduce(comm, &sum, 1, NEAP_SUM);
  if (!status)
    *out = sum;
  return status;
}

int neap_exact_sum(neap_comm *comm, const neap_tensor *x, int64_t total, double *out)
{
  int status = neapi_tensor_real("exact sum", "x", x);
  if (!status)
    status = check_total("exact sum", x->count, total);
  if (status)
    return status;
  neap_tensor column = *x;
  column.ndim = 2;
  column.dims[0] = x->count;
  column.dims[1] = 1;
  if (x->memory != NEAPI_GPU)
    return sum_column(comm, &column, total, out);
  int64_t bytes = x->count * neap_dtype_size(x->dtype);
  column.memory = NEAPI_HOST;
  column.data = neapi_alloc(bytes, "exact sum");
  if (!column.data)
    return NEAP_MEMORY;
  status = neapi_copy(column.data, x->data, bytes);
  if (!status)
    status = sum_column(comm, &column, total, out);
  free(column.data);
  return status;
}

/*
 * Exact sums over the tokens of all ranks: one all-reduce of column maxima, grids from them, then
 * partial sums without rounding (kernels/kernels.h, "exact sums"). neap.h tells the method.
 *
 * Why the bits suffice: a summand is an integer of at most `bits` bits times its grid. A sum of
 * `total` of them has bits + log2(total) bits, a sum of products bits_a + bits_b + log2(total);
 * neither exceeds 53, so that no partial sum in any order is ever rounded.
 */
#include "tensor.h"

#include <pthread.h>
#include <stdlib.h>

enum {
  DOUBLE_BITS = 53,
  SUMMAND_BITS = 48, /* at most, for the kernel's rounding; F32 has 24 */
  TOTAL_LOG = 36     /* leaves the factors of a product 8 bits */
};

/* ---- scratch: one block a thread, which grows and is freed with the thread ----------------- */

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
  neapi_place_free(NEAPI_HOST, b->memory);
  free(b);
}

static void make_key(void)
{
  key_failed = pthread_key_create(&key, free_block);
}

/* Room for count doubles, valid until this thread's next call; NULL after reporting MEMORY. */
static double *scratch(int64_t count)
{
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
    neapi_place_free(NEAPI_HOST, b->memory);
    b->bytes = 0;
    b->memory = neapi_place_alloc(NEAPI_HOST, count * 8, "exact sums");
    if (b->memory)
      b->bytes = count * 8;
  }
  return b->memory;
}

/* ---- common steps -------------------------------------------------------------------------- */

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

/* Column maxima of x over all ranks into max, the grids for them into grid: (H) each. */
static int column_grid(const char *operation, neap_comm *comm, const neap_tensor *x, int bits,
                       double *max, double *grid)
{
  const neapi_kernels *k = neapi_tensor_kernels(x);
  int64_t t = x->dims[0], h = x->dims[1];
  int status =
      neapi_kernel_status_of(operation, k->exact_column_max(t, h, x->data, h, 0, max, NULL));
  if (!status)
    status = reduce(comm, max, h, NEAP_MAX);
  if (!status)
    status = neapi_kernel_status_of(operation, k->exact_grid(h, bits, max, grid, NULL));
  return status;
}

/* ---- sums ---------------------------------------------------------------------------------- */

/* Quantises both factors and multiplies; max and grid: (K + N), x's columns first. */
static int add_product(const neap_tensor *x, const neap_tensor *dy, const double *grid, double *qx,
                       double *qdy, double *sum)
{
  const neapi_kernels *kernels = neapi_tensor_kernels(x);
  int64_t t = x->dims[0], k = x->dims[1], n = dy->dims[1];
  int status = kernels->exact_quantise(t, k, x->data, k, grid, qx, NULL);
  if (!status)
    status = kernels->exact_quantise(t, n, dy->data, n, grid + k, qdy, NULL);
  if (!status)
    status = kernels->exact_gemm_tn(t, k, n, qx, grid, qdy, grid + k, sum, NULL);
  return neapi_kernel_status_of("exact weight_grad", status);
}

/* Grids of both factors, from one all-reduce; they share the bits that a product may have. */
static int product_grids(neap_comm *comm, const neap_tensor *x, const neap_tensor *dy,
                         int64_t total, double *max, double *grid)
{
  const neapi_kernels *kernels = neapi_tensor_kernels(x);
  int64_t t = x->dims[0], k = x->dims[1], n = dy->dims[1];
  int bits = DOUBLE_BITS - log2_up(total);
  int status = kernels->exact_column_max(t, k, x->data, k, 0, max, NULL);
  if (!status)
    status = kernels->exact_column_max(t, n, dy->data, n, 0, max + k, NULL);
  status = neapi_kernel_status_of("exact weight_grad", status);
  if (!status)
    status = reduce(comm, max, k + n, NEAP_MAX);
  if (status)
    return status;
  status = kernels->exact_grid(k, bits / 2, max, grid, NULL);
  if (!status)
    status = kernels->exact_grid(n, bits - bits / 2, max + k, grid + k, NULL);
  return neapi_kernel_status_of("exact weight_grad", status);
}

int neap_exact_weight_grad(neap_comm *comm, const neap_tensor *x, const neap_tensor *dy,
                           int64_t total, neap_tensor *sum)
{
  int status = neapi_require_cpu("exact weight_grad");
  if (!status)
    status = neapi_tensor_real("exact weight_grad", "x", x);
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
  int64_t t = x->dims[0], k = x->dims[1], n = dy->dims[1];
  double *max = scratch((2 + t) * (k + n));
  if (!max)
    return NEAP_MEMORY;
  double *grid = max + k + n, *qx = grid + k + n, *qdy = qx + t * k;
  status = product_grids(comm, x, dy, total, max, grid);
  return status ? status : add_product(x, dy, grid, qx, qdy, (double *)sum->data);
}

int neap_exact_column_sum(neap_comm *comm, const neap_tensor *x, int64_t total, neap_tensor *sum)
{
  int status = neapi_require_cpu("exact column_sum");
  if (!status)
    status = neapi_tensor_real("exact column_sum", "x", x);
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
  status = column_grid("exact column_sum", comm, x, summand_bits(total), max, max + h);
  if (status)
    return status;
  return neapi_kernel_status_of(
      "exact column_sum", neapi_tensor_kernels(x)->exact_column_sum(t, h, x->data, h, max + h,
                                                                    (double *)sum->data, NULL));
}

int neap_exact_scatter_add(neap_comm *comm, const neap_tensor *ids, const neap_tensor *dy,
                           int64_t total, neap_tensor *table)
{
  int status = neapi_require_cpu("exact scatter_add");
  if (!status)
    status = neapi_tensor_real("exact scatter_add", "dy", dy);
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
  double *max = scratch(2 * h);
  if (!max)
    return NEAP_MEMORY;
  status = column_grid("exact scatter_add", comm, dy, summand_bits(total), max, max + h);
  if (status)
    return status;
  return neapi_kernel_status_of("exact scatter_add", neapi_tensor_kernels(dy)->exact_scatter_add(
                                                         t, h, (const int32_t *)ids->data, dy->data,
                                                         max + h, (double *)table->data, NULL));
}

int neap_exact_sum_squares(neap_comm *comm, const neap_tensor *x, int64_t total, double *out)
{
  int status = neapi_require_cpu("exact sum_squares");
  if (!status)
    status = neapi_tensor_real("exact sum_squares", "x", x);
  if (!status)
    status = check_total("exact sum_squares", x->count, total);
  if (status)
    return status;
  const neapi_kernels *k = neapi_tensor_kernels(x);
  double max = 0, sum[2] = {0, 0};
  status = neapi_kernel_status_of("exact sum_squares", k->max_abs(x->count, x->data, &max, NULL));
  if (!status)
    status = reduce(comm, &max, 1, NEAP_MAX);
  if (!status)
    status = neapi_kernel_status_of("exact sum_squares",
                                    k->exact_square_sum(x->count, x->data, max, total, sum, NULL));
  if (!status)
    status = reduce(comm, sum, 2, NEAP_SUM);
  if (!status)
    *out = sum[0] + sum[1];
  return status;
}

/* The sum of a column (count, 1) in host memory. */
static int sum_column(neap_comm *comm, const neap_tensor *column, int64_t total, double *out)
{
  double max, grid, sum = 0;
  int status = column_grid("exact sum", comm, column, summand_bits(total), &max, &grid);
  if (!status)
    status = neapi_kernel_status_of(
        "exact sum", neapi_tensor_kernels(column)->exact_column_sum(column->count, 1, column->data,
                                                                    1, &grid, &sum, NULL));
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
  if (x->place != NEAPI_GPU)
    return sum_column(comm, &column, total, out);
  int64_t bytes = x->count * neap_dtype_size(x->dtype);
  column.place = NEAPI_HOST;
  column.data = neapi_alloc(bytes, "exact sum");
  if (!column.data)
    return NEAP_MEMORY;
  status = neapi_copy(column.data, x->data, bytes);
  if (!status)
    status = sum_column(comm, &column, total, out);
  free(column.data);
  return status;
}

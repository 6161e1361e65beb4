/* The experts of one rank's slots: two products forward, two for inputs and two for weights back.
 */
#include "experts.h"

#include "tensor.h"

#include <string.h>

int neapi_experts_open(neapi_experts *x, const neapi_kernels *kernels, int64_t hidden,
                       int32_t count, const int64_t *ffn, int32_t slots)
{
  *x = (neapi_experts){.kernels = kernels, .hidden = hidden, .experts = count, .slots = slots};
  neapi_place place = neapi_place_of_reals();
  x->gate_up.place = x->activation.place = x->slope.place = place;
  x->left.place = x->right.place = place;
  x->ffn = neapi_alloc(count * 8ll, "experts");
  x->columns_at = neapi_alloc(count * 8ll + 8, "experts");
  x->batches = neapi_alloc_zero(slots * (int64_t)sizeof *x->batches, "experts");
  if (!x->ffn || !x->columns_at || !x->batches)
    return NEAP_MEMORY;
  x->columns_at[0] = 0;
  for (int32_t e = 0; e < count; e++) {
    x->ffn[e] = ffn[e];
    x->columns_at[e + 1] = x->columns_at[e] + 2 * hidden + 3 * ffn[e];
    int64_t size = 3 * hidden * ffn[e];
    x->stride = size > x->stride ? size : x->stride;
  }
  return NEAP_OK;
}

void neapi_experts_close(neapi_experts *x)
{
  neapi_buffer_free(&x->gate_up);
  neapi_buffer_free(&x->activation);
  neapi_buffer_free(&x->slope);
  neapi_buffer_free(&x->left);
  neapi_buffer_free(&x->right);
  free(x->ffn);
  free(x->columns_at);
  free(x->batches);
}

int neapi_experts_plan(neapi_experts *x, const int32_t *expert_of, const int64_t *rows)
{
  int64_t row = 0, at = 0, largest = 0;
  for (int32_t i = 0; i < x->slots; i++) {
    int64_t ffn = x->ffn[expert_of[i]], size = rows[i] * ffn;
    x->batches[i] = (neapi_batch){expert_of[i], row, rows[i], ffn, at};
    row += rows[i];
    at += size;
    largest = size > largest ? size : largest;
  }
  int64_t element = x->kernels->size;
  int status = neapi_buffer_reserve(&x->gate_up, 2 * at * element, "experts");
  if (!status)
    status = neapi_buffer_reserve(&x->activation, at * element, "experts");
  if (!status)
    status = neapi_buffer_reserve(&x->slope, largest * element, "experts");
  return status;
}

/* ---- one slot ------------------------------------------------------------------------------ */

/* Everything that belongs to one slot. */
typedef struct {
  const neapi_kernels *k;
  int64_t rows, h, f;
  const char *w1, *w2; /* (H, 2F), (F, H) */
  const char *in;      /* (rows, H) */
  char *gate_up;       /* (rows, 2F) */
  char *activation;    /* (rows, F) */
  char *out;           /* (rows, H) */
} slot;

static slot slot_of(const neapi_experts *x, int32_t i, const void *weights, const void *in,
                    const void *out)
{
  const neapi_batch *b = &x->batches[i];
  int64_t element = x->kernels->size, row = b->first * x->hidden * element;
  slot s = {.k = x->kernels, .rows = b->rows, .h = x->hidden, .f = b->ffn};
  if (weights)
    s.w1 = (const char *)weights + i * x->stride * element;
  if (weights)
    s.w2 = s.w1 + 2 * s.h * s.f * element;
  s.in = (const char *)in + row;
  s.out = (char *)out + row;
  s.gate_up = (char *)x->gate_up.data + 2 * b->hidden_at * element;
  s.activation = (char *)x->activation.data + b->hidden_at * element;
  return s;
}

static int forward(const slot *s)
{
  int64_t h = s->h, f = s->f;
  int result = s->k->gemm(s->rows, 2 * f, h, s->in, h, 0, s->w1, 2 * f, 0, s->gate_up, 2 * f, 0,
                          neapi_stream());
  if (!result)
    result = s->k->swiglu(s->rows, f, s->gate_up, s->activation, neapi_stream());
  if (!result)
    result =
        s->k->gemm(s->rows, h, f, s->activation, f, 0, s->w2, h, 0, s->out, h, 0, neapi_stream());
  return result;
}

/* in here: the gradient of in, written; out: that of out. */
static int backward(const slot *s, void *slope)
{
  int64_t h = s->h, f = s->f;
  int result = s->k->gemm(s->rows, f, h, s->out, h, 0, s->w2, h, 1, slope, f, 0, neapi_stream());
  if (!result)
    result = s->k->swiglu_backward(s->rows, f, s->gate_up, slope, s->gate_up, neapi_stream());
  if (!result)
    result = s->k->gemm(s->rows, h, 2 * f, s->gate_up, 2 * f, 0, s->w1, 2 * f, 1, (char *)s->in, h,
                        0, neapi_stream());
  return result;
}

static int gradients(const slot *s, char *row)
{
  int64_t h = s->h, f = s->f;
  int result =
      s->k->gemm_tn(s->rows, h, 2 * f, s->in, h, s->gate_up, 2 * f, row, 2 * f, 0, neapi_stream());
  if (!result)
    result = s->k->gemm_tn(s->rows, f, h, s->activation, f, s->out, h,
                           row + 2 * h * f * s->k->stat_size, h, 0, neapi_stream());
  return result;
}

static int maxima(const slot *s, double *max)
{
  int64_t h = s->h, f = s->f;
  int result = s->k->exact_column_max(s->rows, h, s->in, h, 1, max, neapi_stream());
  if (!result)
    result = s->k->exact_column_max(s->rows, 2 * f, s->gate_up, 2 * f, 1, max + h, neapi_stream());
  if (!result)
    result =
        s->k->exact_column_max(s->rows, f, s->activation, f, 1, max + h + 2 * f, neapi_stream());
  if (!result)
    result = s->k->exact_column_max(s->rows, h, s->out, h, 1, max + h + 3 * f, neapi_stream());
  return result;
}

/* product (K, N) = a^T b of a (rows, K) and b (rows, N), exactly. */
static int exact_product(const slot *s, int64_t k, const void *a, const double *grid_a, int64_t n,
                         const void *b, const double *grid_b, double *left, double *right,
                         double *product)
{
  neapi_place_zero(neapi_place_of_reals(), product, k * n * 8);
  int result = s->k->exact_quantise(s->rows, k, a, k, grid_a, left, neapi_stream());
  if (!result)
    result = s->k->exact_quantise(s->rows, n, b, n, grid_b, right, neapi_stream());
  if (!result)
    result =
        s->k->exact_gemm_tn(s->rows, k, n, left, grid_a, right, grid_b, product, neapi_stream());
  return result;
}

static int exact_gradients(const slot *s, const double *grid, double *left, double *right,
                           double *row)
{
  int64_t h = s->h, f = s->f;
  int result = exact_product(s, h, s->in, grid, 2 * f, s->gate_up, grid + h, left, right, row);
  if (!result)
    result = exact_product(s, f, s->activation, grid + h + 2 * f, h, s->out, grid + h + 3 * f, left,
                           right, row + 2 * h * f);
  return result;
}

/* ---- all slots ----------------------------------------------------------------------------- */

/* Operations of one product of a slot's rows with all of its expert's parameters. */
static double product_flops(const slot *s)
{
  return 6.0 * (double)s->rows * (double)s->h * (double)s->f;
}

int neapi_experts_forward(neapi_experts *x, int32_t from, int32_t end, const void *weights,
                          const void *in, void *out)
{
  int result = 0;
  for (int32_t i = from; !result && i < end; i++) {
    slot s = slot_of(x, i, weights, in, out);
    result = s.rows ? forward(&s) : 0;
    x->flops += product_flops(&s);
  }
  return neapi_kernel_status_of("moe forward", result);
}

int neapi_experts_backward(neapi_experts *x, int32_t from, int32_t end, const void *weights,
                           const void *dout, void *din)
{
  int result = 0;
  for (int32_t i = from; !result && i < end; i++) {
    slot s = slot_of(x, i, weights, din, dout);
    result = s.rows ? backward(&s, x->slope.data) : 0;
    x->flops += product_flops(&s);
  }
  return neapi_kernel_status_of("moe backward", result);
}

int neapi_experts_gradients(neapi_experts *x, const void *in, const void *dout, void *rows)
{
  int result = 0;
  for (int32_t i = 0; !result && i < x->slots; i++) {
    slot s = slot_of(x, i, NULL, in, dout);
    result = s.rows ? gradients(&s, (char *)rows + i * x->stride * x->kernels->stat_size) : 0;
    x->flops += product_flops(&s);
  }
  return neapi_kernel_status_of("moe backward", result);
}

int neapi_experts_maxima(neapi_experts *x, const void *in, const void *dout, double *max)
{
  int result = 0;
  for (int32_t i = 0; !result && i < x->slots; i++) {
    slot s = slot_of(x, i, NULL, in, dout);
    result = s.rows ? maxima(&s, max + x->columns_at[x->batches[i].expert]) : 0;
  }
  return neapi_kernel_status_of("moe backward", result);
}

/* Room for the quantised factors of the largest batch. */
static int reserve_factors(neapi_experts *x)
{
  int64_t left = 0, right = 0;
  for (int32_t i = 0; i < x->slots; i++) {
    const neapi_batch *b = &x->batches[i];
    int64_t wide = 2 * b->ffn > x->hidden ? 2 * b->ffn : x->hidden;
    int64_t narrow = b->ffn > x->hidden ? b->ffn : x->hidden;
    left = b->rows * narrow > left ? b->rows * narrow : left;
    right = b->rows * wide > right ? b->rows * wide : right;
  }
  int status = neapi_buffer_reserve(&x->left, left * 8, "experts");
  return status ? status : neapi_buffer_reserve(&x->right, right * 8, "experts");
}

int neapi_experts_exact_gradients(neapi_experts *x, const void *in, const void *dout,
                                  const double *grids, double *rows)
{
  int status = reserve_factors(x), result = 0;
  if (status)
    return status;
  for (int32_t i = 0; !result && i < x->slots; i++) {
    slot s = slot_of(x, i, NULL, in, dout);
    const double *grid = grids + x->columns_at[x->batches[i].expert];
    if (s.rows)
      result = exact_gradients(&s, grid, x->left.data, x->right.data, rows + i * x->stride);
    x->flops += product_flops(&s);
  }
  return neapi_kernel_status_of("moe backward", result);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Operations over tensors: checks of dtype and shape around the kernels. */
#include "tensor/tensor.h"

#include "base/dtype.h"

#include <stddef.h>

/* Evaluates checks in turn and returns the first failure. */
#define CHECK(expression)                                                                          \
  do {                                                                                             \
    int check_status = (expression);                                                               \
    if (check_status)                                                                              \
      return check_status;                                                                         \
  } while (0)

/* The first tensor of an operation gives dtype and rows to the others: a real matrix. */
static int check_first(const char *operation, const char *argument, const neap_tensor *t)
{
  CHECK(neapi_tensor_real(operation, argument, t));
  return neapi_tensor_matrix(operation, argument, t, t->dtype, NEAPI_ANY, NEAPI_ANY);
}

/* ---- linear ---------------------------------------------------------------------------------- */

int neap_op_linear(const neap_tensor *x, const neap_tensor *w, neap_tensor *y)
{
  CHECK(check_first("linear", "x", x));
  int64_t t = x->dims[0], k = x->dims[1];
  CHECK(neapi_tensor_matrix("linear", "w", w, x->dtype, k, NEAPI_ANY));
  int64_t n = w->dims[1];
  bool into_acc = y && y->dtype != x->dtype;
  CHECK(neapi_tensor_matrix("linear", "y", y, into_acc ? neapi_acc_of(x->dtype) : x->dtype, t, n));
  const neapi_kernels *kernels = neapi_tensor_kernels(x);
  return neapi_kernel_status_of(
      "linear", (into_acc ? kernels->gemm_acc : kernels->gemm)(t, n, k, x->data, k, 0, w->data, n,
                                                               0, y->data, n, 0, neapi_stream()));
}

int neap_op_linear_input_grad(const neap_tensor *dy, const neap_tensor *w, neap_tensor *dx,
                              int accumulate)
{
  CHECK(check_first("linear_input_grad", "dy", dy));
  int64_t t = dy->dims[0], n = dy->dims[1];
  CHECK(neapi_tensor_matrix("linear_input_grad", "w", w, dy->dtype, NEAPI_ANY, n));
  int64_t k = w->dims[0];
  CHECK(neapi_tensor_matrix("linear_input_grad", "dx", dx, dy->dtype, t, k));
  return neapi_kernel_status_of(
      "linear_input_grad", neapi_tensor_kernels(dy)->gemm(t, k, n, dy->data, n, 0, w->data, n, 1,
                                                          dx->data, k, accumulate, neapi_stream()));
}

int neap_op_linear_weight_grad(const neap_tensor *x, const neap_tensor *dy, neap_tensor *dw,
                               int accumulate)
{
  CHECK(check_first("linear_weight_grad", "x", x));
  int64_t t = x->dims[0], k = x->dims[1];
  CHECK(neapi_tensor_matrix("linear_weight_grad", "dy", dy, x->dtype, t, NEAPI_ANY));
  int64_t n = dy->dims[1];
  CHECK(neapi_tensor_matrix("linear_weight_grad", "dw", dw, neapi_acc_of(x->dtype), k, n));
  return neapi_kernel_status_of("linear_weight_grad", neapi_tensor_kernels(x)->gemm_tn(
                                                          t, k, n, x->data, k, dy->data, n,
                                                          dw->data, n, accumulate, neapi_stream()));
}

/* ---- embedding ------------------------------------------------------------------------------- */

int neap_op_embedding(const neap_tensor *ids, const neap_tensor *table, neap_tensor *y)
{
  CHECK(check_first("embedding", "table", table));
  int64_t h = table->dims[1];
  CHECK(neapi_tensor_matrix("embedding", "y", y, table->dtype, NEAPI_ANY, h));
  CHECK(neapi_tensor_ids("embedding", ids, y->dims[0], 0, table->dims[0]));
  return neapi_kernel_status_of(
      "embedding", neapi_tensor_kernels(table)->gather(ids->count, h, (const int32_t *)ids->data,
                                                       table->data, y->data, neapi_stream()));
}

int neap_op_embedding_grad(const neap_tensor *ids, const neap_tensor *dy, neap_tensor *dtable)
{
  CHECK(check_first("embedding_grad", "dy", dy));
  int64_t h = dy->dims[1], bytes = dy->dims[0] * 4;
  CHECK(neapi_tensor_matrix("embedding_grad", "dtable", dtable, neapi_acc_of(dy->dtype), NEAPI_ANY,
                            h));
  CHECK(neapi_tensor_ids("embedding_grad", ids, dy->dims[0], 0, dtable->dims[0]));
  int32_t *near = (int32_t *)ids->data; /* a GPU reads them more than once */
  if (dy->memory == NEAPI_GPU && !(near = neapi_memory_alloc(NEAPI_GPU, bytes, "embedding_grad")))
    return NEAP_MEMORY;
  int status = neapi_copy(near, ids->data, bytes);
  if (!status)
    status = neapi_kernel_status_of(
        "embedding_grad", neapi_tensor_kernels(dy)->scatter_add(ids->count, h, near, dy->data,
                                                                dtable->data, neapi_stream()));
  if (near != (int32_t *)ids->data)
    neapi_memory_free(NEAPI_GPU, near);
  return status;
}

/* ---- normalisation --------------------------------------------------------------------------- */

int neap_op_rmsnorm(const neap_tensor *x, const neap_tensor *gain, double eps, neap_tensor *y,
                    neap_tensor *rstd)
{
  CHECK(check_first("rmsnorm", "x", x));
  int64_t t = x->dims[0], h = x->dims[1];
  CHECK(neapi_tensor_vector("rmsnorm", "gain", gain, x->dtype, h));
  CHECK(neapi_tensor_matrix("rmsnorm", "y", y, x->dtype, t, h));
  CHECK(neapi_tensor_vector("rmsnorm", "rstd", rstd, neapi_acc_of(x->dtype), t));
  return neapi_kernel_status_of(
      "rmsnorm", neapi_tensor_kernels(x)->rmsnorm(t, h, x->data, gain->data, eps, y->data,
                                                  rstd->data, neapi_stream()));
}

int neap_op_rmsnorm_grad(const neap_tensor *x, const neap_tensor *gain, const neap_tensor *rstd,
                         const neap_tensor *dy, neap_tensor *dx, neap_tensor *dgain)
{
  CHECK(check_first("rmsnorm_grad", "x", x));
  int64_t t = x->dims[0], h = x->dims[1];
  CHECK(neapi_tensor_vector("rmsnorm_grad", "gain", gain, x->dtype, h));
  CHECK(neapi_tensor_vector("rmsnorm_grad", "rstd", rstd, neapi_acc_of(x->dtype), t));
  CHECK(neapi_tensor_matrix("rmsnorm_grad", "dy", dy, x->dtype, t, h));
  CHECK(neapi_tensor_matrix("rmsnorm_grad", "dx", dx, x->dtype, t, h));
  if (dgain)
    CHECK(neapi_tensor_vector("rmsnorm_grad", "dgain", dgain, neapi_acc_of(x->dtype), h));
  return neapi_kernel_status_of("rmsnorm_grad",
                                neapi_tensor_kernels(x)->rmsnorm_backward(
                                    t, h, x->data, gain->data, rstd->data, dy->data, dx->data,
                                    dgain ? dgain->data : NULL, neapi_stream()));
}

int neap_op_rmsnorm_gain_terms(const neap_tensor *x, const neap_tensor *rstd, const neap_tensor *dy,
                               neap_tensor *terms)
{
  CHECK(check_first("rmsnorm_gain_terms", "x", x));
  int64_t t = x->dims[0], h = x->dims[1];
  CHECK(neapi_tensor_vector("rmsnorm_gain_terms", "rstd", rstd, neapi_acc_of(x->dtype), t));
  CHECK(neapi_tensor_matrix("rmsnorm_gain_terms", "dy", dy, x->dtype, t, h));
  CHECK(neapi_tensor_matrix("rmsnorm_gain_terms", "terms", terms, neapi_acc_of(x->dtype), t, h));
  return neapi_kernel_status_of(
      "rmsnorm_gain_terms", neapi_tensor_kernels(x)->rmsnorm_gain_terms(
                                t, h, x->data, rstd->data, dy->data, terms->data, neapi_stream()));
}

/* ---- rotation and attention ------------------------------------------------------------------ */

static int check_table(const char *operation, const neap_tensor *table)
{
  CHECK(check_first(operation, "table", table));
  CHECK(neapi_tensor_acc(operation, "table", table));
  if (table->dims[0] < 1 || table->dims[1] < 2 || table->dims[1] % 2)
    return neapi_fail(NEAP_SHAPE,
                      "%s: table is (%lld, %lld); expected 1 or more rows and an even "
                      "number of columns",
                      operation, (long long)table->dims[0], (long long)table->dims[1]);
  return NEAP_OK;
}

int neap_op_rotary_table(double base, neap_tensor *table)
{
  CHECK(check_table("rotary_table", table));
  if (!(base > 0))
    return neapi_fail(NEAP_ARGUMENT, "rotary_table: base is %g; it must be above 0", base);
  return neapi_kernel_status_of(
      "rotary_table", neapi_tensor_kernels(table)->rotary_table(table->dims[0], table->dims[1],
                                                                base, table->data, neapi_stream()));
}

int neap_op_rotary(neap_tensor *x, int32_t heads, const neap_tensor *table, int inverse)
{
  CHECK(check_table("rotary", table));
  CHECK(check_first("rotary", "x", x));
  CHECK(
      neapi_tensor_matrix("rotary", "table", table, neapi_acc_of(x->dtype), NEAPI_ANY, NEAPI_ANY));
  int64_t s = table->dims[0], d = table->dims[1];
  if (heads < 0 || heads * d > x->dims[1])
    return neapi_fail(NEAP_SHAPE, "rotary: %d heads of %lld columns; x has %lld columns", heads,
                      (long long)d, (long long)x->dims[1]);
  return neapi_kernel_status_of(
      "rotary", neapi_tensor_kernels(x)->rotary(x->dims[0], s, heads, d, inverse, table->data,
                                                x->data, x->dims[1], neapi_stream()));
}

/* Numbers of an attention; out and lse are checked, qkv gives the rest. */
typedef struct {
  int64_t sequences, d;
} attention_shape;

static int check_attention(const char *operation, const neap_tensor *qkv, int32_t heads,
                           int32_t kv_heads, int64_t sequence, const neap_tensor *out,
                           const neap_tensor *lse, attention_shape *shape)
{
  CHECK(check_first(operation, "qkv", qkv));
  if (heads < 1 || kv_heads < 1 || heads % kv_heads)
    return neapi_fail(NEAP_ARGUMENT,
                      "%s: %d heads and %d kv heads; the second must divide the "
                      "first",
                      operation, heads, kv_heads);
  int64_t t = qkv->dims[0], parts = heads + 2ll * kv_heads;
  if (qkv->dims[1] % parts)
    return neapi_fail(NEAP_SHAPE,
                      "%s: qkv has %lld columns; expected a multiple of heads + 2 "
                      "kv_heads = %lld",
                      operation, (long long)qkv->dims[1], (long long)parts);
  if (sequence < 1 || t % sequence)
    return neapi_fail(NEAP_SHAPE,
                      "%s: qkv has %lld rows; expected a multiple of the sequence "
                      "length %lld",
                      operation, (long long)t, (long long)sequence);
  shape->sequences = t / sequence;
  shape->d = qkv->dims[1] / parts;
  CHECK(neapi_tensor_matrix(operation, "out", out, qkv->dtype, t, heads * shape->d));
  return neapi_tensor_matrix(operation, "lse", lse, neapi_acc_of(qkv->dtype), t, heads);
}

int neap_op_attention(const neap_tensor *qkv, int32_t heads, int32_t kv_heads, int64_t sequence,
                      neap_tensor *out, neap_tensor *lse)
{
  attention_shape shape = {0, 0};
  CHECK(check_attention("attention", qkv, heads, kv_heads, sequence, out, lse, &shape));
  return neapi_kernel_status_of(
      "attention",
      neapi_tensor_kernels(qkv)->attention(shape.sequences, sequence, heads, kv_heads, shape.d,
                                           qkv->data, out->data, lse->data, neapi_stream()));
}

int neap_op_attention_grad(const neap_tensor *qkv, const neap_tensor *out, const neap_tensor *lse,
                           const neap_tensor *dout, int32_t heads, int32_t kv_heads,
                           int64_t sequence, neap_tensor *dqkv)
{
  attention_shape shape = {0, 0};
  CHECK(check_attention("attention_grad", qkv, heads, kv_heads, sequence, out, lse, &shape));
  CHECK(
      neapi_tensor_matrix("attention_grad", "dout", dout, qkv->dtype, out->dims[0], out->dims[1]));
  CHECK(
      neapi_tensor_matrix("attention_grad", "dqkv", dqkv, qkv->dtype, qkv->dims[0], qkv->dims[1]));
  return neapi_kernel_status_of("attention_grad",
                                neapi_tensor_kernels(qkv)->attention_backward(
                                    shape.sequences, sequence, heads, kv_heads, shape.d, qkv->data,
                                    out->data, lse->data, dout->data, dqkv->data, neapi_stream()));
}

/* ---- loss ------------------------------------------------------------------------------------ */

int neap_op_cross_entropy(const neap_tensor *logits, const neap_tensor *target, double factor,
                          neap_tensor *loss, neap_tensor *dlogits)
{
  CHECK(check_first("cross_entropy", "logits", logits));
  CHECK(neapi_tensor_acc("cross_entropy", "logits", logits));
  int64_t t = logits->dims[0], v = logits->dims[1];
  bool narrows = dlogits && dlogits->dtype == NEAP_BF16 && logits->dtype == NEAP_F32;
  if (loss)
    CHECK(neapi_tensor_vector("cross_entropy", "loss", loss, logits->dtype, t));
  if (dlogits)
    CHECK(neapi_tensor_matrix("cross_entropy", "dlogits", dlogits,
                              narrows ? NEAP_BF16 : logits->dtype, t, v));
  CHECK(neapi_tensor_ids("cross_entropy", target, t, INT32_MIN, v));
  return neapi_kernel_status_of(
      "cross_entropy", neapi_tensor_kernels(narrows ? dlogits : logits)
                           ->cross_entropy(t, v, factor, logits->data,
                                           (const int32_t *)target->data, loss ? loss->data : NULL,
                                           dlogits ? dlogits->data : NULL, neapi_stream()));
}

/* ---- elementwise ----------------------------------------------------------------------------- */

int neap_op_add(const neap_tensor *a, const neap_tensor *b, neap_tensor *out)
{
  CHECK(neapi_tensor_real("add", "a", a));
  CHECK(neapi_tensor_elements("add", "b", b, a->dtype, a->count));
  CHECK(neapi_tensor_elements("add", "out", out, a->dtype, a->count));
  return neapi_kernel_status_of(
      "add", neapi_tensor_kernels(a)->add(a->count, a->data, b->data, out->data, neapi_stream()));
}

int neap_op_swiglu(const neap_tensor *gate_up, neap_tensor *y)
{
  CHECK(check_first("swiglu", "gate_up", gate_up));
  int64_t t = gate_up->dims[0], width = gate_up->dims[1];
  if (width % 2)
    return neapi_fail(NEAP_SHAPE, "swiglu: gate_up has %lld columns; expected an even number",
                      (long long)width);
  CHECK(neapi_tensor_matrix("swiglu", "y", y, gate_up->dtype, t, width / 2));
  return neapi_kernel_status_of(
      "swiglu",
      neapi_tensor_kernels(gate_up)->swiglu(t, width / 2, gate_up->data, y->data, neapi_stream()));
}

int neap_op_swiglu_grad(const neap_tensor *gate_up, const neap_tensor *dy, neap_tensor *dgate_up)
{
  CHECK(check_first("swiglu_grad", "dy", dy));
  int64_t t = dy->dims[0], f = dy->dims[1];
  CHECK(neapi_tensor_matrix("swiglu_grad", "gate_up", gate_up, dy->dtype, t, 2 * f));
  CHECK(neapi_tensor_matrix("swiglu_grad", "dgate_up", dgate_up, dy->dtype, t, 2 * f));
  return neapi_kernel_status_of(
      "swiglu_grad", neapi_tensor_kernels(dy)->swiglu_backward(t, f, gate_up->data, dy->data,
                                                               dgate_up->data, neapi_stream()));
}

int neap_op_sum_squares(const neap_tensor *x, double *out)
{
  CHECK(neapi_tensor_real("sum_squares", "x", x));
  double *sum = neapi_results();
  if (!sum)
    return NEAP_MEMORY;
  CHECK(neapi_kernel_status_of(
      "sum_squares", neapi_tensor_kernels(x)->square_sum(x->count, x->data, sum, neapi_stream())));
  CHECK(neapi_stream_wait());
  *out = *sum;
  return NEAP_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.h: one launcher per operation, as a table of function pointers for each real type and
 * device.
 *
 * Kernels know shapes and numbers, nothing of ranks, layouts or tensors. Valid for every launcher
 * unless its comment says otherwise:
 *   - matrices are row-major and dense; where a leading dimension (ldx) is given, row i starts at
 *     element i * ldx. "real" is the table's type; other types are written out. "acc" is the type
 *     of accumulation, which statistics, logits, and gradients and masters of parameters are kept
 *     in: real, but float where real is bf16. Arithmetic is acc's; what goes to a real is rounded
 *     once, to nearest even;
 *   - sizes are int64_t and may be 0; indices are int32_t and are trusted: the caller checks them;
 *   - an output that is not said to be added to is overwritten whatever it held, NaN included;
 *   - inputs and outputs do not overlap, except that elementwise operations may work in place;
 *   - the last argument is the stream. The CPU's launchers ignore it and are done on return. CUDA's
 *     enqueue: their pointers, scalar results included, are to device memory or page-locked host
 *     memory, apart from arrays of pointers and structs of settings, which are read at once;
 *   - the result is 0 or a neapi_kernel_status. Any number of threads may call at once.
 *
 * What results depend on. Where the leading dimension of an output is T (tokens), a row is a
 * function of that token's inputs alone (in attention: of its sequence's up to it), to the bit the
 * same at any row, for any T, on any thread. That holds within a table. Sums over a row have a
 * fixed order that only the row's length decides. Sums over tokens (gemm_tn, gain gradient,
 * scatter_add) depend on order and number of tokens; the exact_ operations do not.
 */
#ifndef NEAPI_KERNELS_H
#define NEAPI_KERNELS_H

#include <stdint.h>

/* A function for both sides of a launch. */
#ifdef __CUDACC__
#define NEAPI_BOTH_SIDES __host__ __device__
#else
#define NEAPI_BOTH_SIDES
#endif

typedef enum {
  NEAPI_KERNEL_OK,
  NEAPI_KERNEL_MEMORY, /* none for a thread's scratch */
  NEAPI_KERNEL_DEVICE  /* the device refused */
} neapi_kernel_status;

/* One step of AdamW (Loshchilov and Hutter 2019), for element g of the gradient:
 *   g *= grad_scale; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2
 *   param -= rate * ((m / correction1) / (sqrt(v / correction2) + eps) + decay * param)
 * with correction_i = 1 - beta_i^step, which the caller computes. */
typedef struct {
  double rate, beta1, beta2, eps, decay, correction1, correction2, grad_scale;
} neapi_adamw;

/* One slot's rows: first to first + rows - 1 of the rank's. */
typedef struct {
  int32_t expert;
  int64_t first, rows, ffn; /* ffn: F of the expert */
  int64_t hidden_at; /* element of activation where its (rows, F) starts; of gate_up at twice it;
                        slots of one F have theirs one after the other, from a multiple of 8 on */
} neapi_batch;

/* Rows for choices of an expert in one of its slots: so many, from a row on. */
typedef struct {
  int32_t rows, row;
} neapi_segment;

/* Slots of a layer and their rows. Slot i's parameters start at element i * stride: W1 (H, 2F),
 * gate columns first, then W2 (F, H). */
typedef struct {
  int64_t count, h, stride;
  int64_t f;                  /* F of all experts of the layer, or 0: they differ */
  const neapi_batch *batches; /* [count] */
} neapi_slots;

/* ---- products -------------------------------------------------------------------------------- */

/* c = op(a) op(b), or c += op(a) op(b) with accumulate. Each element is summed over K in one
 * order, wherever it stands in c and whatever M and N are. At most one of a and b is transposed:
 * nothing needs both, and there is no code for it on a GPU. */
typedef int neapi_kernel_gemm(int64_t m, int64_t n, int64_t k,         //
                              const void *a, int64_t lda, int trans_a, // (M, K); trans_a: (K, M)
                              const void *b, int64_t ldb, int trans_b, // (K, N); trans_b: (N, K)
                              void *c, int64_t ldc, int accumulate, void *stream); // (M, N)

typedef neapi_kernel_gemm neapi_kernel_gemm_acc; /* the same into c (M, N) acc: logits */

/* c = a^T b, or c += a^T b with accumulate: a weight gradient, in the order that is fast. */
typedef int neapi_kernel_gemm_tn(int64_t t, int64_t k, int64_t n,                     //
                                 const void *a, int64_t lda,                          // (T, K)
                                 const void *b, int64_t ldb,                          // (T, N)
                                 void *c, int64_t ldc, int accumulate, void *stream); // (K, N) acc

/* ---- experts: the products of many slots ----------------------------------------------------- */

/* For each slot's rows: gate_up = in W1, activation = swiglu of it and, unless out is NULL, out =
 * activation W2. Which products are used depends on H and F, not on numbers of rows. */
typedef int neapi_kernel_experts_forward(const neapi_slots *slots,
                                         const void *weights,      // (count, stride)
                                         const void *in,           // (rows, H)
                                         void *gate_up,            // (rows, 2F) by batch
                                         void *activation,         // (rows, F) by batch
                                         void *out, void *stream); // (rows, H)

/* din: gradient of in. gate_up becomes its gradient; activation is computed anew. dlog: of a row,
 * the sum over F of the gradient of activation times activation. That is the gradient by the
 * logarithm of what dout's row was multiplied by: of weight w, w times its gradient. */
typedef int
neapi_kernel_experts_backward(const neapi_slots *slots,
                              const void *weights, // (count, stride)
                              const void *dout,    // (rows, H)
                              void *gate_up,       // (rows, 2F) by batch
                              void *activation,    // (rows, F) by batch
                              void *dactivation,   // (rows, F) of the largest batch: workspace
                              void *din,           // (rows, H)
                              void *dlog,          // (rows) acc
                              void *stream);

/* Gradients of the parameters of slots with rows; those of other slots stay. */
typedef int neapi_kernel_experts_gradients(const neapi_slots *slots,
                                           const void *in,                 // (rows, H)
                                           const void *dgate_up,           // (rows, 2F) by batch
                                           const void *activation,         // (rows, F) by batch
                                           const void *dout,               // (rows, H)
                                           void *gradients, void *stream); // (count, stride) acc

/* ---- rows: embedding, dispatch, combine ------------------------------------------------------ */

/* out[i] = x[index[i]]. Embedding forward. */
typedef int neapi_kernel_gather(int64_t n, int64_t h, const int32_t *index, // (N)
                                const void *x,                              // (any, H)
                                void *out, void *stream);                   // (N, H)

/* out[position[t,k]] = weights[t,k] * x[t]; all weights 1 if NULL; no position twice; other rows of
 * out stay. Without weights: dispatch. With: the backward of combine. */
typedef int neapi_kernel_scatter(int64_t t, int64_t k, int64_t h, //
                                 const void *weights,             // (T, K) acc, or NULL
                                 const int32_t *position,         // (T, K) row of out
                                 const void *x,                   // (T, H)
                                 void *out, void *stream);        // (any, H)

/* out[index[i]] += x[i], in the order of i. Embedding backward. */
typedef int neapi_kernel_scatter_add(int64_t n, int64_t h, const int32_t *index, // (N)
                                     const void *x,                              // (N, H)
                                     void *out, void *stream);                   // (any, H) acc

/* y[t] = sum over k, ascending, of weights[t,k] * x[position[t,k]]; all weights 1 if NULL.
 * With weights: combine forward. Without: the backward of scatter. */
typedef int neapi_kernel_combine(int64_t t, int64_t k, int64_t h, //
                                 const void *weights,             // (T, K) acc, or NULL
                                 const int32_t *position,         // (T, K) row of x
                                 const void *x,                   // (any, H)
                                 void *y, void *stream);          // (T, H)

/* out[t] = sum over h of a[t,h] * b[t,h]. */
typedef int neapi_kernel_row_dots(int64_t t, int64_t h, const void *a, // (T, H)
                                  const void *b,                       // (T, H)
                                  void *out, void *stream);            // (T) acc

/* ---- normalisation, rotation, attention ------------------------------------------------------ */

/* y = x * rstd * gain, rstd = 1 / sqrt(mean of x^2 + eps). Zhang and Sennrich 2019. */
typedef int neapi_kernel_rmsnorm(int64_t t, int64_t h, const void *x, // (T, H)
                                 const void *gain, double eps,        // (H)
                                 void *y,                             // (T, H)
                                 void *rstd, void *stream);           // (T) acc

/* dx written; dgain, if not NULL, gets the sum over tokens added, in their order. */
typedef int neapi_kernel_rmsnorm_backward(int64_t t, int64_t h, const void *x, // (T, H)
                                          const void *gain,                    // (H)
                                          const void *rstd,                    // (T) acc
                                          const void *dy,                      // (T, H)
                                          void *dx,                            // (T, H)
                                          void *dgain, void *stream);          // (H) acc, or NULL

/* terms = dy * x * rstd: what rmsnorm_backward sums over tokens, for an exact sum. */
typedef int neapi_kernel_rmsnorm_gain_terms(int64_t t, int64_t h, const void *x, // (T, H)
                                            const void *rstd,                    // (T) acc
                                            const void *dy,                      // (T, H)
                                            void *terms, void *stream);          // (T, H) acc

/* table[s] = cos, then sin, of s * base^(-2i / D), i < D/2; D even. Su et al. 2021. */
typedef int neapi_kernel_rotary_table(int64_t s, int64_t d, double base, //
                                      void *table, void *stream);        // (S, D) acc

/* Turns, in place, the pairs (i, i + D/2) of each of the first `heads` heads of a row; token t
 * stands at position t mod S. inverse: the other way round, which is the backward. */
typedef int neapi_kernel_rotary(int64_t t, int64_t s, int64_t heads, int64_t d, int inverse, //
                                const void *table,                   // (S, D) acc
                                void *x, int64_t ldx, void *stream); // (T, >= heads * D)

/* Causal attention within each sequence: heads query heads over kv_heads key and value heads
 * (kv_heads divides heads; query head i uses i / (heads / kv_heads)), scaled by 1 / sqrt(D).
 * A row of qkv: queries, keys, values. lse: log-sum-exp of each row of scores, for backward. */
typedef int neapi_kernel_attention(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                                   int64_t d,
                                   const void *qkv, // (sequences * S, (heads + 2 kv_heads) * D)
                                   void *out,       // (sequences * S, heads * D)
                                   void *lse, void *stream); // (sequences * S, heads) acc

/* dqkv: gradients of queries, keys and values. */
typedef int
neapi_kernel_attention_backward(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                                int64_t d,        //
                                const void *qkv,  // (sequences * S, (heads + 2 kv_heads) * D)
                                const void *out,  // (sequences * S, heads * D)
                                const void *lse,  // (sequences * S, heads) acc
                                const void *dout, // (sequences * S, heads * D)
                                void *dqkv, void *stream); // as qkv

/* ---- elementwise ----------------------------------------------------------------------------- */

typedef int neapi_kernel_fill(int64_t n, double value, void *x, void *stream); // (N)
typedef int neapi_kernel_add(int64_t n, const void *a, const void *b, void *out,
                             void *stream); // (N)

/* out[i] = sum over parts, in their order, of parts[p][i]. out may be parts[0]. */
typedef int neapi_kernel_sum(int64_t n, int64_t count, const void *const *parts, void *out,
                             void *stream);
/* The same of double arrays. */
typedef int neapi_kernel_sum_double(int64_t n, int64_t count, const double *const *parts,
                                    double *out, void *stream);

/* h = silu(g) * u, silu(g) = g / (1 + exp(-g)). Shazeer 2020. */
typedef int neapi_kernel_swiglu(int64_t t, int64_t f,
                                const void *gu,         // (T, 2F) gate columns, then up
                                void *h, void *stream); // (T, F)
typedef int neapi_kernel_swiglu_backward(int64_t t, int64_t f, const void *gu, // (T, 2F)
                                         const void *dh,                       // (T, F)
                                         void *dgu, void *stream);             // (T, 2F), may be gu

typedef int neapi_kernel_adamw(int64_t n, const neapi_adamw *step, const void *grad, // (N) acc
                               void *param, void *m, void *v, void *stream);         // (N) acc

/* ---- loss and router ------------------------------------------------------------------------- */

/* loss = log-sum-exp(logits) - logits[target]; dlogits = factor * (softmax - onehot(target)).
 * A target below 0 does not count: loss and gradient are 0. loss or dlogits may be NULL;
 * dlogits may be logits where real is acc. */
typedef int neapi_kernel_cross_entropy(int64_t t, int64_t v, double factor,
                                       const void *logits,           // (T, V) acc
                                       const int32_t *target,        // (T)
                                       void *loss,                   // (T) acc, or NULL
                                       void *dlogits, void *stream); // (T, V) or NULL

/* Scores of the experts: softmax of the logits, or of each its sigmoid; then the K experts of each
 * token with the largest score + bias, largest first, of equal ones the lower id. weights: their
 * scores without bias, with renormalise divided by their sum unless that is 0.
 * bad: the first token whose logits have a NaN or no finite maximum (softmax), or are not all
 * finite (sigmoid), or -1; all outputs of such tokens are NaN, their ids 0 to K-1. 1 <= K <= E. */
typedef int neapi_kernel_router(int64_t t, int64_t e, int64_t k, int sigmoid, int renormalise, //
                                const double *bias,          // (E), or NULL: 0
                                const void *logits,          // (T, E) acc
                                void *scores,                // (T, E) acc
                                int32_t *ids,                // (T, K)
                                void *weights,               // (T, K) acc
                                int64_t *bad, void *stream); // (1)

/* shares[t,e] = scores[t,e] divided by the sum of t's scores; 0 where that is 0. */
typedef int neapi_kernel_router_shares(int64_t t, int64_t e,
                                       const void *scores,          // (T, E) acc
                                       void *shares, void *stream); // (T, E) acc

/* Force-balanced choices in place of the router's: choice c of token i is expert first + i K + c,
 * modulo E; weights as the router's, of these experts. scores: what router has made of the logits.
 * 1 <= K <= E, 0 <= first < E. */
typedef int neapi_kernel_balanced_choices(int64_t t, int64_t e, int64_t k, int renormalise,
                                          int64_t first,
                                          const void *scores,           // (T, E) acc
                                          int32_t *ids,                 // (T, K)
                                          void *weights, void *stream); // (T, K) acc

/* dlog[position[t,k]]: weights[t,k] times its gradient. dshares: gradient of the scores' shares
 * (router_shares), which of softmax are the scores, from elsewhere, such as an auxiliary loss. */
typedef int neapi_kernel_router_backward(int64_t t, int64_t e, int64_t k, int sigmoid,
                                         int renormalise,
                                         const void *scores,           // (T, E) acc
                                         const int32_t *ids,           // (T, K)
                                         const void *weights,          // (T, K) acc
                                         const int32_t *position,      // (T, K) element of dlog
                                         const void *dlog,             // (any) acc
                                         const void *dshares,          // (T, E) acc, or NULL
                                         void *dlogits, void *stream); // (T, E)

/* counts[e] = how many of the ids are e. */
typedef int neapi_kernel_count_choices(int64_t n, int64_t e, const int32_t *ids, // (N)
                                       int64_t *counts, void *stream);           // (E)

/* Assigns rows to the choices, in their order: those of expert e fill the segments first[e] to
 * first[e + 1] - 1, which have just as many rows. position[i]: row of choice i. first and segments
 * are host memory that is read at once. */
typedef int neapi_kernel_assign_choices(int64_t n, int64_t e,             //
                                        const int32_t *ids,               // (N)
                                        const int32_t *first,             // (E + 1)
                                        const neapi_segment *segments,    // (first[E])
                                        int32_t *position, void *stream); // (N)

/* ---- plain reductions ------------------------------------------------------------------------ */

/* out = sum of x^2, in double, in an order that only N decides. */
typedef int neapi_kernel_square_sum(int64_t n, const void *x, double *out,
                                    void *stream); // (N) -> (1)
/* out = largest |x|; 0 for N = 0; infinity if an element is not finite. */
typedef int neapi_kernel_max_abs(int64_t n, const void *x, double *out, void *stream); // (N) -> (1)
typedef int neapi_kernel_to_double(int64_t n, const void *x, double *out, void *stream); // (N)
typedef int neapi_kernel_from_double(int64_t n, const double *x, void *out,
                                     void *stream); // (N), rounded once
typedef int neapi_kernel_to_acc(int64_t n, const void *x, void *out,
                                void *stream); // (N) to (N) acc
typedef int neapi_kernel_from_acc(int64_t n, const void *x, void *out,
                                  void *stream); // (N) acc to (N)

/* ---- FP8 as it travels: the format is in e4m3.h ---------------------------------------------- */

/* Blocks of 128 numbers from the first on; packed: neapi_e4m3_bytes(n), from a multiple of 4. */
typedef int neapi_kernel_to_e4m3(int64_t n, const void *x, // (N) acc
                                 void *packed, void *stream);
typedef int neapi_kernel_from_e4m3(int64_t n, const void *packed, //
                                   void *out,
                                   void *stream); // (N), code times scale in acc, rounded

/* Rows of tokens, each with blocks of its own, the last of which may be short: a row is as long as
 * neapi_e4m3_bytes(H). As scatter without weights, packed[position[t,k]] = x[t]. */
typedef int neapi_kernel_scatter_e4m3(int64_t t, int64_t k, int64_t h, //
                                      const int32_t *position,         // (T, K) row of packed
                                      const void *x,                   // (T, H)
                                      void *packed, void *stream);     // any rows
typedef int neapi_kernel_rows_from_e4m3(int64_t n, int64_t h, const void *packed, // N rows
                                        void *out, void *stream); // (N, H), as from_e4m3

/* ---- exact sums: words and method are in exact.h -------------------------------------------- */

/* max[h] = largest |x[:,h]|, infinity if one is not finite; with accumulate also of what max
 * held. 0 if T is 0. */
typedef int neapi_kernel_exact_column_max(int64_t t, int64_t h, const void *x,
                                          int64_t ldx,                                // (T, H)
                                          int accumulate, double *max, void *stream); // (H)

/* quantum[i]: with |x| <= 2^bits quantum[i] for all |x| <= max[i], and 0 for max 0. */
typedef int neapi_kernel_exact_quantum(int64_t n, int bits, const double *max, // (N)
                                       double *quantum, void *stream);         // (N)

/* q = x / quantum, rounded to the nearest integer; 0 where the quantum is 0. |q| <= 2^bits. */
typedef int neapi_kernel_exact_quantise(int64_t t, int64_t h, const void *x, int64_t ldx, // (T, H)
                                        const double *quantum,                            // (H)
                                        double *q, void *stream);                         // (T, H)

/* sum[k,n] += (a^T b)[k,n] * quantum_a[k] * quantum_b[n], a and b from exact_quantise. Exact if
 * bits of a + bits of b + log2(tokens of all partial sums together) <= 53. */
typedef int neapi_kernel_exact_gemm_tn(int64_t t, int64_t k, int64_t n, const double *a, // (T, K)
                                       const double *quantum_a,                          // (K)
                                       const double *b,                                  // (T, N)
                                       const double *quantum_b,                          // (N)
                                       double *sum, void *stream);                       // (K, N)

/* sum[h] += sum over t of x[t,h] rounded to quantum[h]. Exact if bits + log2(all tokens) <= 53. */
typedef int neapi_kernel_exact_column_sum(int64_t t, int64_t h, const void *x,
                                          int64_t ldx,                // (T, H)
                                          const double *quantum,      // (H)
                                          double *sum, void *stream); // (H)

/* sum[index[i],h] += x[i,h] rounded to quantum[h]. Exact under the same condition. */
typedef int neapi_kernel_exact_scatter_add(int64_t n, int64_t h, const int32_t *index, // (N)
                                           const void *x,                              // (N, H)
                                           const double *quantum,                      // (H)
                                           double *sum, void *stream);                 // (any, H)

/* sum[0] + sum[1] += sum of x^2, where max is at least every |x| of all partial sums and total
 * their number of elements, below 2^40. sum[0] holds the high bits and sum[1] the low ones; each
 * is exact, so partial sums may be added in any order; add the two at the very end. */
typedef int neapi_kernel_exact_square_sum(int64_t n, const void *x, double max, int64_t total, //
                                          double *sum, void *stream); // (2)

/* ---- tables ---------------------------------------------------------------------------------- */

/* Every kernel, X(name), or A(name) of those that work on accs, doubles and indices alone: tables
 * of the same acc share them. The struct, the launchers' declarations and all tables are made from
 * this list, so that a kernel without a launcher does not link. */
/* clang-format off */
#define NEAPI_KERNELS(X, A)                                                                        \
  X(gemm) X(gemm_acc) X(gemm_tn) X(experts_forward) X(experts_backward) X(experts_gradients)       \
  X(gather) X(scatter) X(scatter_add) X(combine) X(row_dots)                                       \
  X(rmsnorm) X(rmsnorm_backward) X(rmsnorm_gain_terms) A(rotary_table) X(rotary) X(attention)      \
  X(attention_backward)                                                                            \
  X(fill) X(add) X(sum) A(sum_double) X(swiglu) X(swiglu_backward) A(adamw)                        \
  X(to_double) X(from_double) X(to_acc) X(from_acc) A(to_e4m3) X(from_e4m3)                        \
  X(scatter_e4m3) X(rows_from_e4m3)                                                                \
  X(cross_entropy) A(router) A(router_shares) A(balanced_choices) X(router_backward)               \
  A(count_choices) A(assign_choices) X(square_sum) X(max_abs)                                      \
  X(exact_column_max) A(exact_quantum) X(exact_quantise) A(exact_gemm_tn) X(exact_column_sum)      \
  X(exact_scatter_add) X(exact_square_sum)
/* clang-format on */

#define NEAPI_ENTRY(op) neapi_kernel_##op *op;
typedef struct neapi_kernels {
  const char *name; /* "f32", "f64", "bf16", "f32 on cuda", "bf16 on cuda" */
  int64_t size;     /* bytes of a real */
  int64_t acc_size; /* bytes of an acc */
  NEAPI_KERNELS(NEAPI_ENTRY, NEAPI_ENTRY)
} neapi_kernels;
#undef NEAPI_ENTRY

/* The CPU's tables. That of bf16 widens its operands, computes as f32's does and rounds the result:
 * not fast, but the same engine without a GPU, and the plain reference of CUDA's. */
const neapi_kernels *neapi_kernels_f32(void);
const neapi_kernels *neapi_kernels_f64(void);
const neapi_kernels *neapi_kernels_bf16(void);

/* The tables of the calling thread's GPU, in builds with NEAP_CUDA. Products of bf16 are cuBLAS's
 * where it is found and the shape suits it. Attention takes D up to 256, and of bf16 with D up to
 * 128 uses tensor cores (sm_80 and later). exact_ results are those of the CPU, to the bit. */
const neapi_kernels *neapi_kernels_cuda_f32(void);
const neapi_kernels *neapi_kernels_cuda_bf16(void);

#endif

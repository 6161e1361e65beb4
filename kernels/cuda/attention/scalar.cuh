/* SPDX-License-Identifier: Apache-2.0 */
/* Causal attention by plain kernels: of float, and of bf16 where tensor cores do not fit.
 * A block for a tile of queries (or, for the gradients of keys and values, of keys) of one head:
 * tiles of the other side pass through shared memory (after Dao et al. 2022). A query meets the
 * tiles of keys from 0 up, whatever the batch, so its bits depend on its own sequence alone. Float
 * arithmetic; probabilities are recomputed backward. */
#ifndef NEAPI_SCALAR_ATTENTION_CUH
#define NEAPI_SCALAR_ATTENTION_CUH

#include "attention.h"

enum { TILE = 64, LANES = 16, EACH = TILE / LANES, THREADS = LANES * LANES };

/* Sizes of an attention, and the widths of its rows. */
typedef struct {
  int64_t s, heads, kv_heads, d, ld, ld_out;
  float scale;
} sizes;

/* Thread (ty, tx) holds the elements [ty + i LANES][tx + j LANES] of tiles. */
typedef float square[EACH][EACH];

/* rows[i][c] = x[(first + i) * ld + c] for first + i < end; else 0. */
template <class T>
__device__ static void load_rows(float *rows, int width, const T *x, int64_t ld, int64_t first,
                                 int64_t end, int64_t d)
{
  for (int64_t at = threadIdx.x; at < TILE * d; at += THREADS) {
    int64_t i = at / d, c = at % d;
    rows[i * width + c] = first + i < end ? to_float(x[(first + i) * ld + c]) : 0.0f;
  }
}

/* out += a b^T for tiles a, b of width columns, d of them used. */
__device__ static inline void product(square out, const float *a, const float *b, int width,
                                      int64_t d, int ty, int tx)
{
  for (int64_t c = 0; c < d; c++) {
    float x[EACH], y[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      x[i] = a[(ty + i * LANES) * width + c];
      y[i] = b[(tx + i * LANES) * width + c];
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
      for (int j = 0; j < EACH; j++)
        out[i][j] += x[i] * y[j];
  }
}

/* out[i][j] += sum over r of weight(row i, r) x[r][column j]; weights [row][r], or [r][row]. */
template <int COLUMNS, bool ACROSS>
__device__ static void accumulate(float (*out)[COLUMNS], const float *weights, const float *x,
                                  int width, int64_t d, int ty, int tx)
{
  enum { LD = TILE + 1 };
  for (int r = 0; r < TILE; r++)
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
      int64_t c = tx + j * LANES;
      float value = c < d ? x[r * width + c] : 0.0f;
#pragma unroll
      for (int i = 0; i < EACH; i++) {
        int row = ty + i * LANES;
        out[i][j] += weights[ACROSS ? r * LD + row : row * LD + r] * value;
      }
    }
}

/* From scores and dp = dout v^T: p (TILE, TILE + 1) becomes the probabilities, ds the gradient of
 * the scores. statistics: of the sequence's first row. */
__device__ static inline void score_gradients(const sizes &z, square score, square dp,
                                              int64_t first, int64_t at, const float *lse,
                                              const float *along, float *p, float *ds, int ty,
                                              int tx)
{
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    int64_t query = first + ty + i * LANES;
    bool real = query < z.s;
    float norm = real ? lse[query * z.heads] : 0, mean = real ? along[query * z.heads] : 0;
#pragma unroll
    for (int j = 0; j < EACH; j++) {
      bool seen = real && at + tx + j * LANES <= query;
      float weight = seen ? expf(score[i][j] * z.scale - norm) : 0.0f;
      int offset = (ty + i * LANES) * (TILE + 1) + tx + j * LANES;
      if (p)
        p[offset] = weight;
      ds[offset] = weight * (dp[i][j] - mean) * z.scale;
    }
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

enum { MOST_D = 256 };

static inline sizes sizes_of(int64_t s, int64_t heads, int64_t kv_heads, int64_t d)
{
  sizes z = {s, heads, kv_heads, d, (heads + 2 * kv_heads) * d, heads * d, 0};
  z.scale = (float)(1 / sqrt((double)d));
  return z;
}

/* Bytes of so many tiles of rows and of squares. */
static inline int memory_of(int64_t d, int rows, int squares)
{
  return (int)((rows * (d + 1) + squares * (TILE + 1)) * TILE * (int64_t)sizeof(float));
}

/* The gradients of keys and values: a part of scalar_attention's backward. */
template <class T>
int neapi_scalar_key_gradients(int64_t sequences, const sizes &z, const T *qkv, const float *lse,
                               const float *along, const T *dout, T *dqkv, cudaStream_t s);

#endif

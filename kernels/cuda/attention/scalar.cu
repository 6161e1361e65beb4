/* Causal attention by plain kernels: of float, and of bf16 where tensor cores do not fit.
 * A block for a tile of queries (or, for the gradients of keys and values, of keys) of one head:
 * tiles of the other side pass through shared memory (after Dao et al. 2022). A query meets the
 * tiles of keys from 0 up, whatever the batch, so its bits depend on its own sequence alone. Float
 * arithmetic; probabilities are recomputed backward. */
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
__device__ static void product(square out, const float *a, const float *b, int width, int64_t d,
                               int ty, int tx)
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

/* Sum or maximum over the LANES threads that share a row. */
__device__ static float lanes_sum(float x)
{
#pragma unroll
  for (int step = LANES / 2; step; step /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
__device__ static float lanes_max(float x)
{
#pragma unroll
  for (int step = LANES / 2; step; step /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

template <class T, int COLUMNS>
__global__ void __launch_bounds__(THREADS)
    attention_kernel(sizes z, const T *qkv, T *out, float *lse)
{
  extern __shared__ float memory[];
  int width = (int)z.d + 1, ty = threadIdx.x / LANES, tx = threadIdx.x % LANES;
  float *q = memory, *k = q + TILE * width, *v = k + TILE * width, *p = v + TILE * width;
  int64_t first = blockIdx.x * (int64_t)TILE, head = blockIdx.y, start = blockIdx.z * z.s;
  const T *rows = qkv + start * z.ld;
  const T *keys = rows + (z.heads + head / (z.heads / z.kv_heads)) * z.d;
  float sum[EACH][COLUMNS] = {{0}}, total[EACH] = {0}, max[EACH];
  for (int i = 0; i < EACH; i++)
    max[i] = -INFINITY;
  load_rows(q, width, rows + head * z.d, z.ld, first, z.s, z.d);
  for (int64_t at = 0; at <= first; at += TILE) {
    __syncthreads();
    load_rows(k, width, keys, z.ld, at, z.s, z.d);
    load_rows(v, width, keys + z.kv_heads * z.d, z.ld, at, z.s, z.d);
    __syncthreads();
    square score = {{0}};
    product(score, q, k, width, z.d, ty, tx);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int64_t query = first + ty + i * LANES;
      float largest = max[i], part = 0;
#pragma unroll
      for (int j = 0; j < EACH; j++) {
        bool seen = at + tx + j * LANES <= query;
        score[i][j] = seen ? score[i][j] * z.scale : -INFINITY;
        largest = fmaxf(largest, score[i][j]);
      }
      largest = lanes_max(largest);
      float fade = expf(max[i] - largest);
      max[i] = largest;
#pragma unroll
      for (int j = 0; j < EACH; j++) {
        float weight = expf(score[i][j] - largest);
        p[(ty + i * LANES) * (TILE + 1) + tx + j * LANES] = weight;
        part += weight;
      }
      total[i] = total[i] * fade + lanes_sum(part);
#pragma unroll
      for (int j = 0; j < COLUMNS; j++)
        sum[i][j] *= fade;
    }
    __syncthreads();
    accumulate<COLUMNS, false>(sum, p, v, width, z.d, ty, tx);
  }
  for (int i = 0; i < EACH; i++) {
    int64_t query = first + ty + i * LANES;
    if (query >= z.s)
      continue;
    T *to = out + (start + query) * z.ld_out + head * z.d;
    for (int j = 0; j < COLUMNS; j++)
      if (tx + j * LANES < z.d)
        to[tx + j * LANES] = real_of<T>(sum[i][j] / total[i]);
    if (tx == 0)
      lse[(start + query) * z.heads + head] = max[i] + logf(total[i]);
  }
}

/* along[t, head] = the dot product of out and dout. A warp each. */
template <class T>
__global__ void attention_dots_kernel(int64_t rows, int64_t d, const T *out, const T *dout,
                                      float *along)
{
  for (ROWS(row, rows)) {
    float sum = 0;
    for (int64_t i = threadIdx.x; i < d; i += WARP)
      sum += to_float(out[row * d + i]) * to_float(dout[row * d + i]);
    sum = warp_sum(sum);
    if (threadIdx.x == 0)
      along[row] = sum;
  }
}

/* From scores and dp = dout v^T: p (TILE, TILE + 1) becomes the probabilities, ds the gradient of
 * the scores. statistics: of the sequence's first row. */
__device__ static void score_gradients(const sizes &z, square score, square dp, int64_t first,
                                       int64_t at, const float *lse, const float *along, float *p,
                                       float *ds, int ty, int tx)
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

template <class T, int COLUMNS>
__global__ void __launch_bounds__(THREADS)
    attention_query_kernel(sizes z, const T *qkv, const float *lse, const float *along,
                           const T *dout, T *dqkv)
{
  extern __shared__ float memory[];
  int width = (int)z.d + 1, ty = threadIdx.x / LANES, tx = threadIdx.x % LANES;
  float *q = memory, *dy = q + TILE * width, *x = dy + TILE * width, *ds = x + TILE * width;
  int64_t first = blockIdx.x * (int64_t)TILE, head = blockIdx.y, start = blockIdx.z * z.s;
  const T *rows = qkv + start * z.ld;
  const T *keys = rows + (z.heads + head / (z.heads / z.kv_heads)) * z.d;
  int64_t of_row = start * z.heads + head;
  float sum[EACH][COLUMNS] = {{0}};
  load_rows(q, width, rows + head * z.d, z.ld, first, z.s, z.d);
  load_rows(dy, width, dout + start * z.ld_out + head * z.d, z.ld_out, first, z.s, z.d);
  for (int64_t at = 0; at <= first; at += TILE) {
    square score = {{0}}, dp = {{0}};
    __syncthreads();
    load_rows(x, width, keys + z.kv_heads * z.d, z.ld, at, z.s, z.d);
    __syncthreads();
    product(dp, dy, x, width, z.d, ty, tx);
    __syncthreads();
    load_rows(x, width, keys, z.ld, at, z.s, z.d);
    __syncthreads();
    product(score, q, x, width, z.d, ty, tx);
    score_gradients(z, score, dp, first, at, lse + of_row, along + of_row, NULL, ds, ty, tx);
    __syncthreads();
    accumulate<COLUMNS, false>(sum, ds, x, width, z.d, ty, tx);
  }
  for (int i = 0; i < EACH; i++)
    for (int j = 0; j < COLUMNS; j++) {
      int64_t query = first + ty + i * LANES, c = tx + j * LANES;
      if (query < z.s && c < z.d)
        dqkv[(start + query) * z.ld + head * z.d + c] = real_of<T>(sum[i][j]);
    }
}

/* Of a tile of keys: the gradients from all queries of all heads that share them. */
template <class T, int COLUMNS>
__global__ void __launch_bounds__(THREADS)
    attention_key_kernel(sizes z, const T *qkv, const float *lse, const float *along, const T *dout,
                         T *dqkv)
{
  extern __shared__ float memory[];
  int width = (int)z.d + 1, ty = threadIdx.x / LANES, tx = threadIdx.x % LANES;
  float *k = memory, *v = k + TILE * width, *x = v + TILE * width;
  float *p = x + TILE * width, *ds = p + TILE * (TILE + 1);
  int64_t at = blockIdx.x * (int64_t)TILE, kv_head = blockIdx.y, start = blockIdx.z * z.s;
  int64_t group = z.heads / z.kv_heads, offset = (z.heads + kv_head) * z.d;
  const T *rows = qkv + start * z.ld;
  float dk[EACH][COLUMNS] = {{0}}, dv[EACH][COLUMNS] = {{0}};
  load_rows(k, width, rows + offset, z.ld, at, z.s, z.d);
  load_rows(v, width, rows + offset + z.kv_heads * z.d, z.ld, at, z.s, z.d);
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
    for (int64_t first = at; first < z.s; first += TILE) {
      const T *grad = dout + start * z.ld_out + head * z.d;
      int64_t of_row = start * z.heads + head;
      square score = {{0}}, dp = {{0}};
      __syncthreads();
      load_rows(x, width, rows + head * z.d, z.ld, first, z.s, z.d);
      __syncthreads();
      product(score, x, k, width, z.d, ty, tx);
      __syncthreads();
      load_rows(x, width, grad, z.ld_out, first, z.s, z.d);
      __syncthreads();
      product(dp, x, v, width, z.d, ty, tx);
      score_gradients(z, score, dp, first, at, lse + of_row, along + of_row, p, ds, ty, tx);
      __syncthreads();
      accumulate<COLUMNS, true>(dv, p, x, width, z.d, ty, tx);
      __syncthreads();
      load_rows(x, width, rows + head * z.d, z.ld, first, z.s, z.d);
      __syncthreads();
      accumulate<COLUMNS, true>(dk, ds, x, width, z.d, ty, tx);
    }
  for (int i = 0; i < EACH; i++)
    for (int j = 0; j < COLUMNS; j++) {
      int64_t key = at + ty + i * LANES, c = tx + j * LANES;
      if (key >= z.s || c >= z.d)
        continue;
      T *to = dqkv + (start + key) * z.ld + offset + c;
      to[0] = real_of<T>(dk[i][j]);
      to[z.kv_heads * z.d] = real_of<T>(dv[i][j]);
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

enum { MOST_D = 256 };

static sizes sizes_of(int64_t s, int64_t heads, int64_t kv_heads, int64_t d)
{
  sizes z = {s, heads, kv_heads, d, (heads + 2 * kv_heads) * d, heads * d, 0};
  z.scale = (float)(1 / sqrt((double)d));
  return z;
}

/* Bytes of so many tiles of rows and of squares. */
static int memory_of(int64_t d, int rows, int squares)
{
  return (int)((rows * (d + 1) + squares * (TILE + 1)) * TILE * (int64_t)sizeof(float));
}

template <class T, int COLUMNS>
static int run_forward(int64_t sequences, const sizes &z, const T *qkv, T *out, float *lse,
                       cudaStream_t s)
{
  int bytes = memory_of(z.d, 3, 1);
  dim3 grid((unsigned)((z.s + TILE - 1) / TILE), (unsigned)z.heads, (unsigned)sequences);
  cudaFuncSetAttribute(attention_kernel<T, COLUMNS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       bytes);
  LAUNCH(grid, THREADS, bytes, s, attention_kernel<T, COLUMNS>)(z, qkv, out, lse);
  return launched();
}

template <class T>
int scalar_attention<T>::forward(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                                 int64_t d, const void *qkv, void *out, void *lse, void *stream)
{
  sizes z = sizes_of(s, heads, kv_heads, d);
  if (d > MOST_D)
    return NEAPI_KERNEL_MEMORY;
  return (d <= 64    ? run_forward<T, 64 / LANES>
          : d <= 128 ? run_forward<T, 128 / LANES>
                     : run_forward<T, MOST_D / LANES>)(sequences, z, (const T *)qkv, (T *)out,
                                                       (float *)lse, stream_of(stream));
}

template <class T, int COLUMNS>
static int run_backward(int64_t sequences, const sizes &z, const T *qkv, const float *lse,
                        const float *along, const T *dout, T *dqkv, cudaStream_t s)
{
  int bytes = memory_of(z.d, 3, 1), key_bytes = memory_of(z.d, 3, 2);
  unsigned tiles = (unsigned)((z.s + TILE - 1) / TILE);
  cudaFuncSetAttribute(attention_query_kernel<T, COLUMNS>,
                       cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  cudaFuncSetAttribute(attention_key_kernel<T, COLUMNS>,
                       cudaFuncAttributeMaxDynamicSharedMemorySize, key_bytes);
  LAUNCH(dim3(tiles, (unsigned)z.heads, (unsigned)sequences), THREADS, bytes, s,
         attention_query_kernel<T, COLUMNS>)
  (z, qkv, lse, along, dout, dqkv);
  LAUNCH(dim3(tiles, (unsigned)z.kv_heads, (unsigned)sequences), THREADS, key_bytes, s,
         attention_key_kernel<T, COLUMNS>)
  (z, qkv, lse, along, dout, dqkv);
  return launched();
}

template <class T>
int scalar_attention<T>::backward(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                                  int64_t d, const void *qkv, const void *out, const void *lse,
                                  const void *dout, void *dqkv, void *stream)
{
  sizes z = sizes_of(s, heads, kv_heads, d);
  int64_t rows = sequences * s * heads;
  float *along = d > MOST_D ? NULL : (float *)scratch_open(rows * (int64_t)sizeof *along, stream);
  if (!along)
    return NEAPI_KERNEL_MEMORY;
  LAUNCH(blocks_for(rows, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(stream),
         attention_dots_kernel<T>)
  (rows, d, (const T *)out, (const T *)dout, along);
  int status =
      (d <= 64    ? run_backward<T, 64 / LANES>
       : d <= 128 ? run_backward<T, 128 / LANES>
                  : run_backward<T, MOST_D / LANES>)(sequences, z, (const T *)qkv,
                                                     (const float *)lse, along, (const T *)dout,
                                                     (T *)dqkv, stream_of(stream));
  scratch_close(along, stream);
  return status;
}

template struct scalar_attention<float>;
template struct scalar_attention<bf16>;

/* Products of bf16 matrices with a side below NARROW, a router's: cuBLAS has nothing fast for them.
 * Each is to take the time that its large operand takes to be read (or read and written) once, so
 * that every one keeps many loads under way and has blocks for all multiprocessors.
 *
 *   flat      c (M, N) = a b    N narrow   a block makes 64 rows of c and walks K
 *   shallow   c (M, N) = a b    K narrow   a block makes 64 rows of c and 16 packs of each
 *   gradient  c (K, N) = a^T b  N narrow   a block makes 128 rows of c for its part of the tokens
 *
 * Flat and shallow walk K from 0 up in one order: an element's bits depend on its row of a and its
 * column of b alone. The gradient's parts are added in their order; what a part is depends on
 * sizes alone. How operands are read, by packs or by elements, changes no bits. */
#include "tensor_cores.cuh"

enum { THREADS = 128, WARPS = THREADS / WARP, FRAGMENT = 16, EIGHT = 8, PAD = 8, STAGES = 4 };

/* ---- operands -------------------------------------------------------------------------------- */

/* Element (i, j) is at[i * down + j * along]. whole: rows are whole packs. */
typedef struct {
  const bf16 *at;
  int64_t rows, columns, down, along;
  bool whole;
} matrix;

static matrix matrix_of(const void *at, int64_t rows, int64_t columns, int64_t ld, bool turned)
{
  bool whole = !turned && aligned<bf16>(ld | columns, at);
  return {(const bf16 *)at, rows, columns, turned ? 1 : ld, turned ? ld : 1, whole};
}

/* tile[i][j] = x(row + i, column + j), beyond the edges 0; a line has COLUMNS + PAD elements. Done
 * after the wait for its group and a barrier. */
template <int LINES, int COLUMNS>
__device__ static inline void copy(bf16 *tile, const matrix &x, int64_t row, int64_t column)
{
  enum { SIZE = pack<bf16>::SIZE, PACKS_PER_LINE = COLUMNS == 48 ? 8 : COLUMNS / SIZE };
  enum { STEP = THREADS / PACKS_PER_LINE }; /* lines that the block copies at once */
  int i = threadIdx.x / PACKS_PER_LINE, j = threadIdx.x % PACKS_PER_LINE * SIZE;
  int lines = x.rows - row < LINES ? (int)(x.rows - row) : LINES;
  int64_t left = x.columns - column - j;
  const bf16 *from = x.at + (row + i) * x.down + (column + j) * x.along;
  tile += i * (COLUMNS + PAD) + j;
  if (j >= COLUMNS)
    return;
  if (x.whole)
#pragma unroll
    for (int k = 0; k < LINES; k += STEP) {
      bool real = i + k < lines && left > 0;
      if (i + k < LINES)
        copy_start<16>(tile + k * (COLUMNS + PAD), real ? from : x.at, real);
      from += STEP * x.down;
    }
  else
#pragma unroll 1
    for (; i < LINES; i += STEP, from += STEP * x.down, tile += STEP * (COLUMNS + PAD)) {
      pack<bf16> p;
#pragma unroll
      for (int e = 0; e < SIZE; e++)
        p.at[e] = i < lines && e < left ? from[e * x.along] : real_of<bf16>(0.0f);
      store(p, tile, 0, 0, true);
    }
}

/* ---- products of tiles in shared memory ------------------------------------------------------ */

/* sum += x b, for LINES tiles of 16 rows; b (16, WIDTH) by rows of WIDTH + PAD. */
template <int LINES, int WIDTH>
__device__ static inline void multiply_tiles(float (&sum)[LINES][WIDTH / EIGHT][4],
                                             const uint32_t (&x)[LINES][4], const bf16 *b)
{
  int lane = threadIdx.x % WARP;
  b += lane % FRAGMENT * (WIDTH + PAD) + lane / FRAGMENT * EIGHT;
#pragma unroll
  for (int j = 0; j < WIDTH / EIGHT; j += 2) {
    uint32_t y[4];
    load_transposed(y, b + j * EIGHT);
#pragma unroll
    for (int i = 0; i < LINES; i++) {
      multiply(sum[i][j], x[i], y[0], y[1]);
      multiply(sum[i][j + 1], x[i], y[2], y[3]);
    }
  }
}

/* Where element 2 i + j of a lane's array of sums lies in its tile. */
__device__ static inline int line_of(int i)
{
  return threadIdx.x % WARP / 4 + i * EIGHT;
}
__device__ static inline int column_of(int j)
{
  return threadIdx.x % 4 * 2 + j;
}

/* ---- flat: N narrow -------------------------------------------------------------------------- */

enum { FLAT_ROWS = WARPS * FRAGMENT, FLAT_DEPTH = 64 };

/* What a block holds of a slab of K; WIDTH: N up to a multiple of 16. */
template <int WIDTH> struct alignas(32) flat_stage {
  bf16 a[FLAT_ROWS * (FLAT_DEPTH + PAD)], b[FLAT_DEPTH * (WIDTH + PAD)];
};

template <int WIDTH>
__device__ static inline void fill_flat(flat_stage<WIDTH> *stages, const matrix &a, const matrix &b,
                                        int64_t row, int64_t slab)
{
  flat_stage<WIDTH> &stage = stages[slab % STAGES];
  if (slab * FLAT_DEPTH < a.columns) {
    copy<FLAT_ROWS, FLAT_DEPTH>(stage.a, a, row, slab * FLAT_DEPTH);
    copy<FLAT_DEPTH, WIDTH>(stage.b, b, slab * FLAT_DEPTH, 0);
  }
  copies_close();
}

/* c (M, N) = a (M, K) b (K, N). */
template <int WIDTH, class OUT>
__global__ void __launch_bounds__(THREADS, 4)
    gemm_flat_kernel(matrix a, matrix b, OUT *c, int64_t ldc, bool accumulate)
{
  enum { LD_A = FLAT_DEPTH + PAD, LD_B = WIDTH + PAD };
  extern __shared__ __align__(32) unsigned char memory[];
  flat_stage<WIDTH> *stages = (flat_stage<WIDTH> *)memory;
  int64_t first = blockIdx.x * (int64_t)FLAT_ROWS;
  int at = threadIdx.x / WARP * FRAGMENT, lane = threadIdx.x % WARP;
  float sum[1][WIDTH / EIGHT][4] = {};
  for (int64_t slab = 0; slab < STAGES - 1; slab++)
    fill_flat(stages, a, b, first, slab);
  for (int64_t slab = 0; slab * FLAT_DEPTH < a.columns; slab++) {
    copies_wait_but<STAGES - 2>();
    __syncthreads(); /* this slab is there, and the one before is read */
    fill_flat(stages, a, b, first, slab + STAGES - 1);
    const flat_stage<WIDTH> &stage = stages[slab % STAGES];
#pragma unroll
    for (int d = 0; d < FLAT_DEPTH; d += FRAGMENT) {
      uint32_t x[1][4];
      load_matrices(x[0], stage.a + (at + lane % FRAGMENT) * LD_A + d + lane / FRAGMENT * EIGHT);
      multiply_tiles<1, WIDTH>(sum, x, stage.b + d * LD_B);
    }
  }
#pragma unroll
  for (int e = 0; e < WIDTH / EIGHT * 4; e++) {
    int64_t row = first + at + line_of(e / 2 % 2), column = e / 4 * EIGHT + column_of(e % 2);
    OUT *to = c + row * ldc + column;
    if (row < a.rows && column < b.columns)
      *to = real_of<OUT>(sum[0][e / 4][e % 4] + (accumulate ? to_float(*to) : 0.0f));
  }
}

/* ---- shallow: K narrow ----------------------------------------------------------------------- */

enum { SHALLOW_ROWS = WARPS * FRAGMENT, SPAN = 64, LD_SPAN = SPAN + PAD };

/* What a block holds; DEPTH: K up to a multiple of 16. b is kept by columns. */
template <int DEPTH, int COLUMNS> struct alignas(32) shallow_memory {
  bf16 a[SHALLOW_ROWS * (DEPTH + PAD)], b[COLUMNS * (DEPTH + PAD)];
  float patch[WARPS][FRAGMENT * LD_SPAN];
};

/* patch = a warp's 16 rows of a times SPAN columns of b. */
template <int DEPTH>
__device__ static inline void multiply_span(const bf16 *a, const bf16 *b, float *patch)
{
  enum { LD = DEPTH + PAD };
  int lane = threadIdx.x % WARP, in_eight = lane % EIGHT, odd = lane / EIGHT % 2;
  float sum[SPAN / EIGHT][4] = {};
#pragma unroll
  for (int d = 0; d < DEPTH; d += FRAGMENT) {
    uint32_t x[4];
    load_matrices(x, a + lane % FRAGMENT * LD + d + lane / FRAGMENT * EIGHT);
#pragma unroll
    for (int j = 0; j < SPAN / EIGHT; j += 2) {
      uint32_t y[4];
      int column = (j + lane / FRAGMENT) * EIGHT + in_eight;
      load_matrices(y, b + column * LD + d + odd * EIGHT);
      multiply(sum[j], x, y[0], y[1]);
      multiply(sum[j + 1], x, y[2], y[3]);
    }
  }
#pragma unroll
  for (int e = 0; e < SPAN / EIGHT * 2; e++)
    *(float2 *)(patch + line_of(e % 2) * LD_SPAN + e / 2 * EIGHT + column_of(0)) =
        make_float2(sum[e / 2][e % 2 * 2], sum[e / 2][e % 2 * 2 + 1]);
}

/* What a warp adds to c and stores: SPAN columns of 16 rows, of which a lane has EACH packs. */
template <class OUT> struct span {
  enum { SIZE = pack<OUT>::SIZE, LINE = SPAN / SIZE, DOWN = WARP / LINE, EACH = FRAGMENT / DOWN };
};

/* held = what c holds, or zeros; c: this lane's first pack. */
template <class OUT>
__device__ static inline void load_span(pack<OUT> *held, const OUT *c, int64_t ldc, int rows,
                                        bool wanted)
{
#pragma unroll
  for (int e = 0; e < span<OUT>::EACH; e++)
    load(held[e], c + e * span<OUT>::DOWN * ldc, 0, 0, wanted && e * span<OUT>::DOWN < rows);
}

/* c = patch + held; both from this lane's first pack on. */
template <class OUT>
__device__ static inline void store_span(const float *patch, const pack<OUT> *held, OUT *c,
                                         int64_t ldc, int rows)
{
#pragma unroll
  for (int e = 0; e < span<OUT>::EACH; e++) {
    const float *value = patch + e * span<OUT>::DOWN * LD_SPAN;
    pack<OUT> p;
#pragma unroll
    for (int j = 0; j < span<OUT>::SIZE; j++)
      p.at[j] = real_of<OUT>(value[j] + to_float(held[e].at[j]));
    if (e * span<OUT>::DOWN < rows)
      store(p, c + e * span<OUT>::DOWN * ldc, 0, 0, true);
  }
}

/* The same for any addresses, element by element; c: the span's first element. */
template <class OUT>
__device__ static inline void store_elements(const float *patch, OUT *c, int64_t ldc, int rows,
                                             int64_t columns, bool accumulate)
{
#pragma unroll 1
  for (int e = threadIdx.x % WARP; e < FRAGMENT * SPAN; e += WARP) {
    OUT *to = c + e / SPAN * ldc + e % SPAN;
    if (e / SPAN < rows && e % SPAN < columns)
      *to = real_of<OUT>(patch[e / SPAN * LD_SPAN + e % SPAN] + (accumulate ? to_float(*to) : 0));
  }
}

/* c (M, N) = a (M, K) b, b's transpose being (N, K). What c holds is asked for first, and added
 * from registers: a warp has 4 KB of it under way. whole: c allows 16-byte access. */
template <int DEPTH, class OUT>
__global__ void __launch_bounds__(THREADS)
    gemm_shallow_kernel(matrix a, matrix b, OUT *c, int64_t ldc, bool accumulate, bool whole)
{
  enum { COLUMNS = 16 * pack<OUT>::SIZE, SPANS = COLUMNS / SPAN, LD = DEPTH + PAD };
  extern __shared__ __align__(32) unsigned char memory[];
  shallow_memory<DEPTH, COLUMNS> &shared = *(shallow_memory<DEPTH, COLUMNS> *)memory;
  int64_t tiles = (b.rows + COLUMNS - 1) / COLUMNS;
  int64_t first = blockIdx.x / tiles * SHALLOW_ROWS, column = blockIdx.x % tiles * COLUMNS;
  int at = threadIdx.x / WARP * FRAGMENT, lane = threadIdx.x % WARP;
  int line = lane / span<OUT>::LINE, in_line = lane % span<OUT>::LINE * span<OUT>::SIZE;
  int64_t left = a.rows - first - at;
  int rows = left < FRAGMENT ? (int)left : FRAGMENT;
  copy<SHALLOW_ROWS, DEPTH>(shared.a, a, first, 0);
  copy<COLUMNS, DEPTH>(shared.b, b, column, 0);
  copies_close();
  c += (first + at) * ldc + column;
  OUT *mine = c + line * ldc + in_line;
  pack<OUT> held[SPANS][span<OUT>::EACH];
#pragma unroll
  for (int s = 0; s < SPANS; s++)
    load_span(held[s], mine + s * SPAN, ldc, rows - line,
              accumulate && whole && column + s * SPAN + in_line < b.rows);
  copies_wait_but<0>();
  __syncthreads();
  float *patch = shared.patch[threadIdx.x / WARP];
#pragma unroll
  for (int s = 0; s < SPANS; s++) {
    multiply_span<DEPTH>(shared.a + at * LD, shared.b + s * SPAN * LD, patch);
    __syncwarp();
    int64_t columns = b.rows - column - s * SPAN;
    if (!whole)
      store_elements(patch, c + s * SPAN, ldc, rows, columns, accumulate);
    else if (in_line < columns)
      store_span(patch + line * LD_SPAN + in_line, held[s], mine + s * SPAN, ldc, rows - line);
    __syncwarp(); /* the patch is read */
  }
}

/* ---- gradient: N narrow, a sum over tokens --------------------------------------------------- */

enum { GRADIENT_ROWS = 128, SLAB = 32, PARTS = 512, LEAST_PART = 256 };

/* What a block holds of a slab of tokens. */
template <int WIDTH> struct alignas(32) gradient_stage {
  bf16 a[SLAB * (GRADIENT_ROWS + PAD)], b[SLAB * (WIDTH + PAD)];
};

template <int WIDTH>
__device__ static inline void fill_gradient(gradient_stage<WIDTH> *stages, const matrix &a,
                                            const matrix &b, int64_t column, int64_t token,
                                            int64_t end, int64_t slab)
{
  gradient_stage<WIDTH> &stage = stages[slab % STAGES];
  if (token < end) {
    copy<SLAB, GRADIENT_ROWS>(stage.a, a, token, column);
    copy<SLAB, WIDTH>(stage.b, b, token, 0);
  }
  copies_close();
}

/* out[part] (tiles * GRADIENT_ROWS, WIDTH) = a^T b over tokens part * length up to the next part's,
 * a (T, K), b (T, N); length is a multiple of SLAB. */
template <int WIDTH>
__global__ void __launch_bounds__(THREADS, WIDTH == 64 ? 3 : 4)
    gemm_gradient_parts(matrix a, matrix b, int64_t length, int64_t tiles, float *out)
{
  enum { LD_A = GRADIENT_ROWS + PAD, LD_B = WIDTH + PAD };
  enum { EACH = GRADIENT_ROWS / WARPS, LINES = EACH / FRAGMENT }; /* rows of c of a warp */
  extern __shared__ __align__(32) unsigned char memory[];
  gradient_stage<WIDTH> *stages = (gradient_stage<WIDTH> *)memory;
  int64_t column = blockIdx.x % tiles * GRADIENT_ROWS, first = blockIdx.x / tiles * length;
  int64_t end = first + length < a.rows ? first + length : a.rows;
  int at = threadIdx.x / WARP * EACH, lane = threadIdx.x % WARP;
  float sum[LINES][WIDTH / EIGHT][4] = {};
  for (int64_t slab = 0; slab < STAGES - 1; slab++)
    fill_gradient(stages, a, b, column, first + slab * SLAB, end, slab);
  for (int64_t slab = 0; first + slab * SLAB < end; slab++) {
    copies_wait_but<STAGES - 2>();
    __syncthreads(); /* this slab is there, and the one before is read */
    int64_t next = slab + STAGES - 1;
    fill_gradient(stages, a, b, column, first + next * SLAB, end, next);
    const gradient_stage<WIDTH> &stage = stages[slab % STAGES];
    const bf16 *left =
        stage.a + (lane / FRAGMENT * EIGHT + lane % EIGHT) * LD_A + at + lane / EIGHT % 2 * EIGHT;
#pragma unroll
    for (int d = 0; d < SLAB; d += FRAGMENT) {
      uint32_t x[LINES][4];
#pragma unroll
      for (int i = 0; i < LINES; i++)
        load_transposed(x[i], left + d * LD_A + i * FRAGMENT);
      multiply_tiles<LINES, WIDTH>(sum, x, stage.b + d * LD_B);
    }
  }
  out += (blockIdx.x * (int64_t)GRADIENT_ROWS + at) * WIDTH;
#pragma unroll
  for (int i = 0; i < LINES; i++)
#pragma unroll
    for (int e = 0; e < WIDTH / EIGHT * 2; e++)
      *(float2 *)(out + (i * FRAGMENT + line_of(e % 2)) * WIDTH + e / 2 * EIGHT + column_of(0)) =
          make_float2(sum[i][e / 2][e % 2 * 2], sum[i][e / 2][e % 2 * 2 + 1]);
}

/* c (K, N) = the sum of parts (height, width), in their order. */
__global__ void gemm_gradient_sum(int64_t k, int64_t n, int parts, int64_t height, int width,
                                  const float *part, float *c, int64_t ldc, bool accumulate)
{
  int64_t step = (int64_t)gridDim.x * blockDim.x;
  for (int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; at < k * width; at += step) {
    float sum = 0;
#pragma unroll 8
    for (int p = 0; p < parts; p++)
      sum += part[p * height * width + at];
    float *to = c + at / width * ldc + at % width;
    if (at % width < n)
      *to = sum + (accumulate ? *to : 0.0f);
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* Allows a kernel the shared memory of a launch. */
template <class KERNEL> static int allow(KERNEL *kernel, int bytes)
{
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

template <int WIDTH, class OUT>
static int flat(const matrix &a, const matrix &b, OUT *c, int64_t ldc, bool accumulate,
                cudaStream_t s)
{
  int bytes = STAGES * sizeof(flat_stage<WIDTH>);
  if (allow(gemm_flat_kernel<WIDTH, OUT>, bytes))
    return neapi_refused("%d bytes of shared memory for gemm_flat_kernel<WIDTH, OUT>", bytes);
  unsigned blocks = (unsigned)((a.rows + FLAT_ROWS - 1) / FLAT_ROWS);
  LAUNCH(blocks, THREADS, bytes, s, gemm_flat_kernel<WIDTH, OUT>)(a, b, c, ldc, accumulate);
  return launched();
}

template <int DEPTH, class OUT>
static int shallow(const matrix &a, const matrix &b, OUT *c, int64_t ldc, bool accumulate,
                   cudaStream_t s)
{
  const int64_t COLUMNS = 16 * pack<OUT>::SIZE;
  int bytes = sizeof(shallow_memory<DEPTH, 16 * pack<OUT>::SIZE>);
  if (allow(gemm_shallow_kernel<DEPTH, OUT>, bytes))
    return neapi_refused("%d bytes of shared memory for gemm_shallow_kernel<DEPTH, OUT>", bytes);
  int64_t tiles = (b.rows + COLUMNS - 1) / COLUMNS;
  unsigned blocks = (unsigned)((a.rows + SHALLOW_ROWS - 1) / SHALLOW_ROWS * tiles);
  LAUNCH(blocks, THREADS, bytes, s, gemm_shallow_kernel<DEPTH, OUT>)
  (a, b, c, ldc, accumulate, aligned<OUT>(ldc | b.rows, c));
  return launched();
}

/* PARTS blocks in all, but none with fewer than LEAST_PART tokens. */
template <int WIDTH>
static int gradient(const matrix &a, const matrix &b, float *c, int64_t ldc, bool accumulate,
                    void *stream)
{
  int64_t tiles = (a.columns + GRADIENT_ROWS - 1) / GRADIENT_ROWS;
  int64_t parts = PARTS / tiles, most = (a.rows + LEAST_PART - 1) / LEAST_PART;
  parts = parts < most ? parts : most;
  parts = parts > 1 ? parts : 1;
  int64_t slabs = (a.rows + SLAB - 1) / SLAB, length = (slabs + parts - 1) / parts * SLAB;
  int64_t height = tiles * GRADIENT_ROWS;
  int bytes = STAGES * sizeof(gradient_stage<WIDTH>);
  if (allow(gemm_gradient_parts<WIDTH>, bytes))
    return neapi_refused("%d bytes of shared memory for gemm_gradient_parts<WIDTH>", bytes);
  float *sum = (float *)scratch_open(parts * height * WIDTH * (int64_t)sizeof(float), stream);
  if (!sum)
    return NEAPI_KERNEL_MEMORY;
  LAUNCH((unsigned)(tiles * parts), THREADS, bytes, stream_of(stream), gemm_gradient_parts<WIDTH>)
  (a, b, length, tiles, sum);
  LAUNCH(blocks_for(a.columns * WIDTH, BLOCK), BLOCK, 0, stream_of(stream), gemm_gradient_sum)
  (a.columns, b.columns, (int)parts, height, WIDTH, sum, c, ldc, accumulate);
  scratch_close(sum, stream);
  return launched();
}

/* function<size up to a multiple of 16, ...>(...) for a narrow size. */
#define BY_SIZE(size, function, ...)                                                               \
  switch (((size) + FRAGMENT - 1) / FRAGMENT) {                                                    \
  case 0:                                                                                          \
  case 1:                                                                                          \
    return function<16>(__VA_ARGS__);                                                              \
  case 2:                                                                                          \
    return function<32>(__VA_ARGS__);                                                              \
  case 3:                                                                                          \
    return function<48>(__VA_ARGS__);                                                              \
  default:                                                                                         \
    return function<64>(__VA_ARGS__);                                                              \
  }

template <class OUT>
int neapi_cuda_narrow(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *b,
                      int64_t ldb, int trans_b, OUT *c, int64_t ldc, int accumulate, void *stream)
{
  cudaStream_t s = stream_of(stream);
  matrix left = matrix_of(a, m, k, lda, false);
  if (!m || !n)
    return NEAPI_KERNEL_OK;
  if (n < NARROW)
    BY_SIZE(n, flat, left, matrix_of(b, k, n, ldb, trans_b), c, ldc, accumulate, s)
  else
    BY_SIZE(k, shallow, left, matrix_of(b, n, k, ldb, !trans_b), c, ldc, accumulate, s)
}
template int neapi_cuda_narrow<float>(int64_t, int64_t, int64_t, const void *, int64_t,
                                      const void *, int64_t, int, float *, int64_t, int, void *);
template int neapi_cuda_narrow<bf16>(int64_t, int64_t, int64_t, const void *, int64_t, const void *,
                                     int64_t, int, bf16 *, int64_t, int, void *);

int neapi_cuda_narrow_gradient(int64_t t, int64_t k, int64_t n, const void *a, int64_t lda,
                               const void *b, int64_t ldb, float *c, int64_t ldc, int accumulate,
                               void *stream)
{
  if (!k || !n)
    return NEAPI_KERNEL_OK;
  BY_SIZE(n, gradient, matrix_of(a, t, k, lda, false), matrix_of(b, t, n, ldb, false), c, ldc,
          accumulate, stream)
}

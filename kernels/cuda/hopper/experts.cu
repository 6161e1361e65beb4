/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The experts' products on Hopper: one launch per product for all slots.
 *
 * Two blocks, each on its multiprocessor, work as a pair on tiles of 128 x 256 beside or above each
 * other (tiles.h), one pair of tiles after the other; each loads half of the factor that their
 * tiles share, for both. In a block, one thread has the copy engine load factors, 64 elements of K
 * at a time, into a ring of stages; two warpgroups multiply, 64 rows each, and put the finished
 * tile into staging buffers, rounded to bf16; from there three store warps write it while the next
 * tile is multiplied. Where it is the product for an activation or its gradient they compute that
 * from the rounded values, as separate passes would. Weight gradients are float; the copy engine
 * stores them, one piece after the other.
 *
 * Every element is summed over K in the same order wherever its row stands and whatever other rows
 * there are. So that rows keep their bits, who chooses between these and other products may look at
 * H and F, never at numbers of rows.
 *
 * The kernel's parts: hopper.cuh (instructions), plan.cuh (a block's tiles and memory),
 * loading.cuh, multiplying.cuh, finishing.cuh; here they meet and are launched.
 */
#include "experts.h"
#include "loading.cuh"
#include "multiplying.cuh"

#include <pthread.h>

template <bool A_ACROSS, bool B_ACROSS, epilogue EPILOGUE>
__global__ void __launch_bounds__(THREADS, 1) experts_kernel(const __grid_constant__ job j)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char raw[];
  ring r = open_ring<EPILOGUE>(raw + (1024 - shared_address(raw) % 1024) % 1024);
  tile_iterator it = {0, 0, cluster_rank()};
  int role = threadIdx.x / GROUP;
  if (role == 0) {
    registers_less<OTHER_REGISTERS>();
    if (threadIdx.x == 0)
      load_tiles<A_ACROSS, B_ACROSS, EPILOGUE>(j, r, it);
    else if (plan<EPILOGUE>::BY_STORE_WARPS && threadIdx.x >= WARP)
      store_tiles<EPILOGUE>(j, r, it, threadIdx.x / WARP - 1);
  } else {
    registers_more<MULTIPLY_REGISTERS>();
    multiply_tiles<A_ACROSS, B_ACROSS, EPILOGUE>(j, r, it, role - 1);
  }
  cluster_meet(); /* until then the other block copies into this one's memory */
#endif
}

/* out of each row of the groups = the sum of its count parts, in order. */
__global__ void add_parts(const __grid_constant__ neapi_tiles t, int count, const float *parts,
                          float *out)
{
  const neapi_tile_group &g = t.group[blockIdx.x];
  for (int i = threadIdx.x; i < g.rows; i += blockDim.x) {
    int64_t row = (int64_t)g.first + i;
    float sum = 0;
    for (int p = 0; p < count; p++)
      sum += parts[row * count + p];
    out[row] = sum;
  }
}

/* ---- launching ------------------------------------------------------------------------------- */

typedef decltype(&cuTensorMapEncodeTiled) encoder;

static encoder encode;
static int processors[64]; /* by device; 0: not Hopper */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void ask_driver(void)
{
  void *found = NULL;
  cudaDriverEntryPointQueryResult result;
  int count = 0;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                       &result) != cudaSuccess ||
      result != cudaDriverEntryPointSuccess || cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return;
  }
  encode = (encoder)found;
  for (int d = 0; d < count && d < 64; d++) {
    int major = 0, minor = 0, number = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, d);
    cudaDeviceGetAttribute(&number, cudaDevAttrMultiProcessorCount, d);
    processors[d] = major == 9 && minor == 0 ? number : 0;
  }
}

/* Multiprocessors of the calling thread's GPU; 0: it is not Hopper. */
static int blocks(void)
{
  int device = 0;
  pthread_once(&once, ask_driver);
  return cudaGetDevice(&device) == cudaSuccess && device < 64 ? processors[device] : 0;
}

/* An array (pages, rows, columns) in boxes of box_rows lines of 128 bytes. */
static bool map_array(CUtensorMap *map, CUtensorMapDataType type, const void *x, int64_t columns,
                      int64_t rows, int64_t pages, int64_t page, int box_rows)
{
  cuuint64_t size = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
  cuuint64_t sizes[] = {(cuuint64_t)columns, (cuuint64_t)rows, (cuuint64_t)pages};
  cuuint64_t steps[] = {(cuuint64_t)columns * size, (cuuint64_t)page * size};
  cuuint32_t box[] = {LINE / (cuuint32_t)size, (cuuint32_t)box_rows, 1}, each[] = {1, 1, 1};
  return encode(map, type, 3, (void *)x, sizes, steps, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

static bool map_factor(CUtensorMap *map, const void *x, int64_t columns, int64_t rows,
                       int64_t pages, int64_t page, int box_rows)
{
  return map_array(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, x, columns, rows, pages, page, box_rows);
}

static int unmapped(int64_t rows)
{
  return neapi_refused("to map the arrays of %lld rows of experts", (long long)rows);
}

template <bool A_ACROSS, bool B_ACROSS, epilogue EPILOGUE>
static int launch(const job &j, void *stream)
{
  if (!j.tiles.pairs)
    return NEAPI_KERNEL_OK;
  /* A setting of the thread's GPU, of which a process may have several. */
  if (cudaFuncSetAttribute((const void *)experts_kernel<A_ACROSS, B_ACROSS, EPILOGUE>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, plan<EPILOGUE>::SHARED))
    return launched();
  int most = blocks() / PAIR, pairs = j.tiles.pairs < most ? j.tiles.pairs : most;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = PAIR;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3((unsigned)(pairs * PAIR));
  config.blockDim = dim3(THREADS);
  config.dynamicSmemBytes = plan<EPILOGUE>::SHARED;
  config.stream = stream_of(stream);
  config.attrs = &cluster;
  config.numAttrs = 1;
  neapi_launching("experts_kernel", config.gridDim, config.blockDim, config.dynamicSmemBytes);
  cudaLaunchKernelEx(&config, experts_kernel<A_ACROSS, B_ACROSS, EPILOGUE>, j);
  return launched();
}

/* The slots whose experts have the same F, and their hidden rows. */
typedef struct {
  const neapi_slots *s;
  int64_t f;
  int64_t begin, end; /* of their rows */
  int64_t at, hidden; /* element of activation where the hidden rows start, and how many they are */
  const bf16 *w1, *w2; /* of the first slot; NULL: none */
} same_f;

static bool belongs(const same_f *x, const neapi_batch *b)
{
  return b->ffn == x->f && b->rows;
}

/* weights: or NULL. */
static same_f find_same(const neapi_slots *s, int64_t f, const void *weights)
{
  const bf16 *w1 = (const bf16 *)weights;
  same_f x = {s, f, INT64_MAX, 0, INT64_MAX, 0, w1, w1 ? w1 + 2 * s->h * f : NULL};
  int64_t hidden_end = 0;
  for (int64_t i = 0; i < s->count; i++) {
    const neapi_batch *b = &s->batches[i];
    if (!belongs(&x, b))
      continue;
    x.begin = b->first < x.begin ? b->first : x.begin;
    x.end = b->first + b->rows > x.end ? b->first + b->rows : x.end;
    x.at = b->hidden_at < x.at ? b->hidden_at : x.at;
    hidden_end = b->hidden_at + b->rows * f > hidden_end ? b->hidden_at + b->rows * f : hidden_end;
  }
  x.hidden = x.end ? (hidden_end - x.at) / f : 0;
  return x;
}

/* The slots `from` on, as many as fit in a launch, with rows; returns the first that is left. */
static int64_t fill_tiles(neapi_tiles *t, int64_t from, const same_f *x)
{
  t->count = 0;
  for (; from < x->s->count; from++) {
    const neapi_batch *b = &x->s->batches[from];
    if (belongs(x, b) &&
        !neapi_tiles_add(t, from, b->first, (b->hidden_at - x->at) / x->f, b->rows))
      break;
  }
  return from;
}

static int32_t pieces(int64_t size, int64_t piece)
{
  return (int32_t)((size + piece - 1) / piece);
}

/* out = rows times weights (N, K) or, with across, (K, N) of their slot. hidden: rows are the
 * hidden ones, else out's are. */
template <bool B_ACROSS, epilogue EPILOGUE>
static int rows_product(const same_f *x, bool hidden, const void *rows, const bf16 *weights,
                        int64_t n, int64_t k, void *out, void *activation, float *dots,
                        void *stream)
{
  job j;
  j.out = (bf16 *)out;
  j.activation = (bf16 *)activation;
  j.left_hidden = hidden;
  j.right_hidden = false;
  j.dots = dots;
  j.ld = n;
  j.m = 0;
  j.n = (int32_t)n;
  j.k = (int32_t)k;
  int64_t end = hidden ? x->hidden : x->end;
  if (end > INT32_MAX || !map_factor(&j.a, rows, k, end, 1, end * k, 64) ||
      !map_factor(&j.b, weights, B_ACROSS ? n : k, B_ACROSS ? k : n, x->s->count, x->s->stride,
                  B_ACROSS ? TILE_K : TILE_N / PAIR))
    return unmapped(end);
  int status = NEAPI_KERNEL_OK;
  for (int64_t from = 0; !status && from < x->s->count;) {
    from = fill_tiles(&j.tiles, from, x);
    neapi_tiles_number(&j.tiles, 0,
                       EPILOGUE == GATE ? pieces(n / 2, TILE_N / 2) : pieces(n, TILE_N));
    status = launch<false, B_ACROSS, EPILOGUE>(j, stream);
  }
  return status;
}

/* out of each slot (M, N) float = left^T right over its rows. left_hidden: those of left are the
 * hidden ones, else those of right. */
static int weights_product(const same_f *x, bool left_hidden, const void *left, int64_t m,
                           const void *right, int64_t n, void *out, void *stream)
{
  job j;
  j.out = j.activation = NULL;
  j.left_hidden = left_hidden;
  j.right_hidden = !left_hidden;
  j.dots = NULL;
  j.ld = 0;
  j.m = (int32_t)m;
  j.n = (int32_t)n;
  j.k = 0;
  int64_t lefts = left_hidden ? x->hidden : x->end, rights = left_hidden ? x->end : x->hidden;
  if (x->end > INT32_MAX || !map_factor(&j.a, left, m, lefts, 1, lefts * m, TILE_K) ||
      !map_factor(&j.b, right, n, rights, 1, rights * n, TILE_K) ||
      !map_array(&j.c, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, out, n, m, x->s->count, x->s->stride,
                 ROWS_PER_WARP))
    return unmapped(x->end);
  int status = NEAPI_KERNEL_OK;
  for (int64_t from = 0; !status && from < x->s->count;) {
    from = fill_tiles(&j.tiles, from, x);
    neapi_tiles_number(&j.tiles, (int32_t)m, pieces(n, TILE_N));
    status = launch<true, true, FLOAT>(j, stream);
  }
  return status;
}

/* ---- the operations -------------------------------------------------------------------------- */

bool neapi_hopper_fits(const neapi_slots *s, int64_t f)
{
  return s->h % SIZE == 0 && f % SIZE == 0 && s->stride % SIZE == 0 && blocks() > 0;
}

int neapi_hopper_forward(const neapi_slots *s, int64_t f, const void *weights, const void *in,
                         void *gate_up, void *activation, void *out, void *stream)
{
  same_f x = find_same(s, f, weights);
  if (!x.end)
    return NEAPI_KERNEL_OK;
  bf16 *both = (bf16 *)gate_up + 2 * x.at, *hidden = (bf16 *)activation + x.at;
  int status =
      rows_product<true, GATE>(&x, false, in, x.w1, 2 * f, s->h, both, hidden, NULL, stream);
  return status || !out
             ? status
             : rows_product<true, STORE>(&x, true, hidden, x.w2, s->h, f, out, NULL, NULL, stream);
}

/* dlog of each row: the dots of its tiles, added up. */
static int add_dots(const same_f *x, int parts, const float *dots, float *dlog, void *stream)
{
  neapi_tiles t;
  for (int64_t from = 0; from < x->s->count;) {
    from = fill_tiles(&t, from, x);
    if (t.count)
      LAUNCH((unsigned)t.count, BLOCK, 0, stream_of(stream), add_parts)(t, parts, dots, dlog);
  }
  return launched();
}

static int gate_back(const same_f *x, const void *dout, bf16 *both, bf16 *hidden, float *dlog,
                     void *stream)
{
  int parts = pieces(x->f, TILE_N);
  if (parts == 1)
    return rows_product<false, GATE_BACK>(x, false, dout, x->w2, x->f, x->s->h, both, hidden, dlog,
                                          stream);
  float *dots = (float *)scratch_open((x->end - x->begin) * parts * 4, stream);
  if (!dots)
    return NEAPI_KERNEL_MEMORY;
  float *of_row_0 = dots - x->begin * parts;
  int status = rows_product<false, GATE_BACK>(x, false, dout, x->w2, x->f, x->s->h, both, hidden,
                                              of_row_0, stream);
  if (!status)
    status = add_dots(x, parts, of_row_0, dlog, stream);
  scratch_close(dots, stream);
  return status;
}

int neapi_hopper_backward(const neapi_slots *s, int64_t f, const void *weights, const void *dout,
                          void *gate_up, void *activation, void *din, void *dlog, void *stream)
{
  same_f x = find_same(s, f, weights);
  if (!x.end)
    return NEAPI_KERNEL_OK;
  bf16 *both = (bf16 *)gate_up + 2 * x.at, *hidden = (bf16 *)activation + x.at;
  int status = gate_back(&x, dout, both, hidden, (float *)dlog, stream);
  return status ? status
                : rows_product<false, STORE>(&x, true, both, x.w1, s->h, 2 * f, din, NULL, NULL,
                                             stream);
}

int neapi_hopper_gradients(const neapi_slots *s, int64_t f, const void *in, const void *dgate_up,
                           const void *activation, const void *dout, void *gradients, void *stream)
{
  same_f x = find_same(s, f, NULL);
  if (!x.end)
    return NEAPI_KERNEL_OK;
  float *dw1 = (float *)gradients, *dw2 = dw1 + 2 * s->h * f;
  const bf16 *both = (const bf16 *)dgate_up + 2 * x.at, *hidden = (const bf16 *)activation + x.at;
  int status = weights_product(&x, false, in, s->h, both, 2 * f, dw1, stream);
  return status ? status : weights_product(&x, true, hidden, f, dout, s->h, dw2, stream);
}

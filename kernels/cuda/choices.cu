/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of choices, as the CPU assigns them: a warp counts a chunk of choices, one scan adds the
 * chunks up, and each warp assigns rows to its own, 32 at a time. */
#include "cuda.cuh"

enum { CHUNK = 256, WARPS = BLOCK / WARP };

/* The choice's expert; -1 past the end. */
__device__ static inline int32_t expert_of(int64_t i, int64_t n, const int32_t *ids)
{
  return i < n ? ids[i] : -1;
}

/* tally (chunks, E) += choices of each expert. */
__global__ void count_chunks(int64_t n, int64_t e, const int32_t *ids, int32_t *tally)
{
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
       i += (int64_t)gridDim.x * blockDim.x)
    atomicAdd(&tally[i / CHUNK * e + ids[i]], 1);
}

/* Each expert's tallies become the sum of those before; a warp per expert. counts, if not NULL: of
 * all. */
__global__ void scan_chunks(int64_t chunks, int64_t e, int32_t *tally, int64_t *counts)
{
  int lane = threadIdx.x % WARP;
  int64_t expert = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP;
  if (expert >= e)
    return;
  int32_t before = 0;
  for (int64_t s = 0; s < chunks; s += WARP) {
    int64_t at = (s + lane) * e + expert;
    int32_t own = s + lane < chunks ? tally[at] : 0, sum = own;
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
      int32_t other = __shfl_up_sync(0xffffffffu, sum, step);
      sum += lane >= step ? other : 0;
    }
    if (s + lane < chunks)
      tally[at] = before + sum - own;
    before += __shfl_sync(0xffffffffu, sum, WARP - 1);
  }
  if (counts && lane == 0)
    counts[expert] = before;
}

/* The row of an expert's choice with a rank among its choices. */
__device__ static inline int32_t find_row(const int32_t *first, const neapi_segment *segments,
                                          int32_t expert, int32_t rank)
{
  const neapi_segment *segment = segments + first[expert];
  for (; rank >= segment->rows; segment++)
    rank -= segment->rows;
  return segment->row + rank;
}

/* before (chunks, E): choices of each expert in the chunks before; it is counted on. */
__global__ void assign_chunks(int64_t n, int64_t e, const int32_t *ids, const int32_t *first,
                              const neapi_segment *segments, int32_t *before, int32_t *position)
{
  int lane = threadIdx.x % WARP;
  int64_t chunk = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP, end = (chunk + 1) * CHUNK;
  int32_t *mine = before + chunk * e;
  for (int64_t from = chunk * CHUNK; from < n && from < end; from += WARP) {
    int64_t i = from + lane;
    int32_t id = expert_of(i, n, ids);
    unsigned same = __match_any_sync(0xffffffffu, id), lower = same & ((1u << lane) - 1);
    int32_t earlier = id < 0 ? 0 : mine[id];
    __syncwarp();
    if (id >= 0 && !lower)
      mine[id] = earlier + __popc(same);
    __syncwarp();
    if (id >= 0)
      position[i] = find_row(first, segments, id, earlier + __popc(lower));
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

static int64_t chunks_of(int64_t n)
{
  return (n + CHUNK - 1) / CHUNK;
}

static unsigned warps_for(int64_t n)
{
  return (unsigned)((n + WARPS - 1) / WARPS);
}

/* tally (chunks, E): choices of each expert in the chunks before. */
static void count_before(int64_t n, int64_t e, const int32_t *ids, int32_t *tally, int64_t *counts,
                         cudaStream_t s)
{
  cudaMemsetAsync(tally, 0, (size_t)(chunks_of(n) * e) * sizeof *tally, s);
  if (n)
    LAUNCH(blocks_for(n, BLOCK), BLOCK, 0, s, count_chunks)(n, e, ids, tally);
  if (e)
    LAUNCH(warps_for(e), BLOCK, 0, s, scan_chunks)(chunks_of(n), e, tally, counts);
}

static int count_choices(int64_t n, int64_t e, const int32_t *ids, int64_t *counts, void *stream)
{
  int32_t *tally = (int32_t *)scratch_open(chunks_of(n) * e * 4, stream);
  if (!tally)
    return NEAPI_KERNEL_MEMORY;
  count_before(n, e, ids, tally, counts, stream_of(stream));
  scratch_close(tally, stream);
  return launched();
}

static int assign_choices(int64_t n, int64_t e, const int32_t *ids, const int32_t *first,
                          const neapi_segment *segments, int32_t *position, void *stream)
{
  cudaStream_t s = stream_of(stream);
  int64_t tallies = chunks_of(n) * e;
  size_t firsts = (size_t)(e + 1) * sizeof *first, sizes = (size_t)first[e] * sizeof *segments;
  int32_t *tally = (int32_t *)scratch_open(tallies * 4 + (int64_t)(firsts + sizes), stream);
  if (!tally)
    return NEAPI_KERNEL_MEMORY;
  int32_t *near_first = tally + tallies;
  neapi_segment *near_segments = (neapi_segment *)(near_first + e + 1);
  cudaMemcpyAsync(near_first, first, firsts, cudaMemcpyHostToDevice, s);
  cudaMemcpyAsync(near_segments, segments, sizes, cudaMemcpyHostToDevice, s);
  count_before(n, e, ids, tally, NULL, s);
  if (n)
    LAUNCH(warps_for(chunks_of(n)), BLOCK, 0, s, assign_chunks)
  (n, e, ids, near_first, near_segments, tally, position);
  scratch_close(tally, stream);
  return launched();
}

LAUNCHER_OF_BOTH(count_choices);
LAUNCHER_OF_BOTH(assign_choices);

/* Places of choices, as the CPU gives them: a warp counts a segment of choices, one scan adds the
 * segments up, and each warp places its own, 32 at a time. */
#include "cuda.cuh"

enum { SEGMENT = 256, WARPS = BLOCK / WARP };

/* The choice's expert; -1 past the end. */
__device__ static inline int32_t expert_of(int64_t i, int64_t n, const int32_t *ids)
{
  return i < n ? ids[i] : -1;
}

/* tally (segments, E) += choices of each expert. */
__global__ void tally_segments(int64_t n, int64_t e, const int32_t *ids, int32_t *tally)
{
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
       i += (int64_t)gridDim.x * blockDim.x)
    atomicAdd(&tally[i / SEGMENT * e + ids[i]], 1);
}

/* Each expert's tallies become the sum of those before; a warp an expert. counts, if not NULL: of
 * all. */
__global__ void scan_segments(int64_t segments, int64_t e, int32_t *tally, int64_t *counts)
{
  int lane = threadIdx.x % WARP;
  int64_t expert = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP;
  if (expert >= e)
    return;
  int32_t before = 0;
  for (int64_t s = 0; s < segments; s += WARP) {
    int64_t at = (s + lane) * e + expert;
    int32_t own = s + lane < segments ? tally[at] : 0, sum = own;
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
      int32_t other = __shfl_up_sync(0xffffffffu, sum, step);
      sum += lane >= step ? other : 0;
    }
    if (s + lane < segments)
      tally[at] = before + sum - own;
    before += __shfl_sync(0xffffffffu, sum, WARP - 1);
  }
  if (counts && lane == 0)
    counts[expert] = before;
}

/* The row of an expert's choice with a rank among its choices. */
__device__ static inline int32_t find_row(const int32_t *first, const neapi_room *rooms,
                                          int32_t expert, int32_t rank)
{
  const neapi_room *room = rooms + first[expert];
  for (; rank >= room->rows; room++)
    rank -= room->rows;
  return room->row + rank;
}

/* before (segments, E): choices of each expert in the segments before; it is counted on. */
__global__ void place_segments(int64_t n, int64_t e, const int32_t *ids, const int32_t *first,
                               const neapi_room *rooms, int32_t *before, int32_t *position)
{
  int lane = threadIdx.x % WARP;
  int64_t segment = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP, end = (segment + 1) * SEGMENT;
  int32_t *mine = before + segment * e;
  for (int64_t from = segment * SEGMENT; from < n && from < end; from += WARP) {
    int64_t i = from + lane;
    int32_t id = expert_of(i, n, ids);
    unsigned same = __match_any_sync(0xffffffffu, id), lower = same & ((1u << lane) - 1);
    int32_t earlier = id < 0 ? 0 : mine[id];
    __syncwarp();
    if (id >= 0 && !lower)
      mine[id] = earlier + __popc(same);
    __syncwarp();
    if (id >= 0)
      position[i] = find_row(first, rooms, id, earlier + __popc(lower));
  }
}

/* ---- launchers ----------------------------------------------------------------------------- */

static int64_t segments_of(int64_t n)
{
  return (n + SEGMENT - 1) / SEGMENT;
}

static unsigned warps_for(int64_t n)
{
  return (unsigned)((n + WARPS - 1) / WARPS);
}

/* tally (segments, E): choices of each expert in the segments before. */
static void count_before(int64_t n, int64_t e, const int32_t *ids, int32_t *tally, int64_t *counts,
                         cudaStream_t s)
{
  cudaMemsetAsync(tally, 0, (size_t)(segments_of(n) * e) * sizeof *tally, s);
  if (n)
    tally_segments<<<blocks_for(n, BLOCK), BLOCK, 0, s>>>(n, e, ids, tally);
  if (e)
    scan_segments<<<warps_for(e), BLOCK, 0, s>>>(segments_of(n), e, tally, counts);
}

static int count_choices(int64_t n, int64_t e, const int32_t *ids, int64_t *counts, void *stream)
{
  int32_t *tally = (int32_t *)scratch_open(segments_of(n) * e * 4, stream);
  if (!tally)
    return NEAPI_KERNEL_MEMORY;
  count_before(n, e, ids, tally, counts, stream_of(stream));
  scratch_close(tally, stream);
  return launched();
}

static int place_choices(int64_t n, int64_t e, const int32_t *ids, const int32_t *first,
                         const neapi_room *rooms, int32_t *position, void *stream)
{
  cudaStream_t s = stream_of(stream);
  int64_t tallies = segments_of(n) * e;
  size_t firsts = (size_t)(e + 1) * sizeof *first, room = (size_t)first[e] * sizeof *rooms;
  int32_t *tally = (int32_t *)scratch_open(tallies * 4 + (int64_t)(firsts + room), stream);
  if (!tally)
    return NEAPI_KERNEL_MEMORY;
  int32_t *near_first = tally + tallies;
  neapi_room *near_rooms = (neapi_room *)(near_first + e + 1);
  cudaMemcpyAsync(near_first, first, firsts, cudaMemcpyHostToDevice, s);
  cudaMemcpyAsync(near_rooms, rooms, room, cudaMemcpyHostToDevice, s);
  count_before(n, e, ids, tally, NULL, s);
  if (n)
    place_segments<<<warps_for(segments_of(n)), BLOCK, 0, s>>>(n, e, ids, near_first, near_rooms,
                                                               tally, position);
  scratch_close(tally, stream);
  return launched();
}

LAUNCHER_OF_BOTH(count_choices);
LAUNCHER_OF_BOTH(place_choices);

/* SPDX-License-Identifier: Apache-2.0 */
/* What Hopper (sm_90a) has beyond other GPUs, one instruction a function: barriers in shared memory
 * that count bytes, the copy engine for tiles, and products by a warpgroup of 128 threads. */
#ifndef NEAPI_HOPPER_CUH
#define NEAPI_HOPPER_CUH

#include "../cuda.cuh"

#include <cuda.h>

__device__ static inline uint32_t shared_address(const void *p)
{
  return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- barriers: addresses in shared memory ---------------------------------------------------- */

__device__ static inline void barrier_init(uint32_t barrier, int arrivals)
{
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ static inline void barrier_arrive(uint32_t barrier)
{
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Arrives, and makes the phase last until so many bytes have been copied. */
__device__ static inline void barrier_expect(uint32_t barrier, int bytes)
{
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

/* Waits until the phase of this parity is over. */
__device__ static inline void barrier_wait(uint32_t barrier, int parity)
{
  int over;
  do {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.b32 %0, 1, 0, p;\n"
                 "}\n"
                 : "=r"(over)
                 : "r"(barrier), "r"(parity)
                 : "memory");
  } while (!over);
}

__device__ static inline void fence_barriers(void)
{
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Makes this thread's writes to shared memory seen by the copy engine and by products. */
__device__ static inline void fence_shared(void)
{
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Meets the other threads of a warpgroup; id: 1 to 15, one per warpgroup. */
__device__ static inline void warpgroup_meet(int id)
{
  asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
}

/* ---- copies ---------------------------------------------------------------------------------- */

/* The box at column x, row y, page z of a mapped array; what lies outside the array is 0. */
__device__ static inline void copy_box(uint32_t to, const CUtensorMap *map, uint32_t barrier, int x,
                                       int y, int z)
{
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
               "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
               : "memory");
}

__device__ static inline void fetch_map(const CUtensorMap *map)
{
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* The same into the shared memory of all blocks of the cluster that mask names, where `to` and
 * `barrier` lie at the same addresses in each. */
__device__ static inline void copy_box_to_all(uint32_t to, const CUtensorMap *map, uint32_t barrier,
                                              int x, int y, int z, uint16_t mask)
{
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
               ".multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
               "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "h"(mask)
               : "memory");
}

/* Starts to store the box at column x, row y, page z of a mapped array, as far as it lies inside.
 * Those who wrote it to shared memory have fenced it (fence_shared). */
__device__ static inline void store_box(const CUtensorMap *map, uint32_t from, int x, int y, int z)
{
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], "
               "[%1];" ::"l"(map),
               "r"(from), "r"(x), "r"(y), "r"(z)
               : "memory");
}

/* Makes a batch of the stores that this thread has started. */
__device__ static inline void stores_commit(void)
{
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Waits until all but the last LEFT batches have been read from shared memory. */
template <int LEFT> __device__ static inline void stores_wait(void)
{
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(LEFT) : "memory");
}

/* Waits until all batches have been written. */
__device__ static inline void stores_finish(void)
{
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* ---- clusters of blocks ---------------------------------------------------------------------- */

__device__ static inline int cluster_rank(void)
{
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/* Meets all threads of the cluster. */
__device__ static inline void cluster_meet(void)
{
  asm volatile("barrier.cluster.arrive.release;\n"
               "barrier.cluster.wait.acquire;" ::
                   : "memory");
}

/* Arrives at the barrier of this address in another block. */
__device__ static inline void barrier_arrive_at(uint32_t barrier, int rank)
{
  asm volatile("{\n"
               ".reg .b32 there;\n"
               "mapa.shared::cluster.u32 there, %0, %1;\n"
               "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
               "}" ::"r"(barrier),
               "r"(rank)
               : "memory");
}

/* ---- products -------------------------------------------------------------------------------- */

/* Describes a factor in shared memory in lines of 128 bytes, swizzled: line l keeps its 16-byte
 * piece p at position p ^ (l % 8). Eight lines are one atom of 1024 bytes; atoms follow each other.
 *   lines along K (64 elements of K each, one line per row): pass 0;
 *   lines across (64 rows each, one line per element of K): bytes from one 64 rows to the next. */
__device__ static inline uint64_t factor(uint32_t address, uint32_t next_rows)
{
  const uint64_t ATOM = 1024, SWIZZLE_128 = 1;
  uint64_t leading = next_rows ? next_rows / 16 : 1;
  return (uint64_t)((address & 0x3ffff) / 16) | leading << 16 | (ATOM / 16) << 32 |
         SWIZZLE_128 << 62;
}

__device__ static inline void products_begin(void)
{
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ static inline void products_commit(void)
{
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most LEFT committed batches are under way. */
template <int LEFT> __device__ static inline void products_wait(void)
{
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

#define NEAPI_F8(i)                                                                                \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),      \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define NEAPI_F32(i) NEAPI_F8(i), NEAPI_F8(i + 8), NEAPI_F8(i + 16), NEAPI_F8(i + 24)

/* d (64, 256) += a (64, 16) b (16, 256), or with add 0 d = a b. ACROSS: the factor's lines lie
 * across. Thread t of the warpgroup has in d[4 j + 2 i + c] the element of row
 * 16 (t / 32) + 8 i + t % 32 / 4 and column 8 j + 2 (t % 4) + c. */
template <int A_ACROSS, int B_ACROSS>
__device__ static inline void multiply_add(float (&d)[128], uint64_t a, uint64_t b, int add)
{
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "
      "%127}, %128, %129, p, 1, 1, %131, %132;\n"
      "}\n"
      : NEAPI_F32(0), NEAPI_F32(32), NEAPI_F32(64), NEAPI_F32(96)
      : "l"(a), "l"(b), "r"(add), "n"(A_ACROSS), "n"(B_ACROSS));
}

/* What reads d comes after the wait before this. */
__device__ static inline void after_wait(float (&d)[128])
{
#pragma unroll
  for (int i = 0; i < 128; i++)
    asm volatile("" : "+f"(d[i])::"memory");
}

/* ---- others ---------------------------------------------------------------------------------- */

/* Both to float's precision, give or take the last bit; what would be denormal is 0. */
__device__ static inline float reciprocal(float x)
{
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ static inline float power_of_2(float x)
{
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* Stores four 8 x 8 matrices of bf16; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ static inline void store_matrices(uint32_t address, uint32_t a, uint32_t b, uint32_t c,
                                             uint32_t d)
{
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

/* 16 bytes of global memory that are read once; not before what comes before in the program. */
__device__ static inline uint4 read_16(const void *from)
{
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

/* 16 bytes to global memory in one piece; of an assignment the compiler may make several. */
__device__ static inline void write_16(void *to, uint4 v)
{
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}

template <int COUNT> __device__ static inline void registers_less(void)
{
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT> __device__ static inline void registers_more(void)
{
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What GPUs have from sm_80 on: tensor cores that a warp feeds with tiles from shared memory, and
 * copies into it that run beside everything else. On older GPUs these functions trap.
 *
 * A warp holds a tile of 16 rows in its lanes' registers. Lane l has
 *   of float (16, 8), in c[2 i + j]: row l / 4 + 8 i, column 2 (l % 4) + j;
 *   of bf16 (16, 16), in a[i + 2 j]: row l / 4 + 8 i, columns 2 (l % 4) + 8 j and the next. */
#ifndef NEAPI_TENSOR_CUH
#define NEAPI_TENSOR_CUH

#include "cuda.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define NEAPI_ASM(...) asm volatile(__VA_ARGS__)
#else
#define NEAPI_ASM(...) __trap()
#endif

__device__ static inline uint32_t address_of(const void *shared)
{
  return (uint32_t)__cvta_generic_to_shared(shared);
}

/* Four 8 x 8 matrices of bf16; lane l gives the address of row l % 8 of matrix l / 8. Lane l gets
 * columns 2 (l % 4) and the next of row l / 4 of matrix i in m[i]. */
__device__ static inline void load_matrices(uint32_t (&m)[4], const bf16 *row)
{
  NEAPI_ASM("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
            : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
            : "r"(address_of(row))
            : "memory");
}

/* The same of the matrices' transposes. */
__device__ static inline void load_transposed(uint32_t (&m)[4], const bf16 *row)
{
  NEAPI_ASM("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
            : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
            : "r"(address_of(row))
            : "memory");
}

/* c (16, 8) += a (16, 16) b (16, 8). Lane l has rows 2 (l % 4) and the next of column l / 4 of b in
 * upper, and the rows 8 below in lower. */
__device__ static inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t upper,
                                       uint32_t lower)
{
  NEAPI_ASM("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(upper), "r"(lower));
}

/* Two numbers, rounded; the first lies lower. */
__device__ static inline uint32_t pair_of(float first, float second)
{
  uint32_t pair = 0;
  NEAPI_ASM("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

/* 2^x, to 2 ulp; 0 for -infinity. */
__device__ static inline float power_of_two(float x)
{
  float power = 0;
  NEAPI_ASM("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

/* Starts to copy BYTES (8 or 16, and aligned so) to shared memory; zeros unless real, when nothing
 * is read. */
template <int BYTES> __device__ inline void copy_start(void *to, const void *from, bool real)
{
  if (BYTES == 16)
    NEAPI_ASM("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address_of(to)), "l"(from),
              "r"(real ? BYTES : 0)
              : "memory");
  else
    NEAPI_ASM("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(address_of(to)), "l"(from),
              "r"(real ? BYTES : 0)
              : "memory");
}

/* Ends a group of copies that this thread has started. */
__device__ static inline void copies_close(void)
{
  NEAPI_ASM("cp.async.commit_group;" ::: "memory");
}

/* Waits for all of this thread's groups but the last LATER. */
template <int LATER> __device__ inline void copies_wait_but(void)
{
  NEAPI_ASM("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}

/* Waits for all copies that this thread has started. */
__device__ static inline void copies_wait(void)
{
  NEAPI_ASM("cp.async.wait_all;" ::: "memory");
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The bits of random numbers, for the host and for a GPU. */
#ifndef NEAP_RANDOM_H
#define NEAP_RANDOM_H

#include <stdint.h>

#ifdef __CUDACC__
#define NEAPI_BOTH static __host__ __device__ inline
#else
#define NEAPI_BOTH static inline
#endif

/* SplitMix64 finaliser (Steele, Lea and Flood, 2014). */
NEAPI_BOTH uint64_t neapi_random_mix(uint64_t z)
{
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

NEAPI_BOTH uint64_t neapi_random_key(uint64_t seed, uint64_t stream)
{
  uint64_t key = neapi_random_mix(seed + 0x9e3779b97f4a7c15u);
  return neapi_random_mix(key ^ (stream * 0xd1342543de82ef95u + 0x9e3779b97f4a7c15u));
}

/* In [0, 1), 53 bits. */
NEAPI_BOTH double neapi_random_uniform(uint64_t key, uint64_t index)
{
  uint64_t bits = neapi_random_mix(key + (index + 1) * 0x9e3779b97f4a7c15u);
  return (double)(bits >> 11) * 0x1p-53;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Counter-based random numbers: a value depends on its key alone. */
#include "base/random.h"

#include "neap.h"

#include <math.h>

uint64_t neap_random_bits(uint64_t seed, uint64_t stream, uint64_t index)
{
  return neapi_random_mix(neapi_random_key(seed, stream) + (index + 1) * 0x9e3779b97f4a7c15u);
}

double neap_random_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
  return neapi_random_uniform(neapi_random_key(seed, stream), index);
}

double neap_random_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
  double radius = 1.0 - neap_random_uniform(seed, stream, 2 * index);
  double angle = neap_random_uniform(seed, stream, 2 * index + 1);
  return sqrt(-2.0 * log(radius)) * cos(6.283185307179586 * angle);
}

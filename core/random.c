/* Counter-based random numbers: a value depends on its key alone. */
#include "neap.h"

#include <math.h>

/* SplitMix64 finaliser (Steele, Lea and Flood, 2014). */
static uint64_t mix(uint64_t z)
{
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

uint64_t neap_random_bits(uint64_t seed, uint64_t stream, uint64_t index)
{
  uint64_t key = mix(seed + 0x9e3779b97f4a7c15u);
  key = mix(key ^ (stream * 0xd1342543de82ef95u + 0x9e3779b97f4a7c15u));
  return mix(key + (index + 1) * 0x9e3779b97f4a7c15u);
}

double neap_random_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
  return (double)(neap_random_bits(seed, stream, index) >> 11) * 0x1p-53;
}

double neap_random_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
  double radius = 1.0 - neap_random_uniform(seed, stream, 2 * index);
  double angle = neap_random_uniform(seed, stream, 2 * index + 1);
  return sqrt(-2.0 * log(radius)) * cos(6.283185307179586 * angle);
}

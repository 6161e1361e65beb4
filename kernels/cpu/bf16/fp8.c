/* SPDX-License-Identifier: Apache-2.0 */
/* FP8 as it travels, dequantised into bf16. */
#include "bf16.h"
#include "e4m3.h"

int BF16(from_e4m3)(int64_t n, const void *packed_, void *out_, STREAM)
{
  const uint8_t *packed = packed_;
  bf16 *out = out_;
  for (int64_t at = 0; at < n; at += NEAPI_E4M3_BLOCK, packed += NEAPI_E4M3_BYTES) {
    int64_t count = n - at < NEAPI_E4M3_BLOCK ? n - at : NEAPI_E4M3_BLOCK;
    float scale;
    memcpy(&scale, packed + NEAPI_E4M3_BLOCK, sizeof scale);
    for (int64_t i = 0; i < count; i++)
      out[at + i] = narrow(neapi_e4m3_value(packed[i]) * scale);
  }
  return NEAPI_KERNEL_OK;
}

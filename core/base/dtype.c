/* SPDX-License-Identifier: Apache-2.0 */
/* Element types: their sizes and names. */
#include "base/dtype.h"

static const struct {
  const char *name;
  int64_t size;
} types[] = {[NEAP_F32] = {"f32", 4}, [NEAP_F64] = {"f64", 8},   [NEAP_I32] = {"i32", 4},
             [NEAP_I64] = {"i64", 8}, [NEAP_BF16] = {"bf16", 2}, [NEAP_U8] = {"u8", 1}};

int64_t neap_dtype_size(int dtype)
{
  return dtype >= NEAP_F32 && dtype <= NEAP_U8 ? types[dtype].size : 0;
}

int neapi_acc_of(int dtype)
{
  return dtype == NEAP_BF16 ? NEAP_F32 : dtype;
}

const char *neapi_dtype_name(int dtype)
{
  return dtype >= NEAP_F32 && dtype <= NEAP_U8 ? types[dtype].name : "?";
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Element types: what goes with their numbers in neap.h. */
#ifndef NEAP_DTYPE_H
#define NEAP_DTYPE_H

#include "neap.h"

/* "f32", or "?" for a number that is no dtype. */
const char *neapi_dtype_name(int dtype);
/* The type of accumulation for a dtype (kernels.h): F32 for BF16, else the dtype itself. */
int neapi_acc_of(int dtype);

#endif

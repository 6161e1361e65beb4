/* Element types: what goes with their numbers in neap.h. */
#ifndef NEAP_DTYPE_H
#define NEAP_DTYPE_H

#include "neap.h"

/* "f32", or "?" for a number that is no dtype. */
const char *neapi_dtype_name(int dtype);
/* What goes with reals of a dtype as "stat" (kernels.h): F32 for BF16, else the dtype itself. */
int neapi_stat_of(int dtype);

#endif

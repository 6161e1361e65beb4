/* SPDX-License-Identifier: Apache-2.0 */
/* The side of nvtx.h that calls NVTX, a header that finds the profiler when it runs. */
#include "base/nvtx.h"

#ifdef NEAP_NVTX

#include <nvtx3/nvToolsExt.h>

void neapi_nvtx_begin(const char *name)
{
  nvtxRangePushA(name ? name : "?");
}

void neapi_nvtx_end(void)
{
  nvtxRangePop();
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges for profilers that know NVTX; without its header they are nothing. */
#ifndef NEAP_NVTX_H
#define NEAP_NVTX_H

#ifdef NEAP_NVTX
/* Nest within a thread. name is copied. */
void neapi_nvtx_begin(const char *name);
void neapi_nvtx_end(void);
#else
static inline void neapi_nvtx_begin(const char *name)
{
  (void)name;
}

static inline void neapi_nvtx_end(void)
{
}
#endif

/* A range from here to the end of the enclosing block. */
#define NEAPI_NVTX(name)                                                                           \
  __attribute__((cleanup(neapi_nvtx_close), unused)) int neapi_nvtx_range = neapi_nvtx_open(name)

static inline int neapi_nvtx_open(const char *name)
{
  neapi_nvtx_begin(name);
  return 0;
}

static inline void neapi_nvtx_close(const int *range)
{
  (void)range;
  neapi_nvtx_end();
}

#endif

/* Ranges for profilers that know NVTX; without its header they are nothing. */
#ifndef NEAP_NVTX_H
#define NEAP_NVTX_H

#ifdef NEAP_NVTX
/* Nest within a thread. name is copied. */
void neapi_range_begin(const char *name);
void neapi_range_end(void);
#else
static inline void neapi_range_begin(const char *name)
{
  (void)name;
}

static inline void neapi_range_end(void)
{
}
#endif

/* A range from here to the end of the enclosing block. */
#define NEAPI_RANGE(name)                                                                          \
  __attribute__((cleanup(neapi_range_close), unused)) int neapi_range = neapi_range_open(name)

static inline int neapi_range_open(const char *name)
{
  neapi_range_begin(name);
  return 0;
}

static inline void neapi_range_close(const int *range)
{
  (void)range;
  neapi_range_end();
}

#endif

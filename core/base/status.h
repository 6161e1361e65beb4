/* How the engine reports failures: internal, shared by all objects of core. */
#ifndef NEAP_STATUS_H
#define NEAP_STATUS_H

#include "neap.h"

/* Writes this thread's message and returns status, so that "return neapi_fail(...)" reads well.
 * The first function that knows the cause calls it; callers pass the status on unchanged. */
int neapi_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "prefix: " before this thread's message: adds place where the caller knows more. */
void neapi_fail_prefix(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* "f32", or "?" for a number that is no dtype. */
const char *neapi_dtype_name(int dtype);
/* What goes with reals of a dtype as "stat" (kernels.h): F32 for BF16, else the dtype itself. */
int neapi_stat_of(int dtype);

/* Memory aligned to 64 bytes, released with free(); at least one byte, so that NULL means failure.
 * On failure reports MEMORY for what and returns NULL. */
void *neapi_alloc(int64_t bytes, const char *what);
/* The same, zeroed. */
void *neapi_alloc_zero(int64_t bytes, const char *what);

#endif

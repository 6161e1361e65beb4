/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the host: aligned, and reported where there is none. */
#ifndef NEAP_MEMORY_H
#define NEAP_MEMORY_H

#include <stdint.h>

/* Memory aligned to 64 bytes, released with free(); at least one byte, so that NULL means failure.
 * On failure reports MEMORY for what and returns NULL. */
void *neapi_alloc(int64_t bytes, const char *what);
/* The same, zeroed. */
void *neapi_alloc_zero(int64_t bytes, const char *what);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files in memory, unpacked if they are packed. */
#ifndef NEAP_UNPACK_H
#define NEAP_UNPACK_H

#include <stdint.h>

/* Reads a file; one that begins as files of gzip, xz or Zstandard do is unpacked once, all its
 * members after each other; nothing but gzip's zeros may follow the last. *text: to be freed.
 * Errors: SYSTEM (it cannot be read), MEMORY, FORMAT (damaged, truncated or empty). */
int neapi_unpack(const char *path, char **text, int64_t *length);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* A file on its way into memory: pieces of it, and the text that is made of them. */
#ifndef NEAP_SOURCE_H
#define NEAP_SOURCE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

enum {
  NEAPI_PIECE = 1 << 16,    /* bytes of the file that are read at once */
  NEAPI_UNPACKED = 1 << 20, /* bytes that are unpacked at once */
};

typedef struct {
  const char *path;
  int fd;
  const char *packing; /* for messages: "gzip" */
  int64_t read;        /* bytes of the file so far */
  const uint8_t *at;   /* what of the last piece is left */
  size_t left;
  uint8_t piece[NEAPI_PIECE];
  char *text;
  int64_t used, capacity, first; /* first: what capacity begins with */
} neapi_source;

/* Another piece of the file, if nothing of the last one is left; none at the end. */
int neapi_source_next(neapi_source *s);
/* Room for at least one more byte of text. *room: how much there is, NEAPI_UNPACKED at most. */
int neapi_source_reserve(neapi_source *s, size_t *room);
/* FORMAT, with the place: truncated or damaged, and why. */
int neapi_source_damaged(const neapi_source *s, const char *why);

/* Unpack what is left of a source whose first piece has been read. Errors: SYSTEM, MEMORY,
 * FORMAT. */
int neapi_unpack_gzip(neapi_source *s);
int neapi_unpack_xz(neapi_source *s);
int neapi_unpack_zstd(neapi_source *s);

#endif

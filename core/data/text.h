/* SPDX-License-Identifier: Apache-2.0 */
/* Texts inside the engine: runs of token ids, and where they come from. */
#ifndef NEAP_TEXT_H
#define NEAP_TEXT_H

#include "base/status.h"

#include <stdbool.h>

/* Ids that lie one after the other in memory: unsigned, little-endian, of width bytes each. */
typedef struct {
  char *path; /* of the file, for messages; NULL: the text's name */
  const uint8_t *ids;
  int64_t tokens, first; /* first: tokens of the parts before it */
  int32_t width;         /* 1, 2, 4 or 8 */
  void *memory;          /* that the ids lie in */
  int64_t mapped;        /* its bytes, if it is a mapping and not allocated */
} neapi_text_part;

typedef struct {
  neapi_text_part *items;
  int64_t count, capacity, tokens;
} neapi_text_parts;

void neapi_text_part_free(neapi_text_part *part);
/* Takes over a part, path and memory included, also on failure. Errors: MEMORY. */
int neapi_text_add(neapi_text_parts *parts, neapi_text_part part);
void neapi_text_free(neapi_text_parts *parts);

/* The corpora that Debian packages bring; -1 for a name that is none of theirs. */
int32_t neapi_corpus_find(const char *name);
/* Bytes of a corpus, at most limit, as one part. Errors as of neap_text_open. */
int neapi_corpus_open(int32_t index, const char *root, int64_t limit, neapi_text_parts *parts);

/* The files of a user, as neap_text_open names them. *given: whether their kind was told. Errors
 * as of neap_text_open. */
int neapi_text_files_open(const char *name, neapi_text_parts *parts);

/* ---- token files: what is in memory already -------------------------------------------------- */

enum { NEAPI_AS_IT_IS = 0 }; /* a width: as the file itself shows */

/* A file of ids, llm.c's with its header or nothing but ids: where they begin, and their width,
 * unless one is asked for. Errors: FORMAT. */
int neapi_tokens_flat(const char *path, const uint8_t *bytes, int64_t length, int32_t wanted,
                      neapi_text_part *part);
/* Megatron's index of a file of ids, which has bin_bytes: the width of its ids, once sizes and
 * places of the index have been compared with that file. Errors: FORMAT. */
int neapi_tokens_index(const char *path, const uint8_t *bytes, int64_t length, int64_t bin_bytes,
                       int32_t *width);

#endif

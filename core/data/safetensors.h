/* SPDX-License-Identifier: Apache-2.0 */
/* The header of a safetensors file: JSON that names tensors and carries pairs of strings. */
#ifndef NEAP_SAFETENSORS_H
#define NEAP_SAFETENSORS_H

#include <stdint.h>

enum { NEAPI_TENSOR_DIMS = 8 };

typedef struct {
  char *name, *dtype; /* dtype as in the file: "I32" */
  int ndim;
  int64_t shape[NEAPI_TENSOR_DIMS];
  int64_t begin, end; /* bytes from the start of the data */
} neapi_tensor_entry;

typedef struct {
  char *key, *value;
} neapi_key_value;

typedef struct {
  neapi_tensor_entry *tensors;
  int64_t tensor_count;
  neapi_key_value *pairs; /* of "__metadata__", in the file's order */
  int64_t pair_count;
  int has_metadata; /* there is a "__metadata__", if only an empty one */
} neapi_header;

/* Parses a header of length bytes that starts at byte offset of the file. Errors: FORMAT, naming
 * path and byte: not JSON, a field missing, unknown or twice, numbers out of range, offsets that
 * run backwards. */
int neapi_header_parse(const char *path, int64_t offset, const char *text, int64_t length,
                       neapi_header *out);
void neapi_header_free(neapi_header *header);

/* Value of a key of the metadata, or NULL. */
const char *neapi_header_value(const neapi_header *header, const char *key);

/* A name that stands among count names twice, or NULL; sorts them. */
const char *neapi_name_twice(const char **names, int64_t count);

/* Writes a string with quotes and escapes, at most 2 + 6 * strlen(text) bytes; returns its end. */
char *neapi_json_string(char *to, const char *text);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Strict parser for the header of safetensors files: the subset of JSON that they use. */
#include "data/safetensors.h"

#include "base/status.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  const char *path, *text, *at, *end;
  int64_t offset;
} parser;

static int fail(const parser *p, const char *what)
{
  return neapi_fail(NEAP_FORMAT, "%s: byte %" PRId64 ": %s", p->path, p->offset + (p->at - p->text),
                    what);
}

static void skip_space(parser *p)
{
  while (p->at < p->end && (*p->at == ' ' || *p->at == '\n' || *p->at == '\r' || *p->at == '\t'))
    p->at++;
}

/* Takes the next character if it is c. */
static bool take(parser *p, char c)
{
  skip_space(p);
  if (p->at == p->end || *p->at != c)
    return false;
  p->at++;
  return true;
}

static int expect(parser *p, char c)
{
  char what[] = "header: '?' expected";
  what[9] = c;
  return take(p, c) ? NEAP_OK : fail(p, what);
}

/* Grows *list so that one more entry fits, zeroed; NULL without memory. */
static void *grow(void **list, int64_t *count, size_t size)
{
  bool full = (*count & (*count - 1)) == 0; /* capacities are powers of two */
  if (full) {
    void *larger = realloc(*list, size * (size_t)(*count ? 2 * *count : 1));
    if (!larger) {
      neapi_fail(NEAP_MEMORY, "header: no memory for %" PRId64 " entries", *count + 1);
      return NULL;
    }
    *list = larger;
  }
  void *entry = (char *)*list + size * (size_t)(*count)++;
  return memset(entry, 0, size);
}

/* Four hex digits, or -1. */
static int hex4(const char *s)
{
  int value = 0;
  for (int i = 0; i < 4; i++) {
    const char *digits = "0123456789abcdef0123456789ABCDEF", *at = memchr(digits, s[i], 32);
    if (!at)
      return -1;
    value = value * 16 + (int)(at - digits) % 16;
  }
  return value;
}

static char *put_utf8(char *to, int code)
{
  if (code < 0x80) {
    *to++ = (char)code;
  } else if (code < 0x800) {
    *to++ = (char)(0xc0 | code >> 6);
    *to++ = (char)(0x80 | (code & 63));
  } else {
    if (code >= 0x10000) {
      *to++ = (char)(0xf0 | code >> 18);
      *to++ = (char)(0x80 | (code >> 12 & 63));
    } else {
      *to++ = (char)(0xe0 | code >> 12);
    }
    *to++ = (char)(0x80 | (code >> 6 & 63));
    *to++ = (char)(0x80 | (code & 63));
  }
  return to;
}

/* Code point of the \u escape whose digits are next, a surrogate pair as one; -1 if there is none,
 * or if it is NUL, which a C string cannot hold. */
static int parse_code(parser *p)
{
  int code = p->end - p->at >= 4 ? hex4(p->at) : -1;
  p->at += code < 0 ? 0 : 4;
  if (code < 0xd800 || code > 0xdfff)
    return code ? code : -1;
  if (code > 0xdbff || p->end - p->at < 6 || p->at[0] != '\\' || p->at[1] != 'u')
    return -1;
  int low = hex4(p->at + 2);
  if (low < 0xdc00 || low > 0xdfff)
    return -1;
  p->at += 6;
  return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
}

/* The escape after a backslash, written at *to. */
static int parse_escape(parser *p, char **to)
{
  static const char from[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
  char c = p->at < p->end ? *p->at++ : 0;
  const char *found = c ? strchr(from, c) : NULL;
  if (found) {
    *(*to)++ = meant[found - from];
    return NEAP_OK;
  }
  int code = c == 'u' ? parse_code(p) : -1;
  if (code < 0)
    return fail(p, "header: bad escape in a string");
  *to = put_utf8(*to, code);
  return NEAP_OK;
}

static int parse_string(parser *p, char **out)
{
  int status = expect(p, '"');
  if (status)
    return status;
  const char *quote = p->at;
  while (quote < p->end && *quote != '"')
    quote += *quote == '\\' ? 2 : 1;
  if (quote >= p->end)
    return fail(p, "header: a string does not end");
  char *text = malloc((size_t)(quote - p->at) + 1), *to = text;
  if (!text)
    return neapi_fail(NEAP_MEMORY, "header: no memory for a string");
  while (p->at < quote && !status) {
    char c = *p->at++;
    if ((unsigned char)c < 32)
      status = fail(p, "header: control character in a string");
    else if (c == '\\')
      status = parse_escape(p, &to);
    else
      *to++ = c;
  }
  if (status) {
    free(text);
    return status;
  }
  p->at = quote + 1;
  *to = 0;
  *out = text;
  return NEAP_OK;
}

static int parse_integer(parser *p, int64_t *out)
{
  skip_space(p);
  int64_t value = 0;
  const char *start = p->at;
  for (; p->at < p->end && *p->at >= '0' && *p->at <= '9'; p->at++)
    if (__builtin_mul_overflow(value, 10, &value) ||
        __builtin_add_overflow(value, *p->at - '0', &value))
      return fail(p, "header: number is too large");
  if (p->at == start || (*start == '0' && p->at - start > 1))
    return fail(p, "header: a whole number expected");
  *out = value;
  return NEAP_OK;
}

/* [n, n, …] with at most limit numbers. */
static int parse_integers(parser *p, int limit, int64_t *values, int *count)
{
  *count = 0;
  int status = expect(p, '[');
  if (status || take(p, ']'))
    return status;
  do {
    if (*count == limit)
      return fail(p, "header: list is too long");
    if ((status = parse_integer(p, &values[(*count)++])))
      return status;
  } while (take(p, ','));
  return expect(p, ']');
}

static int parse_metadata(parser *p, neapi_header *header)
{
  if (header->has_metadata)
    return fail(p, "header: __metadata__ twice");
  header->has_metadata = 1;
  int status = expect(p, '{');
  if (status || take(p, '}'))
    return status;
  do {
    neapi_key_value *pair = grow((void **)&header->pairs, &header->pair_count, sizeof *pair);
    if (!pair)
      return NEAP_MEMORY;
    if ((status = parse_string(p, &pair->key)) || (status = expect(p, ':')) ||
        (status = parse_string(p, &pair->value)))
      return status;
  } while (take(p, ','));
  return expect(p, '}');
}

enum { HAS_DTYPE = 1, HAS_SHAPE = 2, HAS_OFFSETS = 4, HAS_ALL = 7 };

/* One field of a tensor's description; adds its bit to *seen. */
static int parse_field(parser *p, neapi_tensor_entry *tensor, int *seen)
{
  char *name = NULL;
  int status = parse_string(p, &name), bit = 0, count = 0;
  if (status || (status = expect(p, ':')))
    goto free_name;
  if (!strcmp(name, "dtype")) {
    bit = HAS_DTYPE;
    if (!tensor->dtype)
      status = parse_string(p, &tensor->dtype);
  } else if (!strcmp(name, "shape")) {
    bit = HAS_SHAPE;
    status = parse_integers(p, NEAPI_TENSOR_DIMS, tensor->shape, &tensor->ndim);
  } else if (!strcmp(name, "data_offsets")) {
    bit = HAS_OFFSETS;
    int64_t offsets[2] = {0, 0};
    status = parse_integers(p, 2, offsets, &count);
    tensor->begin = offsets[0];
    tensor->end = offsets[1];
    if (!status && (count != 2 || offsets[0] > offsets[1]))
      status = fail(p, "header: data_offsets must be two ascending numbers");
  }
  if (!status && (!bit || (*seen & bit)))
    status = fail(p, bit ? "header: a field twice" : "header: unknown field of a tensor");
  *seen |= bit;
free_name:
  free(name);
  return status;
}

static int parse_tensor(parser *p, neapi_header *header, const char *name)
{
  neapi_tensor_entry *tensor =
      grow((void **)&header->tensors, &header->tensor_count, sizeof *tensor);
  if (!tensor || !(tensor->name = strdup(name)))
    return neapi_fail(NEAP_MEMORY, "header: no memory for a tensor's name");
  int seen = 0, status = expect(p, '{');
  if (status)
    return status;
  do {
    if ((status = parse_field(p, tensor, &seen)))
      return status;
  } while (take(p, ','));
  if ((status = expect(p, '}')))
    return status;
  return seen == HAS_ALL ? NEAP_OK : fail(p, "header: tensor without dtype, shape or data_offsets");
}

static int parse_entry(parser *p, neapi_header *header)
{
  char *name = NULL;
  int status = parse_string(p, &name);
  if (!status && !(status = expect(p, ':')))
    status =
        strcmp(name, "__metadata__") ? parse_tensor(p, header, name) : parse_metadata(p, header);
  free(name);
  return status;
}

static int compare_names(const void *a, const void *b)
{
  return strcmp(*(char *const *)a, *(char *const *)b);
}

const char *neapi_name_twice(const char **names, int64_t count)
{
  if (count > 1)
    qsort(names, (size_t)count, sizeof *names, compare_names);
  for (int64_t i = 1; i < count; i++)
    if (!strcmp(names[i - 1], names[i]))
      return names[i];
  return NULL;
}

static int check_names(const parser *p, const neapi_header *header)
{
  int64_t most =
      header->pair_count > header->tensor_count ? header->pair_count : header->tensor_count;
  const char **names = malloc((size_t)(most + 1) * sizeof *names);
  if (!names)
    return neapi_fail(NEAP_MEMORY, "header: no memory for %" PRId64 " names", most);
  const char *what = "a key of the metadata";
  for (int64_t i = 0; i < header->pair_count; i++)
    names[i] = header->pairs[i].key;
  const char *twice = neapi_name_twice(names, header->pair_count);
  for (int64_t i = 0; !twice && i < header->tensor_count; i++)
    names[i] = header->tensors[i].name;
  if (!twice && (twice = neapi_name_twice(names, header->tensor_count)))
    what = "a tensor";
  int status = !twice ? NEAP_OK
                      : neapi_fail(NEAP_FORMAT, "%s: byte %" PRId64 ": header: %s twice: '%.64s'",
                                   p->path, p->offset, what, twice);
  free(names);
  return status;
}

int neapi_header_parse(const char *path, int64_t offset, const char *text, int64_t length,
                       neapi_header *out)
{
  parser p = {path, text, text, text + length, offset};
  neapi_header header = {0};
  int status = expect(&p, '{');
  if (!status && !take(&p, '}')) {
    do
      status = parse_entry(&p, &header);
    while (!status && take(&p, ','));
    if (!status)
      status = expect(&p, '}');
  }
  skip_space(&p);
  if (!status && p.at != p.end)
    status = fail(&p, "header: text after its end");
  if (!status)
    status = check_names(&p, &header);
  if (status)
    neapi_header_free(&header);
  else
    *out = header;
  return status;
}

void neapi_header_free(neapi_header *header)
{
  for (int64_t i = 0; i < header->tensor_count; i++) {
    free(header->tensors[i].name);
    free(header->tensors[i].dtype);
  }
  for (int64_t i = 0; i < header->pair_count; i++) {
    free(header->pairs[i].key);
    free(header->pairs[i].value);
  }
  free(header->tensors);
  free(header->pairs);
  *header = (neapi_header){0};
}

const char *neapi_header_value(const neapi_header *header, const char *key)
{
  for (int64_t i = 0; i < header->pair_count; i++)
    if (!strcmp(header->pairs[i].key, key))
      return header->pairs[i].value;
  return NULL;
}

char *neapi_json_string(char *to, const char *text)
{
  static const char hex[] = "0123456789abcdef";
  *to++ = '"';
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c < 32) {
      memcpy(to, "\\u00", 4);
      to[4] = hex[*c >> 4];
      to[5] = hex[*c & 15];
      to += 6;
    } else {
      if (*c == '"' || *c == '\\')
        *to++ = '\\';
      *to++ = (char)*c;
    }
  }
  *to++ = '"';
  return to;
}

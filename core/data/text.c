/* SPDX-License-Identifier: Apache-2.0 */
/* Training data: texts by name, held once per process, and the sequences that are drawn from
 * them. */
#include "data/text.h"

#include "base/memory.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELD_OUT_PERCENT = 5, MAX_LIMIT = 1 << 30, PARTS = 3 };

struct neap_text {
  struct neap_text *next; /* in the list of open texts */
  int64_t references;
  char *name, *root;
  int32_t corpus; /* -1: the user's files */
  int64_t limit;
  neapi_text_parts parts;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static neap_text *texts; /* open ones, under lock */

/* ---- open texts ------------------------------------------------------------------------------ */

static void free_text(neap_text *text)
{
  neapi_text_free(&text->parts);
  free(text->name);
  free(text->root);
  free(text);
}

static int load_text(const char *name, int32_t corpus, const char *root, int64_t limit,
                     neap_text **out)
{
  neap_text *text = neapi_alloc_zero(sizeof *text, "text");
  if (!text)
    return NEAP_MEMORY;
  *text = (neap_text){.corpus = corpus,
                      .references = 1,
                      .limit = limit,
                      .name = strdup(name),
                      .root = strdup(root)};
  int status = NEAP_OK;
  if (!text->name || !text->root)
    status = neapi_fail(NEAP_MEMORY, "text: no memory for its name");
  else if (corpus >= 0)
    status = neapi_corpus_open(corpus, root, limit, &text->parts);
  else
    status = neapi_text_files_open(name, &text->parts);
  if (status)
    free_text(text);
  else
    *out = text;
  return status;
}

/* The open text with this key, with one reference more, or NULL. Under lock. */
static neap_text *find_open(const char *name, const char *root, int64_t limit)
{
  for (neap_text *text = texts; text; text = text->next)
    if (text->limit == limit && !strcmp(text->name, name) && !strcmp(text->root, root)) {
      text->references++;
      return text;
    }
  return NULL;
}

int neap_text_open(const char *name, const char *root, int64_t limit, neap_text **out)
{
  int32_t corpus = neapi_corpus_find(name);
  if (corpus < 0)
    limit = 0; /* files are mapped: they have none */
  else if (limit < 1 || limit > MAX_LIMIT)
    return neapi_fail(NEAP_ARGUMENT, "text '%s': limit is %" PRId64 " bytes; allowed: 1 to %d",
                      name, limit, MAX_LIMIT);
  const char *set = getenv("NEAP_TEXT_ROOT");
  root = corpus < 0 ? "" : root ? root : set ? set : "";
  int status = NEAP_OK;
  pthread_mutex_lock(&lock); /* held while loading: other ranks wait for the same bytes */
  neap_text *text = find_open(name, root, limit);
  if (!text && !(status = load_text(name, corpus, root, limit, &text))) {
    text->next = texts;
    texts = text;
  }
  pthread_mutex_unlock(&lock);
  if (!status)
    *out = text;
  return status;
}

void neap_text_close(neap_text *text)
{
  if (!text)
    return;
  pthread_mutex_lock(&lock);
  bool last = --text->references == 0;
  for (neap_text **at = &texts; last && *at; at = &(*at)->next)
    if (*at == text) {
      *at = text->next;
      break;
    }
  pthread_mutex_unlock(&lock);
  if (last)
    free_text(text);
}

int64_t neap_text_size(const neap_text *text)
{
  return text->parts.tokens;
}

int32_t neap_text_width(const neap_text *text)
{
  int32_t width = 0;
  for (int64_t i = 0; i < text->parts.count; i++)
    if (text->parts.items[i].width > width)
      width = text->parts.items[i].width;
  return width;
}

int64_t neap_text_files(const neap_text *text)
{
  return text->parts.count;
}

/* ---- ids ------------------------------------------------------------------------------------- */

static uint64_t id_at(const neapi_text_part *part, int64_t index)
{
  uint64_t id = 0;
  memcpy(&id, part->ids + index * part->width, (size_t)part->width);
  return id;
}

static int fail_id(const neap_text *text, const neapi_text_part *part, int64_t index,
                   int32_t vocabulary)
{
  const char *advice = part->width == 1 ? "bytes need --vocabulary=256"
                                        : "give --vocabulary the tokenizer's size, or say after "
                                          "the name how wide ids are, :u16 or :u32";
  return neapi_fail(
      NEAP_FORMAT, "%s: token %" PRId64 " is id %" PRIu64 " of a vocabulary of %d: %s",
      part->path ? part->path : text->name, index, id_at(part, index), vocabulary, advice);
}

/* The part that a token lies in; *index: its place in the text, then in the part. */
static const neapi_text_part *part_of(const neap_text *text, int64_t *index)
{
  const neapi_text_part *items = text->parts.items;
  int64_t low = 0, high = text->parts.count;
  while (high - low > 1) {
    int64_t middle = low + (high - low) / 2;
    if (items[middle].first <= *index)
      low = middle;
    else
      high = middle;
  }
  *index -= items[low].first;
  return &items[low];
}

int neap_text_ids(const neap_text *text, int64_t first, int64_t count, int32_t vocabulary,
                  int32_t *ids)
{
  if (first < 0 || count < 0 || count > text->parts.tokens - first)
    return neapi_fail(NEAP_ARGUMENT,
                      "text '%s': tokens %" PRId64 " to %" PRId64 "; it has %" PRId64, text->name,
                      first, first + count - 1, text->parts.tokens);
  int64_t index = first;
  const neapi_text_part *part = count ? part_of(text, &index) : NULL;
  for (int64_t i = 0; i < count; i++, index++) {
    for (; index == part->tokens; part++)
      index = 0;
    uint64_t id = id_at(part, index);
    if (id >= (uint64_t)vocabulary)
      return fail_id(text, part, index, vocabulary);
    ids[i] = (int32_t)id;
  }
  return NEAP_OK;
}

/* Of what sequences may be drawn from. */
static void find_part(const neap_text *text, int32_t part, int64_t *first, int64_t *size)
{
  int64_t all = text->parts.tokens, tail = all * HELD_OUT_PERCENT / 100;
  *first = part == NEAP_TEXT_HELD_OUT ? all - tail : 0;
  *size = part == NEAP_TEXT_WHOLE ? all : part == NEAP_TEXT_HELD_OUT ? tail : all - tail;
}

int neap_text_sample(const neap_text *text, uint64_t seed, int64_t step, int64_t sequence,
                     int64_t length, int32_t part, int32_t vocabulary, int32_t *ids,
                     int32_t *targets)
{
  if (part < 0 || part >= PARTS)
    return neapi_fail(NEAP_ARGUMENT, "text '%s': part is %d; allowed: 0 to %d", text->name, part,
                      PARTS - 1);
  int64_t first, size;
  find_part(text, part, &first, &size);
  if (length < 1 || length >= size)
    return neapi_fail(NEAP_ARGUMENT,
                      "text '%s': sequences of %" PRId64 " tokens; allowed: 1 to %" PRId64,
                      text->name, length, size - 1);
  int32_t which = text->corpus < 0 ? neap_text_count() : text->corpus;
  uint64_t stream = neap_random_bits((uint64_t)step, (uint64_t)which, (uint64_t)part);
  uint64_t bits = neap_random_bits(seed, stream, (uint64_t)sequence);
  first += (int64_t)(bits % (uint64_t)(size - length));
  int status = neap_text_ids(text, first, length, vocabulary, ids);
  if (!status)
    status = neap_text_ids(text, first + length, 1, vocabulary, &targets[length - 1]);
  if (!status)
    memcpy(targets, ids + 1, (size_t)(length - 1) * sizeof *targets);
  return status;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Files of token ids, as tokenizers' scripts write them: what lies where, and whether it fits. */
#include "data/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* llm.c's header: 256 words of 32 bits, of which the first tell the kind of ids, a version, and how
 * many there are (github.com/karpathy/llm.c, dev/data/data_common.py). */
enum {
  LLMC_WORDS = 256,
  LLMC_BYTES = 4 * LLMC_WORDS,
  LLMC_U16 = 20240520,
  LLMC_U32 = 20240801,
};

/* Megatron's index: magic, version, a code for the type of ids, numbers of sequences and of
 * document bounds; then lengths (32 bits), offsets in bytes and bounds (64 bits), perhaps modes (a
 * byte) (megatron/core/datasets/indexed_dataset.py). */
enum { INDEX_HEADER = 34, MAGIC_BYTES = 9, CODES = 9, LOOKS = 4096 };
static const char MAGIC[MAGIC_BYTES] = "MMIDIDX\0";
static const int32_t WIDTH_OF_CODE[CODES] = {[1] = 1, [4] = 4, [5] = 8, [8] = 2};

static uint64_t number(const uint8_t *at, int bytes)
{
  uint64_t value = 0;
  memcpy(&value, at, (size_t)bytes);
  return value;
}

/* ---- nothing but ids, or llm.c's header before them ------------------------------------------ */

/* Whether ids look like 32 bits: then of every second 16 bits hardly a bit is set, since
 * vocabularies have under 2^20 ids. */
static bool looks_wide(const uint8_t *bytes, int64_t length)
{
  enum { LEAST = 8, MOST_HIGH = 16 };
  int64_t words = length / 4, stride = words / LOOKS + 1;
  if (length % 4 || words < LEAST)
    return false;
  for (int64_t i = 0; i < words; i += stride)
    if (number(bytes + 4 * i + 2, 2) >= MOST_HIGH)
      return false;
  return true;
}

static int take_header(const char *path, const uint8_t *bytes, int64_t length, int32_t width,
                       neapi_text_part *part)
{
  int64_t announced = (int64_t)number(bytes + 8, 4);
  if (announced * width != length - LLMC_BYTES)
    return neapi_fail(NEAP_FORMAT,
                      "%s: its header announces %" PRId64 " tokens, which makes %" PRId64
                      " bytes; the file has %" PRId64 ": it is truncated or damaged",
                      path, announced, announced * width + LLMC_BYTES, length);
  part->ids = bytes + LLMC_BYTES;
  part->tokens = announced;
  part->width = width;
  return NEAP_OK;
}

int neapi_tokens_flat(const char *path, const uint8_t *bytes, int64_t length, int32_t wanted,
                      neapi_text_part *part)
{
  uint64_t kind = length >= LLMC_BYTES ? number(bytes, 4) : 0;
  int32_t announced = kind == LLMC_U16 ? 2 : kind == LLMC_U32 ? 4 : 0;
  if (announced && wanted && announced != wanted)
    return neapi_fail(NEAP_ARGUMENT, "%s: its header says ids of %d bytes; not %d", path, announced,
                      wanted);
  if (announced)
    return take_header(path, bytes, length, announced, part);
  int32_t width = wanted ? wanted : looks_wide(bytes, length) ? 4 : 2;
  if (length % width)
    return neapi_fail(NEAP_FORMAT,
                      "%s: %" PRId64 " bytes are no whole number of ids of %d bytes: it is "
                      "truncated, or other data (text is read from files that are not called "
                      "*.bin, or with :bytes)",
                      path, length, width);
  part->ids = bytes;
  part->tokens = length / width;
  part->width = width;
  return NEAP_OK;
}

/* ---- with an index --------------------------------------------------------------------------- */

typedef struct {
  const char *path;
  const uint8_t *lengths, *offsets;
  int64_t sequences;
  int32_t width;
} token_index;

/* A sequence begins where the one before it ends; the last one ends with the file. */
static int check_sequence(const token_index *index, int64_t i, int64_t bin_bytes)
{
  int64_t length = (int32_t)number(index->lengths + 4 * i, 4);
  int64_t offset = (int64_t)number(index->offsets + 8 * i, 8);
  int64_t next =
      i + 1 < index->sequences ? (int64_t)number(index->offsets + 8 * (i + 1), 8) : bin_bytes;
  if (length >= 0 && offset >= 0 && next >= offset && (i > 0 || offset == 0) &&
      next - offset == length * index->width)
    return NEAP_OK;
  return neapi_fail(NEAP_FORMAT,
                    "%s: sequence %" PRId64 " has %" PRId64 " ids of %d bytes from byte %" PRId64
                    " to byte %" PRId64 ": the index is damaged, or of another file (the ids have "
                    "%" PRId64 " bytes)",
                    index->path, i, length, index->width, offset, next, bin_bytes);
}

int neapi_tokens_index(const char *path, const uint8_t *bytes, int64_t length, int64_t bin_bytes,
                       int32_t *width)
{
  if (length < INDEX_HEADER || memcmp(bytes, MAGIC, MAGIC_BYTES))
    return neapi_fail(NEAP_FORMAT, "%s: byte 0: not an index that Megatron has written", path);
  uint64_t version = number(bytes + 9, 8), sequences = number(bytes + 18, 8);
  uint64_t bounds = number(bytes + 26, 8), rest = (uint64_t)length - INDEX_HEADER;
  uint8_t code = bytes[17];
  if (version != 1)
    return neapi_fail(NEAP_FORMAT, "%s: byte 9: version %" PRIu64 "; this program reads 1", path,
                      version);
  if (code >= CODES || !WIDTH_OF_CODE[code])
    return neapi_fail(NEAP_FORMAT,
                      "%s: byte 17: type %d; ids must be uint8 (1), int32 (4), int64 (5) or uint16 "
                      "(8)",
                      path, code);
  if (sequences < 1 || sequences > rest / 12 || bounds > (rest - 12 * sequences) / 8 ||
      (rest != 12 * sequences + 8 * bounds && rest != 13 * sequences + 8 * bounds))
    return neapi_fail(NEAP_FORMAT,
                      "%s: byte 18: %" PRIu64 " sequences and %" PRIu64 " document bounds do not "
                      "fit the file's %" PRId64 " bytes: it is truncated or damaged",
                      path, sequences, bounds, length);
  token_index index = {path, bytes + INDEX_HEADER, bytes + INDEX_HEADER + 4 * sequences,
                       (int64_t)sequences, WIDTH_OF_CODE[code]};
  int64_t stride = index.sequences / LOOKS + 1;
  int status = check_sequence(&index, index.sequences - 1, bin_bytes);
  for (int64_t i = 0; !status && i < index.sequences; i += stride)
    status = check_sequence(&index, i, bin_bytes);
  *width = index.width;
  return status;
}

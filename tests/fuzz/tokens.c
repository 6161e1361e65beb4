/* SPDX-License-Identifier: Apache-2.0 */
/* Files of token ids and their indexes: an error, or ids that all lie in the file. An input is a
 * byte that says what it is, two that tell how long the ids' file is, and the bytes. */
#include "data/text.h"
#include "fuzz.h"

static void read_flat(const fuzz_input *input, int32_t wanted)
{
  neapi_text_part part = {0};
  int64_t length = (int64_t)fuzz_left(input);
  int status = neapi_tokens_flat("input", input->at, length, wanted, &part);
  if (status && status != NEAP_FORMAT && status != NEAP_ARGUMENT)
    fuzz_fail("status %d: %s", status, neap_error_message());
  if (status)
    return;
  int64_t first = part.ids - input->at, bytes = part.tokens * part.width;
  if (part.width < 1 || part.width > 8 || first < 0 || bytes < 0 || first + bytes != length)
    fuzz_fail("%lld ids of %d bytes from %lld of %lld", (long long)part.tokens, part.width,
              (long long)first, (long long)length);
}

static void read_index(const fuzz_input *input, int64_t bin_bytes)
{
  int32_t width = 0;
  int status = neapi_tokens_index("input", input->at, (int64_t)fuzz_left(input), bin_bytes, &width);
  if (status && status != NEAP_FORMAT)
    fuzz_fail("status %d: %s", status, neap_error_message());
  if (!status && (width < 1 || width > 8 || bin_bytes % width))
    fuzz_fail("ids of %d bytes in %lld", width, (long long)bin_bytes);
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
  static const int32_t widths[] = {0, 2, 4, 0};
  fuzz_input input = {data, data + bytes};
  uint8_t how = fuzz_byte(&input);
  int64_t bin_bytes = fuzz_byte(&input) + 256 * fuzz_byte(&input);
  if (how & 4)
    read_index(&input, bin_bytes);
  else
    read_flat(&input, widths[how % 4]);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What the fuzzers share. A fuzzer is a file that defines fuzz_one; tests/fuzz/run.sh builds it
 * with fuzz.c, under AddressSanitizer and UBSan, and runs it. */
#ifndef NEAP_FUZZ_H
#define NEAP_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Hands an input to the code under test; what must not be ends in fuzz_fail, or in a sanitizer. */
void fuzz_one(const uint8_t *data, size_t bytes);

/* Called once, before the first input. */
void fuzz_prepare(void);

/* Prints why, and ends as a find. */
__attribute__((format(printf, 1, 2), noreturn)) void fuzz_fail(const char *format, ...);

/* Bytes of an input, taken from its front; zeros when it is empty. */
typedef struct {
  const uint8_t *at, *end;
} fuzz_input;

uint8_t fuzz_byte(fuzz_input *input);
/* At most limit bytes, as many as two bytes of the input say. */
fuzz_input fuzz_part(fuzz_input *input, size_t limit);
size_t fuzz_left(const fuzz_input *input);

/* A file in memory with these bytes: its path. It is there until the next one of the same number,
 * from 0 to 3. */
const char *fuzz_file(int number, const void *data, size_t bytes);

/* A gzip file of the bytes, cut into so many members, whose data are stored as they are. Returns
 * its bytes, to be freed; *packed: how many. */
uint8_t *fuzz_members(const uint8_t *data, size_t bytes, int members, size_t *packed);

/* Counts memory that does not come from malloc; bytes < 0: that has gone. */
void fuzz_count(int64_t bytes);

/* Tells libFuzzer of a place that the code under test has come to, if it is not compiled code. */
void fuzz_visit(uint32_t place);

#endif

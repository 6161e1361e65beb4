/* SPDX-License-Identifier: Apache-2.0 */
/* Traces inside the engine: what the reader, the writer and the CSV import share. */
#ifndef NEAP_TRACE_H
#define NEAP_TRACE_H

#include "base/status.h"
#include "data/safetensors.h"

enum { NEAPI_TRACE_HEADER = 1 << 20 }; /* most bytes of a file's header */

enum { NEAPI_STEPS, NEAPI_LAYERS, NEAPI_RANKS, NEAPI_EXPERTS, NEAPI_TRACE_DIMS };

struct neap_trace {
  int64_t shape[NEAPI_TRACE_DIMS];
  const int32_t *load; /* (steps, layers, ranks, experts), inside memory */
  void *memory;
  neapi_header header; /* empty for a CSV */
  char *notes;         /* what a reader should know of how it was read, or NULL */
};

#define NEAPI_TRACE_TENSOR "load"
#define NEAPI_TRACE_FORMAT "neap.trace"
#define NEAPI_TRACE_VERSION "1"
/* The metadata's "state": of equal length. A file without it counts as written. */
#define NEAPI_TRACE_WRITING "writing"
#define NEAPI_TRACE_WRITTEN "written"

/* Product of the dimensions from first on, or -1 if it passes what a file can hold. */
int64_t neapi_trace_count(const int64_t *shape, int first);

/* CRC-32 of a trace: data_crc is that of the data; shape and the pairs, without "crc32", follow. */
uint32_t neapi_trace_crc(uint32_t data_crc, const int64_t *shape, const neapi_key_value *pairs,
                         int64_t count);

/* Parses the bytes of a file, unpacked, whichever kind it is, into a zeroed trace, whose memory,
 * header and notes are the caller's also on failure. path names it in messages. Errors: FORMAT,
 * MEMORY. */
int neapi_trace_parse(const char *path, const char *text, int64_t length, neap_trace *trace);
/* Parses CSV text of length bytes into trace->shape, load, memory and notes. Errors: FORMAT, with
 * line. */
int neapi_trace_parse_csv(const char *path, const char *text, int64_t length, neap_trace *trace);

#endif

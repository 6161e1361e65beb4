/* SPDX-License-Identifier: Apache-2.0 */
/* Writes safetensors files piece by piece, for what lies in memory and for what does not. */
#ifndef NEAP_TENSORS_WRITER_H
#define NEAP_TENSORS_WRITER_H

#include "base/status.h"

/* The file ends with checksums (data/checkpoint.h). To be called before begin. */
void neapi_tensors_writer_seal(neap_tensors_writer *writer);
/* Forgets everything and writes to path next. Errors: MEMORY. */
int neapi_tensors_writer_reset(neap_tensors_writer *writer, const char *path);
/* What has been declared: bytes of all tensors together. */
int64_t neapi_tensors_writer_data_bytes(const neap_tensors_writer *writer);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What the writer and the reader of a checkpoint's files share: the form of a file.
 *
 *   8 bytes: length of the header | header | tensors | "checksums", the last tensor
 *
 * A safetensors file. checksums: I32, the bits of the CRC-32 of every NEAPI_CHUNK bytes of what
 * stands before it, from the file's first byte on. The seal of a file is the CRC-32 of its
 * checksums; it is kept elsewhere, in the checkpoint's manifest, with the file's bytes. So every
 * byte is covered, and a reader can check what it reads and nothing else. */
#ifndef NEAP_CHECKPOINT_H
#define NEAP_CHECKPOINT_H

#include "base/status.h"
#include "data/safetensors.h"

enum { NEAPI_CHUNK = 1 << 20, NEAPI_LENGTH_BYTES = 8 };

#define NEAPI_CHECKPOINT_FORMAT "neap.checkpoint"
#define NEAPI_CHECKPOINT_VERSION "1"
#define NEAPI_CHECKSUMS "checksums"

/* "F32" of NEAP_F32, or NULL; and back: -1 for a name that is none. */
const char *neapi_safetensors_dtype(int dtype);
int neapi_dtype_of_safetensors(const char *name);

#endif

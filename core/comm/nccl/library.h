/* SPDX-License-Identifier: Apache-2.0 */
/* The few things of NCCL that are called, declared here so that the build needs nothing of it, and
 * the library itself, found at run time. int results: 0, or an error that error_string explains. */
#ifndef NEAP_NCCL_LIBRARY_H
#define NEAP_NCCL_LIBRARY_H

#include <limits.h>
#include <stddef.h>

enum {
  NCCL_SUCCESS = 0,
  NCCL_IN_PROGRESS = 7,
  NCCL_INT8 = 0,
  NCCL_SHARES_GPUS = 23000, /* the first version that lets ranks share a GPU */
  NCCL_OLDEST = 21400       /* the first with communicators that do not block */
};

typedef struct nccl_comm nccl_comm;

typedef struct {
  char bytes[128];
} nccl_id;

/* As version 2.14 has it: later ones take what is missing as not set. */
typedef struct {
  size_t size;
  unsigned magic, version;
  int blocking;
} nccl_config;

typedef struct {
  int version; /* 23007: 2.30.7 */
  int (*get_version)(int *version);
  int (*get_unique_id)(nccl_id *id);
  int (*init)(nccl_comm **comm, int ranks, nccl_id id, int rank, nccl_config *config);
  int (*async_error)(nccl_comm *comm, int *error);
  int (*finalize)(nccl_comm *comm);
  int (*destroy)(nccl_comm *comm);
  int (*abort)(nccl_comm *comm);
  int (*group_start)(void);
  int (*group_end)(void);
  int (*send)(const void *data, size_t count, int type, int peer, nccl_comm *comm, void *stream);
  int (*receive)(void *data, size_t count, int type, int peer, nccl_comm *comm, void *stream);
  const char *(*error_string)(int error);
  const char *(*last_error)(nccl_comm *comm);
} nccl_functions;

/* The library, loaded once; before that the environment is told that ranks may share a GPU. Errors:
 * ABSENT, with what to install or how to point to it. */
int neapi_nccl_load(const nccl_functions **out);

/* "2.30.7" */
enum { NCCL_VERSION_TEXT = 32 };
const char *neapi_nccl_version(int version, char *text);

#endif

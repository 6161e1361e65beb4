/* SPDX-License-Identifier: Apache-2.0 */
/* Finds NCCL at run time. */
#define _GNU_SOURCE
#include "comm/nccl/library.h"

#include "base/status.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT = 512 };

static nccl_functions nccl;
static char path[TEXT], failure[TEXT];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const struct {
  const char *name;
  void *target;
} wanted[] = {
    {"ncclGetVersion", &nccl.get_version},
    {"ncclGetUniqueId", &nccl.get_unique_id},
    {"ncclCommInitRankConfig", &nccl.init},
    {"ncclCommGetAsyncError", &nccl.async_error},
    {"ncclCommFinalize", &nccl.finalize},
    {"ncclCommDestroy", &nccl.destroy},
    {"ncclCommAbort", &nccl.abort},
    {"ncclGroupStart", &nccl.group_start},
    {"ncclGroupEnd", &nccl.group_end},
    {"ncclSend", &nccl.send},
    {"ncclRecv", &nccl.receive},
    {"ncclGetErrorString", &nccl.error_string},
    {"ncclGetLastError", &nccl.last_error},
};

const char *neapi_nccl_version(int version, char *text)
{
  snprintf(text, NCCL_VERSION_TEXT, "%d.%d.%d", version / 10000, version / 100 % 100,
           version % 100);
  return text;
}

static void *open_library(void)
{
  const char *given = getenv("NEAP_NCCL");
  if (given && *given)
    return dlopen(given, RTLD_NOW | RTLD_LOCAL);
  void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  return library ? library : dlopen("libnccl.so", RTLD_NOW | RTLD_LOCAL);
}

/* Where the library is, for doctor and for errors. */
static void find_path(void)
{
  Dl_info info;
  bool known = dladdr((void *)nccl.get_version, &info) && info.dli_fname;
  snprintf(path, sizeof path, "%s", known ? info.dli_fname : "libnccl");
}

static void find_functions(void *library)
{
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    void *function = dlsym(library, wanted[i].name);
    if (!function && !*failure)
      snprintf(failure, sizeof failure, "nccl: the library found has no %s: it is older than 2.14",
               wanted[i].name);
    memcpy(wanted[i].target, &function, sizeof function);
  }
}

/* NVLink multicast gives nothing to sends and receives, and cannot be had where ranks share. */
static void load(void)
{
  setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  void *library = open_library();
  if (!library) {
    const char *given = getenv("NEAP_NCCL"), *why = dlerror();
    snprintf(failure, sizeof failure,
             "nccl: cannot be loaded (%.200s); install NVIDIA's package libnccl2 or the Python "
             "package nvidia-nccl-cu13, and %s NEAP_NCCL=/path/to/libnccl.so.2",
             why ? why : "not found", given && *given ? "correct" : "if it is not found then, set");
    return;
  }
  find_functions(library);
  if (*failure)
    return;
  find_path();
  char text[NCCL_VERSION_TEXT];
  if (nccl.get_version(&nccl.version) || nccl.version < NCCL_OLDEST)
    snprintf(failure, sizeof failure, "nccl: %s at %.300s is too old; 2.14 or later is needed",
             neapi_nccl_version(nccl.version, text), path);
}

int neapi_nccl_load(const nccl_functions **out)
{
  pthread_once(&once, load);
  if (*failure)
    return neapi_fail(NEAP_ABSENT, "%s", failure);
  *out = &nccl;
  return NEAP_OK;
}

int neap_nccl_describe(char *text, int64_t size)
{
  const nccl_functions *found;
  char version[NCCL_VERSION_TEXT];
  int status = neapi_nccl_load(&found);
  if (status)
    return status;
  snprintf(text, (size_t)size, "%s at %s; %s", neapi_nccl_version(found->version, version), path,
           found->version >= NCCL_SHARES_GPUS
               ? "ranks under mpirun can share a GPU"
               : "ranks under mpirun need a GPU each: sharing needs 2.30 or later");
  return NEAP_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What the program is, and what it runs on: for neap doctor and for reports. */
#include "neap.h"

#include <cblas.h>
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { FACTS = 5, VALUE_BYTES = 256 };

static const char *const names[FACTS] = {"processor", "processors", "memory", "blas", "mpi"};
static char values[FACTS][VALUE_BYTES];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find_processor(char *value)
{
  snprintf(value, VALUE_BYTES, "unknown");
  FILE *file = fopen("/proc/cpuinfo", "r");
  char line[VALUE_BYTES + 32];
  while (file && fgets(line, sizeof line, file)) {
    char *colon = strchr(line, ':');
    if (colon && !strncmp(line, "model name", 10)) {
      snprintf(value, VALUE_BYTES, "%.*s", (int)strcspn(colon + 1, "\n") - 1, colon + 2);
      break;
    }
  }
  if (file)
    fclose(file);
}

static void find_facts(void)
{
  find_processor(values[0]);
  snprintf(values[1], VALUE_BYTES, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
  snprintf(values[2], VALUE_BYTES, "%.1f GB",
           1e-9 * (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE));
  snprintf(values[3], VALUE_BYTES, "%.200s, core %.40s", openblas_get_config(),
           openblas_get_corename());
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(version, &length);
  snprintf(values[4], VALUE_BYTES, "%.*s", (int)strcspn(version, ",\n"), version);
}

const char *neap_version(void)
{
  return NEAP_VERSION " (" NEAP_BUILD
#ifdef __AVX512F__
                      ", avx512"
#elif defined(__AVX2__)
                      ", avx2"
#endif
                      "" NEAP_SANITIZE ")";
}

const char *neap_machine(int32_t index, const char **value)
{
  if (index < 0 || index >= FACTS)
    return NULL;
  pthread_once(&once, find_facts);
  *value = values[index];
  return names[index];
}

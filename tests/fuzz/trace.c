/* Trace files with libFuzzer: safetensors, CSV and gzip, by their content. What is read has a shape
 * that its loads fit, and every load is one. */
#include <neap.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
  static int file = -1;
  static char path[64];
  if (file < 0) {
    file = memfd_create("input", 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  }
  if (ftruncate(file, 0) || pwrite(file, data, bytes, 0) != (ssize_t)bytes)
    abort();
  neap_trace *trace = NULL;
  int status = neap_trace_open(path, &trace);
  if (status && status != NEAP_FORMAT && status != NEAP_MEMORY)
    abort();
  if (!status) {
    int64_t shape[4];
    neap_trace_shape(trace, shape);
    int64_t cells = shape[2] * shape[3], *load = malloc((size_t)cells * sizeof *load);
    for (int64_t step = 0; load && step < shape[0]; step++)
      for (int64_t layer = 0; layer < shape[1]; layer++) {
        if (neap_trace_load(trace, step, layer, load))
          abort();
        for (int64_t i = 0; i < cells; i++)
          if (load[i] < 0 || load[i] > INT32_MAX)
            abort();
      }
    free(load);
    neap_trace_close(trace);
  }
  return 0;
}

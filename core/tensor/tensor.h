/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a tensor, and the checks that every operation over tensors makes. */
#ifndef NEAP_TENSOR_H
#define NEAP_TENSOR_H

#include "device/device.h"

#include <kernels.h>
#include <stdbool.h>

enum { NEAPI_DIMS = 4 };

struct neap_tensor {
  int dtype;
  int32_t ndim;
  int64_t dims[NEAPI_DIMS];
  int64_t count;
  neapi_memory_kind memory;
  char *data;
  bool borrowed;       /* the memory is the caller's */
  neap_tensor *parent; /* owner of the memory, never a view itself; NULL: this tensor */
  int32_t references;  /* atomic */
  uint64_t layout;     /* hash of the layout that its rows are the slots of; 0: of none */
};

/* Any number of elements, where a dimension is expected. */
enum { NEAPI_ANY = -1 };

/* Another owner of the tensor; given back with neap_tensor_close. */
neap_tensor *neapi_tensor_share(const neap_tensor *tensor);

/* Report SHAPE, naming operation and argument, what it is and what it should be, unless the tensor
 * is a vector (rows) or a matrix (rows, columns) of the dtype. NULL reports ARGUMENT. */
int neapi_tensor_vector(const char *operation, const char *argument, const neap_tensor *tensor,
                        int dtype, int64_t rows);
int neapi_tensor_matrix(const char *operation, const char *argument, const neap_tensor *tensor,
                        int dtype, int64_t rows, int64_t columns);
/* Any shape with this many elements. */
int neapi_tensor_elements(const char *operation, const char *argument, const neap_tensor *tensor,
                          int dtype, int64_t count);
/* A tensor that is F32, F64 or BF16; and one that is F32 or F64. */
int neapi_tensor_real(const char *operation, const char *argument, const neap_tensor *tensor);
int neapi_tensor_acc(const char *operation, const char *argument, const neap_tensor *tensor);

/* ids: I32 (rows), each from least to end - 1; else ARGUMENT, naming id and row. */
int neapi_tensor_ids(const char *operation, const neap_tensor *ids, int64_t rows, int64_t least,
                     int64_t end);

/* The kernels of the calling thread's device for a dtype: F32, F64 or BF16. NULL after reporting
 * ABSENT: F64 on a GPU. */
const neapi_kernels *neapi_kernels_of(int dtype);
/* Those for a tensor's dtype and memory. */
const neapi_kernels *neapi_tensor_kernels(const neap_tensor *tensor);

/* data[count] = scale x normal(seed, stream, first …), as neap_tensor_normal. */
int neapi_draw(neapi_memory_kind memory, int dtype, void *data, int64_t count, uint64_t seed,
               uint64_t stream, int64_t first, double scale);

/* exact_square_sum of the calling thread's device, with sum[2] in any host memory. */
int neapi_exact_squares(const char *operation, const neapi_kernels *kernels, int64_t count,
                        const void *x, double max, int64_t total, double *sum);

/* A kernel's result as a status, with a message that names the operation. */
int neapi_kernel_status_of(const char *operation, int result);

/* One step of AdamW over arrays of count elements of the kernels' dtype. Errors: ARGUMENT, naming
 * the operation and the setting that is out of its range. */
int neapi_adamw_step(const char *operation, const neapi_kernels *kernels,
                     const neap_adamw *settings, int64_t count, const void *grad, void *param,
                     void *m, void *v);

#endif

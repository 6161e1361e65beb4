/* SPDX-License-Identifier: Apache-2.0 */
/* What a device said when it refused a launch. */
#ifndef NEAPI_REFUSAL_H
#define NEAPI_REFUSAL_H

/* Of the calling thread's last NEAPI_KERNEL_DEVICE: kernel, GPU, grid, and CUDA's words. */
const char *neapi_kernels_cuda_refusal(void);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The one step of AdamW, for tensors and for the master's arrays of a shard store. */
#include "tensor/tensor.h"

#include <math.h>

static bool decays(double beta)
{
  return beta >= 0 && beta < 1;
}

/* Checks the settings, and works out what the kernel needs of them. */
static int prepare(const char *operation, const neap_adamw *s, neapi_adamw *out)
{
  if (s->step < 1 || !decays(s->beta1) || !decays(s->beta2) || !(s->eps > 0))
    return neapi_fail(NEAP_ARGUMENT,
                      "%s: step %lld, beta1 %g, beta2 %g, eps %g; expected step >= 1, betas in "
                      "[0, 1), eps > 0",
                      operation, (long long)s->step, s->beta1, s->beta2, s->eps);
  *out = (neapi_adamw){.rate = s->rate,
                       .beta1 = s->beta1,
                       .beta2 = s->beta2,
                       .eps = s->eps,
                       .decay = s->decay,
                       .correction1 = 1 - pow(s->beta1, (double)s->step),
                       .correction2 = 1 - pow(s->beta2, (double)s->step),
                       .grad_scale = s->grad_scale};
  return NEAP_OK;
}

int neapi_adamw_step(const char *operation, const neapi_kernels *kernels,
                     const neap_adamw *settings, int64_t count, const void *grad, void *param,
                     void *m, void *v)
{
  neapi_adamw step;
  int status = prepare(operation, settings, &step);
  if (status)
    return status;
  return neapi_kernel_status_of(operation,
                                kernels->adamw(count, &step, grad, param, m, v, neapi_stream()));
}

int neap_op_adamw(const neap_adamw *settings, const neap_tensor *grad, neap_tensor *param,
                  neap_tensor *m, neap_tensor *v)
{
  int status = neapi_tensor_acc("adamw", "grad", grad);
  neap_tensor *const arrays[] = {param, m, v};
  static const char *const names[] = {"param", "m", "v"};
  for (int i = 0; !status && i < 3; i++)
    status = neapi_tensor_elements("adamw", names[i], arrays[i], grad->dtype, grad->count);
  if (status)
    return status;
  return neapi_adamw_step("adamw", neapi_tensor_kernels(grad), settings, grad->count, grad->data,
                          param->data, m->data, v->data);
}

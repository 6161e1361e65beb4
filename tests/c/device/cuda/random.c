/* SPDX-License-Identifier: Apache-2.0 */
/* Initial values on a GPU: those of the host, to the last bit but for a few. */
#include "kernels/cuda/gpu_test.h"

#include "neap.h"

static void test_normals(void)
{
  enum { COUNT = 1000003 };
  neap_tensor *device, *host, *copy;
  const int64_t dims[] = {COUNT};
  if (!check(!neap_device_use(0) && !neap_tensor_open(NEAP_F32, 1, dims, &device) &&
                 !neap_tensor_open_host(NEAP_F32, 1, dims, &host) &&
                 !neap_tensor_open_host(NEAP_F32, 1, dims, &copy),
             "%s", neap_error_message()))
    return;
  check(!neap_tensor_normal(device, 3, 5, 1ll << 33, 0.7) &&
            !neap_tensor_normal(host, 3, 5, 1ll << 33, 0.7) &&
            !neap_tensor_copy(copy, 0, device, 0, COUNT),
        "%s", neap_error_message());
  const float *a = neap_tensor_data(copy), *b = neap_tensor_data(host);
  int differ = 0;
  double most = 0;
  for (int i = 0; i < COUNT; i++) {
    differ += a[i] != b[i];
    most = fmax(most, fabs((double)a[i] - b[i]));
  }
  check(differ <= 3 && most < 1e-6, "%d of %d differ, by %g at most", differ, COUNT, most);
  neap_tensor_close(device);
  neap_tensor_close(host);
  neap_tensor_close(copy);
}

int main(void)
{
  if (gpu_absent())
    return 0;
  test_normals();
  return check_done();
}

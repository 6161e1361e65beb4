/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors over memory of the caller's, and the store's own memory. */
#include "moe/scene.h"

static void test_over(void)
{
  float data[6] = {1, 2, 3, 4, 5, 6};
  neap_tensor *t, *view;
  check_ok(neap_tensor_open_over(NEAP_F32, 2, (int64_t[]){2, 3}, data, &t));
  check(neap_tensor_data(t) == data && neap_tensor_count(t) == 6, "another memory");
  check(neap_tensor_on_host(t), "not on the host");
  check_ok(neap_tensor_view(t, 3, 1, (int64_t[]){3}, &view));
  neap_tensor_close(t);
  check_ok(neap_tensor_fill(view, 7));
  check(data[2] == 3 && data[3] == 7 && data[5] == 7, "%g %g %g", data[2], data[3], data[5]);
  neap_tensor_close(view);
  check(data[0] == 1, "the memory went with the tensor");
  check_ok(neap_tensor_open_over(NEAP_I64, 1, (int64_t[]){0}, NULL, &t));
  check(neap_tensor_data(t), "NULL, which kernels take for a failure");
  neap_tensor_close(t);
  check(neap_tensor_open_over(NEAP_F32, 1, (int64_t[]){1}, NULL, &t) == NEAP_ARGUMENT,
        "an element of NULL");
  check(neap_tensor_open_over(99, 1, (int64_t[]){1}, data, &t) == NEAP_ARGUMENT, "dtype 99");
}

/* Every rank changes its own range in place, and the whole expert is what they have made of it. */
static void test_shards(neap_comm *comm, neap_world *world, int which)
{
  (void)world;
  (void)which;
  int32_t ranks = neap_comm_size(comm), rank = neap_comm_rank(comm), slots[] = {2, 2, 2};
  neap_topology *topology;
  neap_shards *shards;
  neap_tensor *whole;
  check_ok(neap_topology_open(ranks, 2, NULL, slots, NULL, NULL, &topology));
  check_ok(neap_shards_open(comm, topology, NEAP_F64, NEAP_TRAVEL_DTYPE, 0, (int64_t[]){5, 7}, 0,
                            &shards));
  double *mine = neap_shards_data(shards, NEAP_SHARD_PARAMETER);
  int64_t owned = neap_shards_owned(shards), begin, end;
  for (int64_t i = 0; i < owned; i++)
    mine[i] = 100 * rank + (double)i;
  check_ok(neap_tensor_open(NEAP_F64, 1, (int64_t[]){7}, &whole));
  check_ok(neap_shards_get(shards, NEAP_SHARD_PARAMETER, 1, whole));
  const double *values = neap_tensor_data(whole);
  for (int32_t r = 0; r < ranks; r++) {
    int64_t before, past; /* a rank's range of expert 0 comes first */
    neap_cut(5, 1, ranks, r, &before, &past);
    neap_cut(7, 1, ranks, r, &begin, &end);
    for (int64_t i = begin; i < end; i++)
      check(values[i] == 100 * r + (double)(past - before + i - begin), "element %d of rank %d",
            (int)i, r);
  }
  check(!neap_shards_data(shards, 4) && !neap_shards_data(shards, -1), "part 4");
  neap_tensor_close(whole);
  neap_shards_close(shards);
  neap_topology_close(topology);
}

int main(void)
{
  test_over();
  check(neap_device_stream(NULL) == NEAP_ARGUMENT, "a stream of a thread on the CPU");
  for (int ranks = 1; ranks <= 3; ranks++)
    run_threads(ranks, test_shards, 0);
  return check_done();
}

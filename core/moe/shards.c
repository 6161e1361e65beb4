/* SPDX-License-Identifier: Apache-2.0 */
/* The FSEP store: every expert's parameters, moments and gradient, cut over the ranks. */
#include "moe/shards.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "layout/groups.h"
#include "tensor/tensor.h"

#include <string.h>

/* ---- life ------------------------------------------------------------------------------------ */

int neapi_travel_check(const char *name, int travel)
{
  if (travel == NEAP_TRAVEL_DTYPE || travel == NEAP_TRAVEL_E4M3)
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "%s: travel is %d; allowed are %d (dtype) and %d (E4M3)", name,
                    travel, NEAP_TRAVEL_DTYPE, NEAP_TRAVEL_E4M3);
}

static int check_types(int dtype, int travel, int32_t group)
{
  if (dtype != NEAP_F32 && dtype != NEAP_F64 && dtype != NEAP_BF16)
    return neapi_fail(NEAP_ARGUMENT, "shards: dtype is %s; allowed are f32, f64 and bf16",
                      neapi_dtype_name(dtype));
  int status = travel == NEAP_TRAVEL_EITHER ? NEAP_OK : neapi_travel_check("shards", travel);
  if (status)
    return status;
  if (travel != NEAP_TRAVEL_DTYPE && group == NEAP_GROUP_RESIDENT)
    return neapi_fail(NEAP_ARGUMENT,
                      "shards: resident experts do not travel in FP8, since they are "
                      "computed with as they are; shard them, or let them travel in "
                      "their dtype");
  return NEAP_OK;
}

static int check(const neap_comm *comm, const neap_topology *topology, int dtype, int travel,
                 const int64_t *sizes, int32_t group)
{
  if (!comm || !topology || !sizes)
    return neapi_fail(NEAP_ARGUMENT, "shards: communicator, topology or sizes are NULL");
  if (neap_comm_size(comm) != topology->ranks)
    return neapi_fail(NEAP_ARGUMENT, "shards: the communicator has %d ranks, the topology %d",
                      neap_comm_size(comm), topology->ranks);
  int status = check_types(dtype, travel, group);
  if (status)
    return status;
  if (group == NEAP_GROUP_RESIDENT && !topology->homes)
    return neapi_fail(NEAP_ARGUMENT,
                      "shards: resident experts need homes, which the topology does not have; give "
                      "it some before the store is opened");
  status = group == NEAP_GROUP_RESIDENT ? NEAP_OK : neapi_group_check(topology, group, "shards");
  if (status)
    return status;
  for (int32_t e = 0; e < topology->experts; e++)
    if (sizes[e] < 1 || sizes[e] > INT64_MAX >> 8)
      return neapi_fail(NEAP_ARGUMENT, "shards: expert %d has %lld parameters; it needs 1 or more",
                        e, (long long)sizes[e]);
  return NEAP_OK;
}

static void set_groups(neap_shards *s, int32_t group)
{
  if (s->resident)
    group = s->topology->homes;
  for (int32_t r = 0, last; r < s->ranks; r++) {
    neapi_group_ranks(s->topology, group, neapi_group_of(s->topology, group, r), &s->group_first[r],
                      &last);
    s->group_size[r] = last - s->group_first[r];
  }
}

static void set_ranges(neap_shards *s, const int64_t *sizes)
{
  for (int32_t e = 0; e < s->experts; e++) {
    s->sizes[e] = sizes[e];
    s->count += sizes[e];
    s->slot_size = sizes[e] > s->slot_size ? sizes[e] : s->slot_size;
    neapi_shard_range master = neapi_shards_master(s, e, s->rank);
    s->master_at[e + 1] = s->master_at[e] + master.end - master.begin;
  }
  s->owned = s->master_at[s->experts];
  for (int32_t e = 0; e < s->experts; e++) {
    int64_t own = s->master_at[e + 1] - s->master_at[e];
    s->largest_range = own > s->largest_range ? own : s->largest_range;
  }
}

static int allocate_lists(neap_shards *s)
{
  s->group_first = neapi_alloc(s->ranks * 4ll, "shards");
  s->group_size = neapi_alloc(s->ranks * 4ll, "shards");
  s->sizes = neapi_alloc(s->experts * 8ll, "shards");
  s->master_at = neapi_alloc_zero(s->experts * 8ll + 8, "shards");
  return s->group_first && s->group_size && s->sizes && s->master_at ? NEAP_OK : NEAP_MEMORY;
}

static int64_t bytes_of(const neap_shards *s, neapi_shard_range range)
{
  return neapi_shards_bytes(s, range.end) - neapi_shards_bytes(s, range.begin);
}

static void close_copy(neap_shards *s, neapi_shard_copy *copy)
{
  if (copy->working != copy->current)
    neapi_memory_free(s->memory, copy->working);
  if (copy->current != s->part[NEAP_SHARD_PARAMETER])
    neapi_memory_free(s->memory, copy->current);
  free(copy->current_at);
  free(copy->working_at);
  *copy = (neapi_shard_copy){0};
}

/* Makes now, which is empty, for the way that the parameters travel now. */
static int open_copy(neap_shards *s)
{
  neapi_shard_copy *copy = &s->now;
  copy->current_at = neapi_alloc_zero(s->experts * 8ll + 8, "shards");
  copy->working_at = neapi_alloc_zero(s->experts * 8ll + 8, "shards");
  if (!copy->current_at || !copy->working_at)
    return NEAP_MEMORY;
  for (int32_t e = 0; e < s->experts; e++) {
    copy->current_at[e + 1] = copy->current_at[e] + bytes_of(s, neapi_shards_master(s, e, s->rank));
    copy->working_at[e + 1] =
        copy->working_at[e] + bytes_of(s, neapi_shards_working(s, e, s->rank));
  }
  copy->current = s->part[NEAP_SHARD_PARAMETER];
  if (s->acc != s->dtype || s->packed)
    copy->current = neapi_memory_alloc_zero(s->memory, copy->current_at[s->experts], "shards");
  if (!copy->current)
    return NEAP_MEMORY;
  copy->working = copy->current;
  if (s->group_size[s->rank] != s->ranks)
    copy->working = neapi_memory_alloc_zero(s->memory, copy->working_at[s->experts], "shards");
  return copy->working ? NEAP_OK : NEAP_MEMORY;
}

static int allocate_parts(neap_shards *s)
{
  for (int i = 0; i < 4; i++) {
    s->part[i] = neapi_memory_alloc_zero(s->memory, s->owned * s->acc_kernels->size, "shards");
    if (!s->part[i])
      return NEAP_MEMORY;
  }
  return open_copy(s);
}

int neap_shards_open(neap_comm *comm, neap_topology *topology, int dtype, int travel, int exact,
                     const int64_t *sizes, int32_t group, neap_shards **out)
{
  int status = check(comm, topology, dtype, travel, sizes, group);
  if (status)
    return status;
  const neapi_kernels *kernels = neapi_kernels_of(dtype);
  const neapi_kernels *acc_kernels = neapi_kernels_of(neapi_acc_of(dtype));
  if (!kernels || !acc_kernels)
    return NEAP_ABSENT;
  neap_shards *s = neapi_alloc_zero(sizeof *s, "shards");
  if (!s)
    return NEAP_MEMORY;
  s->comm = s->reduces = comm;
  s->topology = neapi_topology_share(topology);
  s->kernels = kernels;
  s->acc_kernels = acc_kernels;
  s->memory = s->scratch.memory = neapi_memory_of_reals();
  s->dtype = dtype;
  s->acc = neapi_acc_of(dtype);
  s->packed = travel == NEAP_TRAVEL_E4M3;
  s->either = travel == NEAP_TRAVEL_EITHER;
  s->granule = travel == NEAP_TRAVEL_DTYPE ? 1 : NEAPI_E4M3_BLOCK;
  s->exact = exact;
  s->resident = group == NEAP_GROUP_RESIDENT;
  s->element = s->kernels->size;
  s->rank = neap_comm_rank(comm);
  s->ranks = topology->ranks;
  s->experts = topology->experts;
  s->slots = topology->first_slot[s->rank + 1] - topology->first_slot[s->rank];
  status = allocate_lists(s);
  if (!status) {
    set_groups(s, group);
    set_ranges(s, sizes);
    status = allocate_parts(s);
  }
  if (status)
    neap_shards_close(s);
  else
    *out = s;
  return status;
}

int neap_shards_reduce_over(neap_shards *s, neap_comm *comm)
{
  if (!s || !comm || neap_comm_size(comm) != s->ranks || neap_comm_rank(comm) != s->rank)
    return neapi_fail(
        NEAP_ARGUMENT,
        "shards: reduce over a communicator of %d ranks, as rank %d; it must be of the "
        "same ranks as the store's own",
        comm ? neap_comm_size(comm) : 0, comm ? neap_comm_rank(comm) : 0);
  s->reduces = comm;
  return NEAP_OK;
}

static void swap_copies(neap_shards *s)
{
  neapi_shard_copy copy = s->now;
  s->now = s->other;
  s->other = copy;
  s->packed = !s->packed;
}

int neap_shards_set_travel(neap_shards *s, int travel)
{
  int status = neapi_travel_check("shards", travel);
  if (status)
    return status;
  if (!s->either)
    return neapi_fail(NEAP_ARGUMENT,
                      "shards: how parameters travel is to stay; open the store with "
                      "NEAP_TRAVEL_EITHER");
  if (s->active)
    return neapi_fail(NEAP_ARGUMENT, "shards: transfers are under way; how parameters travel "
                                     "changes between steps");
  if ((travel == NEAP_TRAVEL_E4M3) == s->packed)
    return NEAP_OK;
  swap_copies(s);
  status = s->now.working ? NEAP_OK : open_copy(s);
  if (status) {
    close_copy(s, &s->now);
    swap_copies(s);
  }
  return status;
}

void neap_shards_close(neap_shards *s)
{
  if (!s)
    return;
  neapi_transfers_close(s);
  close_copy(s, &s->now);
  close_copy(s, &s->other);
  for (int i = 0; i < 4; i++)
    neapi_memory_free(s->memory, s->part[i]);
  neapi_buffer_free(&s->counts);
  neapi_buffer_free(&s->scratch);
  free(s->group_first);
  free(s->group_size);
  free(s->sizes);
  free(s->master_at);
  neap_topology_close(s->topology);
  free(s);
}

int64_t neap_shards_slot_size(const neap_shards *s)
{
  return s->slot_size;
}

int64_t neap_shards_count(const neap_shards *s)
{
  return s->count;
}

int64_t neap_shards_granule(const neap_shards *s)
{
  return s->granule;
}

int neap_shards_traffic(const neap_shards *s, neap_shard_traffic *out)
{
  *out = s->traffic;
  return NEAP_OK;
}

/* ---- content --------------------------------------------------------------------------------- */

static int check_expert(const neap_shards *s, int32_t expert)
{
  if (expert >= 0 && expert < s->experts)
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "shards: expert %d; allowed are 0 to %d", expert,
                    s->experts - 1);
}

static int check_part(const neap_shards *s, int part, int32_t expert, const neap_tensor *value)
{
  if (part < NEAP_SHARD_PARAMETER || part > NEAP_SHARD_GRADIENT)
    return neapi_fail(NEAP_ARGUMENT, "shards: part %d; allowed are %d to %d", part,
                      NEAP_SHARD_PARAMETER, NEAP_SHARD_GRADIENT);
  int status = check_expert(s, expert);
  if (!status)
    status = neapi_tensor_elements("shards", "value", value, s->acc, s->sizes[expert]);
  return status;
}

int neap_shards_normal(neap_shards *s, int32_t expert, int64_t first, int64_t count, uint64_t seed,
                       uint64_t stream, double scale)
{
  int status = check_expert(s, expert);
  if (status)
    return status;
  if (first < 0 || count < 0 || first > s->sizes[expert] || count > s->sizes[expert] - first)
    return neapi_fail(NEAP_ARGUMENT, "shards: %lld elements from %lld of expert %d, which has %lld",
                      (long long)count, (long long)first, expert, (long long)s->sizes[expert]);
  neapi_shard_range own = neapi_shards_master(s, expert, s->rank);
  char *data = s->part[NEAP_SHARD_PARAMETER] + s->master_at[expert] * s->acc_kernels->size;
  int64_t begin = own.begin > first ? own.begin : first;
  int64_t end = own.end < first + count ? own.end : first + count;
  if (begin >= end)
    return NEAP_OK;
  return neapi_draw(s->memory, s->acc, data + (begin - own.begin) * s->acc_kernels->size,
                    end - begin, seed, stream, begin - first, scale);
}

int neap_shards_set(neap_shards *s, int part, int32_t expert, const neap_tensor *value)
{
  int status = check_part(s, part, expert, value);
  if (status)
    return status;
  neapi_shard_range own = neapi_shards_master(s, expert, s->rank);
  return neapi_copy(s->part[part] + s->master_at[expert] * s->acc_kernels->size,
                    (char *)neap_tensor_data(value) + own.begin * s->acc_kernels->size,
                    (own.end - own.begin) * s->acc_kernels->size);
}

int64_t neap_shards_owned(const neap_shards *s)
{
  return s->owned;
}

static int check_owned(const neap_shards *s, int part, int64_t count)
{
  if (part < NEAP_SHARD_PARAMETER || part > NEAP_SHARD_GRADIENT || count != s->owned)
    return neapi_fail(NEAP_ARGUMENT, "shards: %lld values for part %d; this rank has %lld of each",
                      (long long)count, part, (long long)s->owned);
  return NEAP_OK;
}

int neap_shards_put(neap_shards *s, int part, const void *values, int64_t count)
{
  int status = check_owned(s, part, count);
  return status ? status : neapi_copy(s->part[part], values, count * s->acc_kernels->size);
}

int neap_shards_take(const neap_shards *s, int part, void *values, int64_t count)
{
  int status = check_owned(s, part, count);
  if (!status)
    status = neapi_copy(values, s->part[part], count * s->acc_kernels->size);
  return status ? status : neapi_stream_wait();
}

void *neap_shards_data(neap_shards *s, int part)
{
  return part < NEAP_SHARD_PARAMETER || part > NEAP_SHARD_GRADIENT ? NULL : s->part[part];
}

int neap_shards_get(neap_shards *s, int part, int32_t expert, neap_tensor *value)
{
  int status = check_part(s, part, expert, value);
  if (!status)
    status = neapi_buffer_reserve(&s->counts, s->ranks * 8ll, "shards get");
  if (status)
    return status;
  int64_t *counts = s->counts.data;
  for (int32_t r = 0; r < s->ranks; r++) {
    neapi_shard_range range = neapi_shards_master(s, expert, r);
    counts[r] = range.end - range.begin;
  }
  return neap_comm_all_gather(s->comm, s->part[part] + s->master_at[expert] * s->acc_kernels->size,
                              neap_tensor_data(value), counts, s->acc);
}

/* ---- optimiser ------------------------------------------------------------------------------- */

/* A number that a kernel of the gradient gives. */
static int number(const neap_shards *s, int (*kernel)(int64_t, const void *, double *, void *),
                  double *out)
{
  double *result = neapi_results();
  if (!result)
    return NEAP_MEMORY;
  int status = neapi_kernel_status_of(
      "shards", kernel(s->owned, s->part[NEAP_SHARD_GRADIENT], result, neapi_stream()));
  if (!status)
    status = neapi_stream_wait();
  if (!status)
    *out = *result;
  return status;
}

int neap_shards_square_sum(neap_shards *s, double *sum)
{
  return number(s, s->acc_kernels->square_sum, sum);
}

int neap_shards_gradient_max(neap_shards *s, double *max)
{
  return number(s, s->acc_kernels->max_abs, max);
}

int neap_shards_exact_square_sum(neap_shards *s, double max, int64_t total, double *sum)
{
  if (total < s->owned || total >= 1ll << 40)
    return neapi_fail(NEAP_ARGUMENT, "shards: %lld elements overall; allowed are %lld to 2^40",
                      (long long)total, (long long)s->owned);
  return neapi_exact_squares("shards", s->acc_kernels, s->owned, s->part[NEAP_SHARD_GRADIENT], max,
                             total, sum);
}

int neap_shards_adamw(neap_shards *s, const neap_adamw *settings)
{
  return neapi_adamw_step("shards adamw", s->acc_kernels, settings, s->owned,
                          s->part[NEAP_SHARD_GRADIENT], s->part[NEAP_SHARD_PARAMETER],
                          s->part[NEAP_SHARD_MOMENT1], s->part[NEAP_SHARD_MOMENT2]);
}

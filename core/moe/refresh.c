/* SPDX-License-Identifier: Apache-2.0 */
/* Refresh: after an optimizer step, what unshards read becomes what the masters now are. */
#include "device/timeline.h"
#include "moe/transfer.h"
#include "tensor/tensor.h"

static neapi_shard_range intersect(neapi_shard_range a, neapi_shard_range b)
{
  int64_t begin = a.begin > b.begin ? a.begin : b.begin, end = a.end < b.end ? a.end : b.end;
  return (neapi_shard_range){begin, end > begin ? end : begin};
}

/* Of one expert: this rank's master range to all whose working range it meets, and back. */
static void list_refresh(neap_transfer *t, int32_t e)
{
  const neap_shards *s = t->shards;
  neapi_shard_range master = neapi_shards_master(s, e, s->rank);
  neapi_shard_range working = neapi_shards_working(s, e, s->rank);
  char *from = s->now.current + s->now.current_at[e] - neapi_shards_bytes(s, master.begin);
  char *to = s->now.working + s->now.working_at[e] - neapi_shards_bytes(s, working.begin);
  for (int32_t peer = 0; peer < s->ranks; peer++) {
    neapi_shard_range out = intersect(master, neapi_shards_working(s, e, peer));
    neapi_shard_range in = intersect(neapi_shards_master(s, e, peer), working);
    int64_t out_at = neapi_shards_bytes(s, out.begin), in_at = neapi_shards_bytes(s, in.begin);
    int64_t out_bytes = neapi_shards_bytes(s, out.end) - out_at;
    int64_t in_bytes = neapi_shards_bytes(s, in.end) - in_at;
    if (peer == s->rank) {
      t->failed |= neapi_copy(to + in_at, from + in_at, in_bytes);
      continue;
    }
    neapi_messages_add(&t->send, from + out_at, out_bytes, peer);
    neapi_messages_add(&t->recv, to + in_at, in_bytes, peer);
  }
}

/* The master's parameters in FP8: experts in one launch as long as blocks end where they do. */
static int pack_master(neap_shards *s)
{
  const char *master = s->part[NEAP_SHARD_PARAMETER];
  int status = NEAPI_KERNEL_OK;
  for (int32_t first = 0, e = 0; !status && e < s->experts; e++) {
    int64_t n = s->master_at[e + 1] - s->master_at[first];
    if (n % NEAPI_E4M3_BLOCK == 0 && e + 1 < s->experts)
      continue;
    status = s->kernels->to_e4m3(n, master + s->master_at[first] * s->kernels->acc_size,
                                 s->now.current + s->now.current_at[first], neapi_stream());
    first = e + 1;
  }
  return status;
}

/* What the master's parameters are as they travel. */
static int round_master(neap_shards *s)
{
  const char *master = s->part[NEAP_SHARD_PARAMETER];
  if (s->now.current == master)
    return NEAP_OK;
  if (s->packed)
    return neapi_kernel_status_of("refresh", pack_master(s));
  return neapi_kernel_status_of(
      "refresh", s->kernels->from_acc(s->owned, master, s->now.current, neapi_stream()));
}

static int finish_refresh(neap_transfer *t)
{
  return t->failed ? NEAP_SYSTEM : NEAP_OK;
}

int neap_shards_refresh_start(neap_shards *s, neap_transfer **out)
{
  neap_transfer *t = neapi_transfer_acquire(s, 1);
  if (!t)
    return NEAP_MEMORY;
  t->finish = finish_refresh;
  int64_t most = (int64_t)s->experts * s->ranks;
  bool moves = s->group_size[0] != s->ranks;
  int status = round_master(s);
  if (!status)
    status = neapi_messages_reserve(&t->send, most);
  if (!status)
    status = neapi_messages_reserve(&t->recv, most);
  for (int32_t e = 0; !status && moves && e < s->experts; e++)
    list_refresh(t, e);
  if (!status && moves)
    status = neapi_transfer_exchange(t, NEAP_SPAN_REFRESH, -1, &s->traffic.refresh,
                                     &s->traffic.refresh_inter);
  return neapi_transfer_started(t, status, out);
}

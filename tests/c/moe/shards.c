/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shard store on threads: every transfer against arrays that each rank makes for itself.
 * Runs on: threads.
 */
#include "moe/shards.h"
#include "layout/layout.h"
#include "moe/scene.h"

enum { MAX_EXPERTS = 7, MAX_SLOTS = 64, MAX_SIZE = 130, MAX_PACKED_SIZE = 420 };

/* One random store; the same on every rank. */
typedef struct {
  uint64_t seed;
  int32_t ranks, experts, group;
  int dtype, travel;
  int exact;
  int64_t sizes[MAX_EXPERTS];
  neap_topology *topology;
} problem;

/* The dtype of masters and gradients. */
static int acc_of(const problem *p)
{
  return p->dtype == NEAP_BF16 ? NEAP_F32 : p->dtype;
}

static double value(const problem *p, int64_t what, int64_t index)
{
  double v = neap_random_normal(p->seed, (uint64_t)what, (uint64_t)index);
  return p->dtype == NEAP_F64 ? v : (double)(float)v;
}

/* What unshard brings of a parameter. */
static double working(const problem *p, double master)
{
  int exponent;
  double part = frexp(master, &exponent);
  return p->dtype == NEAP_BF16 ? ldexp(rint(ldexp(part, 8)), exponent - 8) : master;
}

static double element(const neap_tensor *t, int64_t i)
{
  void *data = neap_tensor_data(t);
  if (neap_tensor_dtype(t) == NEAP_BF16) {
    uint32_t bits = (uint32_t)((uint16_t *)data)[i] << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return (double)wide;
  }
  return neap_tensor_dtype(t) == NEAP_F32 ? (double)((float *)data)[i] : ((double *)data)[i];
}

static void put(neap_tensor *t, int64_t i, double v)
{
  void *data = neap_tensor_data(t);
  if (neap_tensor_dtype(t) == NEAP_F32)
    ((float *)data)[i] = (float)v;
  else
    ((double *)data)[i] = v;
}

static neap_tensor *matrix(int dtype, int64_t rows, int64_t columns)
{
  neap_tensor *t = NULL;
  int64_t dims[] = {rows, columns};
  check_ok(neap_tensor_open(dtype, 2, dims, &t));
  check_ok(neap_tensor_fill(t, -77));
  return t;
}

static void wait_refresh(neap_shards *shards)
{
  neap_transfer *transfer;
  if (check_ok(neap_shards_refresh_start(shards, &transfer)))
    check_ok(neap_transfer_wait(transfer));
}

/* Parameters in two pieces, of two streams. */
static void fill_parameters(const problem *p, neap_shards *shards)
{
  for (int32_t e = 0; e < p->experts; e++) {
    int64_t cut = p->sizes[e] / 3;
    check_ok(neap_shards_normal(shards, e, 0, cut, p->seed, (uint64_t)e, 1.0));
    check_ok(
        neap_shards_normal(shards, e, cut, p->sizes[e] - cut, p->seed, (uint64_t)e + 100, 1.0));
  }
}

static double parameter(const problem *p, int32_t e, int64_t i)
{
  int64_t cut = p->sizes[e] / 3;
  return i < cut ? value(p, e, i) : value(p, e + 100, i - cut);
}

/* What unshard brings of an element: in FP8, a code times the scale of its block of the expert. */
static double unsharded(const problem *p, int32_t e, int64_t i)
{
  if (p->travel == NEAP_TRAVEL_DTYPE)
    return working(p, parameter(p, e, i));
  double largest = 0, x = parameter(p, e, i);
  int64_t first = i - i % NEAPI_E4M3_BLOCK, end = first + NEAPI_E4M3_BLOCK;
  for (int64_t j = first; j < end && j < p->sizes[e]; j++)
    largest = fmax(largest, fabs(parameter(p, e, j)));
  float scale = neapi_e4m3_scale(largest);
  float quotient = p->dtype == NEAP_F64 ? (float)(x / (double)scale) : (float)x / scale;
  float code = neapi_e4m3_value(neapi_e4m3_of(quotient));
  return p->dtype == NEAP_F64 ? (double)code * (double)scale : working(p, (double)(code * scale));
}

static void check_get(const problem *p, neap_shards *shards, int part,
                      double (*expected)(const problem *, int32_t, int64_t))
{
  for (int32_t e = 0; e < p->experts; e++) {
    neap_tensor *whole = matrix(acc_of(p), 1, p->sizes[e]);
    check_ok(neap_shards_get(shards, part, e, whole));
    int64_t wrong = 0;
    for (int64_t i = 0; i < p->sizes[e]; i++)
      wrong += element(whole, i) != expected(p, e, i);
    check(!wrong, "seed %d: %d elements of part %d of expert %d are wrong", (int)p->seed,
          (int)wrong, part, e);
    neap_tensor_close(whole);
  }
}

/* Whether an expert is at home on a rank: what homes are, in other words. */
static bool at_home(const problem *p, int32_t e, int32_t rank)
{
  const int32_t *first = neap_topology_first_slot(p->topology);
  int32_t run = neap_topology_homes(p->topology), begin = rank - rank % run;
  double share = (double)p->experts / (first[begin + run] - first[begin]);
  return e >= (int32_t)((first[rank] - first[begin]) * share + 1e-9) &&
         e < (int32_t)((first[rank + 1] - first[begin]) * share + 1e-9);
}

static bool is_resident(const problem *p, int32_t e, int32_t rank)
{
  return p->group == NEAP_GROUP_RESIDENT && at_home(p, e, rank);
}

/* Every expert has one home in each run, and no rank more of them than slots. */
static void check_homes(const problem *p)
{
  const int32_t *first = neap_topology_first_slot(p->topology);
  int32_t run = neap_topology_homes(p->topology);
  for (int32_t e = 0; run && e < p->experts; e++)
    for (int32_t begin = 0, homes = 0; begin < p->ranks; begin += run, homes = 0) {
      for (int32_t r = begin; r < begin + run; r++)
        homes += at_home(p, e, r);
      check(homes == 1, "seed %d: expert %d has %d homes", (int)p->seed, e, homes);
    }
  for (int32_t r = 0; run && r < p->ranks; r++) {
    int32_t from, end;
    neap_topology_home(p->topology, r, &from, &end);
    check(end - from <= first[r + 1] - first[r], "seed %d: rank %d has homes for %d experts",
          (int)p->seed, r, end - from);
  }
}

/* What the store has of a resident expert. */
static int64_t wrong_at_home(const problem *p, const neap_shards *shards, int32_t e)
{
  int64_t dims[] = {1, p->sizes[e]}, wrong = 0;
  neap_tensor *copy = NULL;
  check_ok(neap_tensor_open(p->dtype, 2, dims, &copy));
  memcpy(neap_tensor_data(copy), shards->now.working + shards->now.working_at[e],
         (size_t)(p->sizes[e] * shards->element));
  for (int64_t i = 0; i < p->sizes[e]; i++)
    wrong += element(copy, i) != working(p, parameter(p, e, i));
  neap_tensor_close(copy);
  return wrong;
}

static void check_unshard(const problem *p, int32_t rank, const neap_shards *shards,
                          const neap_layout *layout, const neap_tensor *buffer)
{
  const int32_t *first = neap_topology_first_slot(p->topology);
  int64_t wrong = 0, width = neap_shards_slot_size(shards);
  for (int32_t s = first[rank]; s < first[rank + 1]; s++) {
    int32_t e = neap_layout_experts(layout)[s];
    bool resident = is_resident(p, e, rank);
    wrong += resident ? wrong_at_home(p, shards, e) : 0;
    for (int64_t i = 0; !resident && i < p->sizes[e]; i++)
      wrong += element(buffer, (s - first[rank]) * width + i) != unsharded(p, e, i);
  }
  check(!wrong, "seed %d rank %d: %d unsharded elements are wrong", (int)p->seed, rank, (int)wrong);
}

/* Gradient of a slot's parameter: exact ones are multiples of a grid, so that sums are exact. */
static double slot_gradient(const problem *p, int32_t slot, int64_t i)
{
  double v = value(p, 1000 + slot, i);
  return p->exact ? (double)(int64_t)(v * 1e9) * 0x1p-30 : v;
}

static int64_t tokens_of_slot(const problem *p, int32_t slot)
{
  return (int64_t)(neap_random_uniform(p->seed, 9, (uint64_t)slot) * 3);
}

static const neap_layout *reduced_layout, *other_layout; /* of the present problem */

/* Sum of the slots in their order; double and rounded once if exact. */
static double reduced(const problem *p, int32_t e, int64_t i)
{
  double sum = 0;
  for (int32_t s = 0; s < neap_topology_slots(p->topology); s++)
    if (neap_layout_experts(reduced_layout)[s] == e && tokens_of_slot(p, s)) {
      sum += slot_gradient(p, s, i);
      if (!p->exact && p->dtype != NEAP_F64)
        sum = (double)(float)sum;
    }
  return p->dtype != NEAP_F64 ? (double)(float)sum : sum;
}

static double reduced_twice(const problem *p, int32_t e, int64_t i)
{
  double twice = 2 * reduced(p, e, i);
  return p->dtype != NEAP_F64 ? (double)(float)twice : twice;
}

static void fill_gradients(const problem *p, int32_t rank, neap_tensor *gradients, int64_t width)
{
  const int32_t *first = neap_topology_first_slot(p->topology);
  for (int32_t s = first[rank]; s < first[rank + 1]; s++)
    for (int64_t i = 0; i < width; i++)
      put(gradients, (s - first[rank]) * width + i,
          tokens_of_slot(p, s) ? slot_gradient(p, s, i) : NAN);
}

/* Bytes of this rank's share of the experts that other ranks of its group lack. */
static int64_t late_bytes(const problem *p, int32_t rank, neap_shards *shards,
                          const neap_layout *base)
{
  const int32_t *first = neap_topology_first_slot(p->topology);
  const int32_t *before = neap_layout_experts(base), *after = neap_layout_experts(other_layout);
  int64_t bytes = 0;
  for (int32_t r = shards->group_first[rank];
       r < shards->group_first[rank] + shards->group_size[rank]; r++)
    for (int32_t e = 0; e < p->experts; e++) {
      bool kept = is_resident(p, e, r), wanted = false;
      for (int32_t s = first[r]; s < first[r + 1]; s++) {
        kept |= before[s] == e && after[s] == e;
        wanted |= after[s] == e;
      }
      if (r != rank && wanted && !kept)
        bytes += shards->now.working_at[e + 1] - shards->now.working_at[e];
    }
  return bytes;
}

/* From the layout that buffer has to another one; and what is refused. */
static void check_changes(const problem *p, int32_t rank, neap_shards *shards,
                          const neap_layout *layout, neap_tensor *buffer)
{
  neap_transfer *changes;
  neap_shard_traffic before, after;
  check_ok(neap_shards_traffic(shards, &before));
  check_ok(neap_shards_unshard_changes_start(shards, layout, other_layout, buffer, &changes));
  check_ok(neap_shards_traffic(shards, &after));
  check(after.late - before.late == late_bytes(p, rank, shards, layout) &&
            after.unshard == before.unshard,
        "seed %d: %d late bytes; expected %d", (int)p->seed, (int)(after.late - before.late),
        (int)late_bytes(p, rank, shards, layout));
  check_ok(neap_transfer_wait(changes));
  check_unshard(p, rank, shards, other_layout, buffer);
  if (neap_layout_hash(layout) != neap_layout_hash(other_layout))
    check(neap_shards_unshard_changes_start(shards, layout, other_layout, buffer, &changes) ==
              NEAP_LAYOUT,
          "changes of a layout that the buffer has not");
}

/* Unshard and two reduces, of which the second adds, under way at once. */
static void test_transfers(const problem *p, int32_t rank, neap_shards *shards,
                           const neap_layout *layout)
{
  const int32_t *first = neap_topology_first_slot(p->topology);
  int64_t width = neap_shards_slot_size(shards), tokens[MAX_SLOTS];
  int32_t slots = first[rank + 1] - first[rank];
  neap_tensor *buffer = matrix(p->dtype, slots, width);
  neap_tensor *gradients = matrix(p->exact ? NEAP_F64 : acc_of(p), slots, width);
  for (int32_t s = 0; s < neap_topology_slots(p->topology); s++)
    tokens[s] = tokens_of_slot(p, s);
  fill_gradients(p, rank, gradients, width);
  neap_transfer *unshard, *reduce, *again;
  int32_t parts = 1 + neap_topology_slots(p->topology) % 4;
  check_ok(neap_shards_unshard_start(shards, layout, buffer, parts, &unshard));
  check_ok(neap_shards_reduce_start(shards, layout, gradients, tokens, 0, &reduce));
  check_ok(neap_transfer_wait(unshard));
  check_unshard(p, rank, shards, layout, buffer);
  check_changes(p, rank, shards, layout, buffer);
  check_ok(neap_transfer_wait(reduce));
  check_get(p, shards, NEAP_SHARD_GRADIENT, reduced);
  check_ok(neap_shards_reduce_start(shards, layout, gradients, tokens, 1, &again));
  check_ok(neap_transfer_wait(again));
  check_get(p, shards, NEAP_SHARD_GRADIENT, reduced_twice);
  neap_tensor_close(buffer);
  neap_tensor_close(gradients);
}

static const neap_adamw settings = {.rate = 0.1,
                                    .beta1 = 0.9,
                                    .beta2 = 0.99,
                                    .eps = 1e-8,
                                    .decay = 0.01,
                                    .grad_scale = 0.5,
                                    .step = 1};

/* The first step: m = (1 - beta1) g, v = (1 - beta2) g^2, so that the corrected ones are g, g^2. */
static void check_adamw(const problem *p, neap_shards *shards)
{
  check_ok(neap_shards_adamw(shards, &settings));
  wait_refresh(shards);
  for (int32_t e = 0; e < p->experts; e++) {
    neap_tensor *whole = matrix(acc_of(p), 1, p->sizes[e]);
    check_ok(neap_shards_get(shards, NEAP_SHARD_PARAMETER, e, whole));
    double worst = 0;
    for (int64_t i = 0; i < p->sizes[e]; i++) {
      double g = 0.5 * reduced_twice(p, e, i), old = parameter(p, e, i);
      double expected = old - 0.1 * (g / (fabs(g) + 1e-8) + 0.01 * old);
      worst = fmax(worst, fabs(element(whole, i) - expected));
    }
    check_close(worst, 0, p->dtype != NEAP_F64 ? 1e-6 : 1e-12, "parameter after AdamW");
    neap_tensor_close(whole);
  }
}

static void check_norms(const problem *p, neap_comm *comm, neap_shards *shards)
{
  double plain, max, exact[2] = {0}, expected = 0, largest = 0;
  check_ok(neap_shards_square_sum(shards, &plain));
  check_ok(neap_shards_gradient_max(shards, &max));
  check_ok(neap_comm_all_reduce(comm, &max, 1, NEAP_F64, NEAP_MAX));
  check_ok(neap_shards_exact_square_sum(shards, max, neap_shards_count(shards), exact));
  double sums[3] = {plain, exact[0], exact[1]};
  check_ok(neap_comm_all_reduce(comm, sums, 3, NEAP_F64, NEAP_SUM));
  for (int32_t e = 0; e < p->experts; e++)
    for (int64_t i = 0; i < p->sizes[e]; i++) {
      double g = reduced_twice(p, e, i);
      expected += g * g;
      largest = fmax(largest, fabs(g));
    }
  check_close(sums[0], expected, 1e-12, "sum of squares");
  check_close(sums[1] + sums[2], expected, 1e-12, "exact sum of squares");
  check(max == largest, "largest gradient is %g; expected %g", max, largest);
}

/* Where an unshard may not leave a node, it does not; what nobody needs does not move. */
static void check_traffic(const problem *p, neap_shards *shards)
{
  neap_shard_traffic traffic;
  check_ok(neap_shards_traffic(shards, &traffic));
  check(traffic.unshard_inter <= traffic.unshard, "inter-node part is above the whole");
  if (p->group == NEAP_GROUP_NODE)
    check(!traffic.unshard_inter, "%d unshard bytes left the node", (int)traffic.unshard_inter);
  if (p->group == NEAP_GROUP_ALL)
    check(!traffic.refresh, "%d refresh bytes", (int)traffic.refresh);
  if (p->group == NEAP_GROUP_RESIDENT && neap_topology_homes(p->topology) == p->ranks)
    check(!traffic.refresh, "%d refresh bytes of experts with one home", (int)traffic.refresh);
  if (p->group == 1)
    check(!traffic.unshard, "%d unshard bytes in groups of one rank", (int)traffic.unshard);
}

static problem current;

static void run_problem(neap_comm *comm, neap_world *world, int which)
{
  (void)world;
  (void)which;
  const problem *p = &current;
  neap_shards *shards;
  int32_t rank = neap_comm_rank(comm);
  bool either = p->seed % 3 == 0 && p->group != NEAP_GROUP_RESIDENT;
  if (!check_ok(neap_shards_open(comm, p->topology, p->dtype,
                                 either ? NEAP_TRAVEL_EITHER : p->travel, p->exact, p->sizes,
                                 p->group, &shards)))
    return;
  if (either) { /* to and fro, to what the problem says */
    check_ok(neap_shards_set_travel(shards, NEAP_TRAVEL_E4M3));
    check_ok(neap_shards_set_travel(shards, NEAP_TRAVEL_DTYPE));
    check_ok(neap_shards_set_travel(shards, p->travel));
  }
  fill_parameters(p, shards);
  wait_refresh(shards);
  check_get(p, shards, NEAP_SHARD_PARAMETER, parameter);
  test_transfers(p, rank, shards, reduced_layout);
  check_norms(p, comm, shards);
  check_adamw(p, shards);
  check_traffic(p, shards);
  neap_shards_close(shards);
}

/* Homes in runs of some ranks, as few as have slots for all experts, or more. */
static void give_homes(dice *d, problem *p)
{
  int32_t run = (int32_t)roll(d, 1, p->ranks);
  while (p->ranks % run || neap_topology_set_homes(p->topology, run))
    run++;
}

/* Slots with an expert that is at home there, as far as the experts go round. */
static void send_home(dice *d, const problem *p, neap_layout *layout)
{
  const int32_t *first = neap_topology_first_slot(p->topology);
  int32_t expert_of[MAX_SLOTS];
  for (int32_t r = 0; r < p->ranks; r++) {
    int32_t from, end;
    neap_topology_home(p->topology, r, &from, &end);
    for (int32_t s = first[r]; s < first[r + 1]; s++)
      expert_of[s] =
          s - first[r] < end - from ? from + s - first[r] : (int32_t)roll(d, 0, p->experts - 1);
  }
  check_ok(neap_layout_set(layout, expert_of));
}

/* A layout with some slots of another expert; half of the time another one altogether, aligned. */
static neap_layout *change_some(dice *d, const neap_layout *layout)
{
  const neap_topology *t = layout->topology;
  neap_layout *other;
  check_ok(neap_layout_open((neap_topology *)t, &other));
  if (roll(d, 0, 1)) {
    random_layout(d, other);
    check_ok(neap_layout_align(other, layout));
    return other;
  }
  int32_t expert_of[MAX_SLOTS];
  memcpy(expert_of, neap_layout_experts(layout), 4ul * t->slots);
  for (int32_t s = 0; s < t->slots; s++) {
    int32_t with = (int32_t)roll(d, 0, t->slots - 1), e = expert_of[s];
    if (roll(d, 0, 2))
      continue;
    expert_of[s] = expert_of[with];
    expert_of[with] = e;
  }
  check_ok(neap_layout_set(other, expert_of));
  return other;
}

static void test_random(void)
{
  const int32_t sizes[] = {1, 2, 3, 4, 6, 8};
  const int dtypes[] = {NEAP_F32, NEAP_F64, NEAP_BF16};
  for (uint64_t seed = 0; seed < 180; seed++) {
    dice d = {seed, 0};
    problem p = {.seed = seed, .ranks = sizes[seed % 6]};
    p.experts = (int32_t)roll(&d, 1, MAX_EXPERTS);
    p.group = (int32_t)roll(&d, NEAP_GROUP_RESIDENT, p.ranks < 4 ? p.ranks : 4);
    p.dtype = dtypes[roll(&d, 0, 2)];
    p.exact = (int)roll(&d, 0, 1);
    if (p.group != NEAP_GROUP_RESIDENT && seed % 3 == 0)
      p.travel = NEAP_TRAVEL_E4M3;
    for (int32_t e = 0; e < p.experts; e++)
      p.sizes[e] = roll(&d, 1, p.travel == NEAP_TRAVEL_DTYPE ? MAX_SIZE : MAX_PACKED_SIZE);
    p.topology = random_topology(&d, p.ranks, p.experts);
    if (p.group == NEAP_GROUP_RESIDENT)
      give_homes(&d, &p);
    check_homes(&p);
    neap_layout *layout;
    check_ok(neap_layout_open(p.topology, &layout));
    random_layout(&d, layout);
    if (p.group == NEAP_GROUP_RESIDENT && roll(&d, 0, 1))
      send_home(&d, &p, layout);
    reduced_layout = layout;
    neap_layout *other = change_some(&d, layout);
    other_layout = other;
    current = p;
    run_threads(p.ranks, run_problem, 0);
    neap_layout_close(layout);
    neap_layout_close(other);
    neap_topology_close(p.topology);
  }
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void run_errors(neap_comm *comm, neap_world *world, int which)
{
  (void)world;
  (void)which;
  neap_topology *one, *two;
  neap_shards *shards;
  int32_t slots[] = {1, 1};
  int64_t sizes[] = {4, 0};
  check_ok(neap_topology_open(1, 1, NULL, slots, NULL, NULL, &one));
  check_ok(neap_topology_open(2, 2, NULL, slots, NULL, NULL, &two));
  check(neap_shards_open(comm, two, NEAP_F32, NEAP_TRAVEL_DTYPE, 0, sizes, 0, &shards) ==
            NEAP_ARGUMENT,
        "another number of ranks");
  check(neap_shards_open(comm, one, NEAP_I32, NEAP_TRAVEL_DTYPE, 0, sizes, 0, &shards) ==
            NEAP_ARGUMENT,
        "integer parameters");
  check(neap_shards_open(comm, one, NEAP_F32, NEAP_TRAVEL_DTYPE, 0, sizes + 1, 0, &shards) ==
            NEAP_ARGUMENT,
        "an expert without parameters");
  check(neap_shards_open(comm, one, NEAP_F32, NEAP_TRAVEL_DTYPE, 0, sizes, -3, &shards) ==
            NEAP_ARGUMENT,
        "shard group -3");
  check(neap_shards_open(comm, one, NEAP_F32, NEAP_TRAVEL_DTYPE, 0, sizes, NEAP_GROUP_RESIDENT,
                         &shards) == NEAP_ARGUMENT,
        "resident experts without homes");
  check(neap_shards_open(comm, one, NEAP_F32, 3, 0, sizes, 0, &shards) == NEAP_ARGUMENT,
        "travel 3");
  check(neap_shards_open(comm, one, NEAP_F32, NEAP_TRAVEL_E4M3, 0, sizes, NEAP_GROUP_RESIDENT,
                         &shards) == NEAP_ARGUMENT,
        "resident experts in FP8");
  check(neap_topology_set_homes(two, 1) == NEAP_ARGUMENT, "homes of 2 experts in 1 slot");
  check(neap_topology_set_homes(two, 3) == NEAP_ARGUMENT, "homes in a run of 3 of 2 ranks");
  check(neap_shards_open(comm, one, NEAP_F32, NEAP_TRAVEL_DTYPE, 0, sizes, 2, &shards) ==
            NEAP_ARGUMENT,
        "a shard group of more ranks than there are");
  check_ok(neap_shards_open(comm, one, NEAP_F32, NEAP_TRAVEL_DTYPE, 0, sizes, 0, &shards));
  check(neap_shards_set_travel(shards, NEAP_TRAVEL_E4M3) == NEAP_ARGUMENT, "FP8 too late");
  check(neap_shards_set_travel(shards, NEAP_TRAVEL_EITHER) == NEAP_ARGUMENT, "both at once");
  neap_tensor *narrow = matrix(NEAP_F32, 1, 3), *right = matrix(NEAP_F32, 1, 4);
  neap_layout *layout;
  neap_transfer *transfer;
  check_ok(neap_layout_open(one, &layout));
  check(neap_shards_unshard_start(shards, layout, right, 1, &transfer) == NEAP_ARGUMENT,
        "a layout that was never set");
  check_ok(neap_layout_set(layout, (int32_t[]){0}));
  check(neap_shards_unshard_start(shards, layout, right, 0, &transfer) == NEAP_ARGUMENT,
        "no parts: %s", neap_error_message());
  check(neap_shards_unshard_start(shards, layout, narrow, 1, &transfer) == NEAP_SHAPE,
        "a buffer that is too narrow");
  check(neap_shards_get(shards, NEAP_SHARD_PARAMETER, 1, right) == NEAP_ARGUMENT, "expert 1 of 1");
  check(neap_shards_get(shards, 4, 0, right) == NEAP_ARGUMENT, "part 4");
  neap_adamw bad = settings;
  bad.beta2 = 1;
  check(neap_shards_adamw(shards, &bad) == NEAP_ARGUMENT, "a moment that never decays");
  bad = settings;
  bad.eps = 0;
  check(neap_shards_adamw(shards, &bad) == NEAP_ARGUMENT, "AdamW that may divide by 0");
  check(neap_shards_normal(shards, 0, 2, 3, 0, 0, 1) == NEAP_ARGUMENT, "elements 2 to 4 of 4");
  check_ok(neap_shards_unshard_start(shards, layout, right, 1, &transfer));
  neap_shards_close(shards); /* waits for it */
  neap_tensor_close(narrow);
  neap_tensor_close(right);
  neap_layout_close(layout);
  neap_topology_close(one);
  neap_topology_close(two);
}

int main(void)
{
  test_random();
  run_threads(1, run_errors, 0);
  return check_done();
}

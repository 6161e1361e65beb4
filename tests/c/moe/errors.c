/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the layer refuses: options, shapes, phases out of order, bad numbers, splits of other loads.
 * Runs on: threads.
 */
#include "moe/layer.h"

static scene fixed; /* two ranks of one node, three experts, four tokens each */

static void set_scene(void)
{
  dice d = {3, 0};
  int32_t slots[] = {2, 2};
  fixed = (scene){.seed = 3, .dtype = NEAP_F32, .ranks = 2, .chunks = 1, .rule = "even"};
  fixed.model = (dense){.t = 8, .h = 5, .e = 3, .k = 2, .aux = 0.1, .ffn = {4, 2, 3}};
  fill_model(&fixed);
  check_ok(neap_topology_open(2, 3, NULL, slots, NULL, NULL, &fixed.topology));
  check_ok(neap_layout_open(fixed.topology, &fixed.layout));
  random_layout(&d, fixed.layout);
}

#define check_fails(call, status, text)                                                            \
  do {                                                                                             \
    check((call) == (status), #call ": not " #status);                                             \
    check(strstr(neap_error_message(), text) != NULL, "'%s' lacks '%s'", neap_error_message(),     \
          text);                                                                                   \
  } while (0)

static void refuse_options(neap_comm *comm)
{
  neap_moe *moe;
  neap_moe_options good = {.hidden = 5, .top_k = 2, .dtype = NEAP_F32, .chunks = 1}, o = good;
  const int64_t *ffn = fixed.model.ffn;
  int64_t empty[] = {4, 0, 3};
  o.top_k = 4;
  check_fails(neap_moe_open(comm, fixed.topology, &o, ffn, &moe), NEAP_ARGUMENT, "top_k is 4");
  o = good, o.hidden = 0;
  check_fails(neap_moe_open(comm, fixed.topology, &o, ffn, &moe), NEAP_ARGUMENT, "hidden is 0");
  o = good, o.dtype = NEAP_I64;
  check_fails(neap_moe_open(comm, fixed.topology, &o, ffn, &moe), NEAP_ARGUMENT, "dtype is i64");
  o = good, o.chunks = 0;
  check_fails(neap_moe_open(comm, fixed.topology, &o, ffn, &moe), NEAP_ARGUMENT, "chunks is 0");
  o = good, o.aux_loss = NAN;
  check_fails(neap_moe_open(comm, fixed.topology, &o, ffn, &moe), NEAP_ARGUMENT, "aux_loss");
  o = good, o.scoring = 2;
  check_fails(neap_moe_open(comm, fixed.topology, &o, ffn, &moe), NEAP_ARGUMENT, "scoring is 2");
  o = good, o.travel = 2;
  check_fails(neap_moe_open(comm, fixed.topology, &o, ffn, &moe), NEAP_ARGUMENT, "travel is 2");
  check_fails(neap_moe_open(comm, fixed.topology, &good, empty, &moe), NEAP_ARGUMENT, "expert 1");
  check_fails(neap_moe_open(NULL, fixed.topology, &good, ffn, &moe), NEAP_ARGUMENT, "NULL");
}

static void refuse_shapes(neap_moe *moe, const step *p)
{
  neap_tensor *narrow = tensor(NEAP_F32, 4, 4), *wide = tensor(NEAP_F64, 4, 5);
  check_fails(neap_moe_route(moe, narrow, p->router), NEAP_SHAPE, "x is f32 (4, 4)");
  check_fails(neap_moe_route(moe, wide, p->router), NEAP_SHAPE, "x is f64");
  check_fails(neap_moe_route(moe, p->x, p->x), NEAP_SHAPE, "router is f32 (4, 5)");
  check_fails(neap_moe_route(moe, NULL, p->router), NEAP_ARGUMENT, "x is NULL");
  check_fails(neap_moe_adapt_bias(moe, -1), NEAP_ARGUMENT, "speed is -1");
  check_fails(neap_moe_adapt_bias(moe, NAN), NEAP_ARGUMENT, "0 or more");
  neap_tensor_close(narrow);
  neap_tensor_close(wide);
}

/* Every phase but the one that is due. */
static void refuse_phases(neap_moe *moe, const step *p, const neap_split *split, int due)
{
  if (due != 1)
    check_fails(neap_moe_dispatch(moe, p->x, fixed.layout, split), NEAP_ARGUMENT, "after route");
  if (due != 2)
    check_fails(neap_moe_forward(moe, p->weights, NULL, p->y), NEAP_ARGUMENT, "after dispatch");
  if (due != 3)
    check_fails(neap_moe_backward_dispatch(moe, p->dy), NEAP_ARGUMENT, "after forward");
  if (due != 4)
    check_fails(
        neap_moe_backward(moe, p->x, p->router, p->weights, NULL, p->gradients, p->dx, p->drouter),
        NEAP_ARGUMENT, "after backward_dispatch");
}

/* A whole step, with every other phase tried, and wrong tensors, before each; they do no harm. */
static void refuse_disorder(neap_moe *moe, step *p)
{
  neap_split *split = NULL;
  check_ok(neap_split_open(fixed.topology, "even", &split));
  refuse_phases(moe, p, split, 0);
  check_ok(neap_moe_route(moe, p->x, p->router));
  check_ok(neap_split_compute(split, fixed.layout, neap_moe_load(moe)));
  refuse_phases(moe, p, split, 1);
  check_fails(neap_moe_dispatch(moe, p->router, fixed.layout, split), NEAP_SHAPE, "x is");
  check_ok(neap_moe_dispatch(moe, p->x, fixed.layout, split));
  refuse_phases(moe, p, split, 2);
  check_fails(neap_moe_forward(moe, p->router, NULL, p->y), NEAP_SHAPE, "weights is");
  check_ok(neap_moe_forward(moe, p->weights, NULL, p->y));
  refuse_phases(moe, p, split, 3);
  check_ok(neap_moe_backward_dispatch(moe, p->dy));
  refuse_phases(moe, p, split, 4);
  check_fails(neap_moe_backward(moe, p->x, p->router, p->weights, NULL, p->gradients, p->dx, p->dx),
              NEAP_SHAPE, "drouter is");
  check_ok(
      neap_moe_backward(moe, p->x, p->router, p->weights, NULL, p->gradients, p->dx, p->drouter));
  refuse_phases(moe, p, split, 0);
  neap_split_close(split);
}

/* A split that was computed for twice as many tokens. */
static void refuse_split(neap_moe *moe, const step *p)
{
  neap_split *split = NULL;
  neap_layout *unset = NULL;
  int64_t load[6];
  check_ok(neap_moe_route(moe, p->x, p->router));
  for (int i = 0; i < 6; i++)
    load[i] = 2 * neap_moe_load(moe)[i] + 1;
  check_ok(neap_split_open(fixed.topology, "even", &split));
  check(neap_moe_dispatch(moe, p->x, fixed.layout, split) != NEAP_OK, "a split without a load");
  check_ok(neap_split_compute(split, fixed.layout, load));
  check_fails(neap_moe_dispatch(moe, p->x, fixed.layout, split), NEAP_SPLIT, "for expert 0");
  check_ok(neap_layout_open(fixed.topology, &unset));
  check_fails(neap_moe_dispatch(moe, p->x, unset, split), NEAP_ARGUMENT, "never been set");
  neap_layout_close(unset);
  neap_split_close(split);
}

/* Parts of a step that are of another layout. */
static void refuse_layouts(neap_moe *moe, neap_comm *comm, step *p)
{
  dice d = {4, 0};
  neap_comm *second;
  neap_layout *other;
  neap_transfer *transfer;
  check_ok(neap_comm_duplicate(comm, &second));
  check_ok(neap_layout_open(fixed.topology, &other));
  do
    random_layout(&d, other);
  while (!neap_layout_changed(other, fixed.layout));
  neap_shards *shards = make_shards(&fixed, second);
  check_ok(neap_moe_route(moe, p->x, p->router));
  neap_split *split = make_split(&fixed, neap_moe_load(moe));
  check_fails(neap_moe_dispatch(moe, p->x, other, split), NEAP_LAYOUT, "the split is of layout");
  check_ok(neap_moe_dispatch(moe, p->x, fixed.layout, split));
  check_ok(neap_shards_unshard_start(shards, other, p->weights, 1, &transfer));
  check_fails(neap_moe_forward(moe, p->weights, transfer, p->y), NEAP_LAYOUT, "weights are of");
  check_ok(neap_transfer_wait(transfer));
  check_ok(neap_shards_unshard_start(shards, fixed.layout, p->weights, 1, &transfer));
  check_ok(neap_moe_forward(moe, p->weights, transfer, p->y));
  check_ok(neap_transfer_wait(transfer));
  check_ok(neap_moe_backward_dispatch(moe, p->dy));
  check_ok(neap_shards_unshard_start(shards, other, p->weights, 1, &transfer));
  check_ok(neap_transfer_wait(transfer));
  check_fails(
      neap_moe_backward(moe, p->x, p->router, p->weights, NULL, p->gradients, p->dx, p->drouter),
      NEAP_LAYOUT, "moe backward: weights are of");
  check_ok(neap_shards_unshard_start(shards, fixed.layout, p->weights, 1, &transfer));
  check_ok(neap_transfer_wait(transfer));
  check_ok(
      neap_moe_backward(moe, p->x, p->router, p->weights, NULL, p->gradients, p->dx, p->drouter));
  const int64_t *tokens = neap_moe_slot_tokens(moe);
  check_fails(neap_shards_reduce_start(shards, other, p->gradients, tokens, 0, &transfer),
              NEAP_LAYOUT, "reduce: it is of layout");
  check_ok(neap_shards_reduce_start(shards, fixed.layout, p->gradients, tokens, 0, &transfer));
  check_ok(neap_transfer_wait(transfer));
  neap_split_close(split);
  neap_layout_close(other);
  neap_shards_close(shards);
  neap_comm_close(second);
}

/* One token of rank 1 is bad: both ranks say so, and go on. */
static void refuse_numbers(neap_moe *moe, const step *p, int32_t rank)
{
  float *x = neap_tensor_data(p->x), kept = x[2 * 5 + 3];
  if (rank == 1)
    x[2 * 5 + 3] = NAN;
  check_fails(neap_moe_route(moe, p->x, p->router), NEAP_ARGUMENT, "token 2 of rank 1");
  x[2 * 5 + 3] = kept;
  check_ok(neap_moe_route(moe, p->x, p->router));
}

static void run_rank(neap_comm *comm, neap_world *world, int which)
{
  (void)world;
  (void)which;
  int32_t rank = neap_comm_rank(comm);
  refuse_options(comm);
  neap_moe *moe = make_moe(&fixed, comm);
  step p = open_step(&fixed, rank, 4 * rank, 4, 3 * 5 * 4);
  refuse_shapes(moe, &p);
  refuse_disorder(moe, &p);
  refuse_split(moe, &p);
  refuse_layouts(moe, comm, &p);
  refuse_numbers(moe, &p, rank);
  neap_split *split = make_split(&fixed, neap_moe_load(moe));
  check_ok(neap_moe_dispatch(moe, p.x, fixed.layout, split));
  neap_split_close(split);
  neap_moe_close(moe); /* with tokens under way */
  close_step(&p);
}

int main(void)
{
  set_scene();
  run_threads(2, run_rank, 0);
  close_spread(&fixed);
  close_model(&fixed);
  return check_done();
}

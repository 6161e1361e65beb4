/* SPDX-License-Identifier: Apache-2.0 */
/* Simulated clusters: hand-computed cases; conservation, repetition and faster links on random
 * programs. */
#include "check.h"
#include "neap.h"

#include <stdlib.h>

static uint64_t drawn;

static double uniform(void)
{
  return neap_random_uniform(7, 1, drawn++);
}

static int32_t integer(int32_t n)
{
  return (int32_t)(uniform() * n);
}

static neap_topology *topology(int32_t ranks, int32_t node_size, const double *speed)
{
  int32_t node_of[64], slots_of[64];
  for (int32_t r = 0; r < ranks; r++) {
    node_of[r] = r / node_size;
    slots_of[r] = 2;
  }
  neap_topology *t = NULL;
  check(!neap_topology_open(ranks, 2, node_of, slots_of, NULL, speed, &t), "topology");
  return t;
}

static neap_cluster *cluster(neap_topology *t, neap_links links)
{
  neap_cluster *c = NULL;
  check(!neap_cluster_open(t, &links, &c), "open: %s", neap_error_message());
  return c;
}

static double end_of(const neap_cluster *c, int32_t op, int32_t rank)
{
  const double *begin, *end;
  check(!neap_cluster_times(c, op, &begin, &end), "times");
  return end[rank];
}

/* Rank 0 computes 1 s, rank 1 3 s; then 100 bytes at 50 B/s after 0.5 s; then each 1 s. */
static void test_two_ranks(void)
{
  neap_topology *t = topology(2, 2, NULL);
  neap_cluster *c = cluster(t, (neap_links){.port = 50, .uplink = 1e9, .latency = 0.5});
  double each[2] = {1, 3}, bytes[2] = {100, 20};
  int32_t a, x, b;
  int64_t waited;
  neap_cluster_compute(c, 0, each, NULL, 0, &a);
  neap_cluster_exchange(c, NEAP_TOKENS, NEAP_GROUP_ALL, 0, 0, bytes, NULL, &a, 1, &x);
  neap_cluster_compute(c, 1, NULL, &x, 1, &b);
  check(!neap_cluster_run(c), "run");
  check_close(end_of(c, x, 0), 3 + 0.5 + 2, 1e-12, "end of the exchange");
  check_close(end_of(c, b, 0), 6.5, 1e-12, "end of rank 0");
  neap_cluster_figures f;
  check(!neap_cluster_report(c, &f), "report");
  check_close(f.seconds, 6.5, 1e-12, "step");
  check_close(f.ideal, 3, 1e-12, "ideal: mean of 2 and 4");
  check_close(f.exposed[NEAP_TOKENS], (4.5 + 2.5) / 2, 1e-12, "exposed");
  neap_span waits[4];
  check(!neap_cluster_waits(c, 1, waits, 4, &waited) && waited == 1, "%d waits", (int)waited);
  check(waits[0].begin == 3 && waits[0].end == 5.5 && waits[0].step == b &&
            waits[0].waits_for == NEAP_TOKENS && waits[0].id == NEAP_SPAN_WAIT,
        "a wait from %g to %g", waits[0].begin, waits[0].end);
  check(neap_cluster_waits(c, 2, waits, 4, &waited) == NEAP_ARGUMENT, "a rank too many");
  int32_t ops[8], ranks[8];
  int64_t count;
  check(!neap_cluster_critical(c, ops, ranks, 8, &count) && count == 3, "path of %d", (int)count);
  check(ops[0] == b && ops[1] == x && ops[2] == a && ranks[2] == 1, "critical path");
  neap_cluster_close(c);
  neap_topology_close(t);
}

/* Two exchanges of 100 bytes each on one link of 100 B/s: together 2 s; queued 1 s and 2 s. One of
 * 100 and one of 50 bytes: the small one is done after 1 s, the other after 1.5 s. */
static void test_sharing(void)
{
  neap_topology *t = topology(2, 2, NULL);
  for (int32_t queued = 0; queued < 2; queued++) {
    neap_cluster *c = cluster(
        t,
        (neap_links){.port = 100, .uplink = 1e9, .latency = 0, .far_latency = 0, .queued = queued});
    double large[2] = {100, 100}, small[2] = {50, 50};
    int32_t x, y;
    neap_cluster_exchange(c, NEAP_TOKENS, 0, 0, 0, large, NULL, NULL, 0, &x);
    neap_cluster_exchange(c, NEAP_UNSHARD, 0, 0, 0, small, NULL, NULL, 0, &y);
    check(!neap_cluster_run(c), "run");
    check_close(end_of(c, x, 1), queued ? 1 : 1.5, 1e-12, "large exchange");
    check_close(end_of(c, y, 1), queued ? 1.5 : 1, 1e-12, "small exchange");
    neap_cluster_close(c);
  }
  neap_topology_close(t);
}

/* Work after two exchanges, of 1 s and of 3 s: a thread that waits for the long one first has no
 * wait for the short one. */
static void test_order_of_waits(void)
{
  neap_topology *t = topology(2, 2, NULL);
  neap_cluster *c = cluster(t, (neap_links){.port = 100, .uplink = 1e9});
  double small[2] = {100, 100};
  for (int32_t swap = 0; swap < 2; swap++) {
    int32_t after[2], op;
    int64_t count;
    neap_span waits[4];
    neap_cluster_clear(c);
    neap_cluster_exchange(c, NEAP_TOKENS, 0, 0, 0, small, NULL, NULL, 0, &after[swap]);
    neap_cluster_exchange(c, NEAP_UNSHARD, 0, 0, 3, NULL, NULL, NULL, 0, &after[!swap]);
    neap_cluster_compute(c, 1, NULL, after, 2, &op);
    check(!neap_cluster_run(c), "run");
    check(!neap_cluster_waits(c, 0, waits, 4, &count) && count == 2 - swap, "%d waits", (int)count);
    check(waits[0].waits_for == (swap ? NEAP_UNSHARD : NEAP_TOKENS), "the first");
    check_close(waits[0].end, swap ? 3 : 1, 1e-12, "its end");
    check(waits[count - 1].waits_for == NEAP_UNSHARD && waits[count - 1].end == 3, "the last");
  }
  neap_cluster_close(c);
  neap_topology_close(t);
}

/* Nodes of 2 ranks: groups of a node move at once, the uplink holds the exchange of all up; an
 * exchange that uses a tenth of a link slows another one by as much only. */
static void test_groups_and_uplinks(void)
{
  neap_topology *t = topology(4, 2, NULL);
  neap_cluster *c = cluster(
      t, (neap_links){.port = 100, .uplink = 10, .latency = 0, .far_latency = 0, .queued = 0});
  double ports[4] = {100, 100, 200, 200}, tenth[4] = {10, 10, 10, 10}, uplinks[2] = {30, 10};
  int32_t x, y, z;
  neap_cluster_exchange(c, NEAP_TOKENS, NEAP_GROUP_NODE, 0, 0, ports, NULL, NULL, 0, &x);
  neap_cluster_exchange(c, NEAP_TOKENS, NEAP_GROUP_ALL, 0, 0, NULL, uplinks, NULL, 0, &y);
  check(!neap_cluster_run(c), "run");
  check_close(end_of(c, x, 0), 1, 1e-12, "first node");
  check_close(end_of(c, x, 3), 2, 1e-12, "second node");
  check_close(end_of(c, y, 0), 5, 1e-12, "all, over the uplink");
  neap_cluster_clear(c);
  double ten[2] = {10, 10};
  neap_cluster_exchange(c, NEAP_TOKENS, NEAP_GROUP_ALL, 0, 0, ports, NULL, NULL, 0, &x);
  neap_cluster_exchange(c, NEAP_UNSHARD, NEAP_GROUP_ALL, 0, 0, tenth, ten, NULL, 0, &z);
  check(!neap_cluster_run(c), "run");
  check_close(end_of(c, z, 0), 1, 1e-12, "slow one is not held up");
  check_close(end_of(c, x, 0), 2.1, 1e-12, "fast one gets nine tenths for 1 s");
  neap_cluster_close(c);
  neap_topology_close(t);
}

/* Nodes of 2 of 4 ranks; 120 bytes of every rank at 100 B/s. With everybody: one near message at
 * 0.1 s and two far ones at 0.4; through one rank of every other node: one and one; a collective
 * has none; within a node only the near one; a rank without bytes sends none. */
static void test_messages(void)
{
  const struct {
    int32_t group, peers;
    double bytes, set_up;
  } cases[] = {{NEAP_GROUP_ALL, NEAP_PEERS_ALL, 120, 0.9},
               {NEAP_GROUP_ALL, NEAP_PEERS_NODES, 120, 0.5},
               {NEAP_GROUP_ALL, NEAP_PEERS_NONE, 120, 0},
               {NEAP_GROUP_NODE, NEAP_PEERS_ALL, 120, 0.1},
               {NEAP_GROUP_ALL, NEAP_PEERS_ALL, 0, 0}};
  neap_topology *t = topology(4, 2, NULL);
  neap_links links = {.port = 100, .uplink = INFINITY, .peer = 0.1, .far_peer = 0.4};
  for (int32_t i = 0; i < 5; i++) {
    neap_cluster *c = cluster(t, links);
    double ports[4] = {cases[i].bytes, cases[i].bytes, cases[i].bytes, cases[i].bytes};
    int32_t x;
    check(!neap_cluster_exchange(c, NEAP_TOKENS, cases[i].group, cases[i].peers, 0, ports, NULL,
                                 NULL, 0, &x),
          "exchange %d", i);
    check(!neap_cluster_run(c), "run");
    check_close(end_of(c, x, 3), cases[i].set_up + cases[i].bytes / 100, 1e-12, "messages");
    neap_cluster_close(c);
  }
  neap_topology_close(t);
}

/* Messages of 10 bytes move at 20 B/s of a port of 100, of 1000 bytes at 80: of 100 bytes at 40;
 * below and above the last points as said. Two slow exchanges have a port for two. */
static void test_rates(void)
{
  const double bytes[] = {5, 10, 100, 1000, 4000}, seconds[] = {0.5, 0.5, 2.5, 12.5, 50};
  neap_topology *t = topology(2, 2, NULL);
  neap_links links = {
      .port = 100, .uplink = INFINITY, .rates = 2, .sizes = {10, 1000}, .rate = {20, 80}};
  neap_cluster *c = cluster(t, links);
  int32_t x, y;
  for (int32_t i = 0; i < 5; i++) {
    double ports[2] = {bytes[i], bytes[i]};
    neap_cluster_clear(c);
    neap_cluster_exchange(c, NEAP_TOKENS, 0, NEAP_PEERS_ALL, 0, ports, NULL, NULL, 0, &x);
    check(!neap_cluster_run(c), "run");
    check_close(end_of(c, x, 0), seconds[i], 1e-9, "alone");
  }
  double ports[2] = {100, 100};
  neap_cluster_clear(c);
  neap_cluster_exchange(c, NEAP_TOKENS, 0, NEAP_PEERS_ALL, 0, ports, NULL, NULL, 0, &x);
  neap_cluster_exchange(c, NEAP_UNSHARD, 0, NEAP_PEERS_ALL, 0, ports, NULL, NULL, 0, &y);
  check(!neap_cluster_run(c), "run");
  check_close(end_of(c, x, 0), 2.5, 1e-9, "side by side");
  check_close(end_of(c, y, 1), 2.5, 1e-9, "side by side");
  neap_cluster_close(c);
  neap_topology_close(t);
}

/* Work of 4 s on rank 0 and 1 s on rank 1, beside an exchange of 200 bytes at 100 B/s that makes
 * work take 1.5 times as long, and takes 3 times as long while anybody computes. Without the
 * latter: work is slow for 2 s, in which 4 / 3 s of it are done. With it the exchange moves at a
 * third while rank 0 works: 200 / 3 bytes in 2 s, all of work's 6 s; it ends then, at 6 s. */
static void test_interference(void)
{
  neap_topology *t = topology(2, 2, NULL);
  double each[2] = {4, 1}, bytes[2] = {200, 200};
  for (int32_t both = 0; both < 2; both++) {
    neap_links links = {.port = 100, .uplink = INFINITY};
    links.interference[NEAP_COMPUTE][NEAP_UNSHARD] = 0.5;
    links.interference[NEAP_UNSHARD][NEAP_COMPUTE] = both ? 2 : 0;
    neap_cluster *c = cluster(t, links);
    int32_t a, b, x;
    neap_cluster_compute(c, 0, each, NULL, 0, &a);
    neap_cluster_exchange(c, NEAP_UNSHARD, 0, NEAP_PEERS_ALL, 0, bytes, NULL, NULL, 0, &x);
    neap_cluster_compute(c, 1, NULL, &x, 1, &b);
    check(!neap_cluster_run(c), "run");
    check_close(end_of(c, x, 1), both ? 6 : 2, 1e-12, "exchange");
    check_close(end_of(c, a, 0), both ? 6 : 2 + 4 - 4.0 / 3, 1e-12, "work of rank 0");
    check_close(end_of(c, a, 1), 1.5, 1e-12, "work of rank 1");
    neap_cluster_figures f;
    check(!neap_cluster_report(c, &f), "report");
    check_close(f.ideal, 3.5, 1e-12, "ideal is undisturbed");
    neap_cluster_close(c);
  }
  neap_topology_close(t);
}

/* Two exchanges of 50 of 100 B/s each: no link is full, yet each takes 1.5 times as long while the
 * other one moves; the other one comes 0.5 s later. */
static void test_exchanges_interfere(void)
{
  neap_topology *t = topology(2, 2, NULL);
  neap_links links = {.port = 100, .uplink = INFINITY, .rates = 1, .sizes = {1}, .rate = {50}};
  links.interference[NEAP_TOKENS][NEAP_REDUCE] = links.interference[NEAP_REDUCE][NEAP_TOKENS] = 0.5;
  neap_cluster *c = cluster(t, links);
  double bytes[2] = {50, 50};
  int32_t x, y;
  neap_cluster_exchange(c, NEAP_TOKENS, 0, NEAP_PEERS_ALL, 0, bytes, NULL, NULL, 0, &x);
  neap_cluster_exchange(c, NEAP_REDUCE, 0, NEAP_PEERS_ALL, 0.5, bytes, NULL, NULL, 0, &y);
  check(!neap_cluster_run(c), "run");
  check_close(end_of(c, x, 0), 1.25, 1e-12, "half alone, half beside the other");
  check_close(end_of(c, y, 0), 1.75, 1e-12, "half beside the other, half alone");
  neap_cluster_close(c);
  neap_topology_close(t);
}

/* A random program of operations on random streams and groups. */
static void fill(neap_cluster *c, int32_t ranks, int32_t nodes, double work, double bytes)
{
  for (int32_t i = 0; i < 60; i++) {
    int32_t after[3], count = i ? integer(4) : 0, op;
    double each[64], uplinks[64];
    for (int32_t k = 0; k < count; k++)
      after[k] = integer(i);
    bool compute = uniform() < 0.5;
    for (int32_t r = 0; r < ranks; r++)
      each[r] = uniform() * (compute ? work : bytes);
    for (int32_t n = 0; n < nodes; n++)
      uplinks[n] = uniform() * bytes;
    int32_t stream = 1 + integer(3), group = integer(4) - 1;
    int status = compute ? neap_cluster_compute(c, work * uniform(), each, after, count, &op)
                         : neap_cluster_exchange(c, stream, group > ranks ? 0 : group, integer(3),
                                                 0, each, uplinks, after, count, &op);
    check(!status && op == i, "operation %d: %s", i, neap_error_message());
  }
}

/* Busy and waiting time add up; the critical path has no gap from 0 to the end. */
static void check_program(const neap_cluster *c)
{
  neap_cluster_figures f;
  check(!neap_cluster_report(c, &f), "report");
  double sum = f.busy[NEAP_COMPUTE];
  for (int32_t s = 0; s < NEAP_STREAMS; s++)
    sum += f.exposed[s];
  check_close(sum, f.seconds, 1e-9, "busy + exposed");
  check(f.seconds >= f.ideal - 1e-9, "step %g, ideal %g", f.seconds, f.ideal);
  int32_t ops[256], ranks[256];
  int64_t count;
  check(!neap_cluster_critical(c, ops, ranks, 256, &count) && count <= 60, "critical path");
  double at = f.seconds;
  for (int64_t i = 0; i < count; i++) {
    const double *begin, *end;
    check(!neap_cluster_times(c, ops[i], &begin, &end), "times");
    check(end[ranks[i]] <= at + 1e-9, "critical path goes back");
    if (i)
      check_close(end[ranks[i]], at, 1e-9, "no gap on the critical path");
    at = begin[ranks[i]];
  }
  check_close(at, 0, 1e-9, "critical path starts at 0");
}

static void test_random_programs(void)
{
  for (int32_t i = 0; i < 400; i++) {
    int32_t ranks = 1 + integer(12), size = 1 + integer(ranks);
    int32_t nodes = (ranks + size - 1) / size;
    neap_topology *t = topology(ranks, size, NULL);
    double seconds[4];
    uint64_t mark = drawn;
    for (int32_t k = 0; k < 4; k++) { /* the same program twice, then on links without limit, */
      drawn = mark;                   /* then where exchanges would slow work by next to nothing */
      double speed = k == 2 ? INFINITY : 100;
      neap_links links = {.port = speed,
                          .uplink = speed / 2,
                          .latency = 0.01,
                          .far_latency = 0.02,
                          .queued = i % 2,
                          .peer = 0.001,
                          .far_peer = 0.002};
      links.interference[NEAP_COMPUTE][NEAP_UNSHARD] = k == 3 ? 1e-14 : 0;
      neap_cluster *c = cluster(t, links);
      fill(c, ranks, nodes, 1, 50);
      check(!neap_cluster_run(c), "run: %s", neap_error_message());
      check_program(c);
      neap_cluster_figures f;
      neap_cluster_report(c, &f);
      seconds[k] = f.seconds;
      neap_cluster_close(c);
    }
    check(seconds[0] == seconds[1], "two runs: %.17g and %.17g", seconds[0], seconds[1]);
    check_close(seconds[3], seconds[0], 1e-9, "next to no interference");
    check(seconds[2] <= seconds[0] + 1e-9, "faster links: %g, then %g", seconds[0], seconds[2]);
    neap_topology_close(t);
  }
}

static void test_refusals(void)
{
  neap_topology *t = topology(2, 2, NULL);
  neap_cluster *c = NULL;
  const neap_links bad[] = {{.port = 0, .uplink = 1},
                            {.port = 1, .uplink = -1},
                            {.port = 1, .uplink = 1, .latency = -1},
                            {.port = NAN, .uplink = 1}};
  for (int32_t i = 0; i < 4; i++)
    check(neap_cluster_open(t, &bad[i], &c) == NEAP_ARGUMENT && !c, "links %d", i);
  neap_links worse[4];
  for (int32_t i = 0; i < 4; i++)
    worse[i] = (neap_links){.port = 1, .uplink = 1};
  worse[0].peer = -1;
  worse[1].interference[NEAP_COMPUTE][NEAP_TOKENS] = -0.1;
  worse[2].rates = NEAP_RATES + 1;
  worse[3] = (neap_links){.port = 1, .uplink = 1, .rates = 2, .sizes = {1, 2}, .rate = {1, 3}};
  for (int32_t i = 0; i < 4; i++)
    check(neap_cluster_open(t, &worse[i], &c) == NEAP_ARGUMENT && !c, "worse links %d", i);
  c = cluster(t, (neap_links){.port = 1, .uplink = 1, .latency = 0, .far_latency = 0, .queued = 0});
  double negative[2] = {1, -1};
  int32_t op, later = 5;
  neap_cluster_figures f;
  check(neap_cluster_compute(c, -1, NULL, NULL, 0, &op) == NEAP_ARGUMENT, "seconds below 0");
  check(neap_cluster_compute(c, 0, negative, NULL, 0, &op) == NEAP_ARGUMENT, "of a rank");
  check(neap_cluster_compute(c, 0, NULL, &later, 1, &op) == NEAP_ARGUMENT, "after a later one");
  check(neap_cluster_exchange(c, 0, 0, 0, 0, NULL, NULL, NULL, 0, &op) == NEAP_ARGUMENT, "stream");
  check(neap_cluster_exchange(c, 1, 3, 0, 0, NULL, NULL, NULL, 0, &op) == NEAP_ARGUMENT, "group");
  check(neap_cluster_exchange(c, 1, 0, 3, 0, NULL, NULL, NULL, 0, &op) == NEAP_ARGUMENT, "peers");
  check(neap_cluster_report(c, &f) == NEAP_ARGUMENT, "report before run");
  neap_cluster_close(c);
  neap_cluster_close(NULL);
  neap_topology_close(t);
}

/* Bytes of an unshard over two nodes of two ranks: each rank gets 3 / 4 of its two slots. */
static void test_layout_traffic(void)
{
  neap_topology *t = topology(4, 2, NULL);
  neap_layout *l = NULL;
  check(!neap_layout_open(t, &l), "layout");
  const int32_t experts[8] = {0, 1, 0, 1, 0, 1, 0, 1};
  check(!neap_layout_set(l, experts), "set");
  double bytes[2] = {100, 60}, ports[4], uplinks[2];
  check(!neap_layout_traffic(l, NULL, bytes, NEAP_GROUP_ALL, ports, uplinks), "traffic");
  check_close(ports[3], 160 * 0.75, 1e-12, "port");
  check_close(uplinks[1], 320 * 0.5, 1e-12, "uplink");
  check(!neap_layout_traffic(l, NULL, bytes, NEAP_GROUP_NODE, ports, uplinks), "traffic of nodes");
  check_close(ports[0], 80, 1e-12, "port in a node");
  check_close(uplinks[0], 0, 1e-12, "no uplink");
  neap_layout_close(l);
  neap_topology_close(t);
}

int main(void)
{
  test_two_ranks();
  test_sharing();
  test_order_of_waits();
  test_groups_and_uplinks();
  test_messages();
  test_rates();
  test_interference();
  test_exchanges_interfere();
  test_random_programs();
  test_refusals();
  test_layout_traffic();
  return check_done();
}

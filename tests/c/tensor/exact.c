/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exact sums: the same bits however the rows of a global batch are ordered and cut over ranks, and
 * close to a reference in long double.
 * Runs on: threads.
 */
#include "check.h"
#include "neap.h"

#include <pthread.h>
#include <stdlib.h>

enum { ROWS = 203, K = 7, N = 5, VOCABULARY = 6, MOST_RANKS = 4, ROUNDS = 12 };

/* Results of all functions, double for double. */
typedef struct {
  double weight[K * N], column[K], table[VOCABULARY * N], squares, sum;
} results;

/* One way to order the rows and to cut them over ranks. */
typedef struct {
  int dtype, ranks;
  int32_t order[ROWS];
  int64_t first[MOST_RANKS + 1];
  results out[MOST_RANKS];
} trial;

typedef struct {
  trial *trial;
  neap_world *world;
  int rank;
} thread_argument;

static uint64_t seed = 11, drawn;

static uint64_t draw(uint64_t limit)
{
  return neap_random_bits(seed, 0, drawn++) % limit;
}

/* Values over 60 binary orders of magnitude between columns and 20 within them. */
static double value(int stream, int64_t row, int64_t column)
{
  uint64_t index = (uint64_t)(row * 64 + column);
  double scale = exp2((double)(neap_random_bits(seed, 9, index) % 20) + (double)(column * 12) - 40);
  return (float)(scale * neap_random_normal(seed, (uint64_t)stream, index));
}

static int32_t id(int64_t row)
{
  return (int32_t)(neap_random_bits(seed, 3, (uint64_t)row) % VOCABULARY);
}

static void put(neap_tensor *t, int64_t i, double x)
{
  if (neap_tensor_dtype(t) == NEAP_F32)
    ((float *)neap_tensor_data(t))[i] = (float)x;
  else
    ((double *)neap_tensor_data(t))[i] = x;
}

static neap_tensor *matrix(int dtype, int64_t rows, int64_t columns)
{
  neap_tensor *t = NULL;
  check(!neap_tensor_open(dtype, 2, (int64_t[]){rows, columns}, &t), "%s", neap_error_message());
  return t;
}

/* This rank's rows of the stream's values. */
static neap_tensor *rows_of(const trial *trial, int rank, int stream, int64_t columns)
{
  int64_t first = trial->first[rank], count = trial->first[rank + 1] - first;
  neap_tensor *t = matrix(trial->dtype, count, columns);
  for (int64_t i = 0; i < count * columns; i++)
    put(t, i, value(stream, trial->order[first + i / columns], i % columns));
  return t;
}

static neap_tensor *ids_of(const trial *trial, int rank)
{
  int64_t first = trial->first[rank], count = trial->first[rank + 1] - first;
  neap_tensor *t = NULL;
  check(!neap_tensor_open(NEAP_I32, 1, &count, &t), "%s", neap_error_message());
  for (int64_t i = 0; i < count; i++)
    ((int32_t *)neap_tensor_data(t))[i] = id(trial->order[first + i]);
  return t;
}

/* Sums a tensor over ranks into out and closes it. */
static void collect(neap_comm *comm, neap_tensor *t, double *out)
{
  int64_t count = neap_tensor_count(t);
  check(!neap_comm_all_reduce(comm, neap_tensor_data(t), count, NEAP_F64, NEAP_SUM), "%s",
        neap_error_message());
  memcpy(out, neap_tensor_data(t), (size_t)count * sizeof *out);
  neap_tensor_close(t);
}

static void compute(neap_comm *comm, const trial *trial, int rank, results *out)
{
  neap_tensor *x = rows_of(trial, rank, 1, K), *dy = rows_of(trial, rank, 2, N);
  neap_tensor *ids = ids_of(trial, rank), *column = NULL;
  neap_tensor *weight = matrix(NEAP_F64, K, N), *table = matrix(NEAP_F64, VOCABULARY, N);
  check(!neap_tensor_open(NEAP_F64, 1, (int64_t[]){K}, &column), "%s", neap_error_message());
  neap_tensor_fill(weight, 0);
  neap_tensor_fill(table, 0);
  neap_tensor_fill(column, 0);
  check(!neap_exact_weight_grad(comm, x, dy, ROWS, weight), "%s", neap_error_message());
  check(!neap_exact_column_sum(comm, x, ROWS, column), "%s", neap_error_message());
  check(!neap_exact_scatter_add(comm, ids, dy, ROWS, table), "%s", neap_error_message());
  check(!neap_exact_sum_squares(comm, x, ROWS * K, &out->squares), "%s", neap_error_message());
  check(!neap_exact_sum(comm, dy, ROWS * N, &out->sum), "%s", neap_error_message());
  collect(comm, weight, out->weight);
  collect(comm, column, out->column);
  collect(comm, table, out->table);
  neap_tensor_close(x);
  neap_tensor_close(dy);
  neap_tensor_close(ids);
}

static void *rank_main(void *argument)
{
  thread_argument *self = argument;
  neap_comm *comm = NULL;
  if (check(!neap_comm_open_local(self->world, self->rank, &comm), "%s", neap_error_message()))
    compute(comm, self->trial, self->rank, &self->trial->out[self->rank]);
  neap_comm_close(comm);
  return NULL;
}

static void run(trial *trial)
{
  neap_world *world = NULL;
  pthread_t threads[MOST_RANKS];
  thread_argument arguments[MOST_RANKS];
  check(!neap_world_open(trial->ranks, &world), "%s", neap_error_message());
  for (int r = 0; r < trial->ranks; r++) {
    arguments[r] = (thread_argument){trial, world, r};
    pthread_create(&threads[r], NULL, rank_main, &arguments[r]);
  }
  for (int r = 0; r < trial->ranks; r++)
    pthread_join(threads[r], NULL);
  neap_world_close(world);
}

/* A random order and random cuts, some of which leave a rank without rows. */
static void shuffle(trial *trial)
{
  for (int32_t i = 0; i < ROWS; i++) {
    int32_t j = (int32_t)draw((uint64_t)i + 1);
    trial->order[i] = trial->order[j];
    trial->order[j] = i;
  }
  trial->first[0] = 0;
  for (int r = 1; r < trial->ranks; r++)
    trial->first[r] = trial->first[r - 1] +
                      (draw(3) ? (int64_t)draw((uint64_t)(ROWS - trial->first[r - 1]) + 1) : 0);
  trial->first[trial->ranks] = ROWS;
}

/* |got - sum| relative to the sum of magnitudes. */
static void check_sum(double got, long double sum, long double magnitude, double tolerance,
                      const char *what)
{
  check(fabs((double)(got - sum)) <= tolerance * (double)magnitude, "%s is %.17g; expected %.17Lg",
        what, got, sum);
}

static void check_reference(const results *got)
{
  for (int k = 0; k < K; k++) {
    long double sum = 0, magnitude = 0;
    for (int r = 0; r < ROWS; r++) {
      sum += value(1, r, k);
      magnitude += fabs(value(1, r, k));
    }
    check_sum(got->column[k], sum, magnitude, 1e-12, "column sum");
  }
  for (int i = 0; i < K * N; i++) {
    long double sum = 0, x = 0, dy = 0;
    for (int r = 0; r < ROWS; r++) {
      sum += (long double)value(1, r, i / N) * value(2, r, i % N);
      x = fmaxl(x, fabs(value(1, r, i / N)));
      dy = fmaxl(dy, fabs(value(2, r, i % N)));
    }
    check_sum(got->weight[i], sum, x * dy, 203 * 0x1p-21, "weight gradient");
  }
  long double squares = 0, sum = 0, magnitude = 0;
  for (int i = 0; i < ROWS * K; i++)
    squares += (long double)value(1, i / K, i % K) * value(1, i / K, i % K);
  for (int i = 0; i < ROWS * N; i++) {
    sum += value(2, i / N, i % N);
    magnitude = fmaxl(magnitude, fabs(value(2, i / N, i % N)));
  }
  check_sum(got->squares, squares, squares, 1e-15, "sum of squares");
  check_sum(got->sum, sum, magnitude, 1e-9, "sum");
}

static void check_table(const results *got)
{
  for (int v = 0; v < VOCABULARY; v++)
    for (int n = 0; n < N; n++) {
      long double sum = 0, magnitude = 0;
      for (int r = 0; r < ROWS; r++) {
        sum += id(r) == v ? value(2, r, n) : 0;
        magnitude = fmaxl(magnitude, fabs(value(2, r, n)));
      }
      check_sum(got->table[v * N + n], sum, magnitude, 1e-11, "table gradient");
    }
}

static void test_cuts(int dtype)
{
  trial one = {.dtype = dtype, .ranks = 1, .first = {0, ROWS}};
  for (int32_t i = 0; i < ROWS; i++)
    one.order[i] = i;
  run(&one);
  check_reference(&one.out[0]);
  check_table(&one.out[0]);
  for (int round = 0; round < ROUNDS; round++) {
    trial other = {.dtype = dtype, .ranks = 1 + round % MOST_RANKS};
    shuffle(&other);
    run(&other);
    for (int r = 0; r < other.ranks; r++)
      check_same(&other.out[r], &one.out[0], sizeof(results), "round %d, rank %d of %d", round, r,
                 other.ranks);
  }
}

/* A value that is not finite is not lost, and zeros give zeros. */
static void test_special(void)
{
  neap_tensor *x = matrix(NEAP_F32, 3, 2), *dy = matrix(NEAP_F32, 3, 1);
  neap_tensor *sum = matrix(NEAP_F64, 2, 1);
  double out;
  neap_tensor_fill(x, 0);
  neap_tensor_fill(dy, 2);
  neap_tensor_fill(sum, 0);
  put(x, 3, INFINITY);
  check(!neap_exact_weight_grad(NULL, x, dy, 3, sum), "%s", neap_error_message());
  check(((double *)neap_tensor_data(sum))[0] == 0, "a column of zeros");
  check(isnan(((double *)neap_tensor_data(sum))[1]), "a column with an infinity");
  check(!neap_exact_sum_squares(NULL, x, 6, &out) && isnan(out), "squares of infinity: %g", out);
  check(!neap_exact_sum(NULL, dy, 3, &out) && out == 6, "a sum of three: %g", out);
  check(neap_exact_sum(NULL, dy, 2, &out) == NEAP_ARGUMENT, "a total below the rank's own");
  check(neap_exact_sum(NULL, dy, 1ll << 40, &out) == NEAP_ARGUMENT, "a total too large");
  check(neap_exact_weight_grad(NULL, x, dy, 3, x) == NEAP_SHAPE, "a sum that is not f64");
  neap_tensor_close(x);
  neap_tensor_close(dy);
  neap_tensor_close(sum);
}

int main(void)
{
  test_cuts(NEAP_F32);
  test_cuts(NEAP_F64);
  test_special();
  return check_done();
}

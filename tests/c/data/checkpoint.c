/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of checkpoints: what is written comes back, in any cut over ranks; every changed byte and
 * every other length is found; what is copied is what there was at the start.
 * Runs on: threads.
 */
#include "check.h"
#include "neap.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_TENSORS = 12, ROUNDS = 30, CUT_ROUNDS = 25, MOST_ARRAYS = 7, MOST_RANKS = 9 };

static const int dtypes[] = {NEAP_F32, NEAP_F64, NEAP_I32, NEAP_I64, NEAP_BF16, NEAP_U8};

static char folder[64], path[128];
static uint64_t drawn;

static int64_t draw(int64_t limit)
{
  return (int64_t)(neap_random_bits(5, 0, drawn++) % (uint64_t)limit);
}

static void fill(unsigned char *data, int64_t bytes)
{
  for (int64_t i = 0; i < bytes; i++)
    data[i] = (unsigned char)draw(256);
}

/* CRC-32 bit by bit, apart from the library that the engine uses. */
static uint32_t crc_of(const unsigned char *data, int64_t bytes)
{
  uint32_t crc = 0xffffffff;
  for (int64_t i = 0; i < bytes; i++) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; bit++)
      crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc;
}

/* A whole file, to be freed. */
static unsigned char *load(const char *name, int64_t *bytes)
{
  FILE *file = fopen(name, "rb");
  struct stat info;
  if (!check(file && !stat(name, &info), "%s is not there", name))
    return NULL;
  *bytes = info.st_size;
  unsigned char *data = malloc((size_t)*bytes + 1);
  check(fread(data, 1, (size_t)*bytes, file) == (size_t)*bytes, "%s cannot be read", name);
  fclose(file);
  return data;
}

static void save(const char *name, const unsigned char *data, int64_t bytes)
{
  FILE *file = fopen(name, "wb");
  check(file && fwrite(data, 1, (size_t)bytes, file) == (size_t)bytes, "%s", name);
  fclose(file);
}

typedef struct {
  char name[32];
  int dtype;
  int32_t ndim;
  int64_t dims[8], bytes;
  unsigned char *data;
} array;

static void make_array(array *a, int index, int64_t most)
{
  snprintf(a->name, sizeof a->name, "tensor \"%d\"\n", index);
  a->dtype = dtypes[draw(6)];
  a->ndim = (int32_t)draw(9);
  a->bytes = neap_dtype_size(a->dtype);
  for (int i = 0; i < a->ndim; i++) {
    a->dims[i] = i == 0 && draw(9) == 0 ? 0 : 1 + draw(i == 0 ? most : 3);
    a->bytes *= a->dims[i];
  }
  a->data = malloc((size_t)a->bytes + 1);
  fill(a->data, a->bytes);
}

static neap_checkpoint_file write_arrays(neap_checkpoint_writer *w, array *arrays, int count)
{
  neap_checkpoint_file about = {0, 0};
  check(!neap_checkpoint_writer_begin(w, path), "%s", neap_error_message());
  for (int i = 0; i < count; i++) {
    array *a = &arrays[i];
    check(!neap_checkpoint_writer_add(w, a->name, a->dtype, a->ndim, a->dims, a->data), "%s",
          neap_error_message());
  }
  check(!neap_checkpoint_writer_start(w), "%s", neap_error_message());
  for (int i = 0; i < count; i++) /* nothing of this may reach the file */
    for (int64_t at = 0; at < arrays[i].bytes; at++)
      arrays[i].data[at] ^= 0xff;
  check(!neap_checkpoint_writer_wait(w, &about), "%s", neap_error_message());
  check(!neap_checkpoint_writer_busy(w), "busy after a wait");
  for (int i = 0; i < count; i++)
    for (int64_t at = 0; at < arrays[i].bytes; at++)
      arrays[i].data[at] ^= 0xff;
  return about;
}

static void read_back(neap_checkpoint_reader *r, const array *arrays, int count)
{
  int dtype;
  int32_t ndim;
  const int64_t *dims;
  for (int i = 0; i < count; i++) {
    const array *a = &arrays[i];
    const char *name = neap_checkpoint_reader_tensor(r, i, &dtype, &ndim, &dims);
    if (!check(name && !strcmp(name, a->name), "name of tensor %d", i))
      continue;
    check(dtype == a->dtype && ndim == a->ndim && !memcmp(dims, a->dims, (size_t)ndim * 8),
          "form of tensor %d", i);
    int64_t size = neap_dtype_size(dtype), all = a->bytes / size, first = draw(all + 1);
    int64_t part = draw(all - first + 1);
    unsigned char *got = malloc((size_t)a->bytes + 1);
    check(!neap_checkpoint_reader_read(r, name, dtype, 0, all, got), "%s", neap_error_message());
    check_same(got, a->data, a->bytes, "tensor %d", i);
    check(!neap_checkpoint_reader_read(r, name, dtype, first, part, got), "%s",
          neap_error_message());
    check_same(got, a->data + first * size, part * size, "a part of tensor %d", i);
    check(neap_checkpoint_reader_read(r, name, dtype, first, all - first + 1, got) == NEAP_SHAPE,
          "elements past the end of tensor %d", i);
    check(neap_checkpoint_reader_read(r, name, dtype == NEAP_F32 ? NEAP_F64 : NEAP_F32, 0, 0,
                                      got) == NEAP_SHAPE,
          "tensor %d as another type", i);
    free(got);
  }
  check(!neap_checkpoint_reader_tensor(r, count, &dtype, &ndim, &dims), "more tensors");
  check(neap_checkpoint_reader_read(r, "none", NEAP_F32, 0, 0, NULL) == NEAP_SHAPE, "no tensor");
  check(neap_checkpoint_reader_read(r, "none", -1, 0, 0, NULL) == NEAP_SHAPE, "no type");
}

/* The seal and the checksums, against the form that checkpoint.h describes. */
static void check_form(const neap_checkpoint_file *about)
{
  int64_t bytes;
  unsigned char *data = load(path, &bytes);
  int64_t count = 0;
  while (bytes - 4 * count > count << 20)
    count++;
  const unsigned char *table = data + bytes - 4 * count;
  check(bytes == about->bytes && crc_of(table, 4 * count) == about->seal, "bytes or seal");
  for (int64_t i = 0; i < count; i++) {
    int64_t left = bytes - 4 * count - (i << 20);
    uint32_t sum = crc_of(data + (i << 20), left < 1 << 20 ? left : 1 << 20), written;
    memcpy(&written, table + 4 * i, 4);
    check(sum == written, "checksum %d is %08x; expected %08x", (int)i, written, sum);
  }
  free(data);
}

static void test_round_trips(void)
{
  neap_checkpoint_writer *w;
  check(!neap_checkpoint_writer_open(&w), "%s", neap_error_message());
  for (int round = 0; round < ROUNDS; round++) {
    array arrays[MOST_TENSORS];
    int count = (int)draw(MOST_TENSORS + 1);
    for (int i = 0; i < count; i++)
      make_array(&arrays[i], i, round % 10 ? 1 + draw(400) : 200000);
    neap_checkpoint_file about = write_arrays(w, arrays, count);
    neap_checkpoint_reader *r = NULL;
    if (check(!neap_checkpoint_reader_open(path, &about, &r), "%s", neap_error_message())) {
      check(!neap_checkpoint_reader_check(r), "%s", neap_error_message());
      read_back(r, arrays, count);
    }
    check_form(&about);
    neap_checkpoint_reader_close(r);
    for (int i = 0; i < count; i++)
      free(arrays[i].data);
  }
  neap_checkpoint_writer_close(w);
  neap_checkpoint_writer_close(NULL);
  neap_checkpoint_reader_close(NULL);
}

/* ---- damage -------------------------------------------------------------------------------- */

/* Status of opening the file and reading all of it. */
static int read_all(const neap_checkpoint_file *about)
{
  neap_checkpoint_reader *r = NULL;
  int status = neap_checkpoint_reader_open(path, about, &r);
  if (!status)
    status = neap_checkpoint_reader_check(r);
  neap_checkpoint_reader_close(r);
  return status;
}

static void test_damage(void)
{
  array arrays[3];
  neap_checkpoint_writer *w;
  check(!neap_checkpoint_writer_open(&w), "%s", neap_error_message());
  for (int i = 0; i < 3; i++)
    make_array(&arrays[i], i, 40);
  neap_checkpoint_file about = write_arrays(w, arrays, 3);
  int64_t bytes;
  unsigned char *data = load(path, &bytes);
  for (int64_t i = 0; i < bytes; i++) {
    unsigned char before = data[i];
    data[i] ^= (unsigned char)(1 + draw(255));
    save(path, data, bytes);
    int status = read_all(&about);
    check(status == NEAP_FORMAT, "byte %d of %d changed: %s", (int)i, (int)bytes,
          neap_status_name(status));
    data[i] = before;
  }
  for (int64_t i = 0; i <= bytes; i++) {
    int64_t length = i < bytes ? i : bytes + 1;
    save(path, data, length);
    check(read_all(&about) == NEAP_FORMAT, "%d of %d bytes", (int)length, (int)bytes);
    neap_checkpoint_file lying = {length, about.seal};
    check(read_all(&lying) == NEAP_FORMAT, "%d of %d bytes, as announced", (int)length, (int)bytes);
  }
  unlink(path);
  check(read_all(&about) == NEAP_SYSTEM, "no file");
  for (int i = 0; i < 3; i++)
    free(arrays[i].data);
  free(data);
  neap_checkpoint_writer_close(w);
}

/* Damage that checksums do not show, since the file was made so. */
static void test_crafted(void)
{
  static const char *const headers[] = {
      "{}",
      "{\"__metadata__\":{\"format\":\"neap.checkpoint\",\"version\":\"2\"}}",
      "{\"__metadata__\":{\"format\":\"neap.checkpoint\",\"version\":\"1\"}}",
      "{\"__metadata__\":{\"format\":\"neap.trace\",\"version\":\"1\"}}",
      "[]",
      "{",
      "{\"__metadata__\":{\"format\":\"neap.checkpoint\",\"version\":\"1\"},"
      "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
      "{\"__metadata__\":{\"format\":\"neap.checkpoint\",\"version\":\"1\"},"
      "\"a\":{\"dtype\":\"F8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
      "{\"__metadata__\":{\"format\":\"neap.checkpoint\",\"version\":\"1\"},"
      "\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}",
      "{\"__metadata__\":{\"format\":\"neap.checkpoint\",\"version\":\"1\"},"
      "\"checksums\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
      "{\"__metadata__\":{\"format\":\"neap.checkpoint\",\"version\":\"1\"},"
      "\"a\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
      "{\"__metadata__\":{\"format\":\"neap.checkpoint\",\"version\":\"1\"},"
      "\"a\":{\"dtype\":\"F8\",\"shape\":[0],\"data_offsets\":[0,0]},"
      "\"checksums\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,4]}}"};
  for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
    unsigned char data[512] = {0};
    uint64_t length = strlen(headers[i]);
    for (int b = 0; b < 8; b++)
      data[b] = (unsigned char)(length >> (8 * b));
    memcpy(data + 8, headers[i], length);
    uint32_t sum = crc_of(data, 8 + (int64_t)length);
    memcpy(data + 8 + length, &sum, 4);
    save(path, data, 12 + (int64_t)length);
    neap_checkpoint_file about = {12 + (int64_t)length, crc_of(data + 8 + length, 4)};
    check(read_all(&about) == NEAP_FORMAT, "header %s", headers[i]);
  }
  unsigned char far[12] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  uint32_t sum = crc_of(far, 8);
  memcpy(far + 8, &sum, 4);
  save(path, far, 12);
  neap_checkpoint_file about = {12, crc_of(far + 8, 4)};
  check(read_all(&about) == NEAP_FORMAT, "a header of 2^64 bytes");
  unlink(path);
}

/* ---- cuts over ranks ----------------------------------------------------------------------- */

/* Owner of an element when arrays are cut over ranks, told element by element. */
static int32_t owner(int64_t size, int64_t granule, int32_t ranks, int64_t element)
{
  int64_t each = granule;
  while (each * ranks < size)
    each += granule;
  return (int32_t)(element / each);
}

static void test_cuts(void)
{
  neap_checkpoint_writer *w;
  check(!neap_checkpoint_writer_open(&w), "%s", neap_error_message());
  for (int round = 0; round < CUT_ROUNDS; round++) {
    int64_t sizes[MOST_ARRAYS], arrays = 1 + draw(MOST_ARRAYS), granule = 1 + 15 * draw(2);
    int32_t from_ranks = (int32_t)(1 + draw(MOST_RANKS)),
            to_ranks = (int32_t)(1 + draw(MOST_RANKS));
    int32_t to_rank = (int32_t)draw(to_ranks);
    int64_t total = 0, wanted = 0;
    for (int64_t i = 0; i < arrays; i++)
      total += sizes[i] = 1 + draw(70);
    int32_t *expected = malloc((size_t)total * 4), *got = calloc((size_t)total, 4);
    int32_t *own = malloc((size_t)total * 4);
    for (int32_t from = 0; from < from_ranks; from++) {
      int64_t count = 0;
      int32_t value = 0;
      wanted = 0;
      for (int64_t i = 0; i < arrays; i++)
        for (int64_t e = 0; e < sizes[i]; e++, value++) {
          if (owner(sizes[i], granule, from_ranks, e) == from)
            own[count++] = value;
          if (owner(sizes[i], granule, to_ranks, e) == to_rank)
            expected[wanted++] = value;
        }
      neap_checkpoint_file about = {0, 0};
      neap_checkpoint_reader *r = NULL;
      check(!neap_checkpoint_writer_begin(w, path) &&
                !neap_checkpoint_writer_add(w, "part", NEAP_I32, 1, &count, own) &&
                !neap_checkpoint_writer_start(w) && !neap_checkpoint_writer_wait(w, &about) &&
                !neap_checkpoint_reader_open(path, &about, &r),
            "%s", neap_error_message());
      int64_t held[2 * MOST_ARRAYS], want[2 * MOST_ARRAYS];
      for (int64_t i = 0; i < arrays; i++) {
        neap_cut(sizes[i], granule, from_ranks, from, &held[2 * i], &held[2 * i + 1]);
        neap_cut(sizes[i], granule, to_ranks, to_rank, &want[2 * i], &want[2 * i + 1]);
      }
      check(!neap_checkpoint_reader_ranges(r, "part", NEAP_I32, arrays, held, want, got), "%s",
            neap_error_message());
      if (held[0] < held[1]) {
        check(neap_checkpoint_reader_ranges(r, "none", NEAP_I32, 1, held, held, got) == NEAP_SHAPE,
              "ranges of no tensor");
      }
      want[1] = want[0] - 1;
      check(neap_checkpoint_reader_ranges(r, "part", NEAP_I32, arrays, held, want, got) ==
                NEAP_ARGUMENT,
            "a range that ends before it begins");
      neap_checkpoint_reader_close(r);
    }
    check_same(got, expected, wanted * 4, "%d ranks to rank %d of %d", from_ranks, to_rank,
               to_ranks);
    free(expected);
    free(got);
    free(own);
  }
  neap_checkpoint_writer_close(w);
}

/* ---- shards -------------------------------------------------------------------------------- */

static void test_shards(void)
{
  neap_world *world;
  neap_comm *comm;
  neap_topology *topology;
  neap_shards *shards;
  neap_tensor *value;
  int32_t slots = 3;
  int64_t sizes[] = {5, 1, 9};
  check(!neap_world_open(1, &world) && !neap_comm_open_local(world, 0, &comm) &&
            !neap_topology_open(1, 3, NULL, &slots, NULL, NULL, &topology) &&
            !neap_shards_open(comm, topology, NEAP_F32, NEAP_TRAVEL_DTYPE, 0, sizes, NEAP_GROUP_ALL,
                              &shards),
        "%s", neap_error_message());
  float all[15], got[15];
  for (int e = 0, at = 0; e < 3; e++) {
    check(!neap_tensor_open(NEAP_F32, 1, &sizes[e], &value), "%s", neap_error_message());
    for (int64_t i = 0; i < sizes[e]; i++, at++)
      ((float *)neap_tensor_data(value))[i] = all[at] = (float)(1 + at);
    check(!neap_shards_set(shards, NEAP_SHARD_MOMENT2, e, value), "%s", neap_error_message());
    neap_tensor_close(value);
  }
  neap_checkpoint_writer *w;
  neap_checkpoint_reader *r = NULL;
  neap_checkpoint_file about = {0, 0};
  int64_t two[] = {1, 2};
  check(!neap_tensor_open(NEAP_F32, 2, two, &value) && !neap_tensor_fill(value, 7), "%s",
        neap_error_message());
  check(!neap_checkpoint_writer_open(&w) && !neap_checkpoint_writer_begin(w, path) &&
            !neap_checkpoint_writer_add_shards(w, "m2", shards, NEAP_SHARD_MOMENT2) &&
            !neap_checkpoint_writer_add_tensor(w, "sevens", value),
        "%s", neap_error_message());
  check(neap_checkpoint_writer_add_shards(w, "m4", shards, 4) == NEAP_ARGUMENT, "part 4");
  check(!neap_checkpoint_writer_start(w), "%s", neap_error_message());
  check(neap_checkpoint_writer_begin(w, path) == NEAP_ARGUMENT, "begin while at work");
  check(!neap_checkpoint_writer_wait(w, &about) && !neap_checkpoint_reader_open(path, &about, &r),
        "%s", neap_error_message());
  check(neap_checkpoint_writer_wait(w, &about) == NEAP_ARGUMENT, "a wait for nothing");
  check(!neap_checkpoint_reader_read(r, "m2", NEAP_F32, 0, 15, got), "%s", neap_error_message());
  check_same(got, all, sizeof all, "moments");
  check(!neap_checkpoint_reader_read(r, "sevens", NEAP_F32, 0, 2, got) && got[1] == 7, "sevens");
  neap_checkpoint_reader_close(r);
  neap_checkpoint_writer_close(w);
  neap_tensor_close(value);
  neap_shards_close(shards);
  neap_topology_close(topology);
  neap_comm_close(comm);
  neap_world_close(world);
}

/* ---- sealed texts, plain writers, folders --------------------------------------------------- */

static void test_sealed(void)
{
  static const char text[] = "{\"step\":12,\"name\":\"a b\"}";
  neap_sealed *sealed = NULL;
  int64_t bytes;
  check(!neap_sealed_write(path, text, (int64_t)strlen(text)), "%s", neap_error_message());
  check(!neap_sealed_read(path, &sealed), "%s", neap_error_message());
  const char *got = neap_sealed_text(sealed, &bytes);
  char expected[128];
  snprintf(expected, sizeof expected, "{\"step\":12,\"name\":\"a b\",\"crc32\":\"%08x\"}\n",
           crc_of((const unsigned char *)text, (int64_t)strlen(text) - 1));
  check(bytes == (int64_t)strlen(expected) && !memcmp(got, expected, (size_t)bytes),
        "sealed text is %.*s", (int)bytes, got);
  neap_sealed_close(sealed);
  unsigned char *data = load(path, &bytes);
  for (int64_t i = 0; i < bytes; i++) {
    unsigned char before = data[i];
    data[i] ^= (unsigned char)(1 + draw(255));
    save(path, data, bytes);
    check(neap_sealed_read(path, &sealed) == NEAP_FORMAT, "byte %d changed", (int)i);
    data[i] = before;
  }
  for (int64_t i = 0; i < bytes; i++) {
    save(path, data, i);
    check(neap_sealed_read(path, &sealed) == NEAP_FORMAT, "%d bytes", (int)i);
  }
  free(data);
  check(neap_sealed_write(path, "{}", 2) == NEAP_ARGUMENT, "an empty object");
  check(neap_sealed_write(path, "[12]", 4) == NEAP_ARGUMENT, "a list");
  check(neap_sealed_write("/nowhere/x", text, (int64_t)strlen(text)) == NEAP_SYSTEM, "no folder");
  check(neap_sealed_read("/nowhere/x", &sealed) == NEAP_SYSTEM, "no file");
  check(neap_sealed_read(folder, &sealed) == NEAP_FORMAT, "a folder");
  neap_sealed_close(NULL);
}

static void test_plain(void)
{
  neap_tensors_writer *w;
  int64_t bytes, dims[] = {2};
  uint32_t seal;
  static const char expected[] = "{\"__metadata__\":{\"from\":\"a \\\"test\\\"\"},\"x\":{\"dtype\":"
                                 "\"I32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
  check(!neap_file_replace(path, "old", 3), "%s", neap_error_message());
  check(!neap_tensors_writer_open(path, &w) &&
            !neap_tensors_writer_set_metadata(w, "from", "a \"test\"") &&
            !neap_tensors_writer_declare(w, "x", NEAP_I32, 1, dims),
        "%s", neap_error_message());
  check(neap_tensors_writer_append(w, "", 1) == NEAP_ARGUMENT, "append before begin");
  check(neap_tensors_writer_finish(w, &bytes, &seal) == NEAP_ARGUMENT, "finish before begin");
  check(neap_tensors_writer_declare(w, "y", 99, 1, dims) == NEAP_ARGUMENT, "type 99");
  check(neap_tensors_writer_declare(w, "y", NEAP_I32, 9, dims) == NEAP_ARGUMENT, "9 dimensions");
  dims[0] = -1;
  check(neap_tensors_writer_declare(w, "y", NEAP_I32, 1, dims) == NEAP_ARGUMENT, "dimension -1");
  check(!neap_tensors_writer_begin(w), "%s", neap_error_message());
  check(neap_tensors_writer_begin(w) == NEAP_ARGUMENT, "begin twice");
  dims[0] = 1;
  check(neap_tensors_writer_declare(w, "y", NEAP_I32, 1, dims) == NEAP_ARGUMENT, "late");
  check(!neap_tensors_writer_append(w, "abcd", 4), "%s", neap_error_message());
  check(neap_tensors_writer_finish(w, &bytes, &seal) == NEAP_ARGUMENT, "too few bytes");
  check(neap_tensors_writer_append(w, "efghi", 5) == NEAP_ARGUMENT, "too many bytes");
  unsigned char *data = load(path, &bytes);
  check(bytes == 3, "the old file stays");
  free(data);
  check(!neap_tensors_writer_append(w, "efgh", 4) && !neap_tensors_writer_finish(w, &bytes, &seal),
        "%s", neap_error_message());
  neap_tensors_writer_close(w);
  data = load(path, &bytes);
  int64_t length = data[0] + 256 * data[1];
  check(length % 8 == 0 && bytes == 8 + length + 8 && seal == 0, "%d bytes", (int)bytes);
  check(!strncmp((char *)data + 8, expected, strlen(expected)), "header %.*s", (int)length,
        data + 8);
  check_same(data + 8 + length, "abcdefgh", 8, "data");
  free(data);
  check(!neap_tensors_writer_open(path, &w) && !neap_tensors_writer_begin(w), "%s",
        neap_error_message());
  neap_tensors_writer_close(w);
  neap_tensors_writer_close(NULL);
  data = load(path, &bytes);
  check(bytes == 16 + length, "a writer that is closed early leaves the file");
  free(data);
}

static void test_folders(void)
{
  char inner[160], file[192];
  int lock, other = -1;
  snprintf(inner, sizeof inner, "%s/a/b/c", folder);
  snprintf(file, sizeof file, "%s/file", inner);
  check(!neap_folder_make(inner) && !neap_folder_make(inner), "%s", neap_error_message());
  check(!neap_file_replace(file, "x", 1), "%s", neap_error_message());
  check(neap_folder_make(file) == NEAP_SYSTEM, "a file is no folder");
  snprintf(file, sizeof file, "%s/file/d", inner);
  check(neap_folder_make(file) == NEAP_SYSTEM, "a folder in a file");
  snprintf(file, sizeof file, "%s/lock", inner);
  check(!neap_file_lock(file, &lock), "%s", neap_error_message());
  check(neap_file_lock(file, &other) == NEAP_BUSY, "locked twice");
  neap_file_unlock(lock);
  check(!neap_file_lock(file, &lock), "%s", neap_error_message());
  neap_file_unlock(lock);
  neap_file_unlock(-1);
  check(neap_file_lock("/nowhere/x", &lock) == NEAP_SYSTEM, "no folder");
  check(!neap_folder_remove(inner) && !neap_folder_remove(inner) && access(inner, F_OK), "%s",
        neap_error_message());
  snprintf(inner, sizeof inner, "%s/a", folder);
  check(neap_folder_remove(folder) == NEAP_SYSTEM, "folders in folders are not removed");
  snprintf(inner, sizeof inner, "%s/a/b", folder);
  check(!neap_folder_remove(inner), "%s", neap_error_message());
  snprintf(inner, sizeof inner, "%s/a", folder);
  check(!neap_folder_remove(inner), "%s", neap_error_message());
}

static void test_failures(void)
{
  neap_checkpoint_writer *w;
  neap_checkpoint_file about = {1, 2};
  check(!neap_checkpoint_writer_open(&w) && !neap_checkpoint_writer_begin(w, "/nowhere/x") &&
            !neap_checkpoint_writer_start(w),
        "%s", neap_error_message());
  check(neap_checkpoint_writer_wait(w, &about) == NEAP_SYSTEM && about.bytes == 1,
        "a file that cannot be written");
  check(strstr(neap_error_message(), "/nowhere/x"), "%s", neap_error_message());
  static const char text[] = "{\"a\":1}";
  check(!neap_checkpoint_writer_commit(w, path, text, 7) && !neap_checkpoint_writer_wait(w, &about),
        "%s", neap_error_message());
  neap_sealed *sealed = NULL;
  check(!neap_sealed_read(path, &sealed), "%s", neap_error_message());
  neap_sealed_close(sealed);
  check(!neap_checkpoint_writer_commit(w, "/nowhere/x", text, 7), "%s", neap_error_message());
  check(neap_checkpoint_writer_commit(w, path, text, 7) == NEAP_ARGUMENT, "two jobs");
  check(neap_checkpoint_writer_wait(w, &about) == NEAP_SYSTEM, "no folder");
  check(!neap_checkpoint_writer_commit(w, path, text, 7), "%s", neap_error_message());
  neap_checkpoint_writer_close(w); /* waits */
}

int main(void)
{
  snprintf(folder, sizeof folder, "/tmp/neap-checkpoint-XXXXXX");
  if (!check(mkdtemp(folder) != NULL, "no folder"))
    return check_done();
  snprintf(path, sizeof path, "%s/file", folder);
  test_round_trips();
  test_damage();
  test_crafted();
  test_cuts();
  test_shards();
  test_sealed();
  test_plain();
  test_failures();
  test_folders();
  neap_folder_remove(folder);
  return check_done();
}

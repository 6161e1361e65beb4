/* SPDX-License-Identifier: Apache-2.0 */
/* cuBLAS, found at run time: products of bf16 matrices, and of double ones for exact sums, one
 * algorithm per shape.
 *
 * cuBLAS chooses an algorithm by all of a product's sizes, and algorithms differ in the last bit.
 * Here it is asked once for each (N, K, leading dimensions, transpositions), as if there were
 * NOMINAL_TOKENS tokens, for an algorithm without workspace and without a reduction over parts of
 * K, and that one is used for every M: a row's result then does not depend on the rows beside it
 * (stated here, and tested on the GPU: cuBLAS does not promise it). */
#include "cuda.cuh"

#include <cublasLt.h>
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

enum { NOMINAL_TOKENS = 4096, SHAPES = 256 };

/* Everything of the library that is called. */
#define FUNCTIONS(X)                                                                               \
  X(cublasLtCreate)                                                                                \
  X(cublasLtMatmul)                                                                                \
  X(cublasLtMatmulDescCreate)                                                                      \
  X(cublasLtMatmulDescDestroy)                                                                     \
  X(cublasLtMatmulDescSetAttribute)                                                                \
  X(cublasLtMatrixLayoutCreate)                                                                    \
  X(cublasLtMatrixLayoutDestroy)                                                                   \
  X(cublasLtMatmulPreferenceCreate)                                                                \
  X(cublasLtMatmulPreferenceDestroy)                                                               \
  X(cublasLtMatmulPreferenceSetAttribute)                                                          \
  X(cublasLtMatmulAlgoGetHeuristic)

#define POINTER(name) decltype(&::name) name;
typedef struct {
  FUNCTIONS(POINTER)
} functions;

/* A product; as the key of a choice with 0 for the number of tokens, which is k where a is
 * transposed (a sum over tokens), and m elsewhere. */
typedef struct {
  int64_t m, n, k, lda, ldb, ldc;
  int trans_a, trans_b, types, device;
} shape;

typedef struct {
  shape of;
  bool usable;
  cublasLtMatmulAlgo_t algorithm;
} choice;

static functions lt;
static cublasLtHandle_t handles[64]; /* by device */
static choice choices[SHAPES];
static int choice_count;
static bool found;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of handles and choices */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find_library(void)
{
  static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
  void *library = NULL;
  for (size_t i = 0; !library && i < sizeof names / sizeof *names; i++)
    library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  found = library != NULL;
#define FIND(name)                                                                                 \
  if (found)                                                                                       \
    found = (lt.name = (decltype(lt.name))dlsym(library, #name)) != NULL;
  FUNCTIONS(FIND)
}

/* ---- descriptions of one product ------------------------------------------------------------- */

typedef struct {
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t left, right, out;
} description;

static void forget(description *d)
{
  if (d->operation)
    lt.cublasLtMatmulDescDestroy(d->operation);
  cublasLtMatrixLayout_t layouts[] = {d->left, d->right, d->out};
  for (int i = 0; i < 3; i++)
    if (layouts[i])
      lt.cublasLtMatrixLayoutDestroy(layouts[i]);
}

static bool set_transposition(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t which,
                              int transposed)
{
  cublasOperation_t op = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  return lt.cublasLtMatmulDescSetAttribute(operation, which, &op, sizeof op) ==
         CUBLAS_STATUS_SUCCESS;
}

/* left and right are exchanged, which is what makes a row-major product a column-major one. */
static bool describe(const shape *s, description *d)
{
  memset(d, 0, sizeof *d);
  bool doubles = s->types == NEAPI_DOUBLES;
  cudaDataType_t in = doubles ? CUDA_R_64F : CUDA_R_16BF;
  cudaDataType_t out = s->types == NEAPI_BF16_INTO_FLOAT ? CUDA_R_32F : in;
  bool good =
      lt.cublasLtMatmulDescCreate(&d->operation, doubles ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                  doubles ? CUDA_R_64F : CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
  good = good && set_transposition(d->operation, CUBLASLT_MATMUL_DESC_TRANSA, s->trans_b) &&
         set_transposition(d->operation, CUBLASLT_MATMUL_DESC_TRANSB, s->trans_a);
  good = good &&
         !lt.cublasLtMatrixLayoutCreate(&d->left, in, (uint64_t)(s->trans_b ? s->k : s->n),
                                        (uint64_t)(s->trans_b ? s->n : s->k), s->ldb) &&
         !lt.cublasLtMatrixLayoutCreate(&d->right, in, (uint64_t)(s->trans_a ? s->m : s->k),
                                        (uint64_t)(s->trans_a ? s->k : s->m), s->lda) &&
         !lt.cublasLtMatrixLayoutCreate(&d->out, out, (uint64_t)s->n, (uint64_t)s->m, s->ldc);
  return good;
}

/* Asks for the algorithm of a key. */
static bool ask(cublasLtHandle_t handle, const shape *key, cublasLtMatmulAlgo_t *algorithm)
{
  shape s = *key;
  *(s.trans_a ? &s.k : &s.m) = NOMINAL_TOKENS;
  description d;
  cublasLtMatmulPreference_t preference = NULL;
  cublasLtMatmulHeuristicResult_t result;
  int count = 0;
  size_t workspace = 0;
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE;
  bool good = describe(&s, &d) && !lt.cublasLtMatmulPreferenceCreate(&preference);
  good =
      good &&
      !lt.cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &workspace, sizeof workspace) &&
      !lt.cublasLtMatmulPreferenceSetAttribute(
          preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
  if (good)
    good = !lt.cublasLtMatmulAlgoGetHeuristic(handle, d.operation, d.left, d.right, d.out, d.out,
                                              preference, 1, &result, &count) &&
           count == 1;
  if (good)
    *algorithm = result.algo;
  if (preference)
    lt.cublasLtMatmulPreferenceDestroy(preference);
  forget(&d);
  return good;
}

/* The product's choice, made at its first use; NULL: use another product. */
static const choice *choice_of(const shape *product)
{
  shape key = *product, *s = &key;
  *(key.trans_a ? &key.k : &key.m) = 0;
  pthread_mutex_lock(&lock);
  choice *c = NULL;
  for (int i = 0; !c && i < choice_count; i++)
    if (!memcmp(&choices[i].of, s, sizeof *s))
      c = &choices[i];
  if (!c && choice_count < SHAPES &&
      (handles[s->device] || !lt.cublasLtCreate(&handles[s->device]))) {
    c = &choices[choice_count++];
    c->of = *s;
    c->usable = ask(handles[s->device], s, &c->algorithm);
  }
  pthread_mutex_unlock(&lock);
  return c && c->usable ? c : NULL;
}

bool neapi_cublas_gemm(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, int trans_a,
                       const void *b, int64_t ldb, int trans_b, void *c, int64_t ldc,
                       product_types types, int accumulate, void *stream, int *status)
{
  shape s;
  memset(&s, 0, sizeof s);                                      /* compared as bytes */
  int64_t size = types == NEAPI_DOUBLES ? 2 : pack<bf16>::SIZE; /* elements of 16 bytes */
  bool suits = n % size == 0 && lda % size == 0 && ldb % size == 0 && ldc % size == 0;
  suits = suits && n >= NARROW && (trans_a ? m : k) >= NARROW;
  suits = suits && ((uintptr_t)a | (uintptr_t)b | (uintptr_t)c) % 16 == 0;
  pthread_once(&once, find_library);
  if (!suits || !found || !m || !k || cudaGetDevice(&s.device) != cudaSuccess || s.device >= 64)
    return false;
  s.m = m;
  s.n = n;
  s.k = k;
  s.lda = lda;
  s.ldb = ldb;
  s.ldc = ldc;
  s.trans_a = trans_a != 0;
  s.trans_b = trans_b != 0;
  s.types = types;
  const choice *chosen = choice_of(&s);
  description d;
  float one = 1, beta = accumulate ? 1 : 0;
  double double_one = 1, double_beta = beta;
  bool doubles = types == NEAPI_DOUBLES;
  if (!chosen)
    return false;
  bool good =
      describe(&s, &d) &&
      !lt.cublasLtMatmul(handles[s.device], d.operation, doubles ? (void *)&double_one : &one, b,
                         d.left, a, d.right, doubles ? (void *)&double_beta : &beta, c, d.out, c,
                         d.out, &chosen->algorithm, NULL, 0, stream_of(stream));
  forget(&d);
  *status = good ? launched()
                 : neapi_refused("cuBLAS's product of %lld x %lld x %lld", (long long)m,
                                 (long long)n, (long long)k);
  return true;
}

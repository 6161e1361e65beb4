/* SPDX-License-Identifier: Apache-2.0 */
/* Counting checks for the C tests. A test's main ends with "return check_done();".
 *
 *   check(n == 3, "n is %d", n)                   counts; on failure says place and text on stderr
 *   check_close(got, expected, 1e-5, "loss")      |got - expected| <= tolerance * max(1,
 * |expected|) check_same(a, b, bytes, "row %d", row)        the same bytes
 *
 * Each is an expression: true if it passed. They may be called from several threads. */
#ifndef NEAP_CHECK_H
#define NEAP_CHECK_H

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECK_SHOWN = 20 }; /* failures told in full; later ones are only counted */

static int check_passed, check_failed; /* atomic */

__attribute__((format(printf, 4, 5), unused)) static bool
check_report(bool passed, const char *file, int line, const char *format, ...)
{
  if (passed) {
    __atomic_add_fetch(&check_passed, 1, __ATOMIC_RELAXED);
    return true;
  }
  if (__atomic_add_fetch(&check_failed, 1, __ATOMIC_RELAXED) > CHECK_SHOWN)
    return false;
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fprintf(stderr, "%s:%d: %s\n", file, line, text);
  return false;
}

#define check(condition, ...) check_report((condition), __FILE__, __LINE__, __VA_ARGS__)

/* A NaN on either side fails. */
#define check_close(got, expected, tolerance, what)                                                \
  check_close_at((got), (expected), (tolerance), (what), __FILE__, __LINE__)

__attribute__((unused)) static bool check_close_at(double got, double expected, double tolerance,
                                                   const char *what, const char *file, int line)
{
  double allowed = tolerance * fmax(1.0, fabs(expected));
  return check_report(fabs(got - expected) <= allowed, file, line,
                      "%s is %.17g; expected %.17g within %g", what, got, expected, allowed);
}

#define check_same(a, b, bytes, ...)                                                               \
  check_report(!memcmp((a), (b), (size_t)(bytes)), __FILE__, __LINE__, __VA_ARGS__)

/* How many random cases a test draws: few, or many with ./neap test --long; a tenth of that under
 * the sanitizers, which are ten times slower. */
__attribute__((unused)) static int64_t check_cases(int64_t few, int64_t many)
{
  int64_t cases = getenv("NEAP_LONG") ? many : few;
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
  cases /= 10;
#endif
  return cases;
}

/* Prints the counts; the value for main to return: 1 if a check failed. */
__attribute__((unused)) static int check_done(void)
{
  printf("%d passed, %d failed\n", check_passed, check_failed);
  return check_failed > 0;
}

#endif

/* Pointwise activations of a row, and their derivatives.
 *
 * Largest error found, in units in the last place: sigmoid 2.4, tanh 2.5, elu of alpha = 1 1.13 (see exponential.h).
 */

INLINE vec NAME(absolute)(vec x) { return (vec)((ivec)x & ~(ivec)NAME(splat)((real)-0.0)); }
INLINE vec NAME(with_sign)(vec magnitude, vec sign) {
  return (vec)((ivec)magnitude | ((ivec)sign & (ivec)NAME(splat)((real)-0.0)));
}

/* exp of a negative number on both sides: nothing overflows, and small values keep their last bits. */
INLINE vec NAME(sigmoid)(vec x) {
  const vec e = NAME(exp)(-NAME(absolute)(x));
  return NAME(select)(x < 0, e, NAME(splat)(1)) / (e + 1);
}

INLINE vec NAME(tanh)(vec x) {
  const vec e = NAME(expm1_negative)(-2 * NAME(absolute)(x));
  return NAME(with_sign)(-e / (e + 2), x);
}

#include "gated.h"

/* kind is a constant wherever this is inlined. */
INLINE vec NAME(activated)(const int kind, vec alpha, vec x) {
  const vec zero = {0};
  switch (kind) {
    case FASTCONV_RELU:
      return NAME(at_least)(x, zero);
    case FASTCONV_RELU6:
      return NAME(at_most)(NAME(at_least)(x, zero), NAME(splat)(6));
    case FASTCONV_LEAKY_RELU:
      return NAME(select)(x > 0, x, x * alpha);
    case FASTCONV_ELU:
      return NAME(select)(x > 0, x, alpha * NAME(expm1_negative)(NAME(at_most)(x, zero)));
    case FASTCONV_SIGMOID:
      return NAME(sigmoid)(x);
    case FASTCONV_TANH:
      return NAME(tanh)(x);
    default:
      return x * NAME(gate)(kind, x);
  }
}

/* grad_y times the derivative; saved is y for relu, relu6, sigmoid and tanh, x for all others. */
INLINE vec NAME(activated_backward)(const int kind, vec alpha, vec grad_y, vec saved) {
  const vec zero = {0};
  switch (kind) {
    case FASTCONV_RELU:
      return NAME(select)(saved <= 0, zero, grad_y);
    case FASTCONV_RELU6:
      return NAME(select)((saved <= 0) | (saved >= 6), zero, grad_y);
    case FASTCONV_LEAKY_RELU:
      return NAME(select)(saved > 0, grad_y, grad_y * alpha);
    case FASTCONV_ELU:
      return NAME(select)(saved > 0, grad_y, grad_y * alpha * NAME(exp)(NAME(at_most)(saved, zero)));
    case FASTCONV_SIGMOID:
      return grad_y * (saved * (1 - saved));
    case FASTCONV_TANH:
      return grad_y * (1 - saved * saved);
    default:
      return grad_y * NAME(gated_slope)(kind, saved, NAME(gate)(kind, saved));
  }
}

INLINE void NAME(activate_row)(const int kind, real alpha, real *dst, const real *src, ptrdiff_t n) {
  const vec a = NAME(splat)(alpha);
  ptrdiff_t i = 0;
  for (; i + VLEN <= n; i += VLEN) NAME(store)(dst + i, NAME(activated)(kind, a, NAME(load)(src + i)));
  if (i < n) NAME(store_tail)(dst + i, NAME(activated)(kind, a, NAME(load_tail)(src + i, n - i)), n - i);
}

INLINE void NAME(activate_backward_row)(const int kind, real alpha, real *dst, const real *grad_y, const real *saved,
                                        ptrdiff_t n) {
  const vec a = NAME(splat)(alpha);
  ptrdiff_t i = 0;
  for (; i + VLEN <= n; i += VLEN)
    NAME(store)(dst + i, NAME(activated_backward)(kind, a, NAME(load)(grad_y + i), NAME(load)(saved + i)));
  if (i < n) {
    const vec g = NAME(load_tail)(grad_y + i, n - i), r = NAME(load_tail)(saved + i, n - i);
    NAME(store_tail)(dst + i, NAME(activated_backward)(kind, a, g, r), n - i);
  }
}

#define EACH_ACTIVATION(CASE) \
  CASE(FASTCONV_RELU)         \
  CASE(FASTCONV_RELU6)        \
  CASE(FASTCONV_LEAKY_RELU)   \
  CASE(FASTCONV_ELU)          \
  CASE(FASTCONV_SIGMOID)      \
  CASE(FASTCONV_TANH)         \
  CASE(FASTCONV_GELU) CASE(FASTCONV_GELU_TANH) CASE(FASTCONV_SILU) CASE(FASTCONV_HARDSWISH)

static void NAME(activate)(int kind, double alpha, char *dst, const char *src, ptrdiff_t n) {
#define CASE(KIND)                                                            \
  case KIND:                                                                  \
    NAME(activate_row)(KIND, (real)alpha, (real *)dst, (const real *)src, n); \
    break;
  switch (kind) { EACH_ACTIVATION(CASE) }
#undef CASE
}

static void NAME(activate_backward)(int kind, double alpha, char *dst, const char *grad_y, const char *saved,
                                    ptrdiff_t n) {
#define CASE(KIND)                                                                                             \
  case KIND:                                                                                                   \
    NAME(activate_backward_row)(KIND, (real)alpha, (real *)dst, (const real *)grad_y, (const real *)saved, n); \
    break;
  switch (kind) { EACH_ACTIVATION(CASE) }
#undef CASE
}

/* A plain loop: the compiler widens the bytes to lane masks. */
static void NAME(masked)(double scale, char *dst, const char *src, const char *mask, ptrdiff_t n) {
  real *y = (real *)dst;
  const real *x = (const real *)src, factor = (real)scale;
  for (ptrdiff_t i = 0; i < n; i++) y[i] = mask[i] ? x[i] * factor : 0;
}

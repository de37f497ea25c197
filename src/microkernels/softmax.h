/* Softmax of a row, its logarithm and their derivatives.
 *
 * The row's largest element is subtracted first, so that no exp overflows and the sum is at least 1. A row of -inf
 * alone, and one with +inf or NaN, comes out as NaN: inf - inf meets exp.
 */

INLINE real NAME(largest)(const real *x, ptrdiff_t n) {
  real peak = -__builtin_inf();
  ptrdiff_t i = 0;
  if (n >= VLEN) {
    vec peaks = NAME(load)(x);
    for (i = VLEN; i + VLEN <= n; i += VLEN) peaks = NAME(at_least)(NAME(load)(x + i), peaks);
    for (int lane = 0; lane < VLEN; lane++) peak = peaks[lane] > peak ? peaks[lane] : peak;
  }
  for (; i < n; i++) peak = x[i] > peak ? x[i] : peak;
  return peak;
}

/* The first n lanes, the others 0. */
INLINE vec NAME(keep)(vec v, ptrdiff_t n) {
  real lanes[VLEN] = {0};
  NAME(store_tail)(lanes, v, n);
  return NAME(load)(lanes);
}

/* Sum of exp(x[i] - peak), those stored to dst unless it is NULL. */
INLINE real NAME(exponentials)(real *dst, const real *x, real peak, ptrdiff_t n) {
  vec sum = {0};
  ptrdiff_t i = 0;
  for (; i + VLEN <= n; i += VLEN) {
    const vec e = NAME(exp)(NAME(load)(x + i) - peak);
    if (dst) NAME(store)(dst + i, e);
    sum += e;
  }
  if (i < n) {
    const vec e = NAME(exp)(NAME(load_tail)(x + i, n - i) - peak);
    if (dst) NAME(store_tail)(dst + i, e, n - i);
    sum += NAME(keep)(e, n - i);
  }
  return NAME(sum_lanes)(sum);
}

static void NAME(log_sum_exp)(const char *src, ptrdiff_t n, double *peak, double *log_sum) {
  const real largest = NAME(largest)((const real *)src, n);
  *peak = largest;
  *log_sum = log(NAME(exponentials)(NULL, (const real *)src, largest, n));
}

static void NAME(softmax)(int logarithm, double scale, char *dst, const char *src, ptrdiff_t n) {
  real *y = (real *)dst;
  const real *x = (const real *)src;
  const real peak = NAME(largest)(x, n);
  const real sum = NAME(exponentials)(logarithm ? NULL : y, x, peak, n);
  const vec shift = NAME(splat)(logarithm ? (real)log(sum) : 0), factor = NAME(splat)((real)(scale / sum));
  ptrdiff_t i = 0;
  if (logarithm) {
    for (; i + VLEN <= n; i += VLEN) NAME(store)(y + i, (NAME(load)(x + i) - peak) - shift);
    if (i < n) NAME(store_tail)(y + i, (NAME(load_tail)(x + i, n - i) - peak) - shift, n - i);
  } else {
    for (; i + VLEN <= n; i += VLEN) NAME(store)(y + i, NAME(load)(y + i) * factor);
    if (i < n) NAME(store_tail)(y + i, NAME(load_tail)(y + i, n - i) * factor, n - i);
  }
}

INLINE vec NAME(softmax_gradient)(int logarithm, vec grad_y, vec y, vec sum) {
  return logarithm ? grad_y - NAME(exp)(y) * sum : (grad_y - sum) * y;
}

static void NAME(softmax_backward)(int logarithm, char *dst, const char *grad_y, const char *y, ptrdiff_t n) {
  real *grad_x = (real *)dst;
  const real *g = (const real *)grad_y, *p = (const real *)y;
  vec sums = {0};
  ptrdiff_t i = 0;
  for (; i + VLEN <= n; i += VLEN) sums += logarithm ? NAME(load)(g + i) : NAME(load)(g + i) * NAME(load)(p + i);
  if (i < n) {
    const vec tail = NAME(load_tail)(g + i, n - i);
    sums += logarithm ? tail : tail * NAME(load_tail)(p + i, n - i);
  }
  const vec sum = NAME(splat)(NAME(sum_lanes)(sums));
  for (i = 0; i + VLEN <= n; i += VLEN)
    NAME(store)(grad_x + i, NAME(softmax_gradient)(logarithm, NAME(load)(g + i), NAME(load)(p + i), sum));
  if (i < n) {
    const vec gi = NAME(load_tail)(g + i, n - i), pi = NAME(load_tail)(p + i, n - i);
    NAME(store_tail)(grad_x + i, NAME(softmax_gradient)(logarithm, gi, pi, sum), n - i);
  }
}

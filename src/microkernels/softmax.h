/* Softmax of a row, its logarithm and their derivatives.
 *
 * The row's largest element is subtracted first, so that no exp overflows and the sum is at least 1. A row of -inf
 * alone, and one with +inf or NaN, comes out as NaN: inf - inf meets exp.
 */

INLINE vec NAME(largest)(const real *x, ptrdiff_t n) {
  vec peak = NAME(splat)(-(real)__builtin_inf());
  ptrdiff_t i = 0;
  for (; i + VLEN <= n; i += VLEN) peak = NAME(at_least)(NAME(load)(x + i), peak);
  if (i < n) peak = NAME(at_least)(NAME(first_lanes)(NAME(load_tail)(x + i, n - i), n - i, peak), peak);
  return NAME(largest_everywhere)(peak);
}

/* Sum of exp(x[i] - peak), those stored to dst unless it is NULL. */
INLINE vec NAME(exponentials)(real *dst, const real *x, vec peak, ptrdiff_t n) {
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
    sum += NAME(first_lanes)(e, n - i, (vec){0});
  }
  return NAME(sum_everywhere)(sum);
}

static void NAME(log_sum_exp)(const char *src, ptrdiff_t n, double *peak, double *log_sum) {
  const vec largest = NAME(largest)((const real *)src, n);
  *peak = largest[0];
  *log_sum = log(NAME(exponentials)(NULL, (const real *)src, largest, n)[0]);
}

static void NAME(softmax)(int logarithm, double scale, char *dst, const char *src, ptrdiff_t n) {
  real *y = (real *)dst;
  const real *x = (const real *)src;
  const vec peak = NAME(largest)(x, n);
  ptrdiff_t i = 0;
  if (logarithm) {
    const vec shift = NAME(splat)((real)log(NAME(exponentials)(NULL, x, peak, n)[0]));
    for (; i + VLEN <= n; i += VLEN) NAME(store)(y + i, (NAME(load)(x + i) - peak) - shift);
    if (i < n) NAME(store_tail)(y + i, (NAME(load_tail)(x + i, n - i) - peak) - shift, n - i);
  } else {
    const vec factor = (real)scale / NAME(exponentials)(y, x, peak, n);
    for (; i + VLEN <= n; i += VLEN) NAME(store)(y + i, NAME(load)(y + i) * factor);
    if (i < n) NAME(store_tail)(y + i, NAME(load_tail)(y + i, n - i) * factor, n - i);
  }
}

INLINE vec NAME(softmax_gradient)(int logarithm, vec grad_y, vec y, vec sum) {
  return logarithm ? grad_y - NAME(exp)(y) * sum : (grad_y - sum) * y;
}

INLINE void NAME(softmax_backward_row)(const int logarithm, real *grad_x, const real *g, const real *y, ptrdiff_t n) {
  vec sum = {0};
  ptrdiff_t i = 0;
  for (; i + VLEN <= n; i += VLEN) sum += logarithm ? NAME(load)(g + i) : NAME(load)(g + i) * NAME(load)(y + i);
  if (i < n) {
    const vec tail = NAME(load_tail)(g + i, n - i);
    sum += logarithm ? tail : tail * NAME(load_tail)(y + i, n - i);
  }
  sum = NAME(sum_everywhere)(sum);
  for (i = 0; i + VLEN <= n; i += VLEN)
    NAME(store)(grad_x + i, NAME(softmax_gradient)(logarithm, NAME(load)(g + i), NAME(load)(y + i), sum));
  if (i < n) {
    const vec gi = NAME(load_tail)(g + i, n - i), yi = NAME(load_tail)(y + i, n - i);
    NAME(store_tail)(grad_x + i, NAME(softmax_gradient)(logarithm, gi, yi, sum), n - i);
  }
}

static void NAME(softmax_backward)(int logarithm, char *dst, const char *grad_y, const char *y, ptrdiff_t n) {
  if (logarithm) NAME(softmax_backward_row)(1, (real *)dst, (const real *)grad_y, (const real *)y, n);
  else NAME(softmax_backward_row)(0, (real *)dst, (const real *)grad_y, (const real *)y, n);
}

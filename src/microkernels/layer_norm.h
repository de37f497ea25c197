/* Layer normalisation of a row, h = (x - mean) / sqrt(var + eps), y = h * weight + bias, and its derivatives.
 *
 * A row is gone over three times, for its mean, the squares of what is left without it, and y: but for the first time
 * it lies in L1. Where one is not given, weight is 1 and bias 0.
 */

/* What a row's elements are, i from 0 to n by vectors; the lanes beyond n are `otherwise`. */
#define ROW(P, OTHERWISE) \
  (i + VLEN <= n ? NAME(load)((P) + i) : NAME(first_lanes)(NAME(load_tail)((P) + i, n - i), n - i, OTHERWISE))

/* The mean in every lane, and 1 / sqrt(var + eps). */
INLINE vec NAME(row_mean)(const real *x, ptrdiff_t n, double eps, vec *slope) {
  const vec zero = {0};
  vec sum = zero, squares = zero;
  for (ptrdiff_t i = 0; i < n; i += VLEN) sum += ROW(x, zero);
  const vec mean = NAME(sum_everywhere)(sum) / (real)n;
  for (ptrdiff_t i = 0; i < n; i += VLEN) {
    const vec v = ROW(x, mean) - mean;
    squares += v * v;
  }
  *slope = NAME(splat)((real)(1 / sqrt(NAME(sum_everywhere)(squares)[0] / (double)n + eps)));
  return mean;
}

static void NAME(layer_norm)(char *dst, const char *src, const char *weight, const char *bias, double eps,
                             ptrdiff_t n) {
  const real *x = (const real *)src, *w = (const real *)weight, *b = (const real *)bias;
  const vec zero = {0};
  vec slope;
  const vec mean = NAME(row_mean)(x, n, eps, &slope);
  for (ptrdiff_t i = 0; i < n; i += VLEN) {
    vec v = (ROW(x, zero) - mean) * slope;
    if (w) v *= ROW(w, zero);
    if (b) v += ROW(b, zero);
    NAME(store_some)((real *)dst + i, v, n - i);
  }
}

/* grad_x = (g - mean of g - h * mean of g * h) / sqrt(var + eps), g = grad_y * weight. */
static void NAME(layer_norm_backward)(char *dst, const char *grad_y, const char *src, const char *weight, double eps,
                                      char *grad_weight, char *grad_bias, ptrdiff_t n) {
  const real *x = (const real *)src, *w = (const real *)weight, *gy = (const real *)grad_y;
  real *gw = (real *)grad_weight, *gb = (real *)grad_bias;
  const vec zero = {0};
  vec slope, sum = zero, product = zero;
  const vec mean = NAME(row_mean)(x, n, eps, &slope);
  for (ptrdiff_t i = 0; i < n; i += VLEN) {
    const vec gradient = ROW(gy, zero), h = (ROW(x, mean) - mean) * slope, g = w ? gradient * ROW(w, zero) : gradient;
    sum += g;
    product += g * h;
    if (gw) NAME(store_some)(gw + i, ROW(gw, zero) + gradient * h, n - i);
    if (gb) NAME(store_some)(gb + i, ROW(gb, zero) + gradient, n - i);
  }
  const vec shift = NAME(sum_everywhere)(sum) / (real)n, tilt = NAME(sum_everywhere)(product) / (real)n;
  for (ptrdiff_t i = 0; i < n; i += VLEN) {
    const vec h = (ROW(x, mean) - mean) * slope, g = w ? ROW(gy, zero) * ROW(w, zero) : ROW(gy, zero);
    NAME(store_some)((real *)dst + i, (g - shift - h * tilt) * slope, n - i);
  }
}

#undef ROW

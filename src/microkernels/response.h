/* Local response normalisation, y = x * s^-beta with s = k + alpha * sum of the squares of neighbouring channels, and
 * its derivative. A run of n elements has its channels' neighbours `stride` elements apart: `count` runs from `window`
 * on.
 */

/* s^-beta; AlexNet's 3/4 by square roots. */
INLINE vec NAME(response_power)(vec s, double beta) {
  if (beta != 0.75) return NAME(lanes_to_power)(s, -beta);
  const vec root = NAME(roots)(s);
  return 1 / (root * NAME(roots)(root));
}

INLINE vec NAME(response)(const fastconv_response *r, const real *window, ptrdiff_t n) {
  vec sum = {0};
  for (ptrdiff_t t = 0; t < r->count; t++) {
    const vec v = NAME(load_some)(window + t * r->stride, n);
    sum += v * v;
  }
  return sum * (real)r->alpha + (real)r->k;
}

static void NAME(response_norm)(char *dst, const char *src, const char *window, const fastconv_response *r,
                                ptrdiff_t n) {
  const real *x = (const real *)src, *w = (const real *)window;
  for (ptrdiff_t i = 0; i < n; i += VLEN) {
    const vec factor = NAME(response_power)(NAME(response)(r, w + i, n - i), r->beta);
    NAME(store_some)((real *)dst + i, NAME(load_some)(x + i, n - i) * factor, n - i);
  }
}

static void NAME(response_terms)(char *direct, char *term, const char *grad_y, const char *src, const char *window,
                                 const fastconv_response *r, ptrdiff_t n) {
  const real *x = (const real *)src, *w = (const real *)window, *g = (const real *)grad_y;
  for (ptrdiff_t i = 0; i < n; i += VLEN) {
    const vec s = NAME(response)(r, w + i, n - i);
    const vec d = NAME(load_some)(g + i, n - i) * NAME(response_power)(s, r->beta);
    NAME(store_some)((real *)direct + i, d, n - i);
    NAME(store_some)((real *)term + i, d / s * NAME(load_some)(x + i, n - i), n - i);
  }
}

static void NAME(response_sum)(char *dst, const char *src, const char *terms, const fastconv_response *r, ptrdiff_t n) {
  const real *x = (const real *)src, *w = (const real *)terms;
  const real factor = (real)(-2 * r->beta * r->alpha);
  real *y = (real *)dst;
  for (ptrdiff_t i = 0; i < n; i += VLEN) {
    vec sum = {0};
    for (ptrdiff_t t = 0; t < r->count; t++) sum += NAME(load_some)(w + t * r->stride + i, n - i);
    NAME(store_some)(y + i, NAME(load_some)(y + i, n - i) + NAME(load_some)(x + i, n - i) * (sum * factor), n - i);
  }
}

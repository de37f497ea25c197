/* Steps of optimizers, whose arrays have one shape: plain loops, which the compiler widens. */

/* velocity may be NULL without momentum. */
static void NAME(sgd)(double lr, double momentum, double gain, double weight_decay, int nesterov, char *weight,
                      const char *gradient, char *velocity, ptrdiff_t n) {
  const real rate = (real)lr, keep = (real)momentum, take = (real)gain, decay = (real)weight_decay;
  const real ahead = nesterov ? keep : 1, own = nesterov ? 1 : 0;
  real *restrict w = (real *)weight, *restrict v = (real *)velocity;
  const real *restrict g = (const real *)gradient;
  if (!velocity) {
    for (ptrdiff_t i = 0; i < n; i++) w[i] -= rate * (g[i] + decay * w[i]);
    return;
  }
  for (ptrdiff_t i = 0; i < n; i++) {
    const real slope = g[i] + decay * w[i], moved = keep * v[i] + take * slope;
    v[i] = moved;
    w[i] -= rate * (own * slope + ahead * moved);
  }
}

static void NAME(adam)(double rate, double beta1, double beta2, double correction, double eps, double weight_decay,
                       char *weight, const char *gradient, char *mean, char *square, ptrdiff_t n) {
  const real b1 = (real)(1 - beta1), b2 = (real)(1 - beta2), keep = (real)beta2, decay = (real)weight_decay;
  const real step = (real)rate, scale = (real)correction, least = (real)eps;
  real *restrict w = (real *)weight, *restrict m = (real *)mean, *restrict v = (real *)square;
  const real *restrict g = (const real *)gradient;
  for (ptrdiff_t i = 0; i < n; i++) {
    const real slope = g[i] + decay * w[i];
    m[i] += b1 * (slope - m[i]);
    v[i] = keep * v[i] + b2 * (slope * slope);
    const real root = REAL_BITS == 32 ? sqrtf((float)v[i]) : (real)sqrt(v[i]);
    w[i] -= step * m[i] / (root * scale + least);
  }
}

/* Rows of values: activations, softmax, batch, layer and local response normalisation, steps of optimizers. */
#ifndef REAL_BITS
#define FAMILY "rows.c"
#include "dtypes.h"
#else
#include "simd.h"

#include "exponential.h"
#include "lanes.h"

#include "activation.h"
#include "descend.h"
#include "layer_norm.h"
#include "normalize.h"
#include "response.h"
#include "softmax.h"

FILL(rows) {
  table->activate = NAME(activate);
  table->activate_backward = NAME(activate_backward);
  table->masked = NAME(masked);
  table->softmax = NAME(softmax);
  table->softmax_backward = NAME(softmax_backward);
  table->log_sum_exp = NAME(log_sum_exp);
  table->moments = NAME(moments);
  table->products = NAME(products);
  table->affine = NAME(affine);
  table->layer_norm = NAME(layer_norm);
  table->layer_norm_backward = NAME(layer_norm_backward);
  table->response_norm = NAME(response_norm);
  table->response_terms = NAME(response_terms);
  table->response_sum = NAME(response_sum);
  table->sgd = NAME(sgd);
  table->adam = NAME(adam);
}
#endif

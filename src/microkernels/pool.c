/* The entries of table.h for pools; pool_window.h tells the ways between which they choose. */
#ifndef REAL_BITS
#define FAMILY "pool.c"
#include "dtypes.h"
#else
#include "simd.h"

#include "lanes.h"
#include "pool_window.h"

#include "pool_stripes.h"
#include "pool_lines.h"
#include "pool_same.h"
#include "pool_registers.h"
#include "pool_plane.h"
#include "pool_wide.h"
#include "pool_pixels.h"
#include "pool_slide.h"
#include "pool_route.h"

static void NAME(pool)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  if (p->channels > 1 && NAME(pool_slides)(p, part)) NAME(pool_slides_down)(p, part);
  else if (p->channels > 1) NAME(pool_channels_last)(p, part);
  else if (NAME(pool_is_stripes)(p)) NAME(pool_stripes)(p, part);
  else if (NAME(pool_is_plane)(p, part->indices != NULL)) NAME(pool_plane)(p, part);
  else if (NAME(pool_fits_registers)(p, part->indices != NULL)) NAME(pool_registers)(p, part);
  else if (NAME(pool_is_same)(p, part->indices != NULL)) NAME(pool_same)(p, part);
  else if (!NAME(pool_is_wide)(p, part->indices != NULL)) NAME(pool_by_lines)(p, part);
  else if (part->indices) NAME(pool_wide_indices)(p, part);
  else NAME(pool_wide)(p, part);
}

static size_t NAME(pool_scratch)(const fastconv_pool *p) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t chunk = NAME(pool_chunk)(w), pitch = NAME(pool_pitch)(p, chunk), slack = NAME(pool_slack)();
  const ptrdiff_t lines = 2 * (NAME(pool_batch)(pitch, chunk, w->out) * pitch + slack);
  const ptrdiff_t least = 2 * POOL_BUFFER + slack;
  return (size_t)(p->channels > 1 || lines < least ? least : lines) * sizeof(real);
}

static void NAME(times_power)(char *dst, const char *x, ptrdiff_t n, double power) {
  real *to = (real *)dst;
  const real *from = (const real *)x;
  for (ptrdiff_t i = 0; i < n; i += VLEN) {
    vec v = NAME(load_some)(from + i, n - i);
    if (power != 1) v = NAME(lanes_to_power)(v, power);
    NAME(store_some)(to + i, v * NAME(load_some)(to + i, n - i), n - i);
  }
}

FILL(pool) {
  table->pool = NAME(pool);
  table->pool_scratch = NAME(pool_scratch);
  table->pool_route = NAME(pool_route);
  table->times_power = NAME(times_power);
}
#endif

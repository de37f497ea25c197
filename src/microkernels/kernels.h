/* The microkernels of one dtype, in the order in which they lean on each other. */
#include "simd.h"
#include "gemm.h"
#include "gemm_pairs.h"
#include "pack.h"
#include "sum.h"
#include "exponential.h"
#include "activation.h"
#include "softmax.h"
#include "normalize.h"
#include "probe.h"
#include "pool_window.h"
#include "pool_registers.h"
#include "pool_buffer.h"
#include "pool_wide.h"
#include "pool_pixels.h"
#include "pool.h"
#include "pool_route.h"
#include "bilinear.h"

#undef vec
#undef uvec
#undef ivec
#undef uivec
#undef ilane
#undef VLEN

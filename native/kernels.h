// The arithmetic of one instruction set behind a table of functions.
//
// Every vector in scratch memory is padded with zeros to a multiple of kLanes floats, so no kernel
// has a tail. Every output element is reduced in an order that depends on its own length only:
// never on the number of rows, the block it falls in, the thread that computes it or, where the
// processor has fused multiply-add, the width of its registers.
#pragma once

#include <cstdint>

namespace anser {

constexpr long kLanes = 16;  // outputs in a panel of weights, floats in a padded unit

static constexpr long padded(long n) { return (n + kLanes - 1) / kLanes * kLanes; }

enum class Type { f32, f16, i8 };

enum class Finish { store, add, relu_squared, tanh, sigmoid };

// y = W x with W packed in panels: element (o, k) at ((o / 16) * n_in + k) * 16 + o % 16.
struct Matrix {
  const void* panels = nullptr;
  const float* scale = nullptr;  // [panels * 16] or null: one factor for each output
  const float* bias = nullptr;   // [panels * 16] or null
  long n_in = 0;
  long n_out = 0;  // outputs stored; the last panel may hold fewer than 16
  Type type = Type::f32;

  long n_panels() const { return (n_out + kLanes - 1) / kLanes; }
};

// y[row] = finish(scale * W x[row] + bias); `add` adds to what y holds.
struct Product {
  const Matrix* matrix;
  const float* x;
  long x_stride;
  float* y;
  long y_stride;
  Finish finish;
};

// Per-channel constants of one head, each [padded(N)].
struct HeadWeights {
  const float *w0, *a0, *v0, *k_k, *k_a, *r_k, *ln_weight, *ln_bias;  // v0 is null in layer 0
};

// Rows of one head of one sequence; row t of each at t * stride. In: the projections r, k, v and
// the second LoRA products w, a, v_mix, g. Out: y, gated. The others are overwritten.
struct HeadRows {
  float *r, *w, *k, *v, *a, *v_mix, *g, *y;
  float* v_first;  // written by layer 0, read by the others
  long stride;
};

struct Kernels {
  const char* name;
  void (*multiply)(const Product& product, long n_rows, long first_panel, long last_panel);
  // out = scale * row over n numbers, zeros after them up to padded(n)
  void (*widen)(const void* row, Type type, float scale, long n, float* out);
  // out = (x - mean) / sqrt(variance + eps) * weight + bias over n floats
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, long n,
                     float* out);
  // out = now + (before - now) * mix over padded(n) floats
  void (*lerp)(const float* now, const float* before, const float* mix, long n, float* out);
  // time mix of one head between the LoRA products and the output projection; state [n][padded(n)]
  // (value, key) is updated in place
  void (*head)(const HeadWeights& weights, const HeadRows& rows, long n_rows, long n, float* state);
};

const Kernels* kernels_portable();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();

}  // namespace anser

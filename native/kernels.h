// The arithmetic of one instruction set behind a table of functions.
//
// Every vector in scratch memory is padded with zeros to a multiple of kLanes floats, so no kernel
// has a tail. Every output element is reduced in an order that depends on its own length only:
// never on the number of rows, the block it falls in, the thread that computes it or, where the
// processor has fused multiply-add, the width of its registers. Sums of integers are exact.
#pragma once

#include <cstdint>

namespace anser {

constexpr long kLanes = 16;  // outputs in a panel of weights, floats in a padded unit
constexpr long kGroup = 16;  // rows that are multiplied together
constexpr long kFewestGrouped = 9;  // of fewer, no others are read

static constexpr long padded(long n) { return (n + kLanes - 1) / kLanes * kLanes; }

enum class Type { f32, f16, i8, i4 };

static constexpr bool is_integer(Type type) { return type == Type::i8 || type == Type::i4; }

enum class Finish { store, add, relu_squared, tanh, sigmoid };

// A channel axis: `groups` of `size`, each padded to `stride`, so that heads start on a panel.
struct Axis {
  long groups, size, stride;
  [[gnu::always_inline]] long length() const { return groups * size; }
  [[gnu::always_inline]] long span() const { return groups * stride; }
};

constexpr long kBlock = 32;  // integer weights come in blocks of inputs, the last filled up
constexpr long kMaxFactor = 15;  // of nibbles, so that the product is a byte

// What stands for zero among the inputs of integer weights, which are bytes without sign, of less
// than twice as much: AVX2 adds two products of bytes in 16 bits; nibbles leave room for more.
static constexpr long zero_of(Type weights) { return weights == Type::i4 ? 128 : 64; }

constexpr long kMostInputs = 65536;  // of integer weights, so that no 32-bit sum overflows

// y = W x, in panels of 16 outputs: [in.span()][16] floats, [inputs / 4][16][4] bytes or
// [block][4][16][4] pairs of nibbles, each 8 greater than it is: inputs 4 s to 4 s + 3 of a block in
// the low halves of its step s, and those 16 after them in the high halves. `beside` panels, the last
// ones maybe fewer, lie beside each other: [panel / beside][unit][beside], a unit being [16] or
// [16][4].
struct Matrix {
  const void* weights = nullptr;
  const std::uint8_t* factors = nullptr;  // 4 bits only: [block][16], beside each other likewise
  const std::int32_t* start = nullptr;    // [panels * 16], integers only: less what zeros add
  const float* scale = nullptr;           // [panels * 16] or null: one factor for each output
  const float* bias = nullptr;            // [panels * 16] or null
  Axis in{}, out{};
  Type type = Type::f32;
  long beside = 1;  // a power of two

  [[gnu::always_inline]] long n_panels() const { return (out.span() + kLanes - 1) / kLanes; }
  [[gnu::always_inline]] long n_blocks() const { return (in.length() + kBlock - 1) / kBlock; }

  // Where a panel's units are, `n` in each panel: the first, and how far they are apart.
  struct Units {
    long first, step;
  };
  [[gnu::always_inline]] Units units(long panel, long n) const {
    const long group = panel & -beside, left = n_panels() - group;
    return {group * n + panel - group, left < beside ? left : beside};
  }
};

// y[row] = finish(scale * W x[row] + bias); `add` adds to what y holds. Integer weights read x as
// `quantize` leaves it, from kFewestGrouped rows on up to the end of a kGroup. Rows lie as far apart
// as the axes span.
struct Product {
  const Matrix* matrix;
  const float* x;
  float* y;
  Finish finish = Finish::store;
  [[gnu::always_inline]] long x_stride() const { return matrix->in.span(); }
  [[gnu::always_inline]] long y_stride() const { return matrix->out.span(); }
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
  [[gnu::always_inline]] HeadRows next() const {
    return {r + stride, w + stride, k + stride, v + stride,       a + stride, v_mix + stride,
            g + stride, y + stride, v_first + stride, stride};
  }
};

struct Kernels {
  const char* name;
  long beside[4];  // what Matrix::beside is to be for each Type
  void (*multiply)(const Product& product, long n_rows, long first_panel, long last_panel);
  // gives back what a thread holds of the processor from one product to the next
  void (*rest)();
  // out = scale * row over n numbers, zeros after them up to padded(n)
  void (*widen)(const void* row, Type type, float scale, long n, float* out);
  // out <- a row x as bytes, without the padding of groups, zero_of(reader.type) greater than they
  // are; the last float becomes what one of them is worth. Where out is x, in place.
  void (*quantize)(const Matrix& reader, const float* x, float* out);
  // out = (x - mean) / sqrt(variance + eps) * weight + bias over n floats
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, long n,
                     float* out);
  // out = now + (before - now) * mix over reader.in.span() floats, for integers quantized
  void (*blend)(const Matrix& reader, const float* now, const float* before, const float* mix,
                float* out);
  // time mix of one head between the LoRA products and the output projection; state [n][padded(n)]
  // (key, value) is updated in place, and the one that comes next brought into the cache
  void (*head)(const HeadWeights& weights, HeadRows rows, long n_rows, long n, float* state,
               const float* coming);
};

const Kernels* kernels_portable();
const Kernels* kernels_dotprod();
const Kernels* kernels_avx2();
const Kernels* kernels_avxvnni();
const Kernels* kernels_avx512();
const Kernels* kernels_amx();

}  // namespace anser

// Compiled once for each instruction set, with ANSER_KERNELS naming the function it exports.
//
// Only the block `The instruction set` knows registers. No inline function with external linkage
// may be used here: the linker would be free to give the AVX copy to a processor without AVX.
#include "kernels.h"

#include <cstdlib>
#include <cstring>
#include <type_traits>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define INLINE_MEMBER inline __attribute__((always_inline))
#define INLINE static INLINE_MEMBER

namespace anser {
namespace {

// ---- The instruction set ---------------------------------------------------------------------

#if defined(__AVX512F__)
constexpr int kWidth = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kWidth = 8, kRegisters = 16;
#elif defined(__ARM_NEON)
constexpr int kWidth = 4, kRegisters = 32;
#else
constexpr int kWidth = 4, kRegisters = 16;
#endif

typedef float Reg __attribute__((vector_size(kWidth * 4)));
typedef std::int32_t IntReg __attribute__((vector_size(kWidth * 4)));
typedef std::uint16_t WordReg __attribute__((vector_size(kWidth * 4)));
typedef std::int8_t ByteReg __attribute__((vector_size(kWidth * 4)));
constexpr int kParts = kLanes / kWidth;

INLINE Reg fused(Reg a, Reg b, Reg c) {
#if defined(__AVX512F__)
  return (Reg)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Reg)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
  return (Reg)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

INLINE Reg load(const float* p) {
  Reg r;
  std::memcpy(&r, p, sizeof r);
  return r;
}

INLINE Reg load(const std::int8_t* p) {
#if defined(__AVX512F__)
  return (Reg)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
  return (Reg)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  typedef std::int8_t Bytes __attribute__((vector_size(kWidth)));
  Bytes b;
  std::memcpy(&b, p, sizeof b);
  return __builtin_convertvector(b, Reg);
#endif
}

INLINE Reg load(const std::uint16_t* p) {  // IEEE half precision
#if defined(__AVX512F__)
  return (Reg)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
  return (Reg)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(__ARM_NEON)
  return (Reg)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
  typedef std::uint16_t Halves __attribute__((vector_size(kWidth * 2)));
  Halves h;
  std::memcpy(&h, p, sizeof h);
  const IntReg bits = __builtin_convertvector(h, IntReg);
  const Reg magnitude = (Reg)((bits & 0x7fff) << 13) * 0x1p112f;  // exact, also for subnormals
  return (Reg)((IntReg)magnitude | ((bits & 0x8000) << 16));
#endif
}

INLINE void store(float* p, Reg r) { std::memcpy(p, &r, sizeof r); }

INLINE void store_low_bytes(void* out, const Reg* r) {  // of each number of kParts registers
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)out, _mm512_cvtepi32_epi8((__m512i)r[0]));
#elif defined(__AVX2__)
  const IntReg p = (IntReg)r[0] & 255, q = (IntReg)r[1] & 255;
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)p, (__m256i)q), 0xd8);
  _mm_storeu_si128((__m128i*)out, _mm_packus_epi16(_mm256_castsi256_si128(words),
                                                   _mm256_extracti128_si256(words, 1)));
#else
  typedef std::int8_t Low __attribute__((vector_size(kWidth)));
  for (int i = 0; i < kParts; ++i) {
    const auto low = __builtin_convertvector((IntReg)r[i], Low);
    std::memcpy(static_cast<char*>(out) + i * kWidth, &low, sizeof low);
  }
#endif
}

INLINE Reg all(float x) { return x - Reg{}; }

typedef float Four __attribute__((vector_size(16)));
constexpr auto kPlus = [](auto a, auto b) { return a + b; };
constexpr auto kGreater = [](auto a, auto b) { return a > b ? a : b; };

template <class F>
INLINE Four quarter(Reg r, F f) {  // folds the register in halves down to four lanes
#if defined(__AVX512F__)
  const __m256 half = f(_mm512_castps512_ps256((__m512)r),
                        (__m256)_mm512_extractf64x4_pd((__m512d)r, 1));
  return (Four)f(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif defined(__AVX2__)
  return (Four)f(_mm256_castps256_ps128((__m256)r), _mm256_extractf128_ps((__m256)r, 1));
#else
  (void)f;
  return r;
#endif
}

// Adds the products of four neighbours, unsigned in a (below 128 with weights of 8 bits) and signed
// in b. Each output of a register of weights has four inputs there.
INLINE IntReg dot(ByteReg a, ByteReg b, IntReg sums) {
#if defined(__AVX512VNNI__)
  return (IntReg)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
#elif defined(__AVXVNNI__)
  return (IntReg)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)a, (__m256i)b);
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)a, (__m256i)b);
  return sums + (IntReg)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
  return (IntReg)vdotq_s32((int32x4_t)sums, (int8x16_t)a, (int8x16_t)b);
#elif defined(__ARM_NEON)
  const uint8x16_t p = (uint8x16_t)a;
  const int8x16_t q = (int8x16_t)b;
  const auto pairs = [](uint8x8_t x, int8x8_t w) {
    return vpaddlq_s16(vmulq_s16((int16x8_t)vmovl_u8(x), vmovl_s8(w)));
  };
  return sums + (IntReg)vpaddq_s32(pairs(vget_low_u8(p), vget_low_s8(q)),
                                   pairs(vget_high_u8(p), vget_high_s8(q)));
#else
  const IntReg p = (IntReg)a, q = (IntReg)b;
  return sums + (p & 255) * ((q << 24) >> 24) + (p >> 8 & 255) * ((q << 16) >> 24) +
         (p >> 16 & 255) * ((q << 8) >> 24) + (p >> 24 & 255) * (q >> 24);
#endif
}

// The sums of a block of nibbles before they are multiplied by their factors: of two neighbours
// where 16 bits hold those of a whole block. They begin with what makes up for nibbles' being 8
// greater than they are, the same 32 bits over and over. Nothing in a or b is negative.
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(__AVXVNNI__)
typedef WordReg BlockSums;
INLINE std::int32_t less_eights(const std::uint8_t* inputs) {
  const __m256i block = _mm256_loadu_si256((const __m256i*)inputs);
  const __m256i eights = _mm256_maddubs_epi16(block, _mm256_set1_epi8(-8));
  __m128i sums = _mm_add_epi16(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
  sums = _mm_add_epi16(sums, _mm_shuffle_epi32(sums, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi16(sums, _mm_shuffle_epi32(sums, 0xb1)));
}
INLINE BlockSums block_dot(ByteReg a, ByteReg b, BlockSums sums) {
  return sums + (WordReg)_mm256_maddubs_epi16((__m256i)a, (__m256i)b);
}
INLINE IntReg times(BlockSums sums, IntReg factors) {
  return (IntReg)_mm256_madd_epi16((__m256i)sums, (__m256i)(factors | factors << 16));
}
#else
typedef IntReg BlockSums;
INLINE std::int32_t less_eights(const std::uint8_t* inputs) {
#if defined(__AVX2__)
  const __m256i sums = _mm256_sad_epu8(_mm256_loadu_si256((const __m256i*)inputs), __m256i{});
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  return -8 * (_mm_cvtsi128_si32(sum) + _mm_extract_epi16(sum, 4));
#else
  std::int32_t sum = 0;
  for (long i = 0; i < kBlock; ++i) sum += inputs[i];
  return -8 * sum;
#endif
}
INLINE BlockSums block_dot(ByteReg a, ByteReg b, BlockSums sums) {
#if defined(__ARM_FEATURE_DOTPROD)
  return (IntReg)vdotq_u32((uint32x4_t)sums, (uint8x16_t)a, (uint8x16_t)b);
#else
  return dot(a, b, sums);
#endif
}
INLINE IntReg times(BlockSums sums, IntReg factors) { return sums * factors; }
#endif

INLINE ByteReg bytes(const void* p) {
  ByteReg r;
  std::memcpy(&r, p, sizeof r);
  return r;
}

INLINE ByteReg four(const std::uint8_t* p) {  // four numbers, over and over
  std::int32_t numbers;
  std::memcpy(&numbers, p, sizeof numbers);
  return (ByteReg)(numbers - IntReg{});
}

INLINE ByteReg low_halves(ByteReg both) { return both & 15; }
INLINE ByteReg high_halves(ByteReg both) { return (ByteReg)((WordReg)both >> 4) & 15; }

INLINE IntReg widened(const std::uint8_t* p) {
#if defined(__AVX512F__)
  return (IntReg)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
  return (IntReg)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
  typedef std::uint8_t Bytes __attribute__((vector_size(kWidth)));
  Bytes b;
  std::memcpy(&b, p, sizeof b);
  return __builtin_convertvector(b, IntReg);
#endif
}

#if defined(__AMX_INT8__)
struct alignas(64) TileShapes {  // 0 to 3: sums, 4 and 5: inputs, 6 and 7: weights
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  constexpr explicit TileShapes(int n_inputs) {
    row_bytes[4] = row_bytes[5] = n_inputs;
    rows[6] = rows[7] = n_inputs / 4;
  }
};

// In memory of its own: compilers take only its first bytes for what the instruction reads.
constexpr TileShapes kTileShapes[] = {TileShapes(64), TileShapes(32)};
thread_local const TileShapes* tile_shapes = nullptr;  // those loaded; to load some takes a while
#endif

// ---- Sixteen lanes, whatever the registers ---------------------------------------------------

struct Vec {
  Reg part[kParts];
  Vec() = default;
  INLINE_MEMBER Vec(float x) {
    for (Reg& r : part) r = all(x);
  }
};

template <class F, class... Vs>
INLINE Vec map(F f, const Vs&... v) {
  Vec result;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) result.part[i] = f(v.part[i]...);
  return result;
}

template <class E>
INLINE Vec load16(const E* p) {
  Vec v;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) v.part[i] = load(p + i * kWidth);
  return v;
}

INLINE void store16(float* p, const Vec& v) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) store(p + i * kWidth, v.part[i]);
}

INLINE Vec fused(const Vec& a, const Vec& b, const Vec& c) {
  return map([](Reg x, Reg y, Reg z) { return fused(x, y, z); }, a, b, c);
}
INLINE Vec operator+(const Vec& a, const Vec& b) {
  return map([](Reg x, Reg y) { return x + y; }, a, b);
}
INLINE Vec operator-(const Vec& a, const Vec& b) {
  return map([](Reg x, Reg y) { return x - y; }, a, b);
}
INLINE Vec operator*(const Vec& a, const Vec& b) {
  return map([](Reg x, Reg y) { return x * y; }, a, b);
}

template <class F>
INLINE float fold(Vec v, F f) {  // halves come first, so every width gives the same bits
#pragma GCC unroll 2
  for (int half = kParts / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v.part[i] = f(v.part[i], v.part[i + half]);
  const Four four = quarter(v.part[0], f);
  return f(f(four[0], four[2]), f(four[1], four[3]));
}

INLINE float sum(const Vec& v) { return fold(v, kPlus); }

// ---- Elementary functions --------------------------------------------------------------------

// exp(x) = scale + scale * rest: the split keeps exp(x) - 1 exact near zero.
INLINE void exponential(Reg x, Reg* scale, Reg* rest) {
  x = x > 88.0f ? all(88.0f) : x;
  x = x < -87.0f ? all(-87.0f) : x;
  const Reg shifted = fused(x, all(1.44269504f), all(0x1.8p23f));  // rounds x / ln 2
  const Reg n = shifted - 0x1.8p23f;
  const Reg r = fused(n, all(-0x1.7f7d1cp-20f), fused(n, all(-0x1.62e4p-1f), x));
  Reg p = all(1.0f / 5040);
  constexpr float kInverseFactorials[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f};
  for (float c : kInverseFactorials) p = fused(p, r, all(c));
  *rest = p * r;
  *scale = (Reg)(((IntReg)shifted << 23) + 0x3f800000);
}

INLINE Vec exp(const Vec& v) {
  return map([](Reg x) {
    Reg scale, rest;
    exponential(x, &scale, &rest);
    return fused(scale, rest, scale);
  }, v);
}

INLINE Vec sigmoid(const Vec& v) {
  return map([](Reg x) { return 1.0f / x; }, exp(v * -1.0f) + 1.0f);
}

INLINE Reg tanh(Reg x) {
  x = x > 20.0f ? all(20.0f) : x;
  x = x < -20.0f ? all(-20.0f) : x;
  Reg scale, rest;
  exponential(x + x, &scale, &rest);
  const Reg minus_one = fused(scale, rest, scale - 1.0f);  // exp(2 x) - 1
  return minus_one / (minus_one + 2.0f);
}

// ---- Matrix products -------------------------------------------------------------------------

// From the sums of a panel to y. What it needs is at hand in registers, also between stores.
class Finisher {
 public:
  INLINE_MEMBER Finisher(const Product& job, long panel)
      : out_(job.y + panel * kLanes), stride_(job.y_stride()),
        left_(job.matrix->out.span() - panel * kLanes) {
    if (job.matrix->scale) scale_ = load16(job.matrix->scale + panel * kLanes);
    if (job.matrix->bias) bias_ = load16(job.matrix->bias + panel * kLanes);
  }

  INLINE_MEMBER void operator()(long row, Vec y, Finish finish) const {
    float* out = out_ + row * stride_;
    y = y * scale_ + bias_;
    switch (finish) {
      case Finish::store: break;
      case Finish::add: y = load16(out) + y; break;
      case Finish::relu_squared:
        y = map([](Reg x) { return x > 0.0f ? x * x : Reg{}; }, y);
        break;
      case Finish::tanh: y = map([](Reg x) { return tanh(x); }, y); break;
      case Finish::sigmoid: y = sigmoid(y); break;
    }
    if (left_ >= kLanes) return store16(out, y);
    float lanes[kLanes];
    store16(lanes, y);
    std::memcpy(out, lanes, left_ * sizeof(float));
  }

 private:
  float* const out_;
  const long stride_, left_;
  Vec scale_ = 1.0f, bias_ = 0.0f;
};

// Calls f with a constant, so that a loop over many rows does not ask each time.
template <class F>
INLINE void with_finish(Finish finish, const F& f) {
  switch (finish) {
    case Finish::store: return f(std::integral_constant<Finish, Finish::store>{});
    case Finish::add: return f(std::integral_constant<Finish, Finish::add>{});
    case Finish::relu_squared: return f(std::integral_constant<Finish, Finish::relu_squared>{});
    case Finish::tanh: return f(std::integral_constant<Finish, Finish::tanh>{});
    case Finish::sigmoid: return f(std::integral_constant<Finish, Finish::sigmoid>{});
  }
}

constexpr long kLine = 64;  // bytes of a cache line

// How many bytes ahead weights of each Type are asked for, at least, since the processor's own guess
// stops at every 4 KB page; 0: not at all. Cores of AMD want more of it, those of Intel do well alone.
#if defined(__AVX2__) && !defined(__AVXVNNI__) && !defined(__AMX_INT8__)
constexpr long kAhead[] = {0, 12288, 12288, 12288};
#else
constexpr long kAhead[] = {0, 0, 3072, 3072};
#endif

// Panels beside each other are read in one stream, and share what is read of the rows.
constexpr long kPair = kParts == 1 ? 2 : 1;
constexpr long kBeside[] = {1, kAhead[1] && kParts == 1 ? 4 : 1, kPair, kPair};

// Where a panel's units of kUnit elements are, n of them: the first, and how far apart they are.
template <class E, long kUnit>
struct Units {
  const E* first;
  long step;
  INLINE_MEMBER Units(const Matrix& m, const void* all, long panel, long n) {
    const Matrix::Units units = m.units(panel, n);
    first = static_cast<const E*>(all) + units.first * kUnit;
    step = units.step * kUnit;
  }
};

// How many panels to multiply together from this one on: `width`, if so many come in such a stream.
INLINE long together(const Matrix& m, long panel, long last, long width) {
  const long end = m.beside > 1 ? (panel | (m.beside - 1)) + 1 : last;
  return (end < last ? end : last) - panel >= width ? width : 1;
}

// What is read next, asked for in the order in which it lies, as many bytes at each step as are read:
// of one stream what is a little ahead, of several what comes after them.
template <Type type, long kBytes>
struct Coming {
  static constexpr long kDistance = kAhead[static_cast<int>(type)];
  const char* next;
  INLINE_MEMBER Coming(const void* first, long size_of_streams = 0)
      : next(static_cast<const char*>(first) + kGreater(size_of_streams, kDistance)) {}
  INLINE_MEMBER void fetch(long step = kBytes) {
    if (kDistance == 0) return;
#pragma GCC unroll 4
    for (long i = 0; i < kBytes; i += kLine) __builtin_prefetch(next + i);
    next += step;
  }
};

// P panels times T rows in registers; each sum runs over k = 0, 1, 2, ...
template <class E, int P, int T>
void block(const Product& job, long row, long panel) {
  constexpr Type kType = sizeof(E) == 2 ? Type::f16 : Type::f32;
  constexpr long kBytes = P * kLanes * sizeof(E);
  const Matrix& m = *job.matrix;
  const long n_in = m.in.span(), apart = m.beside > 1 ? kLanes : n_in * kLanes;
  const Units<E, kLanes> units(m, m.weights, panel, n_in);
  const E* w = units.first;
  const float* x = job.x + row * n_in;
  Coming<kType, kBytes> coming(w, P > 1 && m.beside == 1 ? n_in * kBytes : 0);
  Vec sums[P][T];
#pragma GCC unroll 24
  for (int i = 0; i < P * T; ++i) sums[i / T][i % T] = Vec(0.0f);
  for (long k = 0; k < n_in; ++k, w += units.step, ++x) {
    if (row == 0) coming.fetch();
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const Vec weights = load16(w + p * apart);
#pragma GCC unroll 6
      for (int t = 0; t < T; ++t) sums[p][t] = fused(weights, x[t * n_in], sums[p][t]);
    }
  }
  for (int p = 0; p < P; ++p) {
    const Finisher finish(job, panel + p);
    for (int t = 0; t < T; ++t) finish(row + t, sums[p][t], job.finish);
  }
}

constexpr int kMaxRows = kRegisters / kParts >= 8 ? 6 : 3;  // rows of a block

// Panels beside each other for T rows: enough sums in flight to hide the latency of one.
constexpr int panels_for(int rows) {
  const int fit = (kRegisters - kRegisters / 4) / kParts / rows;
  return rows == 1 ? 4 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
}

// Calls f with `count`, at most T, as a constant.
template <int T, class F>
INLINE void with_constant(long count, const F& f) {
  if (count == T) {
    f(std::integral_constant<int, T>{});
  } else if constexpr (T > 1) {
    with_constant<T - 1>(count, f);
  }
}

// Deals rows evenly to blocks of at most `most`; f(first row, count).
template <class F>
INLINE void deal(long n_rows, long most, const F& f) {
  if (n_rows <= most) return f(0, n_rows);
  const long n_blocks = (n_rows + most - 1) / most;
  for (long i = 0; i < n_blocks; ++i) {
    const long row = i * n_rows / n_blocks;
    f(row, (i + 1) * n_rows / n_blocks - row);
  }
}

template <class E>
void multiply_floats(const Product& job, long n_rows, long first, long last) {
  const long n_blocks = (n_rows + kMaxRows - 1) / kMaxRows;
  const int width = panels_for(static_cast<int>((n_rows + n_blocks - 1) / n_blocks));
  for (long panel = first; panel < last;) {
    const long take = together(*job.matrix, panel, last, width);
    deal(n_rows, kMaxRows, [&](long row, long count) {
      with_constant<kMaxRows>(count, [&](auto t) {
        constexpr int T = decltype(t)::value;
        if (take == 4) return block<E, 4, T>(job, row, panel);
        if (take == 2) return block<E, 2, T>(job, row, panel);
        block<E, 1, T>(job, row, panel);
      });
    });
    panel += take;
  }
}

// ---- Products of integers --------------------------------------------------------------------

constexpr long kStep = 4 * kLanes;  // bytes of a panel's four inputs, or of eight nibbles

typedef Units<std::int8_t, kStep> Steps;

INLINE long n_steps(const Matrix& m) { return m.n_blocks() * (m.type == Type::i4 ? 4 : 8); }

INLINE Steps steps_of(const Matrix& m, long panel) {
  return Steps(m, m.weights, panel, n_steps(m));
}

// From the sums of a row's integers to y; those to begin with are added.
class IntegerFinisher {
 public:
  INLINE_MEMBER IntegerFinisher(const Product& job, long panel)
      : finish_(job, panel), worth_(job.x + job.x_stride() - 1), stride_(job.x_stride()) {
    std::memcpy(start_, job.matrix->start + panel * kLanes, sizeof start_);
  }

  INLINE_MEMBER void operator()(long row, const IntReg* sums, Finish finish) const {
    Vec y;
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) y.part[i] = __builtin_convertvector(sums[i] + start_[i], Reg);
    finish_(row, y * worth_[row * stride_], finish);
  }

 private:
  const Finisher finish_;
  const float* const worth_;  // what an integer of the first row is worth
  const long stride_;
  IntReg start_[kParts];
};

template <int P, int T>
INLINE void finish_block(const Product& job, long row, long panel, const IntReg* sums) {
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p) {
    const IntegerFinisher finish(job, panel + p);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) finish(row + t, sums + (t * P + p) * kParts, job.finish);
  }
}

// P panels times T rows, U steps of four inputs side by side. Sums: [row][panel][part of it].
template <int P, int T>
void byte_block(const Product& job, long row, long panel) {
  constexpr int R = P * kParts, S = T * R, U = S >= 8 ? 1 : 8 / S;
  const long n = job.matrix->n_blocks() * kBlock, stride = 4 * job.x_stride();
  const auto* x = reinterpret_cast<const std::uint8_t*>(job.x) + row * stride;
  const Steps steps = steps_of(*job.matrix, panel);
  const std::int8_t* w = steps.first;
  const long step = P > 1 ? P * kStep : steps.step;  // with two a constant
  Coming<Type::i8, P * kStep> coming(w);
  IntReg sums[U][S];
#pragma GCC unroll 32
  for (int i = 0; i < U * S; ++i) sums[i / S][i % S] = IntReg{};
  for (long k = 0; k < n; k += 4 * U)
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u, w += step) {
      coming.fetch(step);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const ByteReg inputs = four(x + t * stride + k + 4 * u);
#pragma GCC unroll 4
        for (int i = 0; i < R; ++i) {
          IntReg& sum = sums[u][t * R + i];
          sum = dot(inputs, bytes(w + i / kParts * kStep + i % kParts * kWidth * 4), sum);
        }
      }
    }
#pragma GCC unroll 32
  for (int i = S; i < U * S; ++i) sums[0][i % S] += sums[i / S][i % S];
  finish_block<P, T>(job, row, panel, sums[0]);
}

// The same for nibbles, of which a register has four inputs in low halves and four in high ones.
template <int P, int T>
void nibble_block(const Product& job, long row, long panel) {
  constexpr int R = P * kParts, S = T * R;
  const Matrix& m = *job.matrix;
  const long n_blocks = m.n_blocks(), stride = 4 * job.x_stride();
  const auto* x = reinterpret_cast<const std::uint8_t*>(job.x) + row * stride;
  const Steps steps = steps_of(m, panel);
  const Units<std::uint8_t, kLanes> units(m, m.factors, panel, n_blocks);
  const std::int8_t* w = steps.first;
  const std::uint8_t* factors = units.first;
  const long step = P > 1 ? P * kStep : steps.step;  // with two a constant
  Coming<Type::i4, P * kStep> coming(w);
  IntReg sums[S];
#pragma GCC unroll 32
  for (int i = 0; i < S; ++i) sums[i] = IntReg{};
  const std::uint8_t* begin = x + n_blocks * kBlock;
  for (long b = 0; b < n_blocks; ++b, factors += units.step, begin += 4) {
    BlockSums part[S];
#pragma GCC unroll 32
    for (int i = 0; i < S; ++i) part[i] = (BlockSums)four(begin + i / R * stride);
#pragma GCC unroll 1
    for (long k = b * kBlock; k < b * kBlock + kBlock / 2; k += 4, w += step) {
      coming.fetch(step);
      ByteReg low[R], high[R];
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) {
        const ByteReg both = bytes(w + i / kParts * kStep + i % kParts * kWidth * 4);
        low[i] = low_halves(both);
        high[i] = high_halves(both);
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const std::uint8_t* at = x + t * stride + k;
        const ByteReg first = four(at), second = four(at + kBlock / 2);
#pragma GCC unroll 4
        for (int i = 0; i < R; ++i)
          part[t * R + i] = block_dot(second, high[i], block_dot(first, low[i], part[t * R + i]));
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const auto factor = widened(factors + i / kParts * kLanes + i % kParts * kWidth);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[t * R + i] += times(part[t * R + i], factor);
    }
  }
  finish_block<P, T>(job, row, panel, sums);
}

template <Type type>
void multiply_integers(const Product& job, long n_rows, long first, long last) {
  constexpr bool nibbles = type == Type::i4;
  constexpr int kPanels = kBeside[static_cast<int>(type)];
  constexpr int kMost = kParts > 1 ? 6 : nibbles ? 5 : 8;  // rows of a block
  for (long panel = first, take; panel < last; panel += take) {
    take = together(*job.matrix, panel, last, kPanels);
    deal(n_rows, kMost, [&](long row, long count) {
      with_constant<kMost>(count, [&](auto t) {
        constexpr int T = decltype(t)::value;
        constexpr auto one = nibbles ? nibble_block<1, T> : byte_block<1, T>;
        constexpr auto beside = nibbles ? nibble_block<kPanels, T> : byte_block<kPanels, T>;
        (take == 1 ? one : beside)(job, row, panel);
      });
    });
  }
}

// ---- Tiles -----------------------------------------------------------------------------------
//
// A tile of inputs is 16 rows of 64 or 32 bytes, a tile of weights the same inputs of a panel, both
// as they lie.

#if defined(__AMX_INT8__)
INLINE long tile_inputs(const Matrix& m) { return m.n_blocks() % 2 ? kBlock : 2 * kBlock; }

struct Fetch {  // brings pairs of lines into the second cache; the other of a pair comes unasked
  const std::int8_t* next;
  long pairs;
  INLINE_MEMBER void operator()() {
    for (long i = 0; i < pairs; ++i, next += 2 * kLine) __builtin_prefetch(next, 0, 2);
  }
};

// One or two panels for up to 32 rows. What the next step reads is loaded between products.
void tile_block(const Product& job, long row, long count, long panel, long n_panels, Fetch& fetch) {
  const Matrix& m = *job.matrix;
  const long n = m.n_blocks() * kBlock, at_once = tile_inputs(m), stride = 4 * job.x_stride();
  const bool two = count > kGroup;
  const Steps steps = steps_of(m, panel), others = steps_of(m, panel + n_panels - 1);
  const auto* x = reinterpret_cast<const std::uint8_t*>(job.x) + row * stride;
  const std::uint8_t* x_next = x + kGroup * stride;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, x, stride);
  _tile_loadd(6, steps.first, steps.step);
  _tile_loadd(7, others.first, others.step);
  if (two) _tile_loadd(5, x_next, stride);
  for (long k = at_once; k <= n; k += at_once) {
    const bool more = k < n;
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(2, 4, 7);
    if (more) _tile_loadd(4, x + k, stride);
    if (two) _tile_dpbusd(1, 5, 6);
    if (more) _tile_loadd(6, steps.first + k / 4 * steps.step, steps.step);
    if (two) _tile_dpbusd(3, 5, 7);
    if (more) _tile_loadd(7, others.first + k / 4 * others.step, others.step);
    if (more && two) _tile_loadd(5, x_next + k, stride);
    fetch();
  }
  alignas(64) IntReg sums[4][kGroup];
  _tile_stored(0, sums[0], kLine);
  _tile_stored(1, sums[1], kLine);
  _tile_stored(2, sums[2], kLine);
  _tile_stored(3, sums[3], kLine);
  with_finish(job.finish, [&](auto kind) {
    for (long p = 0; p < n_panels; ++p) {
      const IntegerFinisher finish(job, panel + p);
      const IntReg* of_row = sums[2 * p];
      for (long t = 0; t < count; ++t) finish(row + t, of_row + t, kind);
    }
  });
}

void multiply_tiles(const Product& job, long n_rows, long first, long last) {
  const Matrix& m = *job.matrix;
  const TileShapes* shapes = &kTileShapes[tile_inputs(m) == kBlock];
  if (tile_shapes != shapes) _tile_loadconfig(tile_shapes = shapes);
  // what comes after the panels at hand is fetched evenly over the groups of rows
  const long n_groups = (n_rows + 2 * kGroup - 1) / (2 * kGroup);
  const long pairs = (kLanes * tile_inputs(m) / kLine + n_groups - 1) / n_groups;
  Fetch fetch{steps_of(m, n_groups > 1 ? last : first + 2).first, pairs};
  for (long row = 0; row < n_rows; row += 2 * kGroup)
    for (long panel = first; panel < last; panel += 2)
      tile_block(job, row, n_rows - row < 2 * kGroup ? n_rows - row : 2 * kGroup, panel,
                 last - panel < 2 ? 1 : 2, fetch);
}
#endif

// Bytes in tiles or in registers.
void multiply_bytes(const Product& job, long n_rows, long first, long last) {
#if defined(__AMX_INT8__)
  if (n_rows >= kFewestGrouped) return multiply_tiles(job, n_rows, first, last);
#endif
  multiply_integers<Type::i8>(job, n_rows, first, last);
}

// ---- Nibbles as bytes ------------------------------------------------------------------------

// For so many rows nibbles become bytes first, if `dot` takes the whole range of inputs.
#if defined(__AMX_INT8__)
constexpr long kRowsToUnpack = kFewestGrouped;
#elif defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr long kRowsToUnpack = 32;
#else
constexpr long kRowsToUnpack = 1L << 30;
#endif

INLINE ByteReg times(ByteReg a, WordReg b) {  // of bytes, b being 16 bits for two
  return (ByteReg)(((WordReg)a * b & 255) | ((WordReg)a >> 8) * b << 8);
}

// P panels of nibbles times their factors, to be those of `bytes_of`.
template <int P>
void unpack(const Matrix& m, const Matrix& bytes_of, long panel) {
  const Steps from = steps_of(m, panel), to = steps_of(bytes_of, panel);
  const Units<std::uint8_t, kLanes> units(m, m.factors, panel, m.n_blocks());
  const long half = kBlock / 8 * to.step;
  const std::int8_t* w = from.first;
  const std::uint8_t* factors = units.first;
  auto* out = const_cast<std::int8_t*>(to.first);
  Coming<Type::i4, P * kStep> coming(w);
  for (long b = 0; b < m.n_blocks(); ++b, factors += units.step, out += half) {
    WordReg twice[P * kParts];
#pragma GCC unroll 4
    for (int i = 0; i < P * kParts; ++i) {
      const IntReg factor = widened(factors + i * kWidth);
      twice[i] = (WordReg)(factor | factor << 16);
    }
    for (const auto* end = out + half; out < end; w += from.step, out += to.step) {
      coming.fetch(from.step);
#pragma GCC unroll 4
      for (int i = 0; i < P * kParts; ++i) {
        const ByteReg both = bytes(w + i * kWidth * 4);
        const ByteReg low = times(low_halves(both) - 8, twice[i]);
        const ByteReg high = times(high_halves(both) - 8, twice[i]);
        std::memcpy(out + i * kWidth * 4, &low, sizeof low);
        std::memcpy(out + half + i * kWidth * 4, &high, sizeof high);
      }
    }
  }
}

// Memory of a thread, for the panels at hand.
struct Unpacked {
  std::int8_t* bytes = nullptr;
  long size = 0;
  ~Unpacked() { std::free(bytes); }
};
thread_local Unpacked unpacked;

void multiply_unpacked(const Product& job, long n_rows, long first, long last) {
  Matrix m = *job.matrix;
  const long begin = first & -m.beside;  // where the stream begins in which the first lies
  const long panel_size = m.n_blocks() * kBlock * kLanes, size = (last - begin + m.beside) * panel_size;
  if (size > unpacked.size) {
    std::free(unpacked.bytes);
    unpacked.bytes = static_cast<std::int8_t*>(std::aligned_alloc(64, size));
    unpacked.size = unpacked.bytes ? size : 0;
  }
  if (!unpacked.bytes) return multiply_integers<Type::i4>(job, n_rows, first, last);
  m.weights = unpacked.bytes - begin * panel_size;
  m.type = Type::i8;
  constexpr int kPanels = kBeside[static_cast<int>(Type::i4)];
  for (long panel = first, take; panel < last; panel += take) {
    take = together(m, panel, last, kPanels);
    (take == 1 ? unpack<1> : unpack<kPanels>)(*job.matrix, m, panel);
  }
  multiply_bytes({&m, job.x, job.y, job.finish}, n_rows, first, last);
}

void rest() {
#if defined(__AMX_INT8__)
  if (tile_shapes) _tile_release();
  tile_shapes = nullptr;
#endif
}

INLINE Vec greater(const Vec& most, const Vec& v) {  // magnitude; these compare as integers do
  return map([](Reg m, Reg x) { return (Reg)kGreater((IntReg)x & 0x7fffffff, (IntReg)m); },
             most, v);
}

// Writes a row's bytes, which are never ahead of what is to be read, and fills its last block;
// number(i) are the 16 from the i-th on.
template <class F>
INLINE void write_bytes(const F& number, const Matrix& reader, float factor, float zero, float* row) {
  const Axis& axis = reader.in;
  auto* out = reinterpret_cast<std::uint8_t*>(row);
  for (long g = 0; g < axis.groups; ++g)
    for (long i = 0; i < axis.size; i += kLanes) {
      const Vec rounded = number(g * axis.stride + i) * factor + (zero + 0x1.8p23f);
      store_low_bytes(out + g * axis.size + i, rounded.part);
    }
  const long length = axis.length();
  std::memset(out + length, static_cast<int>(zero), reader.n_blocks() * kBlock - length);
}

// After a row's bytes: what the sums of each block of nibbles begin with. Inlined because GCC 12 at
// -O2 may take a call for one that writes nothing, and leave it out.
INLINE void append_eights(float* x, long n_blocks) {
  auto* row = reinterpret_cast<std::uint8_t*>(x);
  for (long b = 0; b < n_blocks; ++b) {
    const std::int32_t eights = less_eights(row + b * kBlock);
    std::memcpy(row + n_blocks * kBlock + 4 * b, &eights, sizeof eights);
  }
}

// number(i) are 16 numbers of a row from the i-th on; `out` may be where they are.
template <class F>
INLINE void round_row(const F& number, const Matrix& reader, float* out) {
  const long stride = reader.in.span();
  Vec magnitude = 0.0f;
  for (long i = 0; i < stride; i += kLanes) magnitude = greater(magnitude, number(i));
  const float most = fold(magnitude, kGreater);
  const auto zero = static_cast<float>(zero_of(reader.type)), limit = zero - 1;
  write_bytes(number, reader, most > 0.0f ? limit / most : 0.0f, zero, out);
  if (reader.type == Type::i4) append_eights(out, reader.n_blocks());
  out[stride - 1] = most / limit;
}

void quantize(const Matrix& reader, const float* x, float* out) {
  round_row([=](long i) { return load16(x + i); }, reader, out);
}

void multiply(const Product& job, long n_rows, long first, long last) {
  switch (job.matrix->type) {
    case Type::f32: return multiply_floats<float>(job, n_rows, first, last);
    case Type::f16: return multiply_floats<std::uint16_t>(job, n_rows, first, last);
    case Type::i8: return multiply_bytes(job, n_rows, first, last);
    case Type::i4:
      if (n_rows >= kRowsToUnpack) return multiply_unpacked(job, n_rows, first, last);
      return multiply_integers<Type::i4>(job, n_rows, first, last);
  }
}

// ---- Between the products --------------------------------------------------------------------

constexpr float kOnesThenZeros[2 * kLanes] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

INLINE Vec mask(long remaining) {  // ones in the first `remaining` lanes
  return load16(kOnesThenZeros + kLanes - (remaining < kLanes ? remaining : kLanes));
}

template <class E>
void widen_as(const E* row, float scale, long n, float* out) {
  for (long i = 0; i < n; i += kLanes) {
    E last[kLanes] = {};
    if (n - i < kLanes) std::memcpy(last, row + i, (n - i) * sizeof(E));
    store16(out + i, load16(n - i < kLanes ? last : row + i) * scale);
  }
}

void widen(const void* row, Type type, float scale, long n, float* out) {
  switch (type) {
    case Type::f32: return widen_as(static_cast<const float*>(row), scale, n, out);
    case Type::f16: return widen_as(static_cast<const std::uint16_t*>(row), scale, n, out);
    default: return widen_as(static_cast<const std::int8_t*>(row), scale, n, out);
  }
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, long n,
                float* out) {
  Vec total = 0.0f, squares = 0.0f;
  for (long i = 0; i < n; i += kLanes) total = total + load16(x + i);
  const float mean = sum(total) / static_cast<float>(n);
  for (long i = 0; i < n; i += kLanes) {
    const Vec d = (load16(x + i) - mean) * mask(n - i);
    squares = fused(d, d, squares);
  }
  const float factor = 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(n) + eps);
  for (long i = 0; i < n; i += kLanes) {
    const Vec d = (load16(x + i) - mean) * factor;
    store16(out + i, fused(d, load16(weight + i), load16(bias + i)));
  }
}

void blend(const Matrix& reader, const float* now, const float* before, const float* mix,
           float* out) {
  const auto blended = [=](long i) {
    const Vec u = load16(now + i);
    return fused(load16(before + i) - u, load16(mix + i), u);
  };
  if (is_integer(reader.type)) return round_row(blended, reader, out);
  for (long i = 0; i < reader.in.span(); i += kLanes) store16(out + i, blended(i));
}

// From the LoRA products to what the recurrence reads, in place: w becomes the decay, k the
// replaced key, v the mixed value, v_mix the removal key kk, negative, and a the added key kk * a.
INLINE void prepare(const HeadWeights& c, const HeadRows& x, long n) {
  Vec squares = 0.0f;
  for (long i = 0; i < n; i += kLanes) {
    const Vec kk = load16(x.k + i) * load16(c.k_k + i);
    squares = fused(kk, kk, squares);
  }
  const float norm = __builtin_sqrtf(sum(squares));
  const float inverse = 1.0f / (norm > 1e-12f ? norm : 1e-12f);
  for (long i = 0; i < n; i += kLanes) {
    const Vec v = load16(x.v + i), k = load16(x.k + i);
    const Vec decay = sigmoid(load16(x.w + i) + load16(c.w0 + i)) * -0.6065306597126334f;
    const Vec a = sigmoid(load16(x.a + i) + load16(c.a0 + i));
    if (c.v0) {
      const Vec share = sigmoid(load16(x.v_mix + i) + load16(c.v0 + i));
      store16(x.v + i, fused(load16(x.v_first + i) - v, share, v));
    } else {
      store16(x.v_first + i, v);
    }
    const Vec kk = k * load16(c.k_k + i) * inverse;
    store16(x.w + i, exp(decay));  // log decay = -exp(-1/2) sigmoid(w0 + w)
    store16(x.v_mix + i, kk * -1.0f);
    store16(x.a + i, kk * a);
    store16(x.k + i, fused(k * load16(c.k_a + i), a - 1.0f, k));
  }
}

// S <- S diag(w) - (S kk)(kk a)^T + v k^T and y = S r, row after row, for C units of values from
// `column` on. S is [key][value], so that no sum runs across lanes; each row's update sums up what
// the next one removes. The state that is `coming` is asked for in the order in which it lies, by the
// last update, and if that is the only one, from the first sum on: the more evenly, the quicker.
template <int C>
INLINE void recur(HeadRows x, long n_rows, long n, long column, float* state, const float* coming) {
  const int early = n_rows == 1 ? C / 2 : 0;
  coming += column * n;
  const auto fetch = [&](int units) {
    for (int i = 0; i < units; ++i, coming += kLanes) __builtin_prefetch(coming, 1);
  };
  Vec removed[C], taken[C], v[C], read[C];
  for (Vec& sum : removed) sum = 0.0f;
  for (long key = 0; key < n; ++key) {
    fetch(early);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const Vec cell = load16(state + key * padded(n) + column + c * kLanes);
      removed[c] = fused(cell, x.v_mix[key], removed[c]);
    }
  }
  for (; n_rows > 0; --n_rows) {
    const HeadRows next = n_rows > 1 ? x.next() : x;
    for (int c = 0; c < C; ++c) {
      v[c] = load16(x.v + column + c * kLanes);
      taken[c] = removed[c];
      removed[c] = read[c] = 0.0f;
    }
    for (long key = 0; key < n; ++key) {
      const Vec w = x.w[key], k = x.k[key], b = x.a[key], r = x.r[key], kk = next.v_mix[key];
      if (n_rows == 1) fetch(C - early);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        const long at = key * padded(n) + column + c * kLanes;
        const Vec cell = fused(taken[c], b, fused(load16(state + at), w, v[c] * k));
        store16(state + at, cell);
        read[c] = fused(cell, r, read[c]);
        if (n_rows > 1) removed[c] = fused(cell, kk, removed[c]);
      }
    }
    for (int c = 0; c < C; ++c) store16(x.y + column + c * kLanes, read[c]);
    x = next;
  }
}

// From what the recurrence read to what the output projection reads.
INLINE void gate(const HeadWeights& c, const HeadRows& x, long n) {
  Vec bonus = 0.0f;
  for (long i = 0; i < n; i += kLanes)
    bonus = fused(load16(x.r + i) * load16(x.k + i), load16(c.r_k + i), bonus);
  const float share = sum(bonus);
  layer_norm(x.y, c.ln_weight, c.ln_bias, 64e-5f, n, x.y);  // eps of every release
  for (long i = 0; i < n; i += kLanes)
    store16(x.y + i, fused(load16(x.v + i), share, load16(x.y + i)) * load16(x.g + i));
}

void head(const HeadWeights& weights, HeadRows rows, long n_rows, long n, float* state,
          const float* coming) {
  constexpr long kAtOnce = 16;  // rows whose vectors stay in the first cache
  for (long count; n_rows > 0; n_rows -= count) {
    count = n_rows < kAtOnce ? n_rows : kAtOnce;
    HeadRows x = rows;
    for (long t = 0; t < count; ++t, x = x.next()) prepare(weights, x, n);
    constexpr int kBeside = kRegisters / kParts >= 32 ? 4 : kRegisters / kParts >= 8 ? 2 : 1;
    const float* soon = n_rows > count ? state : coming;
    long column = 0;
    for (; column + kBeside * kLanes <= padded(n); column += kBeside * kLanes)
      recur<kBeside>(rows, count, n, column, state, soon);
    for (; column < n; column += kLanes) recur<1>(rows, count, n, column, state, soon);
    for (long t = 0; t < count; ++t, rows = rows.next()) {
      for (long i = n; i < padded(n); ++i) rows.y[i] = 0.0f;
      gate(weights, rows, n);
    }
  }
}

}  // namespace

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

const Kernels* ANSER_KERNELS() {
  static const Kernels table = {TEXT(ANSER_NAME), {kBeside[0], kBeside[1], kBeside[2], kBeside[3]},
                                multiply,   rest,  widen, quantize,
                                layer_norm, blend, head};
  return &table;
}

}  // namespace anser

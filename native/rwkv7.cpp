#include "rwkv7.h"

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace anser {

namespace {

constexpr float kLayerNormEps = 1e-5f;
constexpr long kChunkRows = 128;    // of a prompt; half of it where several threads read
constexpr long kMixes = 7;          // what the projections and LoRAs read of a row; v twice
constexpr long kPanelsPerItem = 4;  // what a thread claims at once
constexpr long kFew = 3;            // rows that each thread prepares for itself
static_assert(kFew < kFewestGrouped, "what each thread has for itself is not filled up to a group");

sigjmp_buf escape;

// Tries the kernels on a product with a known answer: that the processor names an instruction set
// does not prove that the system, or a virtual machine, lets its instructions run.
bool works(const Kernels* kernels) {
  struct sigaction trap {}, before;
  trap.sa_handler = [](int) { siglongjmp(escape, 1); };
  sigaction(SIGILL, &trap, &before);
  float y[kGroup * kLanes] = {};
  if (sigsetjmp(escape, 1) == 0) {
    const std::vector<std::int8_t> ones(kLanes * 64, 1);
    std::vector<float> x(kGroup * 64, 0.5f);
    const std::vector<std::int32_t> start(kLanes, -64 * zero_of(Type::i8));
    const Matrix matrix{ones.data(), nullptr,     start.data(), nullptr,
                        nullptr,     {1, 64, 64}, {1, 16, 16},  Type::i8};
    for (float* row = x.data(); row < x.data() + x.size(); row += 64)
      kernels->quantize(matrix, row, row);
    kernels->multiply({&matrix, x.data(), y, Finish::sigmoid}, kGroup, 0, 1);
    kernels->rest();
  }
  sigaction(SIGILL, &before, nullptr);
  const float last = y[kGroup * kLanes - 1];
  return last > 0.9999f && last <= 1.0f;
}

#if defined(ANSER_AMX)
// Asks the system for the registers of tiles, which Linux hands out on request only.
bool tiles_granted() {
#if defined(__linux__)
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}
#endif

// Where instruction sets meet: the best first.
const std::vector<const Kernels*>& supported_kernels() {
  static const std::vector<const Kernels*> found = [] {
    std::vector<const Kernels*> working;
    const auto add = [&](bool named, const Kernels* kernels) {
      if (named && works(kernels)) working.push_back(kernels);
    };
#if defined(ANSER_X86)
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
#if defined(ANSER_AMX)
    add(avx512 && tiles_granted(), kernels_amx());
#endif
    add(avx512, kernels_avx512());
#if defined(ANSER_AVXVNNI)
    add(__builtin_cpu_supports("avxvnni") && __builtin_cpu_supports("fma"), kernels_avxvnni());
#endif
    add(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), kernels_avx2());
#elif defined(ANSER_DOTPROD)
    add(true, kernels_dotprod());
#endif
    add(true, kernels_portable());
    return working;
  }();
  return found;
}

const Kernels* choose(const std::string& name) {
  for (const Kernels* kernels : supported_kernels())
    if (name.empty() || name == kernels->name) return kernels;
  throw std::invalid_argument("instruction set '" + name + "' is unknown, or not of this machine");
}

Axis plain(long size) { return {1, size, padded(size)}; }

constexpr long items(long n, long per_item) { return (n + per_item - 1) / per_item; }

std::string text(const std::vector<long>& shape) {
  std::string s = "(";
  for (long n : shape) s += (s.size() > 1 ? ", " : "") + std::to_string(n);
  return s + ")";
}

const char* type_name(Type type) {
  constexpr const char* names[] = {"float32", "float16", "int8", "int4"};
  return names[static_cast<int>(type)];
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* kernels : supported_kernels()) names.push_back(kernels->name);
  return names;
}

struct Model::Layer {
  const float *ln1, *ln2;  // weight [padded(D)], then bias
  const float* mixes;      // x_r x_w x_k x_v x_a x_g x_v, each [padded(D)]
  const float* ffn_mix;
  HeadWeights head;  // each [H, padded(N)]
  Matrix receptance, key, value, output, w1, a1, v1, g1, w2, a2, v2, g2, ffn_key, ffn_value;
};

// Memory for what lives as long as the model, taken in big blocks.
class Model::Arena {
 public:
  template <class E>
  E* take(long count) {
    constexpr std::size_t kBlock = std::size_t{2} << 20;
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(E) + 63) / 64 * 64;
    if (bytes > left_) {
      left_ = (bytes + kBlock - 1) / kBlock * kBlock;
      blocks_.emplace_back(std::aligned_alloc(kBlock, left_), std::free);
      if (!blocks_.back()) throw std::bad_alloc();
      next_ = static_cast<char*>(blocks_.back().get());
#if defined(__linux__)
      madvise(next_, left_, MADV_HUGEPAGE);  // a pass over the weights misses fewer page entries
#endif
    }
    E* taken = reinterpret_cast<E*>(next_);
    next_ += bytes;
    left_ -= bytes;
    return taken;
  }

 private:
  std::vector<std::unique_ptr<void, void (*)(void*)>> blocks_;
  char* next_ = nullptr;
  std::size_t left_ = 0;
};

// Checks tensors, and then copies them to the layout of the kernels.
class Model::Loader {
 public:
  Loader(const Tensors& tensors, Arena& arena, const Kernels* kernels)
      : tensors_(tensors), arena_(arena), kernels_(kernels) {}

  void pack(Pool& pool) {
    const auto take_part = [&](Pool::Member& member) {
      for (const auto* jobs : {&packing_, &summing_})
        member.share(static_cast<long>(jobs->size()), [&](long i) { (*jobs)[i](); });
    };
    pool.run(take_part, /*brief=*/false);
  }

  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

  const Tensor& find(const std::string& name, const std::vector<long>& shape = {}) const {
    if (!has(name)) throw std::invalid_argument("tensor '" + name + "' is missing");
    const Tensor& tensor = tensors_.at(name);
    if (!shape.empty() && tensor.shape != shape)
      throw std::invalid_argument("tensor '" + name + "' has shape " + text(tensor.shape) +
                                  ", expected " + text(shape));
    return tensor;
  }

  // Vectors beside each other, each [axis.span()]; any shape with the right number of elements.
  const float* vectors(std::initializer_list<std::string> names, const Axis& axis) {
    const long total = axis.span() * static_cast<long>(names.size());
    float* out = arena_.take<float>(total);
    std::memset(out, 0, total * sizeof(float));
    float* to = out;
    for (const auto& name : names) {
      const Tensor& tensor = find(name);
      long count = 1;
      for (long n : tensor.shape) count *= n;
      if (count != axis.length() || tensor.type != Type::f32)
        throw std::invalid_argument("tensor '" + name + "' is " + type_name(tensor.type) + " " +
                                    text(tensor.shape) + ", expected float32 with " +
                                    std::to_string(axis.length()) + " elements");
      for (long g = 0; g < axis.groups; ++g, to += axis.stride)
        std::memcpy(to, static_cast<const float*>(tensor.data) + g * axis.size,
                    axis.size * sizeof(float));
    }
    return out;
  }

  // `stem`.weight [out, in] with its optional scale and bias.
  Matrix linear(const std::string& stem, const Axis& in, const Axis& out) {
    const std::string name = stem + ".weight";
    const bool nibbles = find(name).type == Type::i4;
    const long row = nibbles ? items(in.length(), kBlock) * kBlock / 2 : in.length();
    Matrix m = matrix(name, find(name, {out.length(), row}), in, out, 1, in.length());
    if (has(stem + ".bias")) m.bias = vectors({stem + ".bias"}, panels_of(out));
    return m;
  }

  // A LoRA matrix [in, out].
  Matrix lora(const std::string& name, const Axis& in, const Axis& out) {
    const Tensor& tensor = find(name, {in.length(), out.length()});
    if (tensor.type == Type::i4)
      throw std::invalid_argument("tensor '" + name + "' is int4, expected another type");
    return matrix(name, tensor, in, out, out.length(), 1);
  }

 private:
  static Axis panels_of(const Axis& out) { return {out.groups, out.size, padded(out.stride)}; }

  struct Source {  // element (o, k) is at o * out_step + k * in_step
    const void* data;
    Axis in, out;
    long in_step, out_step;
  };

  Matrix matrix(const std::string& name, const Tensor& tensor, const Axis& in, const Axis& out,
                long in_step, long out_step) {
    Matrix m{nullptr, nullptr, nullptr, nullptr, nullptr, in, out, tensor.type};
    m.beside = kernels_->beside[static_cast<int>(m.type)];
    const Source from{tensor.data, in, out, in_step, out_step};
    const long filled = m.n_blocks() * kBlock, row = filled / 2;
    if (is_integer(m.type)) {
      if (in.length() > kMostInputs)
        throw std::invalid_argument("tensor '" + name + "' has more than " +
                                    std::to_string(kMostInputs) + " integers a row");
      m.scale = vectors({name + ".scale"}, panels_of(out));
    }
    switch (m.type) {
      case Type::f32: m.weights = singles<float>(m, from); break;
      case Type::f16: m.weights = singles<std::uint16_t>(m, from); break;
      case Type::i8: m.weights = fours(m, from, filled, 0); break;
      case Type::i4:
        m.weights = fours(m, {tensor.data, {1, row, row}, out, 1, row}, row, 0x88);
        m.factors = factors(m, name);
    }
    if (is_integer(m.type)) m.start = starts(m);
    return m;
  }

  const std::uint8_t* factors(const Matrix& m, const std::string& name) {
    const long blocks = m.n_blocks();
    const Tensor& tensor = find(name + ".factor", {m.out.length(), blocks});
    const auto* factor = static_cast<const std::uint8_t*>(tensor.data);
    const auto fits = [](std::uint8_t f) { return f <= kMaxFactor; };
    if (tensor.type != Type::i4 || !std::all_of(factor, factor + m.out.length() * blocks, fits))
      throw std::invalid_argument("tensor '" + name + ".factor' is not of bytes up to " +
                                  std::to_string(kMaxFactor));
    return singles<std::uint8_t>(m, {factor, {1, blocks, blocks}, m.out, 1, blocks});
  }

  // Units of [16].
  template <class E>
  const E* singles(const Matrix& m, const Source& from) {
    return panels<E>(from, from.in.span(), [=](E* packed, long panel, const E* outputs, long count) {
      const Axis& in = from.in;
      const auto [first, step] = m.units(panel, in.span());
      E* to = packed + first * kLanes;
      for (long g = 0; g < in.groups; ++g)
        for (long i = 0, k = g * in.size; i < in.size; ++i, ++k)
          for (long j = 0; j < count; ++j)
            to[(g * in.stride + i) * step * kLanes + j] =
                outputs[k * from.in_step + j * from.out_step];
    });
  }

  // Units of [16][4] bytes, with zeros up to `n_packed` of an output; some bits of each flipped.
  const std::uint8_t* fours(const Matrix& m, const Source& from, long n_packed, std::uint8_t flipped) {
    using Byte = std::uint8_t;
    return panels<Byte>(from, n_packed, [=](Byte* packed, long panel, const Byte* outputs, long count) {
      const long n = from.in.length(), n_units = n_packed / 4, whole = from.in_step == 1 ? n / 4 : 0;
      const auto [first, units] = m.units(panel, n_units);
      const long step = units * kLanes * 4;
      Byte* to = packed + first * kLanes * 4;
      for (long u = 0; u < whole; ++u)
        for (long j = 0; j < count; ++j)
          std::memcpy(to + u * step + j * 4, outputs + u * 4 + j * from.out_step, 4);
      for (long k = whole * 4; k < n; ++k)
        for (long j = 0; j < count; ++j)
          to[k / 4 * step + j * 4 + k % 4] = outputs[k * from.in_step + j * from.out_step];
      const Byte bits = flipped;  // copies, which what is written cannot change
      const long units_flipped = bits ? n_units : 0;
      for (long u = 0; u < units_flipped; ++u)
        for (long i = 0; i < kLanes * 4; ++i) to[u * step + i] ^= bits;
    });
  }

  // f(all panels, which, its first output, how many it has), later, for each panel of `n_packed`
  // elements an output. Far apart in memory threads do not wait for each other's fresh pages.
  template <class E, class F>
  const E* panels(const Source& from, long n_packed, const F& f) {
    const long n_panels = items(from.out.span(), kLanes);
    const long in_group = n_panels / from.out.groups;  // a padded group ends with a panel
    const long size = n_panels * n_packed * kLanes;
    E* packed = arena_.take<E>(size);
    if (from.out.size % kLanes || n_packed > from.in.length()) std::fill_n(packed, size, E{});
    const auto pack = [=](long panel) {
      const long group = panel / in_group, first = panel % in_group * kLanes;
      const long count = std::min(kLanes, from.out.size - first);
      const E* outputs = static_cast<const E*>(from.data);
      f(packed, panel, outputs + (group * from.out.size + first) * from.out_step, count);
    };
    for (long first = 0; first < n_panels; first += kPanelsPerJob)
      packing_.push_back([=] {
        const long last = std::min(n_panels, first + kPanelsPerJob);
        for (long panel = first; panel < last; ++panel) pack(panel);
      });
    return packed;
  }

  // What to begin the sums with: less what the zero of the inputs adds, by a product with zeros. A
  // float holds it exactly: a power of two times a sum of weights, which is at most 2^23.
  const std::int32_t* starts(const Matrix& of) {
    const long n_panels = of.n_panels();
    auto* starts = arena_.take<std::int32_t>(n_panels * kLanes);
    std::fill(starts, starts + n_panels * kLanes, 0);
    Matrix bare = of;
    bare.start = starts;
    bare.scale = nullptr;
    for (long first = 0; first < n_panels; first += kPanelsPerJob)
      summing_.push_back([=] {
        std::vector<float> zeros(bare.in.span()), sums(n_panels * kLanes);
        kernels_->quantize(bare, zeros.data(), zeros.data());
        zeros.back() = -1.0f;  // what one of its integers is worth
        const long last = std::min(n_panels, first + kPanelsPerJob);
        kernels_->multiply({&bare, zeros.data(), sums.data()}, 1, first, last);
        for (long i = first * kLanes; i < last * kLanes; ++i)
          starts[i] = static_cast<std::int32_t>(sums[i]);
      });
    return starts;
  }

  static constexpr long kPanelsPerJob = 32;
  std::vector<std::function<void()>> packing_, summing_;
  const Tensors& tensors_;
  Arena& arena_;
  const Kernels* kernels_;
};

// The rows of one pass: `span` tokens of each of B sequences, row = sequence * span + token.
struct Model::Rows {
  long n_sequences, span, count, token;  // token: where the pass begins in the batch
  Pool::Member* member;                  // what this thread does of them: its part, or all
  bool in_turn;                          // whether the chunk before is another thread's
  float *x, *v_first;
  float *r, *w, *k, *v, *a, *v_mix, *g, *y;  // [count, H * padded(N)]
  float *w_low, *a_low, *v_low, *g_low, *hidden;
  float* states;       // one for each head, where N is not a whole number of panels
  const float** latest;  // of all threads: the u of one that made it

  // What products read. Of few rows each thread makes it for itself, which takes less time than to
  // wait for what another made; that of many rows is dealt out.
  struct Inputs {
    float *u, *before, *mixed[kMixes];
  } shared, own;

  bool apart() const { return count <= kFew && !member->alone(); }
  const Inputs& inputs() const { return apart() ? own : shared; }

  // Where x is rounded to, the i-th of what is rounded together: its place, if all threads share it.
  float* rounded(float* x, long i) const { return apart() ? own.mixed[i] : x; }
  const float* read_by(const Matrix& reader, float* x, long i = 0) const {
    return is_integer(reader.type) ? rounded(x, i) : x;
  }

  // f(row) of all, to make inputs.
  template <class F>
  void each(const F& f) const {
    if (!apart()) return member->share(count, f);
    for (long row = 0; row < count; ++row) f(row);
  }

  // f(i) for every i in [0, n), with the inputs that `make` makes.
  template <class Make, class F>
  void share(const Make& make, long n, const F& f) const {
    if (apart()) return member->share(n, f, make);
    make();
    member->share(n, f);
  }

  // Lays the arrays out from `base`; returns the floats used.
  long place(const Dims& d, float* base) {
    const long width = padded(d.d_model), n = padded(d.head_size), heads = d.n_head() * n;
    long used = 0;
    const auto put = [&](float*& p, long stride) {
      p = base + used;
      used += items(count, kGroup) * kGroup * stride;
    };
    for (float** p : {&x, &shared.u, &shared.before}) put(*p, width);
    put(v_first, heads);
    const long mixes = used;  // free again once the heads begin
    for (float*& p : shared.mixed) put(p, width);
    const long mixes_end = std::exchange(used, mixes);
    for (float** p : {&w, &a, &v_mix, &g, &y}) put(*p, heads);
    used = std::max(used, mixes_end);
    const long projections = used;  // time mix and channel mix take turns here
    for (float** p : {&r, &k, &v}) put(*p, heads);
    const std::pair<float*&, long> low[] = {
        {w_low, d.rank_w}, {a_low, d.rank_a}, {v_low, d.rank_v}, {g_low, d.rank_g}};
    for (const auto& [p, rank] : low) put(p, padded(rank));
    const long projections_end = std::exchange(used, projections);
    put(hidden, padded(d.d_ffn));
    used = std::max(used, projections_end);
    states = base + used;
    return used + heads * d.head_size;
  }

  // The same for what the thread makes for itself.
  long place_own(const Dims& d, float* base) {
    const long width = padded(d.d_model), heads = d.n_head() * padded(d.head_size);
    const long widest = std::max({width, heads, padded(d.d_ffn), padded(d.rank_w), padded(d.rank_a),
                                  padded(d.rank_v), padded(d.rank_g)});
    own.u = base;
    own.before = own.u + kFew * width;
    own.mixed[0] = own.before + kFew * width;
    for (long i = 1; i < kMixes; ++i) own.mixed[i] = own.mixed[i - 1] + kFew * widest;
    return kFew * (2 * width + kMixes * widest);
  }
};

Model::Model(const Dims& dims, const Tensors& tensors, int n_threads,
             const std::string& instructions)
    : dims_(dims), kernels_(choose(instructions)), pool_(n_threads, kernels_->rest) {
  if (dims.head_size < 1 || dims.d_model % dims.head_size)
    throw std::invalid_argument("the head size does not divide the width");
  memory_ = std::make_unique<Arena>();
  Loader from(tensors, *memory_, kernels_);
  const Axis width = plain(dims.d_model), hidden = plain(dims.d_ffn);
  const Axis heads{dims.n_head(), dims.head_size, padded(dims.head_size)};
  const Axis w = plain(dims.rank_w), a = plain(dims.rank_a), v = plain(dims.rank_v),
             g = plain(dims.rank_g), vocab{1, dims.n_vocab, dims.n_vocab};

  embedding_ = from.find("emb.weight", {dims.n_vocab, dims.d_model});
  if (embedding_.type == Type::i8) embedding_scale_ = from.vectors({"emb.weight.scale"}, vocab);
  const auto norm = [&](const std::string& stem, const Axis& axis) {
    return from.vectors({stem + ".weight", stem + ".bias"}, axis);
  };
  if (from.has("blocks.0.ln0.weight")) ln0_ = norm("blocks.0.ln0", width);
  for (long i = 0; i < dims.n_layer; ++i) {
    const std::string block = "blocks." + std::to_string(i) + ".", att = block + "att.";
    const auto at_heads = [&](const char* name) { return from.vectors({att + name}, heads); };
    Layer layer{};
    layer.ln1 = norm(block + "ln1", width);
    layer.ln2 = norm(block + "ln2", width);
    layer.mixes = from.vectors(
        {att + "x_r", att + "x_w", att + "x_k", att + "x_v", att + "x_a", att + "x_g", att + "x_v"},
        width);
    layer.ffn_mix = from.vectors({block + "ffn.x_k"}, width);
    layer.head = {at_heads("w0"),  at_heads("a0"),  i ? at_heads("v0") : nullptr,
                  at_heads("k_k"), at_heads("k_a"), at_heads("r_k"),
                  at_heads("ln_x.weight"), at_heads("ln_x.bias")};
    layer.receptance = from.linear(att + "receptance", width, heads);
    layer.key = from.linear(att + "key", width, heads);
    layer.value = from.linear(att + "value", width, heads);
    layer.output = from.linear(att + "output", heads, width);
    const auto lora = [&](const char* letter, const Axis& rank, Matrix& down, Matrix& up) {
      down = from.lora(att + letter + "1", width, rank);
      up = from.lora(att + letter + "2", rank, heads);
    };
    lora("w", w, layer.w1, layer.w2);
    lora("a", a, layer.a1, layer.a2);
    lora("g", g, layer.g1, layer.g2);
    // block 0 of some files carries a value residual that nothing uses
    if (i > 0) lora("v", v, layer.v1, layer.v2);
    layer.ffn_key = from.linear(block + "ffn.key", width, hidden);
    layer.ffn_value = from.linear(block + "ffn.value", hidden, width);
    layers_.push_back(layer);
  }
  ln_out_ = norm("ln_out", width);
  head_ = from.linear("head", width, vocab);
  from.pack(pool_);
  for (long h = 0; h < dims.n_head(); ++h) next_head_.push_back(pool_.next(h, dims.n_head()));
  reached_ = std::vector<std::atomic<long>>(dims.n_layer);
}

Model::~Model() = default;

// What one core wrote reaches another slowly. So of long prompts each thread reads as many as the
// others, or if they do not come out even chunks of its own, a layer behind the chunk before, so that
// only states change hands; fewer rows are dealt out to all. A group of rows for each thread is
// enough for the first, twice as many for the second.
void Model::forward(const Batch& batch) {
  const std::lock_guard<std::mutex> turn(turn_);
  const long b = batch.n_sequences, n_tokens = batch.n_tokens, n_threads = pool_.n_threads();
  const bool even = b % n_threads == 0 && n_tokens / items(kGroup, b) >= n_threads;
  const long readers = even ? n_threads : std::clamp(n_tokens / items(2 * kGroup, b), 1L, n_threads);
  const long n_parts = b % readers ? 1 : readers, in_part = b / n_parts, in_turn = readers / n_parts;
  const long most = (readers > 1 ? kChunkRows / 2 : kChunkRows) / in_part;
  const long n_chunks = items(n_tokens, std::max(1L, most) * in_turn) * in_turn;
  Rows form{};
  form.in_turn = in_turn > 1;
  form.n_sequences = in_part;
  form.span = items(n_tokens, n_chunks);
  form.count = in_part * form.span;
  const long needed = form.place(dims_, nullptr), of_thread = form.place_own(dims_, nullptr);
  const long total = readers * needed + n_threads * of_thread + kLanes;
  if (static_cast<long>(scratch_.size()) < total) scratch_.assign(total, 0.0f);
  const auto address = reinterpret_cast<std::uintptr_t>(scratch_.data());
  float* const scratch = reinterpret_cast<float*>((address + 63) / 64 * 64);

  std::atomic<long> next{0}, next_reader{0};  // chunk, or part, that a reader takes
  const float* latest_of_all = nullptr;
  for (auto& reached : reached_) reached.store(0, std::memory_order_relaxed);
  const auto read_on = [&](Pool::Member& member) {
    const long reader = readers > 1 ? next_reader.fetch_add(1) : 0;
    if (reader >= readers) return;
    Pool::Member alone;
    const float* latest = nullptr;
    Rows rows = form;
    rows.member = readers > 1 ? &alone : &member;
    rows.latest = readers > 1 ? &latest : &latest_of_all;
    rows.place_own(dims_, scratch + readers * needed + member.self() * of_thread);
    const auto read_part = [&](const Batch& part) {
      long own = 0;  // the chunks pass one after another, or each thread takes the next
      const auto take = [&] { return in_turn > 1 ? next.fetch_add(1) : own++; };
      while ((rows.token = form.span * take()) < n_tokens) {
        rows.span = std::min(form.span, n_tokens - rows.token);
        rows.count = in_part * rows.span;
        rows.place(dims_, scratch + reader * needed);
        read(part, rows);
      }
    };
    if (n_parts == 1) return read_part(batch);
    for (long i; (i = next.fetch_add(1)) < n_parts;)
      read_part(sequences(batch, i * in_part, in_part));
  };
  pool_.run(read_on, /*brief=*/readers == 1);
  kernels_->rest();
}

Batch Model::sequences(Batch batch, long first, long count) const {
  batch.n_sequences = count;
  batch.ids += first * batch.n_tokens;
  batch.shift += first * dims_.n_layer * 2 * dims_.d_model;
  batch.wkv += first * dims_.n_layer * dims_.d_model * dims_.head_size;
  batch.logits += first * (batch.every_token ? batch.n_tokens : 1) * dims_.n_vocab;
  return batch;
}

// One chunk, through all layers; if threads take turns, each layer waits for what the chunk before
// leaves in its states.
void Model::read(const Batch& batch, Rows& rows) {
  const long end = rows.token + rows.span;
  embed(batch, rows);
  for (long layer = 0; layer < dims_.n_layer; ++layer) {
    std::atomic<long>& reached = reached_[layer];
    const auto ready = [&] { return reached.load(std::memory_order_acquire) == rows.token; };
    if (rows.in_turn) Pool::await(ready);
    time_mix(layer, batch, rows);
    channel_mix(layer, batch, rows);
    if (rows.in_turn) reached.store(end, std::memory_order_release);
  }
  if (batch.every_token || end == batch.n_tokens) read_out(batch, rows);
}

void Model::embed(const Batch& batch, const Rows& rows) {
  const long d = dims_.d_model, width = padded(d);
  const long bytes = d * (embedding_.type == Type::f32 ? 4 : embedding_.type == Type::f16 ? 2 : 1);
  const auto one = [&](long row) {
    const long b = row / rows.span, t = rows.token + row % rows.span;
    const std::int64_t id = batch.ids[b * batch.n_tokens + t];
    float* x = rows.x + row * width;
    kernels_->widen(static_cast<const char*>(embedding_.data) + id * bytes, embedding_.type,
                    embedding_scale_ ? embedding_scale_[id] : 1.0f, d, x);
    if (ln0_) kernels_->layer_norm(x, ln0_, ln0_ + width, kLayerNormEps, d, x);
  };
  rows.member->share(rows.count, one);
}

// A blend of u, the norm of x, with the u one token earlier for each of the `readers`, none for one
// without inputs.
void Model::mix(const float* ln, const float* states, const float* mixes,
                std::initializer_list<const Matrix*> readers, const Rows& rows) {
  const long d = dims_.d_model, width = padded(d), step = dims_.n_layer * 2 * d;
  const Rows::Inputs& in = rows.inputs();
  const auto norm = [&](long row) {
    kernels_->layer_norm(rows.x + row * width, ln, ln + width, kLayerNormEps, d, in.u + row * width);
  };
  const auto blend = [&](long row) {
    const float *u = in.u + row * width, *before = u - width;
    if (row % rows.span == 0) {
      float* padded_state = in.before + row * width;
      std::memcpy(padded_state, states + row / rows.span * step, d * sizeof(float));
      std::fill(padded_state + d, padded_state + width, 0.0f);
      before = padded_state;
    }
    for (long i = 0; i < static_cast<long>(readers.size()); ++i)
      if (const Matrix* reader = readers.begin()[i]; reader->in.length())
        kernels_->blend(*reader, u, before, mixes + i * width, in.mixed[i] + row * width);
  };
  if (rows.span == 1) return rows.each([&](long row) { norm(row), blend(row); });
  rows.each(norm);
  rows.each(blend);
}

// The shift states move on, once no thread reads them.
void Model::shift(float* states, const Rows& rows) {
  const long d = dims_.d_model, width = padded(d), step = dims_.n_layer * 2 * d;
  for (long b = 0; b < rows.n_sequences; ++b)
    std::memcpy(states + b * step, *rows.latest + ((b + 1) * rows.span - 1) * width,
                d * sizeof(float));
}

// The rows in the form in which their readers take them.
void Model::quantize(std::initializer_list<Read> reads, const Rows& rows) {
  const auto rounds = [](const Read& read) { return is_integer(read.first->type); };
  if (std::none_of(reads.begin(), reads.end(), rounds)) return;
  rows.each([&](long row) {
    for (const Read& read : reads) {
      if (!rounds(read)) continue;
      const long at = row * read.first->in.span();
      float* out = rows.rounded(read.second, &read - reads.begin());
      kernels_->quantize(*read.first, read.second + at, out + at);
    }
  });
}

// Products beside each other, of what `make` makes; their panels are dealt out together. Who begins
// does what `also` says.
template <class Make, class Also>
void Model::multiply(const Make& make, std::initializer_list<Product> products, const Rows& rows,
                     const Also& also) {
  const auto items_of = [](const Product& p) { return items(p.matrix->n_panels(), kPanelsPerItem); };
  long n_items = 0;
  for (const Product& p : products) n_items += items_of(p);
  rows.share(make, n_items, [&](long item) {
    if (item == 0) also();
    const Product* p = products.begin();
    for (; item >= items_of(*p); ++p) item -= items_of(*p);
    const long first = item * kPanelsPerItem;
    const long last = std::min(p->matrix->n_panels(), first + kPanelsPerItem);
    // another thread has read what is there: its core gives the lines up while we multiply
    for (long row = 0; row < rows.count && !rows.member->alone(); ++row)
      for (long panel = first; panel < last; ++panel)
        __builtin_prefetch(p->y + row * p->y_stride() + panel * kLanes, 1);
    kernels_->multiply(*p, rows.count, first, last);
  });
}

// x += W from
template <class Also>
void Model::add_product(const Matrix& matrix, float* from, const Rows& rows, const Also& also) {
  multiply([&] { quantize({{&matrix, from}}, rows); },
           {{&matrix, rows.read_by(matrix, from), rows.x, Finish::add}}, rows, also);
}

void Model::time_mix(long index, const Batch& batch, Rows& rows) {
  const Layer& layer = layers_[index];
  const long d = dims_.d_model, width = padded(d), heads = dims_.n_head() * padded(dims_.head_size);
  float* const states = batch.shift + index * 2 * d;
  const auto blends = [&] {
    mix(layer.ln1, states, layer.mixes,
        {&layer.receptance, &layer.w1, &layer.key, &layer.value, &layer.a1, &layer.g1, &layer.v1},
        rows);
  };
  const Rows::Inputs& in = rows.inputs();
  multiply(blends,  // in an order that gives two threads as much
           {{&layer.receptance, in.mixed[0], rows.r},
            {&layer.w1, in.mixed[1], rows.w_low, Finish::tanh},
            {&layer.a1, in.mixed[4], rows.a_low},
            {&layer.key, in.mixed[2], rows.k},
            {&layer.value, in.mixed[3], rows.v},
            {&layer.v1, in.mixed[6], rows.v_low},
            {&layer.g1, in.mixed[5], rows.g_low, Finish::sigmoid}},
           rows, [&] { *rows.latest = in.u; });
  const auto low = [&] {
    quantize({{&layer.w2, rows.w_low}, {&layer.a2, rows.a_low}, {&layer.g2, rows.g_low},
              {&layer.v2, rows.v_low}},
             rows);
  };
  rows.share(low, dims_.n_head(), [&](long h) {
    if (h == 0) shift(states, rows);
    head(index, h, batch, rows);
  });
  if (index + 1 == dims_.n_layer && !batch.every_token && rows.n_sequences == 1 && rows.span > 2) {
    // No state reads what follows, but for the last row, whose channel mix reads one row back.
    rows.x += (rows.span - 2) * width;
    rows.y += (rows.span - 2) * heads;
    rows.count = rows.span = 2;
  }
  add_product(layer.output, rows.y, rows, [] {});
}

// One head of every sequence: the second LoRA products, then the recurrence.
void Model::head(long index, long h, const Batch& batch, const Rows& rows) {
  const Layer& layer = layers_[index];
  const long n = dims_.head_size, stride = padded(n), heads = dims_.n_head() * stride;
  const long first = h * stride / kLanes, last = first + stride / kLanes;
  // in the order in which time_mix rounds them
  for (const Product& p : {Product{&layer.w2, rows.read_by(layer.w2, rows.w_low, 0), rows.w},
                           Product{&layer.a2, rows.read_by(layer.a2, rows.a_low, 1), rows.a},
                           Product{&layer.g2, rows.read_by(layer.g2, rows.g_low, 2), rows.g},
                           Product{&layer.v2, rows.read_by(layer.v2, rows.v_low, 3), rows.v_mix}})
    if (p.matrix->n_panels()) kernels_->multiply(p, rows.count, first, last);

  HeadWeights weights = layer.head;
  for (const float** p : {&weights.w0, &weights.a0, &weights.v0, &weights.k_k, &weights.k_a,
                          &weights.r_k, &weights.ln_weight, &weights.ln_bias})
    if (*p) *p += h * stride;
  for (long b = 0; b < rows.n_sequences; ++b) {
    const long at = b * rows.span * heads + h * stride;
    const HeadRows x{rows.r + at, rows.w + at,     rows.k + at, rows.v + at,       rows.a + at,
                     rows.v_mix + at, rows.g + at, rows.y + at, rows.v_first + at, heads};
    const auto state_of = [&](long sequence, long layer, long head) {
      return batch.wkv + ((sequence * dims_.n_layer + layer) * dims_.n_head() + head) * n * n;
    };
    float* state = state_of(b, index, h);
    if (n == stride) {
      const long next = next_head_[h], layer_of_next = (index + (next <= h)) % dims_.n_layer;
      const float* coming = b + 1 < rows.n_sequences ? state_of(b + 1, index, h)
                                                     : state_of(0, layer_of_next, next);
      kernels_->head(weights, x, rows.span, n, state, coming);
      continue;
    }
    float* wide = rows.states + h * n * stride;
    for (long i = 0; i < n; ++i) {
      std::memcpy(wide + i * stride, state + i * n, n * sizeof(float));
      std::fill(wide + i * stride + n, wide + (i + 1) * stride, 0.0f);
    }
    kernels_->head(weights, x, rows.span, n, wide, wide);
    for (long i = 0; i < n; ++i)
      std::memcpy(state + i * n, wide + i * stride, n * sizeof(float));
  }
}

void Model::channel_mix(long index, const Batch& batch, const Rows& rows) {
  const Layer& layer = layers_[index];
  float* const states = batch.shift + (index * 2 + 1) * dims_.d_model;
  const Rows::Inputs& in = rows.inputs();
  const auto blend = [&] {
    mix(layer.ln2, states, layer.ffn_mix, {&layer.ffn_key}, rows);
  };
  multiply(blend, {{&layer.ffn_key, in.mixed[0], rows.hidden, Finish::relu_squared}}, rows,
           [&] { *rows.latest = in.u; });
  add_product(layer.ffn_value, rows.hidden, rows, [&] { shift(states, rows); });
}

void Model::read_out(const Batch& batch, Rows& rows) {
  const long width = padded(dims_.d_model), vocab = dims_.n_vocab;
  const long span = batch.every_token ? rows.span : 1;  // rows read of each sequence
  const bool together = span == batch.n_tokens || !batch.every_token;  // rows of the answer
  const long groups = together ? 1 : rows.n_sequences, count = rows.n_sequences * span / groups;
  for (long group = 0; group < groups; ++group) {
    rows.count = count;
    float* const u = rows.inputs().u;
    const auto normed = [&] {
      rows.each([&](long i) {
        const long b = group + i / span, t = rows.span - span + i % span;
        kernels_->layer_norm(rows.x + (b * rows.span + t) * width, ln_out_, ln_out_ + width,
                             kLayerNormEps, dims_.d_model, u + i * width);
      });
      quantize({{&head_, u}}, rows);
    };
    float* logits = batch.logits + (group * batch.n_tokens + (together ? 0 : rows.token)) * vocab;
    multiply(normed, {{&head_, rows.read_by(head_, u), logits}}, rows, [] {});
  }
}

}  // namespace anser

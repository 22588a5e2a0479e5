// Prints a fingerprint of the logits and states of small random models, for every shape and
// precision. Two machines with fused multiply-add must print the same lines.
#include <cstdio>
#include <cstring>

#include "rwkv7.h"

using namespace anser;

namespace {

std::uint32_t seed = 1;

std::uint32_t draw() { return (seed = seed * 1664525u + 1013904223u) >> 8; }

float number() { return static_cast<float>(draw() % 2001) / 1000 - 1; }

struct Weights {
  std::vector<std::vector<char>> memory;
  Tensors tensors;

  void add(const std::string& name, Type type, std::vector<long> shape, float size) {
    long count = 1;
    for (long n : shape) count *= n;
    const int width = type == Type::f32 ? 4 : type == Type::f16 ? 2 : 1;
    memory.emplace_back(count * width);
    char* data = memory.back().data();
    for (long i = 0; i < count; ++i) {
      const float x = number() * size;
      const auto half = static_cast<std::uint16_t>((draw() & 0x83ff) | 0x2800);  // 0.03 to 0.06
      const char byte = static_cast<char>(draw() >> 4);
      std::memcpy(data + i * width, type == Type::f32   ? static_cast<const void*>(&x)
                                    : type == Type::f16 ? static_cast<const void*>(&half)
                                                        : &byte, width);
    }
    tensors[name] = {data, type, std::move(shape)};
  }

  void matrix(const std::string& name, Type type, long out, long in) {
    const float size = 1 / __builtin_sqrtf(static_cast<float>(in));
    if (!is_integer(type)) return add(name, type, {out, in}, size);
    const long blocks = (in + kBlock - 1) / kBlock;
    const bool bytes = type == Type::i8 || name == "emb.weight";
    add(name, bytes ? Type::i8 : type, {out, bytes ? in : blocks * kBlock / 2}, 1);
    for (long i = 0; !bytes && i < out * (blocks * kBlock - in); ++i) {  // the last blocks' filling
      const long o = i % out, k = in + i / out;
      char& halves = memory.back()[(o * blocks + k / kBlock) * kBlock / 2 + k % (kBlock / 2)];
      halves = static_cast<char>(halves & (k % kBlock < kBlock / 2 ? 0xf0 : 0x0f));
    }
    add(name + ".scale", Type::f32, {out}, size / (bytes ? 127 : 8 * kMaxFactor));
    if (bytes) return;
    add(name + ".factor", type, {out, blocks}, 1);
    for (char& factor : memory.back()) factor &= kMaxFactor;
  }
};

void run(const Dims& d, Type type, int threads, const std::string& set) {
  seed = 1;
  Weights w;
  w.memory.reserve(1000);
  const Type small = is_integer(type) ? Type::i8 : type;
  w.matrix("emb.weight", type, d.n_vocab, d.d_model);
  w.matrix("head.weight", type, d.n_vocab, d.d_model);
  for (const char* end : {".weight", ".bias"}) w.add(std::string("ln_out") + end, Type::f32, {d.d_model}, 1);
  for (long i = 0; i < d.n_layer; ++i) {
    const std::string block = "blocks." + std::to_string(i) + ".", att = block + "att.";
    for (const char* name : {"ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "ffn.x_k", "att.x_r",
                             "att.x_w", "att.x_k", "att.x_v", "att.x_a", "att.x_g", "att.w0", "att.a0",
                             "att.v0", "att.k_k", "att.k_a", "att.r_k", "att.ln_x.weight",
                             "att.ln_x.bias"})
      w.add(block + name, Type::f32, {d.d_model}, 1);
    for (const char* name : {"receptance", "key", "value", "output"})
      w.matrix(att + name + ".weight", type, d.d_model, d.d_model);
    w.matrix(block + "ffn.key.weight", type, d.d_ffn, d.d_model);
    w.matrix(block + "ffn.value.weight", type, d.d_model, d.d_ffn);
    const std::pair<const char*, long> ranks[] = {
        {"w", d.rank_w}, {"a", d.rank_a}, {"v", d.rank_v}, {"g", d.rank_g}};
    for (const auto& [letter, rank] : ranks) {
      w.add(att + letter + "1", small, {d.d_model, rank}, 0.1f);
      w.add(att + letter + "2", small, {rank, d.d_model}, 0.1f);
      w.add(att + letter + "1.scale", Type::f32, {rank}, 0.001f);
      w.add(att + letter + "2.scale", Type::f32, {d.d_model}, 0.001f);
    }
  }
  Model model(d, w.tensors, threads, set);
  for (long batch : {1, 3}) {
    const long n_tokens = 70;
    std::vector<std::int64_t> ids(batch * n_tokens);
    for (auto& id : ids) id = draw() % d.n_vocab;
    std::vector<float> shift(batch * d.n_layer * 2 * d.d_model);
    std::vector<float> wkv(batch * d.n_layer * d.d_model * d.head_size);
    std::vector<float> logits(batch * n_tokens * d.n_vocab);
    model.forward({ids.data(), batch, n_tokens, shift.data(), wkv.data(), logits.data(), true});
    std::uint64_t hash = 1469598103934665603u;
    for (const auto* values : {&shift, &wkv, &logits})
      for (float value : *values) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
      }
    std::printf("%ld %ld %d %ld: %016llx %.6f\n", d.d_model, d.head_size, static_cast<int>(type),
                batch, static_cast<unsigned long long>(hash), logits.back());
  }
}

}  // namespace

int main(int argc, char** argv) {  // the instruction set, or none for every one that runs here
  for (const std::string& set : argc > 1 ? std::vector<std::string>{argv[1]} : instruction_sets())
    for (Type type : {Type::f32, Type::f16, Type::i8, Type::i4})
      for (const Dims& d : {Dims{3, 60, 37, 20, 101, 7, 3, 1, 13}, Dims{1, 16, 5, 16, 16, 1, 1, 1, 1},
                            Dims{2, 128, 64, 128, 512, 32, 24, 16, 40},
                            Dims{2, 192, 130, 64, 300, 32, 32, 32, 64}})
        run(d, type, 2, set);
}

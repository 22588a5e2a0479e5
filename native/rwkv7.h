// RWKV-7 inference: (weights, states, ids) -> logits. Knows numbers only; opens no file.
//
// Letters: L layers, D model width, V vocabulary, H heads of N channels, F hidden width of the
// channel mix; r w k v a g as in the paper; S the state of one head, transposed: [N key, N value].
#pragma once

#include <atomic>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels.h"
#include "threads.h"

namespace anser {

struct Dims {
  long n_layer, d_model, n_vocab, head_size, d_ffn, rank_w, rank_a, rank_v, rank_g;
  long n_head() const { return d_model / head_size; }
};

struct Tensor {  // C order, owned by the caller
  const void* data;
  Type type;
  std::vector<long> shape;
};

using Tensors = std::unordered_map<std::string, Tensor>;  // official names

// B sequences of T ids. The states are updated in place: shift [B, L, 2, D], wkv [B, L, H, N, N].
struct Batch {
  const std::int64_t* ids;  // [B, T], each in [0, V)
  long n_sequences, n_tokens;
  float* shift;
  float* wkv;
  float* logits;    // [B, T, V], or [B, V] after the last token
  bool every_token;  // which of the two
};

// Names of the instruction sets compiled in that this processor runs, best first.
std::vector<std::string> instruction_sets();

class Model {
 public:
  // Packs the weights; emb.weight is read in place later. Throws std::invalid_argument that names
  // the tensor which is missing or of a wrong shape or type.
  Model(const Dims& dims, const Tensors& tensors, int n_threads, const std::string& instructions);
  ~Model();

  // Allocates only when B grows beyond what was seen. Calls of several threads take turns.
  void forward(const Batch& batch);

  const Dims& dims() const { return dims_; }
  const char* instructions() const { return kernels_->name; }

 private:
  class Arena;
  class Loader;
  struct Layer;
  struct Rows;
  using Read = std::pair<const Matrix*, float*>;  // what multiplies rows, and the rows

  Batch sequences(Batch batch, long first, long count) const;
  void read(const Batch& batch, Rows& rows);
  void embed(const Batch& batch, const Rows& rows);
  void time_mix(long layer, const Batch& batch, Rows& rows);
  void head(long layer, long head, const Batch& batch, const Rows& rows);
  void channel_mix(long layer, const Batch& batch, const Rows& rows);
  void read_out(const Batch& batch, Rows& rows);
  void mix(const float* ln, const float* states, const float* mixes,
           std::initializer_list<const Matrix*> readers, const Rows& rows);
  void shift(float* states, const Rows& rows);
  void quantize(std::initializer_list<Read> reads, const Rows& rows);
  template <class Make, class Also>
  void multiply(const Make& make, std::initializer_list<Product> products, const Rows& rows,
                const Also& also);
  template <class Also>
  void add_product(const Matrix& matrix, float* from, const Rows& rows, const Also& also);

  Dims dims_;
  const Kernels* kernels_;
  Pool pool_;
  std::mutex turn_;
  std::unique_ptr<Arena> memory_;  // owns what the pointers below point to
  Tensor embedding_{};
  const float* embedding_scale_ = nullptr;
  const float *ln0_ = nullptr, *ln_out_ = nullptr;  // weight [padded(D)], then bias
  std::vector<Layer> layers_;
  Matrix head_;
  std::vector<long> next_head_;  // of the same thread: another's must stay in that one's cache
  std::vector<float> scratch_;
  std::vector<std::atomic<long>> reached_;  // up to which token each layer's states have come
};

}  // namespace anser

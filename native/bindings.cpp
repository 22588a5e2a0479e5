// The only file that knows Python: checks the arrays, then calls the model without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "rwkv7.h"

namespace nb = nanobind;

namespace {

using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const std::int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <int n>
using Floats = nb::ndarray<float, nb::ndim<n>, nb::c_contig, nb::device::cpu>;

anser::Type type_of(const std::string& name, const AnyArray& array) {
  if (array.dtype() == nb::dtype<float>()) return anser::Type::f32;
  if (array.dtype() == nb::dtype<std::int8_t>()) return anser::Type::i8;
  if (array.dtype() == nb::dtype<std::uint8_t>()) return anser::Type::i4;  // or their factors
  if (array.dtype() == nb::dlpack::dtype{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float),
                                         16, 1})
    return anser::Type::f16;
  throw std::invalid_argument("tensor '" + name + "' is not float32, float16, int8 or uint8");
}

// The model, and the array that it reads in place.
class Engine {
 public:
  Engine(const anser::Dims& dims, const nb::dict& arrays, int n_threads,
         const std::string& instructions) {
    if (n_threads < 1 || n_threads > 1024)
      throw std::invalid_argument("threads: expected 1 to 1024");
    anser::Tensors tensors;
    std::vector<AnyArray> alive;  // until the model is made
    for (const auto& [key, value] : arrays) {
      const std::string name = nb::cast<std::string>(key);
      AnyArray array;
      if (!nb::try_cast(value, array, false))
        throw std::invalid_argument("tensor '" + name + "' is not an array in C order");
      anser::Tensor tensor{array.data(), type_of(name, array), {}};
      for (std::size_t i = 0; i < array.ndim(); ++i)
        tensor.shape.push_back(static_cast<long>(array.shape(i)));
      tensors.emplace(name, tensor);
      alive.push_back(array);
      if (name == "emb.weight") embedding_ = array;
    }
    const nb::gil_scoped_release released;
    model_ = std::make_unique<anser::Model>(dims, tensors, n_threads, instructions);
  }

  void forward(const Ids& ids, const Floats<4>& shift, const Floats<5>& wkv,
               const Floats<3>& logits) {
    const anser::Dims& d = model_->dims();
    const long n = static_cast<long>(ids.shape(0)), t = static_cast<long>(ids.shape(1));
    expect("shift", shift, {n, d.n_layer, 2, d.d_model});
    expect("wkv", wkv, {n, d.n_layer, d.n_head(), d.head_size, d.head_size});
    const bool every = t > 1 && static_cast<long>(logits.shape(1)) == t;
    expect("logits", logits, {n, every ? t : 1, d.n_vocab});
    if (n == 0 || t == 0)
      throw std::invalid_argument("ids: expected at least one token, found shape (" +
                                  std::to_string(n) + ", " + std::to_string(t) + ").");
    for (long i = 0; i < n * t; ++i)
      if (const std::int64_t id = ids.data()[i]; id < 0 || id >= d.n_vocab)
        throw std::invalid_argument("ids: expected 0 to " + std::to_string(d.n_vocab - 1) +
                                    ", found " + std::to_string(id) + ".");
    const nb::gil_scoped_release released;
    model_->forward({ids.data(), n, t, shift.data(), wkv.data(), logits.data(), every});
  }

  std::string instructions() const { return model_->instructions(); }

 private:
  template <class Array>
  static void expect(const char* name, const Array& array, std::initializer_list<long> shape) {
    std::size_t axis = 0;
    for (long size : shape)
      if (static_cast<long>(array.shape(axis++)) != size)
        throw std::invalid_argument(std::string(name) + ": axis " + std::to_string(axis - 1) +
                                    " has " + std::to_string(array.shape(axis - 1)) +
                                    " elements, expected " + std::to_string(size));
  }

  AnyArray embedding_;
  std::unique_ptr<anser::Model> model_;
};

}  // namespace

NB_MODULE(_engine, m) {
  m.doc() = "RWKV-7 inference: (weights, states, ids) -> logits.";
  m.def("instruction_sets", &anser::instruction_sets);
  nb::class_<Engine>(m, "Model")
      .def(
          "__init__",
          [](Engine* self, const std::vector<long>& sizes, const nb::dict& tensors, int n_threads,
             const std::string& instructions) {
            if (sizes.size() != 9) throw std::invalid_argument("sizes: expected nine");
            for (long size : sizes)
              if (size < 1) throw std::invalid_argument("sizes: expected positive numbers");
            new (self) Engine({sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5],
                               sizes[6], sizes[7], sizes[8]},
                              tensors, n_threads, instructions);
          },
          nb::arg("sizes"), nb::arg("tensors"), nb::arg("n_threads"), nb::arg("instructions") = "")
      .def("forward", &Engine::forward, nb::arg("ids").noconvert(), nb::arg("shift").noconvert(),
           nb::arg("wkv").noconvert(), nb::arg("logits").noconvert())
      .def_prop_ro("instructions", &Engine::instructions);
}

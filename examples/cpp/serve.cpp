// Runs a network that Python exported (export.py) without Python, and compares what it returns.
//
//   serve _C.so network.pt2 batches.pt

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

namespace {

// What Python saved: pairs of images and logits.
c10::List<c10::IValue> read_batches(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string("cannot read ") + path);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  return torch::pickle_load(bytes).toList();
}

// The library registers the operators with libtorch, which this program has loaded.
void load_operators(const char* path) {
  if (!dlopen(path, RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 4) {
    std::cerr << "usage: serve _C.so network.pt2 batches.pt\n";
    return 2;
  }
  load_operators(arguments[1]);
  torch::inductor::AOTIModelPackageLoader network(arguments[2]);
  bool equal = true;
  for (const c10::IValue batch : read_batches(arguments[3])) {
    const auto pair = batch.toTupleRef().elements();
    const torch::Tensor images = pair[0].toTensor(), expected = pair[1].toTensor();
    const torch::Tensor logits = network.run({images}).at(0);
    const double difference = (logits - expected).abs().max().item<double>();
    std::cout << images.sizes() << " -> " << logits.sizes() << ", largest difference from Python "
              << difference << "\n";
    equal = equal && torch::allclose(logits, expected, 1e-5, 1e-6);
  }
  return equal ? EXIT_SUCCESS : EXIT_FAILURE;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return EXIT_FAILURE;
}

#include "launches/driver.h"

#if defined(__linux__)
#include <dlfcn.h>
#endif

#include <atomic>
#include <stdexcept>

namespace mpk::launches {
namespace {

#if defined(__linux__)

template <class Function>
bool find(Function*& function, void* library, const char* name) {
  function = library ? reinterpret_cast<Function*>(dlsym(library, name)) : nullptr;
  return function != nullptr;
}

bool find_all(Driver& driver, const char* libcuda) {
  void* library = dlopen(libcuda, RTLD_LAZY);
  return find(driver.launch, library, "cuLaunchKernelEx") &&
         find(driver.context, library, "cuCtxGetCurrent") &&
         find(driver.make_current, library, "cuCtxSetCurrent") &&
         find(driver.primary_context, library, "cuDevicePrimaryCtxRetain");
}

int32_t default_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

Driver* installed() {
  auto* found = new Driver;
  if (!find_all(*found, "libcuda.so.1")) found->why_not = "libcuda.so.1 has no cuLaunchKernelEx";
  // Loaded with any CUDA build of torch; its names are not visible to all.
  void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (!find(found->stream, torch_cuda, "aoti_torch_get_current_cuda_stream"))
    found->why_not = "torch has no aoti_torch_get_current_cuda_stream";
  return found;
}

Driver* emulated(const std::string& path) {
  auto* found = new Driver;
  if (!find_all(*found, path.c_str()))
    throw std::runtime_error("mpkernels: " + path + " has no cuLaunchKernelEx");
  found->stream = &default_stream;
  return found;
}

#else

Driver* installed() {
  auto* none = new Driver;
  none->why_not = "only Linux has CUDA tensors";
  return none;
}

Driver* emulated(const std::string&) { throw std::runtime_error(installed()->why_not); }

#endif

// Never freed: another thread may be launching.
std::atomic<const Driver*> emulation{nullptr};

}  // namespace

const Driver& driver() {
  if (const Driver* other = emulation.load(std::memory_order_acquire)) return *other;
  static const Driver* const found = installed();
  return *found;
}

void ensure_context(int32_t device) {
  const Driver& cuda = driver();
  void* context = nullptr;
  if (cuda.context(&context) == 0 && context != nullptr) return;
  if (cuda.primary_context(&context, device) != 0 || cuda.make_current(context) != 0)
    throw std::runtime_error("mpkernels: device " + std::to_string(device) + " has no context");
}

void emulate(const std::string& library) {
  emulation.store(emulated(library), std::memory_order_release);
}

}  // namespace mpk::launches

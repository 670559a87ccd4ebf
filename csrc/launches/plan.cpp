#include "launches/plan.h"

#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "launches/driver.h"

namespace mpk::launches {
namespace {

class Reader {
 public:
  explicit Reader(const std::vector<int64_t>& said) : said_(said) {}

  int64_t next() {
    if (at_ >= said_.size()) throw std::runtime_error("mpkernels: a plan ends too early");
    return said_[at_++];
  }
  std::vector<int64_t> list(int64_t count) {
    std::vector<int64_t> values;
    while (count-- > 0) values.push_back(next());
    return values;
  }
  Format format() {
    const auto dtype = int32_t(next());
    const int64_t itemsize = next(), dims = next();
    std::vector<int64_t> sizes = list(dims);
    return {dtype, itemsize, std::move(sizes), list(dims)};
  }
  Place place() {
    const int64_t of = next(), index = next();
    return {Place::Of(of), index, next()};
  }
  Parameter parameter() {
    if (next() != 0) return {true, place(), 0};
    return {false, {}, uint64_t(next())};
  }
  Step step() {
    Step step{.is_launch = next() != 0, .launch = {}, .copy = {}};
    if (!step.is_launch) {
      step.copy = {.to = place(), .from = place(), .to_format = format(), .from_format = format()};
      return step;
    }
    Launch& launch = step.launch;
    launch.kernel = reinterpret_cast<void*>(next());
    for (uint32_t& extent : launch.grid) extent = uint32_t(next());
    launch.threads = uint32_t(next());
    launch.shared_bytes = uint32_t(next());
    launch.overlaps = next() != 0;
    for (int64_t left = next(); left > 0; left--) launch.parameters.push_back(parameter());
    return step;
  }

 private:
  const std::vector<int64_t>& said_;
  size_t at_ = 0;
};

int64_t bytes_of(const Format& format) {
  int64_t elements = 1;
  for (size_t d = 0; d < format.sizes.size(); d++)
    elements += (format.sizes[d] - 1) * format.strides[d];
  return elements * format.itemsize;
}

Handle allocate(const Format& format, const Device& device) {
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_empty_strided(int64_t(format.sizes.size()), format.sizes.data(),
                               format.strides.data(), format.dtype, device.type, device.index,
                               &handle) != AOTI_TORCH_SUCCESS)
    // In the words of torch's allocator, by which tools know that a smaller batch may help.
    throw std::runtime_error("mpkernels: CUDA out of memory. Tried to allocate " +
                             std::to_string(bytes_of(format)) + " bytes");
  return Handle(handle);
}

char* address_of(const Handle& tensor) {
  const void* data = nullptr;
  check(torch_get_const_data_ptr(tensor.get(), &data));
  return static_cast<char*>(const_cast<void*>(data));
}

// Where the memory of one call lies.
struct Memory {
  std::vector<char*> addresses;  // of the arguments, then of the outputs
  size_t arguments;
  char* scratch = nullptr;

  char* at(const Place& place) const {
    const size_t index = size_t(place.index);
    if (place.of == Place::Of::scratch) return scratch + place.offset;
    return addresses[place.of == Place::Of::output ? arguments + index : index] + place.offset;
  }
};

torch::stable::Tensor view(const Memory& memory, const Place& place, const Format& format,
                           const Device& device) {
  AtenTensorHandle handle = nullptr;
  check(aoti_torch_create_tensor_from_blob(memory.at(place), int64_t(format.sizes.size()),
                                           format.sizes.data(), format.strides.data(), 0,
                                           format.dtype, device.type, device.index, &handle));
  return torch::stable::Tensor(handle);
}

void launch(const Launch& step, const Memory& memory, void* stream) {
  constexpr size_t most = 128;
  STD_TORCH_CHECK(step.parameters.size() <= most, "a kernel takes up to 128 parameters");
  uint64_t values[most];
  void* parameters[most];
  for (size_t p = 0; p < step.parameters.size(); p++) {
    const Parameter& parameter = step.parameters[p];
    values[p] = parameter.address ? reinterpret_cast<uint64_t>(memory.at(parameter.place))
                                  : parameter.value;
    parameters[p] = &values[p];
  }
  Attribute attribute{};
  attribute.id = programmatic_stream_serialization;
  attribute.programmatic_stream_serialization = 1;
  const Configuration configuration{
      .grid = {step.grid[0], step.grid[1], step.grid[2]},
      .block = {step.threads, 1, 1},
      .shared_bytes = step.shared_bytes,
      .stream = stream,
      .attributes = &attribute,
      .attribute_count = step.overlaps ? 1u : 0u,
  };
  const int32_t error = driver().launch(&configuration, step.kernel, parameters, nullptr);
  if (error != 0)
    throw std::runtime_error("mpkernels: CUDA error " + std::to_string(error) +
                             " at the launch of a kernel");
}

// The device of the tensors, current as long as this lives, and its stream.
class OnDevice {
 public:
  explicit OnDevice(const Device& device) {
    if (device.is_cuda()) guard_.emplace(device.index);  // else it is emulated: see driver.h
    ensure_context(device.is_cuda() ? device.index : 0);
    check(driver().stream(device.index, &stream_));
  }
  void* stream() const { return stream_; }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  void* stream_ = nullptr;
};

}  // namespace

Plan::Plan(const std::vector<int64_t>& said) {
  Reader reader(said);
  for (int64_t left = reader.next(); left > 0; left--) outputs_.push_back(reader.format());
  scratch_bytes_ = reader.next();
  for (int64_t left = reader.next(); left > 0; left--) steps_.push_back(reader.step());
}

std::vector<Handle> Plan::run(std::vector<char*> addresses, const Device& device) const {
  const OnDevice on(device);
  const size_t arguments = addresses.size();
  Memory memory{.addresses = std::move(addresses), .arguments = arguments};
  memory.addresses.reserve(arguments + outputs_.size());
  std::vector<Handle> outputs;
  outputs.reserve(outputs_.size());
  for (const Format& format : outputs_) {
    outputs.push_back(allocate(format, device));
    memory.addresses.push_back(address_of(outputs.back()));
  }
  // One block for all that only the kernels of this call see; the stream keeps it until they end.
  Handle scratch;
  if (scratch_bytes_ > 0) {
    scratch = allocate({aoti_torch_dtype_uint8(), 1, {scratch_bytes_}, {1}}, device);
    memory.scratch = address_of(scratch);
  }
  for (const Step& step : steps_) {
    if (step.is_launch) {
      launch(step.launch, memory, on.stream());
    } else {
      torch::stable::Tensor to = view(memory, step.copy.to, step.copy.to_format, device);
      torch::stable::copy_(to, view(memory, step.copy.from, step.copy.from_format, device));
    }
  }
  return outputs;
}

}  // namespace mpk::launches

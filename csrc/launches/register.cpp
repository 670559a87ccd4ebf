// The operators' kernels for CUDA tensors: each call runs the plan of its geometry.
//
// A call without a plan asks Python for one, which knows the launch rule and compiles. Python runs
// by itself what it cannot plan.
#include <atomic>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "forced.h"
#include "launches/call.h"
#include "launches/driver.h"

namespace mpk::launches {
namespace {

using Key = std::vector<int64_t>;

struct Hash {
  size_t operator()(const Key& key) const {
    uint64_t hash = key.size();
    for (const int64_t value : key) {
      hash = (hash ^ uint64_t(value)) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 32;
    }
    return hash;
  }
};

// Which calls take plans at all; tools that watch Python's launches say no.
std::atomic<bool> following{true};

// The plans of one operator, null where Python runs the call.
class Plans {
 public:
  // Beyond it all are forgotten: as many shapes are no workload that repeats itself.
  static constexpr size_t most = 1024;

  bool find(const Key& key, std::shared_ptr<const Plan>& plan) const {
    const std::shared_lock lock(mutex_);
    const auto found = plans_.find(key);
    if (found == plans_.end()) return false;
    plan = found->second;
    return true;
  }
  // Unless the plans were forgotten since `age`.
  void keep(const Key& key, std::shared_ptr<const Plan> plan, int64_t age) {
    const std::unique_lock lock(mutex_);
    if (age != age_) return;
    if (plans_.size() >= most) plans_.clear();
    plans_.emplace(key, std::move(plan));
  }
  int64_t age() const {
    const std::shared_lock lock(mutex_);
    return age_;
  }
  int64_t forget() {
    const std::unique_lock lock(mutex_);
    const auto count = int64_t(plans_.size());
    plans_.clear();
    age_++;
    return count;
  }

 private:
  mutable std::shared_mutex mutex_;
  std::unordered_map<Key, std::shared_ptr<const Plan>, Hash> plans_;
  int64_t age_ = 0;
};

struct Operator {
  explicit Operator(std::string_view schema) : name(name_of(schema)), kinds(kinds_of(schema)) {
    all().push_back(this);
  }
  static std::vector<Operator*>& all() {
    static std::vector<Operator*> operators;
    return operators;
  }

  const std::string name;
  const std::vector<Kind> kinds;
  Plans plans;
};

// Python's answer: a plan; nothing if it cannot be made, or -1 if the arguments do not fit: Python
// then runs or refuses the call.
std::vector<int64_t> ask_python(const Operator& of, const Call& call) {
  StableListHandle key = nullptr;
  check(torch_new_list_reserve_size(call.key().size(), &key));
  for (const int64_t value : call.key())
    check(torch_list_push_back(key, torch::stable::detail::from(value)));
  StableIValue stack[] = {torch::stable::detail::from(of.name), torch::stable::detail::from(key)};
  if (torch_call_dispatcher("mpkernels::plan", "", stack, TORCH_ABI_VERSION) != AOTI_TORCH_SUCCESS)
    throw std::runtime_error("mpkernels." + of.name + ": no kernel is known for tensors of " +
                             call.shapes() + ", and there is no Python here that compiles one");
  std::vector<int64_t> said = Slot<std::vector<int64_t>>::own(stack[0]);
  if (said == std::vector<int64_t>{-2}) throw std::runtime_error(error_of_python());
  return said;
}

// The plan of a call, or null if Python is to run it; `unplanned` if it may be one to be refused.
std::shared_ptr<const Plan> plan_of(Operator& of, const Call& call, bool& unplanned) {
  std::shared_ptr<const Plan> plan;
  if (!following.load(std::memory_order_relaxed) || !driver().why_not.empty()) return plan;
  if (of.plans.find(call.key(), plan)) return plan;
  const int64_t age = of.plans.age();
  const std::vector<int64_t> said = ask_python(of, call);
  unplanned = said.size() == 1 && said[0] < 0;
  if (unplanned) return nullptr;
  if (!said.empty()) plan = std::make_shared<const Plan>(said);
  of.plans.keep(call.key(), plan, age);
  return plan;
}

template <Name schema>
Operator& operator_of() {
  static Operator of(schema.text);
  return of;
}

template <Name schema>
void planned(StableIValue* stack, uint64_t, uint64_t) {
  Operator& of = operator_of<schema>();
  Call call(of.kinds, stack);
  bool unplanned = false;
  if (!forcing.load(std::memory_order_relaxed) ||
      may_run(of.name, call.device().is_cuda() ? "cuda" : "cpu")) {
    if (const std::shared_ptr<const Plan> plan = plan_of(of, call, unplanned)) {
      std::vector<Handle> outputs = plan->run(call.addresses(), call.device());
      StableListHandle handle = nullptr;
      check(torch_new_list_reserve_size(outputs.size(), &handle));
      for (Handle& output : outputs)
        check(torch_list_push_back(handle, torch::stable::detail::from(output.release())));
      stack[0] = torch::stable::detail::from(handle);
      return;
    }
  }
  const int64_t age = of.plans.age();
  call.release(stack);
  run_in_python(of.name, stack);
  if (unplanned)
    of.plans.keep(call.key(), nullptr, age);  // Python can run it: it is not asked again
}

using torch::stable::detail::StableLibrary;

void register_for(const char* key) {
  // Lives as long as the process, as its kernels do.
  static std::vector<std::unique_ptr<StableLibrary>> libraries;
  libraries.push_back(std::make_unique<StableLibrary>(StableLibrary::Kind::IMPL, "mpkernels", key,
                                                      "csrc/launches/register.cpp", __LINE__));
#define OPERATOR(schema) libraries.back()->impl(name_of(schema).c_str(), &planned<schema>);
#include "../mpkernels/ops/schemas.def"
#undef OPERATOR
}

// Whether calls follow plans from now on; returns whether they did.
bool follow_plans(bool on) { return following.exchange(on); }

// Forgets all plans, and returns how many there were: the launch rule has changed.
int64_t forget_plans() {
  int64_t count = 0;
  for (Operator* of : Operator::all()) count += of->plans.forget();
  return count;
}

// Launches go to an emulation of libcuda, for tests and measurements without a GPU.
bool emulate_driver(std::string library) {
  emulate(library);
  register_for("CPU");
  return true;
}

}  // namespace
}  // namespace mpk::launches

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels, library) {
  library.def("plan(str name, int[] call) -> int[]");
  library.def("follow_plans(bool on) -> bool");
  library.def("forget_plans() -> int");
  library.def("emulate_driver(str library) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CompositeExplicitAutograd, library) {
  library.impl("follow_plans", &mpk::boxed<&mpk::launches::follow_plans>);
  library.impl("forget_plans", &mpk::boxed<&mpk::launches::forget_plans>);
  library.impl("emulate_driver", &mpk::boxed<&mpk::launches::emulate_driver>);
}

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CUDA, library) {
  // Made here, before there are threads.
#define OPERATOR(schema)                \
  mpk::launches::operator_of<schema>(); \
  library.impl(mpk::launches::name_of(schema).c_str(), &mpk::launches::planned<schema>);
#include "../mpkernels/ops/schemas.def"
#undef OPERATOR
}

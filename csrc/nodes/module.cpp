// mpkernels._nodes: operators called from Python past everything that nobody needs to see, with
// their autograd nodes in C++. Built against one torch, beside which alone it is loaded.
#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/python_variable.h>

#include "nodes/operator.h"
#include "nodes/python.h"

namespace mpk::nodes {
namespace {

// Whether a transform, mode, tracer or autocast may have to see a call. Each of them, except
// forward mode and modes of functions, includes a key of the dispatcher in this thread, or no
// longer excludes one. So does inference mode, which sees nothing.
bool something_above() {
  c10::impl::LocalDispatchKeySet keys = c10::impl::tls_local_dispatch_key_set();
  if (c10::InferenceMode::is_enabled()) {
    keys.included_ = keys.included_.add(c10::DispatchKey::ADInplaceOrView);
    keys.excluded_ = keys.excluded_ - c10::autograd_dispatch_keyset;
  }
  return keys.included_ != c10::default_included_set ||
         keys.excluded_ != c10::default_excluded_set || at::impl::torch_function_mode_enabled() ||
         torch::autograd::ForwardADLevel::try_get_by_idx(0) ||
         forcing.load(std::memory_order_relaxed);
}

// Takes the arguments of a call over; each `add` is false where Python has to look at them.
class Reader {
 public:
  explicit Reader(Arguments& arguments) : to_(arguments) {}

  bool add(Kind kind, PyObject* value) {
    switch (kind) {
      case Kind::tensor:
        return add(value);
      case Kind::tensors:
      case Kind::optional_tensors:
        return add_list(value, kind == Kind::optional_tensors);
      case Kind::number:
        return add_number(value);
      case Kind::flag:
        if (!PyBool_Check(value)) return false;
        to_.form.push_back(value == Py_True);
        return true;
    }
    return false;
  }

 private:
  bool add(PyObject* value) {
    if (++count_ > Operator::most || !THPVariable_CheckExact(value)) return false;
    const at::Tensor& t = THPVariable_Unpack(value);
    if (!t.is_cpu() && !t.is_cuda()) return false;
    // A wrapper that a transform has left when it ended: Python unwraps it.
    if (t.key_set().has(c10::DispatchKey::FuncTorchGradWrapper)) return false;
    to_.tensors.push_back(t);
    return true;
  }

  bool add_number(PyObject* value) {
    int overflow = 0;
    if (!PyLong_CheckExact(value)) return false;
    to_.form.push_back(PyLong_AsLongLongAndOverflow(value, &overflow));
    return overflow == 0;
  }

  bool add_list(PyObject* value, bool optional) {
    if (!PyList_CheckExact(value) && !PyTuple_CheckExact(value)) return false;
    const Py_ssize_t length = PySequence_Fast_GET_SIZE(value);
    PyObject* const* items = PySequence_Fast_ITEMS(value);
    int64_t present = 0;
    to_.form.push_back(length);
    for (Py_ssize_t q = 0; q < length; q++) {
      if (optional && items[q] == Py_None && ++count_ <= Operator::most) continue;
      if (!add(items[q])) return false;
      present |= int64_t(1) << q;
    }
    if (optional) to_.form.push_back(present);
    return true;
  }

  Arguments& to_;
  int64_t count_ = 0;
};

bool read(const Operator& of, PyObject* const* values, Py_ssize_t count, Arguments& arguments) {
  if (count != Py_ssize_t(of.kinds.size())) return false;
  arguments.tensors.reserve(16);
  arguments.form.reserve(8);
  Reader reader(arguments);
  for (size_t at = 0; at < of.kinds.size(); at++)
    if (!reader.add(of.kinds[at], values[at])) return false;
  return true;
}

bool is_recorded(const Arguments& arguments) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor& t : arguments.tensors)
    if (t.requires_grad()) return true;
  return false;
}

// The outputs as a list, or None where the call has to take another way.
PyObject* call(PyObject* operator_, PyObject* const* values, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const auto& of = *static_cast<const Operator*>(PyCapsule_GetPointer(operator_, nullptr));
  Arguments arguments;
  if (something_above() || !read(of, values, count, arguments)) Py_RETURN_NONE;
  const bool recorded = is_recorded(arguments);
  if (recorded && !of.routed) Py_RETURN_NONE;
  std::vector<at::Tensor> outputs;
  {
    const py::gil_scoped_release released;
    outputs = recorded ? of.record(arguments) : of.compute(arguments);
  }
  py::list list(outputs.size());
  for (size_t at = 0; at < outputs.size(); at++)
    PyList_SET_ITEM(list.ptr(), Py_ssize_t(at), THPVariable_Wrap(std::move(outputs[at])));
  return list.release().ptr();
  END_HANDLE_TH_ERRORS
}

PyMethodDef method{"call", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call)),
                   METH_FASTCALL, "The operator's outputs, or None: then Python has to run it."};

// Lives as long as the process, as the operator does.
py::object declare(const std::string& name, bool routed, int64_t kept, int64_t hidden) {
  const py::capsule operator_(new Operator(name, routed, kept, hidden));
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, operator_.ptr()));
}

}  // namespace
}  // namespace mpk::nodes

PYBIND11_MODULE(_nodes, module) {
  using namespace mpk::nodes;
  module.doc() = "Operators as Python calls them, with autograd nodes in C++.";
  module.def("declare", &declare, py::arg("name"), py::arg("routed"), py::arg("kept"),
             py::arg("hidden"), "What calls an operator of torch.ops.mpkernels.");
  module.def(
      "force", [](bool on) { forcing.store(on, std::memory_order_relaxed); },
      "Says whether a backend is forced anywhere from now on.");
  module.def(
      "ask",
      [](py::object thread_runs, py::object raise_as_it_was) {
        python() = {std::move(thread_runs), std::move(raise_as_it_was)};
      },
      "Says how this thread runs a backend, and how errors of Python are raised again.");
}

// What the nodes ask of Python: the backend in force, and its own errors.
#pragma once

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include <atomic>
#include <exception>

namespace mpk::nodes {

// Whether any thread, or the process, has a backend other than "auto".
inline std::atomic<bool> forcing{false};

// Of mpkernels/ops: `thread_runs`, and `raise_as_it_was`. They live as long as the process.
struct Python {
  py::object thread_runs, raise_as_it_was;
};
inline Python& python() {
  static auto* const python = new Python;
  return *python;
}

// In its scope this thread runs the backend of what has a node here, which is "auto".
class AsRecorded {
 public:
  AsRecorded() {
    if (!forcing.load(std::memory_order_relaxed)) return;
    const py::gil_scoped_acquire held;
    context_ = python().thread_runs("auto");
    context_.attr("__enter__")();
  }
  AsRecorded(const AsRecorded&) = delete;
  AsRecorded& operator=(const AsRecorded&) = delete;
  ~AsRecorded() {
    if (!context_) return;
    const py::gil_scoped_acquire held;
    context_.attr("__exit__")(py::none(), py::none(), py::none());
    context_ = py::object();
  }

 private:
  py::object context_;
};

// Errors that came through C++ as text are thrown as the exceptions that Python had raised.
template <class Function>
auto with_errors_of_python(Function function) {
  std::string text;
  try {
    return function();
  } catch (const py::error_already_set&) {
    throw;
  } catch (const python_error&) {
    throw;
  } catch (const c10::Error& error) {
    text = error.what_without_backtrace();
  } catch (const std::exception& error) {
    text = error.what();
  }
  const py::gil_scoped_acquire held;
  const py::object error = py::module_::import("builtins").attr("RuntimeError")(text);
  python().raise_as_it_was(error);
  PyErr_SetObject(PyExc_RuntimeError, error.ptr());
  throw py::error_already_set();
}

}  // namespace mpk::nodes

// What the nodes ask of Python: the backend in force, and its own errors.
#pragma once

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include <atomic>
#include <exception>
#include <typeinfo>

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

// Errors that came through C++ as text are thrown as the exceptions that Python had raised; those
// that are more than text pass as they are.
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
    if (typeid(error) != typeid(c10::Error)) throw;
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

// Runs `function` in this thread by the backend of what has a node here, which is "auto". Python
// may raise as its context is entered and left: Ctrl-C, for instance.
template <class Function>
auto as_recorded(Function function) {
  if (!forcing.load(std::memory_order_relaxed)) return with_errors_of_python(function);
  PyObject* context = nullptr;
  {
    const py::gil_scoped_acquire held;
    py::object entered = python().thread_runs("auto");
    entered.attr("__enter__")();
    context = entered.release().ptr();
  }
  const auto leave = [context] {
    py::reinterpret_steal<py::object>(context).attr("__exit__")(py::none(), py::none(), py::none());
  };
  std::exception_ptr failed;
  decltype(function()) result;
  try {
    result = with_errors_of_python(function);
  } catch (...) {
    failed = std::current_exception();
  }
  {
    const py::gil_scoped_acquire held;
    const py::error_scope kept;  // of an error that torch has set in this thread
    try {
      leave();
    } catch (py::error_already_set& error) {
      if (!failed) throw;
      error.discard_as_unraisable("mpkernels: leaving the backend of a backward");
    }
  }
  if (failed) std::rethrow_exception(failed);
  return result;
}

}  // namespace mpk::nodes

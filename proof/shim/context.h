// Fibers: contexts with their own stacks within one OS thread, announced to the sanitizers.
#pragma once

#include <ucontext.h>

#include <csetjmp>
#include <cstddef>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define SHIM_UNSEEN __attribute__((no_sanitize("thread"), noinline))
#elif defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SHIM_UNSEEN __attribute__((no_sanitize("address"), noinline))
#else
#define SHIM_UNSEEN
#endif

namespace shim {

// Order between fibers: what precedes `release` is visible after `acquire` of the same token.
#if defined(__SANITIZE_THREAD__)
inline void release(void* token) { __tsan_release(token); }
inline void acquire(void* token) { __tsan_acquire(token); }
#else
inline void release(void*) {}
inline void acquire(void*) {}
#endif

// A point to resume from. Without a sanitizer, jumps avoid the system call inside swapcontext.
struct Context {
  ucontext_t context;
  jmp_buf jump;
  bool started = false;
  void* known = nullptr;  // the sanitizer's handle of this fiber
  char* stack = nullptr;
  size_t size = 0;
};

#if defined(__SANITIZE_THREAD__)

inline void adopt(Context& here) { here.known = __tsan_get_current_fiber(); }
SHIM_UNSEEN inline void change(Context& from, Context& to) {
  if (!to.known) to.known = __tsan_create_fiber(0);
  __tsan_switch_to_fiber(to.known, __tsan_switch_to_fiber_no_sync);
  swapcontext(&from.context, &to.context);
}
inline void arrived(Context&) {}
inline void forget(Context& context) { __tsan_destroy_fiber(context.known); }

#elif defined(__SANITIZE_ADDRESS__)

inline Context* left = nullptr;
inline void adopt(Context&) {}
inline void arrived(Context& here) {
  const void* stack = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(here.known, &stack, &size);
  left->stack = static_cast<char*>(const_cast<void*>(stack));
  left->size = size;
}
SHIM_UNSEEN inline void change(Context& from, Context& to) {
  left = &from;
  __sanitizer_start_switch_fiber(&from.known, to.stack, to.size);
  swapcontext(&from.context, &to.context);
  arrived(from);
}
inline void forget(Context&) {}

#else

inline void adopt(Context& here) { here.started = true; }
inline void change(Context& from, Context& to) {
  if (_setjmp(from.jump)) return;
  if (to.started) _longjmp(to.jump, 1);
  to.started = true;
  setcontext(&to.context);
}
inline void arrived(Context&) {}
inline void forget(Context&) {}

#endif

inline void prepare(Context& context, void (*entry)(), char* stack, size_t size) {
  getcontext(&context.context);
  context.stack = stack;
  context.size = size;
  context.context.uc_stack.ss_sp = stack;
  context.context.uc_stack.ss_size = size;
  context.context.uc_link = nullptr;
  makecontext(&context.context, entry, 0);
}

}  // namespace shim

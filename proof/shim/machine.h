// Runs a kernel on a CPU: every GPU thread is a fiber, and one cluster of blocks runs at a time.
//
// Fibers switch only at barriers and shuffles, in an order that a seed shuffles. Shared memory
// starts as NaN and becomes NaN again when its block ends; asynchronous copies happen as late as
// possible, when a thread waits for them. A barrier that not all threads reach is reported instead
// of hanging. The order in which a GPU's memory sees accesses of different blocks without a barrier
// between them is not modelled; ThreadSanitizer sees which barriers order memory.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "context.h"
#include "faults.h"

namespace shim {

// `generation` counts completed meetings. Two tokens suffice: the next meeting may begin before all
// waiters of the last one have resumed, but the one after it may not.
struct Barrier {
  int expected = 0, arrived = 0;
  unsigned generation = 0;
  char tokens[2];
  float mail[2][32];  // values that lanes exchange in shuffles, per token
};

struct Copy {
  char* to;
  const char* from;
  int group;
};

struct Fiber {
  Context context;
  int block, thread;
  Barrier* waits = nullptr;
  unsigned until = 0;
  Site site{};
  bool ended = false;
  unsigned left = 0;    // generation of the cluster barrier when this thread left the cluster
  bool waited = false;  // until all others had left it too
  Copy* copies = nullptr;
  int pending = 0, done = 0, group = 0;
};

struct Block {
  char* memory = nullptr;
  int64_t index = 0;
  int live = 0;
  Barrier barrier;
  Barrier warps[32];
  char end_token;
};

// Bytes of global memory that a kernel may access, and how often it did.
struct Range {
  uintptr_t begin, end;
  uint8_t *reads, *writes;
};

struct Launch {
  int64_t blocks;
  int cluster, threads;
  size_t shared_bytes;
  unsigned seed;
  void (*body)(const void*);
  const void* arguments;
};

constexpr int most_fibers = 16 * 512;
constexpr size_t stack_bytes = 32768;
constexpr int most_ranges = 64;
// Each fiber of a launch gets a fresh stack: TSan would take a reused one for shared memory.
#if defined(__SANITIZE_THREAD__)
constexpr bool fresh_stacks = true;
#else
constexpr bool fresh_stacks = false;
#endif

inline Launch now;
inline Context scheduler;
inline Fiber* current;
inline Fiber* fibers;
inline Block blocks[16];
inline Barrier cluster_barrier;
inline char begin_token, end_token, left_token;
inline Range ranges[most_ranges];
inline int range_count;
inline char failure[512];

SHIM_UNSEEN inline void fail(const char* what, Site site) {
  if (!failure[0])
    std::snprintf(failure, sizeof failure, "%s (%s:%d, block %lld, thread %d)", what,
                  site.file ? site.file : "?", site.line,
                  (long long)(current ? blocks[current->block].index : -1),
                  current ? current->thread : -1);
}

// The scheduler resumes the fiber only after its barrier's generation has changed.
SHIM_UNSEEN inline void pause(Barrier& barrier, unsigned generation, Site site) {
  current->waits = &barrier;
  current->until = generation;
  current->site = site;
  change(current->context, scheduler);
}

SHIM_UNSEEN inline unsigned arrive_relaxed(Barrier& barrier) {
  const unsigned generation = barrier.generation;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    barrier.generation++;
  }
  return generation;
}

SHIM_UNSEEN inline unsigned arrive(Barrier& barrier) {
  release(&barrier.tokens[barrier.generation & 1]);
  return arrive_relaxed(barrier);
}

SHIM_UNSEEN inline void wait(Barrier& barrier, unsigned generation, Site site) {
  if (barrier.generation == generation || now.seed) pause(barrier, generation, site);
  acquire(&barrier.tokens[generation & 1]);
}

SHIM_UNSEEN inline void sync_cluster(Site site) {
  Barrier& barrier = cluster_barrier;
  wait(barrier, is_relaxed(site) ? arrive_relaxed(barrier) : arrive(barrier), site);
}

// A relaxed arrival: nothing is visible to others after it, but what this thread has read is read.
// So it comes before the end of the memory of the blocks that wait for it, and before nothing else.
SHIM_UNSEEN inline void leave_cluster() {
  release(&left_token);
  current->left = arrive_relaxed(cluster_barrier);
}

SHIM_UNSEEN inline void wait_cluster(Site site) {
  wait(cluster_barrier, current->left, site);
  current->waited = true;
}

SHIM_UNSEEN inline Barrier& warp_of(const Fiber& fiber) {
  return blocks[fiber.block].warps[fiber.thread / 32];
}

SHIM_UNSEEN inline void check_same_site(Site site) {
  for (int q = 0; q < now.threads; q++) {
    const Fiber& other = fibers[current->block * now.threads + q];
    if (&other != current && !other.ended && other.waits == &blocks[current->block].barrier &&
        other.until == blocks[current->block].barrier.generation && other.site.line != site.line)
      return fail("threads of a block wait at different barriers", site);
  }
}

SHIM_UNSEEN inline float exchange(float value, int lane, Site site) {
  Barrier& warp = warp_of(*current);
  const unsigned generation = warp.generation;
  warp.mail[generation & 1][current->thread % 32] = value;
  wait(warp, arrive(warp), site);
  return warp.mail[generation & 1][(current->thread % 32) ^ lane];
}

// Counts an access, which must lie within one registered range; without any range it does nothing.
SHIM_UNSEEN inline void touch(const void* at, size_t bytes, bool writes) {
  if (range_count == 0) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(at);
  for (int q = 0; q < range_count; q++) {
    const Range& range = ranges[q];
    if (address < range.begin || address + bytes > range.end) continue;
    uint8_t* counts = writes ? range.writes : range.reads;
    for (size_t byte = 0; byte < bytes; byte++)
      if (counts[address - range.begin + byte] < 255) counts[address - range.begin + byte]++;
    return;
  }
  fail(writes ? "writes outside of the tensors" : "reads outside of the tensors", {});
}

// The most 16-byte copies per thread: those that fill shared memory, and some for the incomplete
// last round of each tile.
SHIM_UNSEEN inline int most_copies() {
  return int(now.shared_bytes / 16 / size_t(now.threads)) + 16;
}

SHIM_UNSEEN inline void copy_later(void* to, const void* from) {
  Fiber& fiber = *current;
  if (fiber.pending == most_copies()) return fail("copies more than shared memory holds", {});
  fiber.copies[fiber.pending++] = {
      .to = static_cast<char*>(to), .from = static_cast<const char*>(from), .group = fiber.group};
}

SHIM_UNSEEN inline bool next_copy(int pending, Copy& copy) {
  Fiber& fiber = *current;
  if (fiber.done == fiber.pending || fiber.copies[fiber.done].group >= fiber.group - pending)
    return false;
  copy = fiber.copies[fiber.done++];
  return true;
}

// A block's memory ends with the block. A sanitizer sees this as a write, so a later access races.
__attribute__((noinline)) inline void end_block(char* memory) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(memory, now.shared_bytes);
#else
  std::memset(memory, 0xff, now.shared_bytes);
#endif
}

SHIM_UNSEEN inline bool leave_block() {
  Block& block = blocks[current->block];
  if (current->waited) acquire(&left_token);
  release(&block.end_token);
  current->ended = true;
  if (--block.live > 0) return false;
  acquire(&block.end_token);
  return true;
}

SHIM_UNSEEN inline void run_fiber() {
  arrived(current->context);
  acquire(&begin_token);
  now.body(now.arguments);
  if (leave_block()) end_block(blocks[current->block].memory);
  release(&end_token);
  change(current->context, scheduler);
}

SHIM_UNSEEN inline void check_guard(const char* memory) {
#if !defined(__SANITIZE_ADDRESS__)
  for (int q = 0; q < 64; q++)
    if (memory[now.shared_bytes + q] != 0x55) return fail("writes past its shared memory", {});
#endif
}

SHIM_UNSEEN inline char* shared_memory_of_block() {
#if defined(__SANITIZE_ADDRESS__)
  char* memory = static_cast<char*>(std::aligned_alloc(16, now.shared_bytes));
#else
  char* memory = static_cast<char*>(std::aligned_alloc(16, now.shared_bytes + 64));
  for (int q = 0; q < 64; q++) memory[now.shared_bytes + q] = 0x55;
#endif
  for (size_t byte = 0; byte < now.shared_bytes; byte++) memory[byte] = char(0xff);
  return memory;
}

SHIM_UNSEEN inline void start_cluster(int64_t first, char* stacks) {
  const int count = now.cluster * now.threads;
  cluster_barrier = Barrier{};
  cluster_barrier.expected = count;
  for (int b = 0; b < now.cluster; b++) {
    blocks[b] = Block{};
    blocks[b].memory = shared_memory_of_block();
    blocks[b].index = first + b;
    blocks[b].live = blocks[b].barrier.expected = now.threads;
    for (int w = 0; w < now.threads / 32; w++) blocks[b].warps[w].expected = 32;
  }
  for (int q = 0; q < count; q++) {
    fibers[q] = Fiber{};
    fibers[q].block = q / now.threads;
    fibers[q].thread = q % now.threads;
    fibers[q].copies = static_cast<Copy*>(std::malloc(sizeof(Copy) * size_t(most_copies())));
    prepare(fibers[q].context, run_fiber, stacks + q * stack_bytes, stack_bytes);
  }
}

SHIM_UNSEEN inline unsigned random_below(unsigned most) {
  now.seed = now.seed * 1664525u + 1013904223u;
  return (now.seed >> 8) % most;
}

// Resumes the fibers that can run, round by round, until all have ended. With a seed each round has
// a new order, and some blocks lag behind.
SHIM_UNSEEN inline void run_cluster() {
  const int count = now.cluster * now.threads;
  static int order[most_fibers];
  for (int q = 0; q < count; q++) order[q] = q;
  unsigned lagging = 0;
  for (bool ran = true; (ran || lagging) && !failure[0];) {
    for (int q = count - 1; now.seed && q > 0; q--) {
      const int other = int(random_below(unsigned(q + 1))), kept = order[q];
      order[q] = order[other];
      order[other] = kept;
    }
    lagging = ran && now.seed ? random_below(1u << now.cluster) : 0;
    ran = false;
    for (int q = 0; q < count && !failure[0]; q++) {
      Fiber& fiber = fibers[order[q]];
      if (fiber.ended || (fiber.waits && fiber.waits->generation == fiber.until)) continue;
      if (lagging >> fiber.block & 1) continue;
      fiber.waits = nullptr;
      current = &fiber;
      change(scheduler, fiber.context);
      ran = true;
    }
  }
  for (int q = 0; q < count; q++) {
    current = &fibers[q];
    if (!fibers[q].ended) fail("some threads never reach this barrier", fibers[q].site);
    forget(fibers[q].context);
    std::free(fibers[q].copies);
  }
  current = nullptr;
  for (int b = 0; b < now.cluster; b++) check_guard(blocks[b].memory);
}

// Returns null, or an error message.
SHIM_UNSEEN inline const char* run(const Launch& launch) {
  now = launch;
  now.shared_bytes -= taken_bytes;
  failure[0] = 0;
  const int64_t clusters = now.blocks / now.cluster;
  const size_t of_cluster = stack_bytes * size_t(now.cluster * now.threads);
  if (now.threads % 32 || now.threads > 512 || now.cluster > 16 || now.blocks % now.cluster) {
    fail("no such launch", {});
    return failure;
  }
  fibers = new Fiber[size_t(now.cluster * now.threads)];
  char* stacks = static_cast<char*>(std::malloc(of_cluster * size_t(fresh_stacks ? clusters : 1)));
  char** memories = new char*[size_t(now.blocks)];
  int64_t made = 0;
  adopt(scheduler);
  release(&begin_token);
  for (int64_t c = 0; c < clusters && !failure[0]; c++) {
    start_cluster(c * now.cluster, stacks + (fresh_stacks ? size_t(c) * of_cluster : 0));
    for (int b = 0; b < now.cluster; b++) memories[made++] = blocks[b].memory;
    run_cluster();
  }
  acquire(&end_token);
  for (int64_t q = 0; q < made; q++) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(memories[q], now.shared_bytes);
#endif
    std::free(memories[q]);
  }
  delete[] memories;
  std::free(stacks);
  delete[] fibers;
  return failure[0] ? failure : nullptr;
}

}  // namespace shim

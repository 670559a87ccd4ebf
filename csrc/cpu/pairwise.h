// Sums of many terms whose error does not grow as a serial sum's does.
//
// An accumulator takes the terms of one block. Sums of blocks are added in pairs, sums of pairs in
// pairs again, and so on: a term passes through about log2(blocks) further additions, in an order
// that follows from the number of blocks alone.
#pragma once

#include <bit>
#include <cstdint>

#include "cpu/vec.h"

namespace mpk::cpu::MPK_NAMESPACE {

// Terms that one accumulator takes.
constexpr int64_t longest_chain = 128;

// At least one, of nothing an empty one.
inline int64_t blocks_of(int64_t size, int64_t block) {
  return size > block ? (size + block - 1) / block : 1;
}

// Calls merge(level) for the sums that block number `at` of `blocks` is added to, each later one
// twice as long; returns the level where the result waits. It is the total after the last block.
template <class Merge>
inline int merge_blocks(int64_t at, int64_t blocks, Merge merge) {
  const bool last = at + 1 == blocks;
  int level = 0;
  for (uint64_t waiting = uint64_t(at); last ? waiting != 0 : waiting & 1; waiting >>= 1, level++)
    if (waiting & 1) merge(level);
  return level;
}
// Levels where sums of so many blocks wait.
inline int64_t levels_of(int64_t blocks) { return std::bit_width(uint64_t(blocks)); }

template <class Sum, class Block>
__attribute__((noinline)) Sum sum_in_pairs(int64_t blocks, Block block) {
  Sum waiting[48];  // of more blocks than memory holds
  for (int64_t at = 0;; at++) {
    Sum sum = block(at);
    const int level = merge_blocks(at, blocks, [&](int below) { sum = waiting[below] += sum; });
    if (at + 1 == blocks) return sum;
    waiting[level] = sum;
  }
}

// block(0) + ... + block(blocks - 1), of any type with +=. One block, the usual case, is summed in
// line: what `block` refers to should be captured as values, so that it can stay in registers.
template <class Block>
inline __attribute__((always_inline)) auto pairwise_sum(int64_t blocks, Block block) {
  using Sum = decltype(block(int64_t(0)));
  return blocks == 1 ? block(0) : sum_in_pairs<Sum>(blocks, block);
}

// Some vectors that are summed together.
template <class A, int COUNT>
struct Vectors {
  Vec<A> at[COUNT];
  Vectors& operator+=(const Vectors& other) {
    for (int q = 0; q < COUNT; q++) at[q] += other.at[q];
    return *this;
  }
};

// The same for blocks of `size` values in memory.
template <class A>
class PairwiseRows {
 public:
  // `waiting` holds levels_of(blocks) rows.
  PairwiseRows(int64_t blocks, int64_t size, A* waiting)
      : blocks_(blocks), size_(size), waiting_(waiting) {}
  // Adds the next block, which is overwritten: with the total, if it is the last one.
  void add(A* block) {
    const int level = merge_blocks(at_++, blocks_, [&](int below) {
      for (int64_t q = 0; q < size_; q++) block[q] = waiting_[below * size_ + q] + block[q];
    });
    if (at_ == blocks_) return;
    for (int64_t q = 0; q < size_; q++) waiting_[level * size_ + q] = block[q];
  }

 private:
  int64_t at_ = 0, blocks_, size_;
  A* waiting_;
};

}  // namespace mpk::cpu::MPK_NAMESPACE

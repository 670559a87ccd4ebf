// What the CUDA kernels take; the launchers refuse the rest, which runs in Triton.
#pragma once

namespace mpk::cuda {

constexpr int max_paths = 8;
constexpr int max_kept = 4;  // maps that a block keeps: inputs forward, gradients backward
constexpr int max_threads = 512;
constexpr int max_cluster = 16;  // 8 on every card of sm_90 and newer, 16 where the card allows it

}  // namespace mpk::cuda

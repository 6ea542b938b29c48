// SPDX-License-Identifier: Apache-2.0
// Sequences whose every key, value and query follows from a seed and its coordinates, in pages of
// any order, and one step of attention over spans of them: on a device, and by kernels/cpu over the
// same numbers widened to float.
#ifndef PHALANX_TESTS_CUDA_ATTENTION_SCENE_HPP
#define PHALANX_TESTS_CUDA_ATTENTION_SCENE_HPP

#include "tests/cuda/support.hpp"

struct attention_scene {
    uint32_t n_heads, n_kv_heads, head_dim, block_tokens, window;
    float softcap, scale;
    bool alibi;
    enum dtype activation, kv;
    std::vector<uint32_t> length; // positions of each sequence that exist
    uint32_t seed;

    uint32_t out_dim() const
    {
        return n_heads * head_dim;
    }
    uint32_t qkv_dim() const
    {
        return (n_heads + 2 * n_kv_heads) * head_dim;
    }
};

// Rows [from, to) of a sequence.
struct attention_span {
    uint32_t seq, from, to;
};

// A device with the table that runs it.
struct attention_device {
    const struct kernels *k;
    struct device *d;
};

// K and V of a scene on a device, in pages of the order that `order` shuffles; what no position
// lies in is NaN.
class attention_pages
{
  public:
    attention_pages(const attention_scene &s, attention_device on, uint64_t order);
    ~attention_pages();
    attention_pages(const attention_pages &) = delete;
    attention_pages &operator=(const attention_pages &) = delete;

    struct kv_layer kv;
    std::vector<std::vector<uint32_t>> blocks; // [sequence][block]

  private:
    attention_device on;
    uint64_t bytes;
};

// The rows of all spans, one after the other, as floats.
std::vector<float> attention_step(const attention_scene &s, const attention_pages &pages,
    attention_device on, const std::vector<attention_span> &spans);

#endif

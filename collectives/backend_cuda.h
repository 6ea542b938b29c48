// SPDX-License-Identifier: Apache-2.0
// What the two files of the back end "cuda" share: backend_cuda.c (life and operations) and
// backend_cuda_share.c (how the members come to map each other's memory).
//
//   memory of a rank: | words | pad of channel 0 | pad of channel 1 | ... | heap |
//   words: | probe[size], received[channels][size] |
#ifndef PHALANX_COLLECTIVES_BACKEND_CUDA_H
#define PHALANX_COLLECTIVES_BACKEND_CUDA_H

#include "collectives/cuda/peers.h"
#include "collectives/group.h"

enum {
    CUDA_WORDS_BYTES = 4096,
    CUDA_RECEIVED = 1024, // where the sizes of bounded exchanges begin among the words
};

struct cuda_channel {
    struct coll_device_group *group;
    // Since when a peer has been missed; and what coll_peers.waits said once it had time to be
    // noticed, by itself or in what it left behind.
    uint64_t gone_us;
    uint32_t waits;
    bool graced;
};

struct cuda_state {
    const struct coll_peers *peers;
    void *context;
    enum coll_peers_way way;
    struct coll_peer_memory memory[COLL_DEVICE_RANKS_MAX], multicast;
    char reach[300]; // how memory is shared, for coll_explain
    struct cuda_channel channel[COLL_CHANNELS_MAX];
    size_t pad_bytes, heap_at, bytes;
};

static inline struct cuda_state *cuda_state_of(const struct coll_group *g)
{
    return g->main->state;
}

static inline uint32_t *cuda_words_of(const struct coll_group *g, uint32_t rank)
{
    return (uint32_t *)cuda_state_of(g)->memory[rank].p;
}

// All members come here, with what each has found; all return the same kind of answer.
enum status backend_cuda_share_agree(
    struct coll_group *g, struct bootstrap *b, enum status mine, struct error *err);
// Takes `bytes` of the state and maps all members' memory, in the first way that works for all.
enum status backend_cuda_share(struct coll_group *g, struct bootstrap *b, struct error *err);
// One address more for the memory of all, at which a switch sums, where there is one; and the
// state's `reach`. A group without a switch is served without it.
void backend_cuda_share_multicast(struct coll_group *g, struct bootstrap *b);
// Unmaps the others' memory.
void backend_cuda_share_give_imports(struct coll_group *g);

#endif

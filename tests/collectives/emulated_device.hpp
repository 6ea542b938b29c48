// SPDX-License-Identifier: Apache-2.0
// One emulated device for each rank, as a caller of the back end "cuda" opens it; `peers` is the
// plugin's table, which tests change.
#ifndef PHALANX_TESTS_EMULATED_DEVICE_HPP
#define PHALANX_TESTS_EMULATED_DEVICE_HPP

extern "C" {
#include "tests/test_support.h"
}
#include "collectives/cuda/peers.h"
#include "collectives/cuda/plugin.h"

struct emulated_device {
    coll_device table;
    coll_peers peers;

    explicit emulated_device(uint32_t capability)
    {
        coll_plugin_args args = {};
        args.capability = capability;
        args.blocks = 2;
        args.threads = 32;
        if (coll_plugin_table()->open(&args, &table, nullptr) == STATUS_OK)
            peers = *table.peers;
        table.peers = &peers;
    }
    ~emulated_device()
    {
        coll_plugin_table()->close(&table);
    }
    emulated_device(const emulated_device &) = delete;
    emulated_device &operator=(const emulated_device &) = delete;
};

#endif

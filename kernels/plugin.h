// SPDX-License-Identifier: Apache-2.0
// A back end in a shared library of its own: libphalanx_cuda.so (CUDA's run-time library is linked
// into it, so it loads on any machine) and libphalanx_emu.so (the same sources on the emulator).
//
// A plugin exports one function, phalanx_plugin(), and uses nothing of the program that loads it.
// It is looked for in the folder that PHALANX_PLUGIN_DIR names, or else beside the program and in
// ../lib/phalanx from there.
#ifndef PHALANX_KERNELS_PLUGIN_H
#define PHALANX_KERNELS_PLUGIN_H

#include "kernels/kernels.h"

enum {
    PLUGIN_VERSION = 2, // of everything that a plugin and a program have in common
    PLUGIN_DEVICES_MAX = 64,
};

struct plugin_device {
    char name[128];
    uint8_t uuid[16];
    uint32_t cc_major, cc_minor;
    uint32_t n_sms;
    uint64_t memory_bytes, free_bytes;
};

struct plugin {
    uint32_t version, table_bytes; // PLUGIN_VERSION, sizeof(struct kernels)
    const char *built_for;         // "sm_80 sm_90a, CUDA 13.0"
    const struct kernels *kernels;
    // The devices there are: at least one, or the sentence that says why there is none. `out` may
    // be NULL.
    enum status (*devices)(
        struct plugin_device out[PLUGIN_DEVICES_MAX], uint32_t *n, struct error *err);
};

// Loads libphalanx_`name`.so; it stays loaded.
enum status plugin_load(const char *name, const struct plugin **out, struct error *err);

#endif

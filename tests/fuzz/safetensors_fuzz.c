// SPDX-License-Identifier: Apache-2.0
// Headers of safetensors files from an enemy. The input is two bytes (how much data follows the
// header in the file) and the header; what is accepted must account for every byte of the data.
#include "base/check.h"
#include "model/safetensors_header.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void prove(const struct safetensors_entry *e, uint32_t count, uint64_t data_bytes)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct tensor *t = &e[i].tensor;
        uint64_t bytes = dtype_bytes(t->dtype);
        for (uint32_t d = 0; d < t->n_dims; d++)
            bytes *= t->shape[d];
        check(t->dtype < DTYPE_COUNT && t->n_dims <= SAFETENSORS_DIMS_MAX);
        check(bytes == t->bytes && e[i].begin == end);
        check(strlen(t->name) <= SAFETENSORS_NAME_BYTES_MAX);
        end += bytes;
        for (uint32_t k = 0; count <= 64 && k < i; k++)
            check(strcmp(t->name, e[k].tensor.name) != 0);
    }
    check(end == data_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2)
        return 0;
    struct arena names;
    struct error err = {0};
    struct safetensors_entry *entries = NULL;
    uint32_t count = 0;
    arena_init(&names, (size_t)1 << 20);
    const struct safetensors_header_args args = {
        .path = "fuzz",
        .header = data + 2,
        .header_bytes = n - 2,
        .data_bytes = (uint64_t)data[0] | (uint64_t)data[1] << 8,
        .names = &names,
    };
    enum status s = safetensors_header_parse(&args, &entries, &count, &err);
    if (s == STATUS_OK)
        prove(entries, count, args.data_bytes);
    else
        check(err.text[0] && err.status == s);
    free(entries);
    arena_reset(&names);
    return 0;
}

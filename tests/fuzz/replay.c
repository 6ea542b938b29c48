// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz target over the files of a folder without a fuzzer: each file whole, cut short at
// every place (at 256 places, if it is long), and with one byte changed at as many.
#include "base/check.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { FILE_BYTES_MAX = 1 << 22, CUTS = 256 };

// From a block of exactly this size, so that a sanitizer sees the first byte too many.
static void feed(const uint8_t *data, size_t n, size_t change, uint8_t by)
{
    uint8_t *copy = malloc(n ? n : 1);
    check(copy);
    memcpy(copy, data, n);
    if (change < n)
        copy[change] ^= by;
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static void replay(const char *path, uint8_t *block)
{
    FILE *f = fopen(path, "rb");
    check(f);
    size_t n = fread(block, 1, FILE_BYTES_MAX, f);
    fclose(f);
    feed(block, n, n, 0);
    size_t step = n / CUTS + 1;
    for (size_t i = 0; i < n; i += step) {
        feed(block, i, i, 0);
        feed(block, n, i, (uint8_t)(1u << i % 8));
    }
}

int main(int argc, char **argv)
{
    DIR *d = argc == 2 ? opendir(argv[1]) : NULL;
    uint8_t *block = malloc(FILE_BYTES_MAX);
    int count = 0;
    if (!d || !block) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    for (struct dirent *e; (e = readdir(d));) {
        char path[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], e->d_name);
        replay(path, block);
        count++;
    }
    closedir(d);
    free(block);
    printf("%d seeds\n", count);
    return count == 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "tests/model/scratch_dir.h"

#include "tests/test_support.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[64];

const char *scratch_dir_make(void)
{
    snprintf(dir, sizeof dir, "/tmp/phalanx-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return dir;
}

void scratch_dir_remove(void)
{
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            assert_int_equal(unlinkat(dirfd(d), e->d_name, 0), 0);
    closedir(d);
    assert_int_equal(rmdir(dir), 0);
}

const char *scratch_dir_write(const char *name, const void *data, size_t bytes)
{
    const char *path = test_path(dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
    return path;
}

const char *scratch_dir_tensors(
    const char *name, const char *header, size_t align, size_t data_bytes)
{
    size_t n = strlen(header), padded = (n + align - 1) / align * align;
    uint8_t *file = calloc(1, 8 + padded + data_bytes);
    assert_non_null(file);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)padded >> 8 * i);
    memset(file + 8, ' ', padded);
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++)
        file[8 + padded + i] = (uint8_t)i;
    const char *path = scratch_dir_write(name, file, 8 + padded + data_bytes);
    free(file);
    return path;
}

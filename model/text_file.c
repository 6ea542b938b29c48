// SPDX-License-Identifier: Apache-2.0
#include "model/text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool text_file_path(char path[TEXT_FILE_PATH_BYTES], const char *dir, const char *name)
{
    int n = snprintf(path, TEXT_FILE_PATH_BYTES, "%s/%s", dir, name);
    return n > 0 && n < TEXT_FILE_PATH_BYTES;
}

enum status text_file_open(const char *path, int *out_fd, size_t *bytes, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        enum status s = errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO;
        return status_fail(err, s, "cannot open %s: %s", path, strerror(errno));
    }
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return status_fail(err, STATUS_INVALID, "%s is not a regular file", path);
    }
    *out_fd = fd;
    *bytes = (size_t)st.st_size;
    return STATUS_OK;
}

enum status text_file_pread(
    int fd, const char *path, void *to, size_t n, size_t offset, struct error *err)
{
    char *p = to;
    while (n) {
        ssize_t got = pread(fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return status_fail(err, STATUS_IO, "cannot read %s: %s", path, strerror(errno));
        if (got == 0)
            return status_fail(err, STATUS_IO, "%s became shorter while it was read", path);
        p += got;
        offset += (size_t)got;
        n -= (size_t)got;
    }
    return STATUS_OK;
}

enum status text_file_read(
    const char *path, size_t bytes_max, char **out, size_t *out_bytes, struct error *err)
{
    int fd;
    size_t bytes;
    TRY(text_file_open(path, &fd, &bytes, err));
    enum status s = STATUS_OK;
    char *text = NULL;
    if (bytes > bytes_max)
        s = status_fail(err, STATUS_TOO_LARGE, "%s has %zu bytes, but at most %zu are expected",
            path, bytes, bytes_max);
    else if (!(text = malloc(bytes + 1)))
        s = status_fail(err, STATUS_NO_MEMORY, "no memory for the %zu bytes of %s", bytes, path);
    else
        s = text_file_pread(fd, path, text, bytes, 0, err);
    close(fd);
    if (s != STATUS_OK) {
        free(text);
        return s;
    }
    text[bytes] = 0;
    *out = text;
    *out_bytes = bytes;
    return STATUS_OK;
}

// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/library.h"

#include "base/check.h"
#include "base/config.h"

#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { FLAGS = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE };

// NULL where there is no such file, or where it is no library.
static void *open_in(const char *folder, const char *name)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && (size_t)n < sizeof path ? dlopen(path, FLAGS) : NULL;
}

// In the packages of the Python whose files lie below `prefix`.
static void *open_below(const char *prefix, const char *name)
{
    static const char *const packages[] = {"site-packages", "dist-packages"};
    void *found = NULL;
    for (size_t i = 0; i < COUNT_OF(packages) && found == NULL; i++) {
        char pattern[PATH_MAX];
        glob_t all;
        int n = snprintf(pattern, sizeof pattern, "%s/lib/python3*/%s/nvidia/*/lib/%s", prefix,
            packages[i], name);
        if (n < 0 || (size_t)n >= sizeof pattern || glob(pattern, 0, NULL, &all) != 0)
            continue;
        for (size_t j = 0; j < all.gl_pathc && found == NULL; j++)
            found = dlopen(all.gl_pathv[j], FLAGS);
        globfree(&all);
    }
    return found;
}

// The prefix of the first python3 in PATH: of /p/bin/python3 it is /p.
static void *open_python(const char *name)
{
    const char *path = config_env("PATH");
    while (path != NULL && *path != '\0') {
        size_t length = strcspn(path, ":");
        char program[PATH_MAX];
        int n = snprintf(program, sizeof program, "%.*s/python3", (int)length, path);
        if (n > 0 && (size_t)n < sizeof program && access(program, X_OK) == 0) {
            program[length] = '\0'; // the folder, and then its parent
            char *slash = strrchr(program, '/');
            if (slash != NULL)
                *slash = '\0';
            return open_below(program, name);
        }
        path += length + (path[length] == ':');
    }
    return NULL;
}

void *library_open(const char *name, struct error *err)
{
    static const char *const variables[] = {"VIRTUAL_ENV", "CONDA_PREFIX"};
    const char *given = config_env("PHALANX_CUDA_LIBRARIES");
    void *found = given != NULL ? open_in(given, name) : NULL;
    if (found == NULL)
        found = dlopen(name, FLAGS);
    if (found == NULL)
        found = open_in("/usr/local/cuda/lib64", name);
    for (size_t i = 0; i < COUNT_OF(variables) && found == NULL; i++) {
        const char *prefix = config_env(variables[i]);
        if (prefix != NULL)
            found = open_below(prefix, name);
    }
    if (found == NULL)
        found = open_python(name);
    if (found == NULL)
        found = open_below("/usr/local", name);
    if (found == NULL)
        (void)status_fail(err, STATUS_UNSUPPORTED,
            "%s was not found: not where the system's loader looks, nor in /usr/local/cuda/lib64, "
            "nor among Python's packages; PHALANX_CUDA_LIBRARIES names its folder",
            name);
    return found;
}

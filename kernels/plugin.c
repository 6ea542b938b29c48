// SPDX-License-Identifier: Apache-2.0
#include "kernels/plugin.h"

#include "base/config.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = PATH_MAX + 64 };

// The folder of the running program, without the slash; false if the system does not say.
static bool program_folder(char folder[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    if (n <= 0)
        return false;
    folder[n] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash == NULL)
        return false;
    *slash = '\0';
    return true;
}

// Whether the file is there; its path is then in `path`.
static bool found(char path[PATH_BYTES], const char *folder, const char *below, const char *name)
{
    int n = snprintf(path, PATH_BYTES, "%s%s/libphalanx_%s.so", folder, below, name);
    return n > 0 && n < PATH_BYTES && access(path, R_OK) == 0;
}

static bool find(char path[PATH_BYTES], const char *name)
{
    const char *given = config_env("PHALANX_PLUGIN_DIR");
    if (given != NULL && *given != '\0')
        return found(path, given, "", name);
    char folder[PATH_MAX];
    return program_folder(folder) &&
           (found(path, folder, "", name) || found(path, folder, "/../lib/phalanx", name));
}

static enum status check_plugin(const struct plugin *p, const char *path, struct error *err)
{
    if (p == NULL || p->version != PLUGIN_VERSION || p->table_bytes != sizeof(struct kernels))
        return status_fail(err, STATUS_UNSUPPORTED,
            "%s belongs to another version of this program; build both together", path);
    return STATUS_OK;
}

enum status plugin_load(const char *name, const struct plugin **out, struct error *err)
{
    char path[PATH_BYTES];
    if (!find(path, name))
        return status_fail(err, STATUS_UNSUPPORTED,
            "device '%s' needs libphalanx_%s.so beside the program, in ../lib/phalanx or in the "
            "folder PHALANX_PLUGIN_DIR; it is not there",
            name, name);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct plugin *(*get)(void) = NULL;
    if (library == NULL)
        return status_fail(err, STATUS_UNSUPPORTED, "%s cannot be loaded: %s", path, dlerror());
    *(void **)&get = dlsym(library, "phalanx_plugin");
    if (get == NULL)
        return status_fail(err, STATUS_UNSUPPORTED, "%s is no plugin of this program", path);
    const struct plugin *p = get();
    TRY(check_plugin(p, path, err));
    *out = p;
    return STATUS_OK;
}

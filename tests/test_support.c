// SPDX-License-Identifier: Apache-2.0
#include "tests/test_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

const char *test_source_dir(void)
{
    return PHALANX_SOURCE_DIR;
}

const char *test_path(const char *dir, const char *name)
{
    static char ring[8][1024];
    static unsigned next;
    char *p = ring[next++ % 8];
    snprintf(p, sizeof ring[0], "%s/%s", dir, name);
    return p;
}

const char *test_shared_dir(void)
{
    static char found[1024];
    const char *given = getenv("PHALANX_SHARED");
    snprintf(found, sizeof found, "%s", given ? given : PHALANX_SOURCE_DIR "/../shared");
    struct stat st;
    if (stat(found, &st) == 0 && S_ISDIR(st.st_mode))
        return found;
    printf("skipped: no ../shared\n");
    return NULL;
}

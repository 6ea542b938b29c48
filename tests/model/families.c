// SPDX-License-Identifier: Apache-2.0
#include "tests/model/families.h"

#include "tests/test_support.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

void families_each(void (*check)(const struct model_config *m))
{
    char root[1024];
    snprintf(root, sizeof root, "%s", test_path(test_source_dir(), "tests/golden/families"));
    struct model_config *m = calloc(1, sizeof *m);
    struct error err = {0};
    DIR *d = opendir(root);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char dir[1024];
        snprintf(dir, sizeof dir, "%s", test_path(root, e->d_name));
        if (e->d_name[0] != '.' && arch_read(dir, m, NULL, &err) == STATUS_OK)
            check(m);
    }
    closedir(d);
    free(m);
}

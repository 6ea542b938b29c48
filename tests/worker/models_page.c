// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/models_page.h"

#include "model/arch.h"
#include "tests/test_support.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FAMILIES_MAX = 64, TEXT_BYTES = 1024 };

struct seen {
    struct arch_family family;
    char models[TEXT_BYTES]; // names of the goldens, joined
    uint64_t degrees;        // one bit each
    double error;
    uint32_t n;
};

struct models_page {
    struct seen seen[FAMILIES_MAX];
    uint32_t n;
};

static void take_family(void *user, const struct arch_family *family)
{
    struct models_page *p = user;
    assert_true(p->n < FAMILIES_MAX);
    p->seen[p->n++].family = *family;
}

struct models_page *models_page_open(void)
{
    struct models_page *p = calloc(1, sizeof *p);
    assert_non_null(p);
    arch_each(take_family, p);
    return p;
}

void models_page_close(struct models_page *p)
{
    free(p);
}

// The row that reads the directory: of its type, and of its class where several are.
static struct seen *row_of(struct models_page *p, const char *dir)
{
    json_t *config = json_load_file(test_path(dir, "config.json"), 0, NULL);
    const char *type = json_string_value(json_object_get(config, "model_type"));
    const char *class =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    struct seen *found = NULL;
    assert_non_null(type);
    for (uint32_t i = 0; i < p->n; i++) {
        bool same = class && strcmp(class, p->seen[i].family.architecture) == 0;
        if (strcmp(type, p->seen[i].family.name) == 0 && (!found || same))
            found = &p->seen[i];
    }
    json_decref(config);
    assert_non_null(found);
    return found;
}

void models_page_add(struct models_page *p, const char *dir, uint32_t degree, double error)
{
    struct seen *s = row_of(p, dir);
    const char *name = strrchr(dir, '/') + 1;
    size_t used = strlen(s->models);
    if (degree == 1)
        snprintf(s->models + used, sizeof s->models - used, "%s`%s`", used ? ", " : "", name);
    assert_true(strlen(s->models) + 1 < sizeof s->models && degree < 64);
    s->degrees |= 1ull << degree;
    s->error = fmax(s->error, error);
    s->n++;
}

static void print_row(const struct seen *s, struct buf *out)
{
    buf_printf(
        out, "| `%s` | `%s` | %s | ", s->family.name, s->family.architecture, s->family.models);
    if (s->n == 0) {
        buf_printf(out, "shared oracles only | | |\n");
        return;
    }
    buf_printf(out, "%s | ", s->models);
    bool first = true;
    for (uint32_t d = 1; d < 64; d++)
        if (s->degrees >> d & 1) {
            buf_printf(out, first ? "%u" : ", %u", d);
            first = false;
        }
    // Rounded up to a power of ten: the page says how near, not the last digit.
    buf_printf(out, " | 1e%d |\n", (int)ceil(log10(fmax(s->error, 1e-9))));
}

void models_page_print(const struct models_page *p, struct buf *out)
{
    buf_printf(out,
        "| model_type | architecture | models | goldens | degrees | off by less than |\n"
        "|---|---|---|---|---|---|\n");
    for (uint32_t i = 0; i < p->n; i++)
        print_row(&p->seen[i], out);
}

const char *models_page_find(const char *page, size_t *n)
{
    static const char begin[] = "<!-- table -->\n", end[] = "<!-- end of the table -->";
    const char *from = strstr(page, begin), *to = from ? strstr(from, end) : NULL;
    if (!to)
        return NULL;
    from += sizeof begin - 1;
    *n = (size_t)(to - from);
    return from;
}

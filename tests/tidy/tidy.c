// SPDX-License-Identifier: Apache-2.0
#include "tests/tidy/tidy.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

static const char *const rule_name[] = {
#define RULE(NAME, name, text) name,
#include "tests/tidy/rules.def"
#undef RULE
};

static const char *const rule_text[] = {
#define RULE(NAME, name, text) text,
#include "tests/tidy/rules.def"
#undef RULE
};

static const struct exception exceptions[] = {
#define EXCEPT(rule, path, word, reason) {RULE_##rule, path, word, reason},
#include "tests/tidy/exceptions.def"
#undef EXCEPT
};

_Static_assert(COUNT_OF(exceptions) <= EXCEPTIONS_MAX, "too many exceptions to call them so");

void tidy_begin(struct tidy *t, FILE *out)
{
    *t = (struct tidy){.out = out, .exceptions = exceptions, .n_exceptions = COUNT_OF(exceptions)};
}

bool tidy_excused(struct tidy *t, enum rule rule, const char *path, const char *word)
{
    for (size_t i = 0; i < t->n_exceptions; i++) {
        const struct exception *e = &t->exceptions[i];
        if (e->rule != rule || !path_begins(path, e->path))
            continue;
        if (*e->word && strcmp(e->word, word) != 0)
            continue;
        t->excused[i] = true;
        return true;
    }
    return false;
}

void tidy_report(struct tidy *t, enum rule rule, const char *path, unsigned line, const char *word)
{
    if (tidy_excused(t, rule, path, word))
        return;
    t->found[rule]++;
    if (t->out)
        fprintf(t->out, "%s:%u: %s: %s (%s)\n", path, line, rule_name[rule], word, rule_text[rule]);
}

void tidy_stale(struct tidy *t, enum rule first, enum rule last)
{
    for (size_t i = 0; i < t->n_exceptions; i++) {
        const struct exception *e = &t->exceptions[i];
        if (e->rule >= first && e->rule <= last && !t->excused[i])
            tidy_report(t, RULE_STALE, e->path, 0, e->word);
    }
}

unsigned tidy_total(const struct tidy *t)
{
    unsigned total = 0;
    for (int i = 0; i < RULE_COUNT; i++)
        total += t->found[i];
    return total;
}

// SPDX-License-Identifier: Apache-2.0
#include "proto/settings.h"

#include "base/check.h"
#include "base/log.h"
#include "proto/limits.h"

#include <string.h>

enum {
    SERVE = SETTINGS_SERVE,
    COORDINATOR = SETTINGS_COORDINATOR,
    WORKER = SETTINGS_WORKER,
    COMMAND_LINE_BYTES_MAX = 1 << 20, // of one word
};

struct row {
    unsigned programs;
    struct config_row config;
};

#define AT(field) offsetof(struct settings, field)
#define TEXT(field, programs, value_name, help)                                                    \
    {programs, {#field, CONFIG_TEXT, AT(field), NULL, 0, 0, NULL, value_name, help}},
#define INT(field, programs, value, min, max, help)                                                \
    {programs,                                                                                     \
        {#field, CONFIG_INT, AT(field), #value, (double)(min), (double)(max), NULL, "N", help}},
#define BYTES(field, programs, value, help)                                                        \
    {programs, {#field, CONFIG_BYTES, AT(field), value, 0, 0, NULL, "BYTES", help}},
#define CHOICE(field, programs, value, words, help)                                                \
    {programs, {#field, CONFIG_ENUM, AT(field), value, 0, 0, words, NULL, help}},
#define FLAG(field, programs, help)                                                                \
    {programs, {#field, CONFIG_FLAG, AT(field), NULL, 0, 0, NULL, NULL, help}},
static const struct row table[] = {
#include "proto/settings.def"
};

// The rows of one program.
struct rows {
    size_t n;
    struct config_row row[COUNT_OF(table)];
    char name[COUNT_OF(table)][CONFIG_NAME_BYTES];
};

static void rows_of(enum settings_program program, struct rows *out)
{
    out->n = 0;
    for (size_t i = 0; i < COUNT_OF(table); i++)
        if (table[i].programs & program)
            out->row[out->n++] = table[i].config;
    config_spell(out->row, out->n, out->name);
}

enum status settings_parse(enum settings_program program, int argc, char *const *argv,
    struct settings *out, struct config_list *words, bool *help, struct error *err)
{
    struct rows rows;
    rows_of(program, &rows);
    TRY(config_parse(rows.row, rows.n, argc, argv, out, words, help, err));
    if (out->block_size & (out->block_size - 1))
        return status_fail(err, STATUS_INVALID,
            "--block-size is \"%lld\", expected a power of two from 8 to %d",
            (long long)out->block_size, LIMIT_BLOCK_TOKENS);
    return STATUS_OK;
}

void settings_help(enum settings_program program, FILE *to)
{
    struct rows rows;
    rows_of(program, &rows);
    config_help(rows.row, rows.n, to);
}

void settings_pass(enum settings_program program, const struct settings *s,
    void (*add)(void *user, const char *word), void *user)
{
    struct rows rows;
    struct buf word;
    rows_of(program, &rows);
    buf_init(&word, COMMAND_LINE_BYTES_MAX);
    for (size_t i = 0; i < rows.n; i++) {
        buf_clear(&word);
        buf_printf(&word, "--%s=", rows.row[i].name);
        if (!config_print(&rows.row[i], s, &word))
            continue;
        buf_append(&word, "", 1);
        check(!buf_failed(&word));
        add(user, (const char *)word.data);
    }
    buf_deinit(&word);
}

void settings_word(const struct settings *s, const char *field, char out[SETTINGS_WORD_BYTES])
{
    for (size_t i = 0; i < COUNT_OF(table); i++)
        if (strcmp(table[i].config.name, field) == 0) {
            struct buf word;
            buf_init(&word, SETTINGS_WORD_BYTES - 1);
            check(config_print(&table[i].config, s, &word) && !buf_failed(&word));
            memcpy(out, word.data, word.size);
            out[word.size] = '\0';
            buf_deinit(&word);
            return;
        }
    check_failed("a setting of this name", __FILE__, __LINE__);
}

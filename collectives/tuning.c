// SPDX-License-Identifier: Apache-2.0
#include "collectives/tuning.h"

#include "base/check.h"
#include "base/config.h"
#include "base/hash.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

// The host's: measured on two cores; phalanx-coll-bench shows the rows beside each other. With more
// ranks the two signals of two_shot cost more than the extra reading of one_shot for longer.
// The devices': what others have published for A100 and H100 systems, to be replaced by
// measurements. The emulator's ("emu") only sees that everything is used.
static const struct tuning_row built_in[] = {
    {"host", .ranks = 2, .max_bytes = 65536, .algorithm = TUNING_ONE_SHOT},
    {"host", .ranks = 2, .symmetric = true, .max_bytes = 8192, .algorithm = TUNING_ONE_SHOT},
    {"host", .ranks = 0, .max_bytes = 32768, .algorithm = TUNING_ONE_SHOT},
    {"host", .ranks = 0, .symmetric = true, .max_bytes = 16384, .algorithm = TUNING_ONE_SHOT},
    {"sm80", .ranks = 2, .max_bytes = 32768, .algorithm = TUNING_LL},
    {"sm80", .ranks = 2, .max_bytes = 8 << 20, .algorithm = TUNING_ONE_SHOT},
    {"sm80", .ranks = 4, .max_bytes = 32768, .algorithm = TUNING_LL},
    {"sm80", .ranks = 4, .max_bytes = 512 << 10, .algorithm = TUNING_ONE_SHOT},
    {"sm80", .ranks = 0, .max_bytes = 16384, .algorithm = TUNING_LL},
    {"sm80", .ranks = 0, .max_bytes = 192 << 10, .algorithm = TUNING_ONE_SHOT},
    {"sm80", .ranks = 0, .symmetric = true, .max_bytes = 16384, .algorithm = TUNING_LL},
    {"sm90", .ranks = 2, .max_bytes = 32768, .algorithm = TUNING_LL},
    {"sm90", .ranks = 2, .max_bytes = 8 << 20, .algorithm = TUNING_ONE_SHOT},
    {"sm90", .ranks = 4, .max_bytes = 32768, .algorithm = TUNING_LL},
    {"sm90", .ranks = 4, .max_bytes = 512 << 10, .algorithm = TUNING_ONE_SHOT},
    {"sm90", .ranks = 0, .max_bytes = 16384, .algorithm = TUNING_LL},
    {"sm90", .ranks = 0, .max_bytes = 64 << 10, .algorithm = TUNING_ONE_SHOT},
    {"sm90", .ranks = 0, .symmetric = true, .max_bytes = 16384, .algorithm = TUNING_LL},
    {"emu", .ranks = 0, .max_bytes = 8192, .algorithm = TUNING_LL},
    {"emu", .ranks = 0, .max_bytes = 32768, .algorithm = TUNING_ONE_SHOT},
    {"emu", .ranks = 0, .symmetric = true, .max_bytes = 4096, .algorithm = TUNING_LL},
};

static const char *const names[TUNING_ALGORITHMS] = {
    [TUNING_ONE_SHOT] = "one_shot",
    [TUNING_TWO_SHOT] = "two_shot",
    [TUNING_LL] = "ll",
    [TUNING_MULTIMEM] = "multimem",
    [TUNING_NATIVE] = "native",
};

const char *tuning_algorithm_name(enum tuning_algorithm a)
{
    return (unsigned)a < TUNING_ALGORITHMS ? names[a] : "unknown";
}

enum { WORDS = 6 };

// Splits at blanks, up to a '#'; returns the number of words, WORDS + 1 if there are more.
static int split(char *line, char *word[WORDS])
{
    int n = 0;
    for (char *p = line; *p != '\0' && *p != '#';) {
        size_t blank = strspn(p, " \t\r");
        p += blank;
        size_t used = strcspn(p, " \t\r#");
        if (used == 0)
            continue;
        if (n == WORDS)
            return WORDS + 1;
        word[n++] = p;
        p += used;
        if (*p == '\0' || *p == '#') {
            *p = '\0';
            break;
        }
        *p++ = '\0';
    }
    return n;
}

static bool number(const char *text, const char *any, uint64_t any_value, uint64_t *out)
{
    int64_t v;
    *out = any_value;
    if (strcmp(text, any) == 0)
        return true;
    if (!config_int_parse(text, &v) || v < 1)
        return false;
    *out = (uint64_t)v;
    return true;
}

static bool parse_algorithm(const char *text, enum tuning_algorithm *out)
{
    for (uint32_t a = 0; a < TUNING_ALGORITHMS; a++)
        if (strcmp(text, names[a]) == 0) {
            *out = (enum tuning_algorithm)a;
            return true;
        }
    return false;
}

static bool parse_row(char *const word[WORDS], struct tuning_row *row)
{
    uint64_t ranks;
    size_t arch_bytes = strlen(word[0]);
    if (arch_bytes >= sizeof row->arch || !number(word[1], "*", 0, &ranks) || ranks > UINT32_MAX ||
        strcmp(word[2], "all_reduce") != 0 || !number(word[4], "inf", UINT64_MAX, &row->max_bytes))
        return false;
    memcpy(row->arch, word[0], arch_bytes + 1);
    row->ranks = (uint32_t)ranks;
    row->symmetric = strcmp(word[3], "symmetric") == 0;
    if (!row->symmetric && strcmp(word[3], "private") != 0)
        return false;
    return parse_algorithm(word[5], &row->algorithm) &&
           (strcmp(row->arch, "host") != 0 ||
               (row->algorithm != TUNING_LL && row->algorithm != TUNING_MULTIMEM));
}

static enum status parse(char *text, const char *file, struct tuning *t, struct error *err)
{
    char *next = text;
    for (unsigned line = 1; next != NULL; line++) {
        char *word[WORDS];
        char *at = next;
        next = strchr(at, '\n');
        if (next != NULL)
            *next++ = '\0';
        int n = split(at, word);
        if (n == 0)
            continue;
        if (t->n_rows == TUNING_ROWS_MAX)
            return status_fail(
                err, STATUS_TOO_LARGE, "%s has more than %d rows", file, (int)TUNING_ROWS_MAX);
        if (n != WORDS || !parse_row(word, &t->row[t->n_rows]))
            return status_fail(err, STATUS_INVALID,
                "%s line %u: expected \"ARCH RANKS|* all_reduce private|symmetric BYTES|inf "
                "ALGORITHM\", with one_shot, two_shot or native on the host",
                file, line);
        t->n_rows++;
    }
    return STATUS_OK;
}

enum status tuning_load(const char *file, struct tuning *out, struct error *err)
{
    struct tuning t = {0};
    if (file == NULL) {
        memcpy(t.row, built_in, sizeof built_in);
        t.n_rows = COUNT_OF(built_in);
        t.built_in = true;
        *out = t;
        return STATUS_OK;
    }
    char text[TUNING_FILE_BYTES_MAX];
    FILE *f = fopen(file, "re");
    if (f == NULL)
        return status_fail(
            err, STATUS_NOT_FOUND, "cannot open the tuning file %s: %s", file, strerror(errno));
    size_t n = fread(text, 1, sizeof text, f);
    bool bad = ferror(f) != 0;
    fclose(f);
    if (bad)
        return status_fail(err, STATUS_IO, "cannot read the tuning file %s", file);
    if (n == sizeof text)
        return status_fail(err, STATUS_TOO_LARGE, "the tuning file %s is longer than %d bytes",
            file, TUNING_FILE_BYTES_MAX - 1);
    text[n] = '\0';
    TRY(parse(text, file, &t, err));
    *out = t;
    return STATUS_OK;
}

uint64_t tuning_hash(const struct tuning *t)
{
    uint64_t flat[TUNING_ROWS_MAX][6] = {0};
    for (uint32_t i = 0; i < t->n_rows; i++) {
        flat[i][0] = t->row[i].max_bytes;
        flat[i][1] = t->row[i].ranks;
        flat[i][2] = t->row[i].symmetric;
        flat[i][3] = (uint64_t)t->row[i].algorithm;
        memcpy(&flat[i][4], t->row[i].arch, TUNING_ARCH_BYTES);
    }
    return hash_64((struct hash_key){1, 2}, flat, t->n_rows * sizeof flat[0]);
}

void tuning_narrow(struct tuning *t, const char *arch, uint32_t ranks)
{
    bool own[2] = {false, false}; // whether rows for this number of ranks exist
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_rows; i++)
        if (strcmp(t->row[i].arch, arch) == 0 && t->row[i].ranks == ranks)
            own[t->row[i].symmetric] = true;
    for (uint32_t i = 0; i < t->n_rows; i++) {
        const struct tuning_row *r = &t->row[i];
        if (strcmp(r->arch, arch) == 0 && r->ranks == (own[r->symmetric] ? ranks : 0))
            t->row[n++] = *r;
    }
    t->n_rows = n;
}

enum tuning_algorithm tuning_pick(const struct tuning *t, bool symmetric, size_t bytes)
{
    for (uint32_t i = 0; i < t->n_rows; i++)
        if (t->row[i].symmetric == symmetric && bytes <= t->row[i].max_bytes)
            return t->row[i].algorithm;
    return TUNING_TWO_SHOT;
}

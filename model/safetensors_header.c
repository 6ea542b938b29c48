// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors_header.h"

#include "base/utf8.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

// A cursor over the header. Reading functions return false after writing the sentence.
struct reader {
    const uint8_t *begin, *p, *end;
    const char *path;
    struct error *err;
    enum status status;
};

enum { KEY_BYTES = SAFETENSORS_NAME_BYTES_MAX + 1 };

static bool fail_at(struct reader *r, const char *expected)
{
    size_t at = (size_t)(r->p - r->begin);
    if (r->p < r->end)
        r->status = status_fail(r->err, STATUS_INVALID,
            isgraph(*r->p) ? "%s: header byte %zu is '%c', but %s was expected"
                           : "%s: header byte %zu is 0x%02x, but %s was expected",
            r->path, at, *r->p, expected);
    else
        r->status = status_fail(r->err, STATUS_INVALID,
            "%s: the header ends at byte %zu, but %s was expected", r->path, at, expected);
    return false;
}

static bool fail_name(struct reader *r, const char *name, const char *what)
{
    r->status = status_fail(r->err, STATUS_INVALID, "%s: tensor \"%s\" %s", r->path, name, what);
    return false;
}

static void skip_space(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\t' || *r->p == '\r'))
        r->p++;
}

static bool peek(struct reader *r, char c)
{
    skip_space(r);
    return r->p < r->end && *r->p == (uint8_t)c;
}

static bool take(struct reader *r, char c, const char *expected)
{
    if (!peek(r, c))
        return fail_at(r, expected);
    r->p++;
    return true;
}

static bool read_hex4(struct reader *r, uint32_t *out)
{
    uint32_t v = 0;
    for (int i = 0; i < 4; i++, r->p++) {
        if (r->p >= r->end)
            return fail_at(r, "four hexadecimal digits");
        uint8_t c = *r->p;
        uint8_t lower = c | 0x20u;
        if (c >= '0' && c <= '9')
            v = v << 4 | (uint32_t)(c - '0');
        else if (lower >= 'a' && lower <= 'f')
            v = v << 4 | (uint32_t)(lower - 'a' + 10);
        else
            return fail_at(r, "a hexadecimal digit");
    }
    *out = v;
    return true;
}

static size_t encode_utf8(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

// Reads what stands behind a backslash, which has been taken.
static bool read_escape(struct reader *r, char out[4], size_t *n)
{
    static const char from[] = "\"\\/bfnrt";
    static const char to[] = "\"\\/\b\f\n\r\t";
    if (r->p >= r->end)
        return fail_at(r, "an escaped character");
    const char *found = *r->p ? strchr(from, *r->p) : NULL;
    if (found) {
        r->p++;
        out[0] = to[found - from];
        *n = 1;
        return true;
    }
    if (*r->p != 'u')
        return fail_at(r, "an escaped character");
    r->p++;
    uint32_t c = 0, low = 0;
    if (!read_hex4(r, &c))
        return false;
    if (c >= 0xd800 && c < 0xdc00) {
        if (r->end - r->p < 6 || r->p[0] != '\\' || r->p[1] != 'u')
            return fail_at(r, "the second half of a surrogate pair");
        r->p += 2;
        if (!read_hex4(r, &low))
            return false;
        if (low < 0xdc00 || low > 0xdfff)
            return fail_at(r, "the second half of a surrogate pair before here");
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    if (c == 0 || (c >= 0xdc00 && c < 0xe000))
        return fail_at(r, "a character that is neither zero nor half a surrogate before here");
    *n = encode_utf8(c, out);
    return true;
}

// Reads a string into `out` (zero-terminated; NULL: only checks it) of `capacity` bytes.
static bool read_string(struct reader *r, char *out, size_t capacity, size_t *length)
{
    if (!take(r, '"', "a string"))
        return false;
    size_t n = 0;
    for (;;) {
        if (r->p >= r->end || *r->p < 0x20)
            return fail_at(r, "the end of a string");
        char piece[4] = {(char)*r->p};
        size_t piece_bytes = 1;
        if (*r->p++ == '"')
            break;
        if (piece[0] == '\\' && !read_escape(r, piece, &piece_bytes))
            return false;
        if (out && n + piece_bytes >= capacity)
            return fail_at(r, "a string of at most 256 bytes to end");
        if (out)
            memcpy(out + n, piece, piece_bytes);
        n += piece_bytes;
    }
    if (out)
        out[n] = 0;
    if (length)
        *length = n;
    return true;
}

static bool read_number(struct reader *r, uint64_t *out)
{
    skip_space(r);
    const uint8_t *first = r->p;
    uint64_t v = 0;
    for (; r->p < r->end && *r->p >= '0' && *r->p <= '9'; r->p++)
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*r->p - '0'), &v))
            return fail_at(r, "a number below 2^64");
    if (r->p == first || (r->p - first > 1 && *first == '0'))
        return fail_at(r, "a whole number without sign or leading zero");
    *out = v;
    return true;
}

static bool read_numbers(struct reader *r, uint64_t *out, uint32_t capacity, uint32_t *count)
{
    uint32_t n = 0;
    if (!take(r, '[', "'['"))
        return false;
    while (!peek(r, ']')) {
        if (n && !take(r, ',', "',' or ']'"))
            return false;
        if (n == capacity)
            return fail_at(r, "the end of a list that is too long for its field");
        if (!read_number(r, &out[n++]))
            return false;
    }
    r->p++;
    *count = n;
    return true;
}

static bool read_metadata(struct reader *r)
{
    if (!take(r, '{', "'{' of __metadata__"))
        return false;
    for (bool first = true; !peek(r, '}'); first = false) {
        if (!first && !take(r, ',', "',' or '}'"))
            return false;
        if (!read_string(r, NULL, 0, NULL) || !take(r, ':', "':'") ||
            !read_string(r, NULL, 0, NULL))
            return false;
    }
    r->p++;
    return true;
}

enum { FIELD_DTYPE = 1, FIELD_SHAPE = 2, FIELD_OFFSETS = 4, FIELDS_ALL = 7 };

static bool read_dtype(struct reader *r, const char *name, struct tensor *t)
{
    char text[16];
    if (!read_string(r, text, sizeof text, NULL))
        return false;
    t->dtype = text[0] ? dtype_from_safetensors(text) : DTYPE_COUNT;
    if (t->dtype != DTYPE_COUNT)
        return true;
    r->status = status_fail(r->err, STATUS_UNSUPPORTED,
        "%s: tensor \"%s\" has the dtype \"%s\", which is not supported", r->path, name, text);
    return false;
}

static bool read_field(
    struct reader *r, const char *name, struct tensor *t, uint64_t range[2], unsigned *seen)
{
    char key[16];
    uint32_t n = 0;
    unsigned field = 0;
    if (!read_string(r, key, sizeof key, NULL) || !take(r, ':', "':'"))
        return false;
    if (strcmp(key, "dtype") == 0)
        field = FIELD_DTYPE;
    else if (strcmp(key, "shape") == 0)
        field = FIELD_SHAPE;
    else if (strcmp(key, "data_offsets") == 0)
        field = FIELD_OFFSETS;
    else
        return fail_name(
            r, name, "has a field other than \"dtype\", \"shape\" and \"data_offsets\"");
    if (*seen & field)
        return fail_name(r, name, "has the same field twice");
    *seen |= field;
    if (field == FIELD_DTYPE)
        return read_dtype(r, name, t);
    if (field == FIELD_SHAPE)
        return read_numbers(r, t->shape, SAFETENSORS_DIMS_MAX, &t->n_dims);
    if (!read_numbers(r, range, 2, &n))
        return false;
    return n == 2 || fail_name(r, name, "has data_offsets that are not [begin, end]");
}

// dtype and shape must give exactly the range, which must lie inside the data.
static bool prove_range(
    struct reader *r, const char *name, struct tensor *t, const uint64_t range[2], uint64_t data)
{
    uint64_t bytes = dtype_bytes(t->dtype);
    for (uint32_t i = 0; i < t->n_dims; i++)
        if (__builtin_mul_overflow(bytes, t->shape[i], &bytes))
            return fail_name(r, name, "has a shape of more than 2^64 bytes");
    if (range[0] > range[1] || range[1] > data)
        return fail_name(r, name, "has data_offsets outside the file");
    if (range[1] - range[0] != bytes) {
        r->status = status_fail(r->err, STATUS_INVALID,
            "%s: tensor \"%s\" takes %llu bytes, but dtype and shape need %llu", r->path, name,
            (unsigned long long)(range[1] - range[0]), (unsigned long long)bytes);
        return false;
    }
    t->bytes = bytes;
    return true;
}

static bool read_tensor(
    struct reader *r, const char *name, uint64_t data_bytes, struct safetensors_entry *out)
{
    uint64_t range[2] = {0, 0};
    unsigned seen = 0;
    memset(out, 0, sizeof *out);
    if (!take(r, '{', "'{' of a tensor"))
        return false;
    for (bool first = true; !peek(r, '}'); first = false) {
        if (!first && !take(r, ',', "',' or '}'"))
            return false;
        if (!read_field(r, name, &out->tensor, range, &seen))
            return false;
    }
    r->p++;
    if (seen != FIELDS_ALL)
        return fail_name(r, name, "lacks one of \"dtype\", \"shape\" and \"data_offsets\"");
    out->begin = range[0];
    return prove_range(r, name, &out->tensor, range, data_bytes);
}

struct list {
    struct safetensors_entry **entries;
    uint32_t *count;
    uint32_t first; // number of entries before this file's
    uint32_t capacity;
};

static bool no_memory(struct reader *r)
{
    r->status =
        status_fail(r->err, STATUS_NO_MEMORY, "%s: no memory for its list of tensors", r->path);
    return false;
}

static bool append(struct reader *r, struct list *l, const struct safetensors_entry *e)
{
    if (*l->count - l->first == SAFETENSORS_TENSORS_MAX) {
        r->status = status_fail(r->err, STATUS_TOO_LARGE, "%s: more than %d tensors in one file",
            r->path, (int)SAFETENSORS_TENSORS_MAX);
        return false;
    }
    if (*l->count == l->capacity) {
        uint32_t capacity = l->capacity + l->capacity / 2 + 64;
        void *grown = realloc(*l->entries, capacity * sizeof **l->entries);
        if (!grown)
            return no_memory(r);
        *l->entries = grown;
        l->capacity = capacity;
    }
    (*l->entries)[(*l->count)++] = *e;
    return true;
}

static bool read_header(struct reader *r, const struct safetensors_header_args *a, struct list *l)
{
    bool metadata_seen = false;
    char name[KEY_BYTES];
    if (!take(r, '{', "'{'"))
        return false;
    for (bool first = true; !peek(r, '}'); first = false) {
        size_t n = 0;
        struct safetensors_entry e;
        if (!first && !take(r, ',', "',' or '}'"))
            return false;
        if (!read_string(r, name, sizeof name, &n) || !take(r, ':', "':'"))
            return false;
        if (strcmp(name, "__metadata__") == 0) {
            if (metadata_seen)
                return fail_at(r, "__metadata__ only once");
            metadata_seen = true;
            if (!read_metadata(r))
                return false;
            continue;
        }
        if (!read_tensor(r, name, a->data_bytes, &e))
            return false;
        e.tensor.name = arena_text(a->names, name, n);
        if (!e.tensor.name)
            return no_memory(r);
        if (!append(r, l, &e))
            return false;
    }
    r->p++;
    skip_space(r);
    return r->p == r->end || fail_at(r, "nothing but spaces behind the header's object");
}

static int by_name(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    return strcmp(x->tensor.name, y->tensor.name);
}

static int by_place(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->tensor.bytes < y->tensor.bytes ? -1 : x->tensor.bytes > y->tensor.bytes;
}

// No name twice, no byte of the data without an owner or with two.
static bool prove_whole(
    struct reader *r, struct safetensors_entry *e, uint32_t n, uint64_t data_bytes)
{
    if (n)
        qsort(e, n, sizeof *e, by_name);
    for (uint32_t i = 1; i < n; i++)
        if (strcmp(e[i - 1].tensor.name, e[i].tensor.name) == 0)
            return fail_name(r, e[i].tensor.name, "occurs twice in the header");
    if (n)
        qsort(e, n, sizeof *e, by_place);
    uint64_t end = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (e[i].begin != end)
            return fail_name(r, e[i].tensor.name,
                e[i].begin < end ? "overlaps the tensor before it"
                                 : "leaves a hole between itself and the tensor before it");
        end += e[i].tensor.bytes;
    }
    if (end == data_bytes)
        return true;
    r->status = status_fail(r->err, STATUS_INVALID,
        "%s: the tensors end at byte %llu of the data, but the file has %llu", r->path,
        (unsigned long long)end, (unsigned long long)data_bytes);
    return false;
}

enum status safetensors_header_parse(const struct safetensors_header_args *a,
    struct safetensors_entry **entries, uint32_t *count, struct error *err)
{
    struct reader r = {
        .begin = a->header,
        .p = a->header,
        .end = a->header + a->header_bytes,
        .path = a->path,
        .err = err,
    };
    // The capacity of what earlier files left is not known: assume none to spare.
    struct list l = {.entries = entries, .count = count, .first = *count, .capacity = *count};
    if (a->header_bytes == 0 || a->header[0] != '{')
        return status_fail(err, STATUS_INVALID,
            "%s is not a safetensors file: its header does not begin with '{'", a->path);
    if (!utf8_valid(a->header, a->header_bytes))
        return status_fail(err, STATUS_INVALID, "%s: the header is not valid UTF-8", a->path);
    if (!read_header(&r, a, &l))
        return r.status;
    if (!prove_whole(&r, *entries ? *entries + l.first : NULL, *count - l.first, a->data_bytes))
        return r.status;
    return STATUS_OK;
}

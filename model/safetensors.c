// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.h"

#include "model/safetensors_header.h"
#include "model/text_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SAFETENSORS_NAMES_BYTES ((size_t)256 << 20)
enum { INDEX_BYTES_MAX = 32 << 20 };

struct file {
    char *path; // in the arena
    int fd;
    size_t bytes;
    uint8_t *map;
    struct timespec changed;
};

// Aligned copies of tensors whose place in their file is not aligned.
struct copy {
    struct copy *next;
};
enum { COPY_ALIGNMENT = 64 };

struct safetensors {
    struct arena arena; // names and paths
    struct file file[SAFETENSORS_FILES_MAX];
    uint32_t n_files;
    struct safetensors_entry *entry; // sorted by name once open
    uint32_t n_entries;
    struct copy *copies;
};

// A tensor is the first field of its entry.
static const struct safetensors_entry *entry_of(const struct tensor *t)
{
    return (const struct safetensors_entry *)(const void *)t;
}

void safetensors_close(struct safetensors *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->n_files; i++) {
        munmap(s->file[i].map, s->file[i].bytes);
        close(s->file[i].fd);
    }
    for (struct copy *c = s->copies, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(s->entry);
    arena_reset(&s->arena);
    free(s);
}

static enum status no_memory(const char *path, struct error *err)
{
    return status_fail(err, STATUS_NO_MEMORY, "%s: no memory for its list of tensors", path);
}

// Reads the length word and the header; the caller frees *out.
static enum status read_header(int fd, const char *path, size_t file_bytes, uint8_t **out,
    size_t *out_bytes, struct error *err)
{
    uint8_t word[8];
    uint64_t n = 0;
    if (file_bytes < sizeof word)
        return status_fail(err, STATUS_INVALID,
            "%s is not a safetensors file: it has %zu bytes, at least 8 are needed", path,
            file_bytes);
    TRY(text_file_pread(fd, path, word, sizeof word, 0, err));
    for (int i = 7; i >= 0; i--)
        n = n << 8 | word[i];
    if (n > SAFETENSORS_HEADER_BYTES_MAX)
        return status_fail(err, STATUS_TOO_LARGE,
            "%s: its header says %llu bytes, at most %d are allowed", path, (unsigned long long)n,
            (int)SAFETENSORS_HEADER_BYTES_MAX);
    if (n > file_bytes - sizeof word)
        return status_fail(err, STATUS_INVALID,
            "%s: its header says %llu bytes, but the file has only %zu behind its first word", path,
            (unsigned long long)n, file_bytes - sizeof word);
    uint8_t *header = malloc(n ? n : 1);
    if (!header)
        return no_memory(path, err);
    enum status s = text_file_pread(fd, path, header, n, sizeof word, err);
    if (s != STATUS_OK) {
        free(header);
        return s;
    }
    *out = header;
    *out_bytes = n;
    return STATUS_OK;
}

static enum status copy_aligned(struct safetensors *s, struct tensor *t, struct error *err)
{
    size_t bytes =
        COPY_ALIGNMENT + (t->bytes + COPY_ALIGNMENT - 1) / COPY_ALIGNMENT * COPY_ALIGNMENT;
    struct copy *c = aligned_alloc(COPY_ALIGNMENT, bytes);
    if (!c)
        return status_fail(err, STATUS_NO_MEMORY,
            "no memory for a copy of tensor \"%s\", whose place in its file is not aligned",
            t->name);
    c->next = s->copies;
    s->copies = c;
    memcpy((char *)c + COPY_ALIGNMENT, t->data, t->bytes);
    t->data = (char *)c + COPY_ALIGNMENT;
    return STATUS_OK;
}

static enum status place_tensors(
    struct safetensors *s, uint32_t first, const uint8_t *data, struct error *err)
{
    for (uint32_t i = first; i < s->n_entries; i++) {
        struct safetensors_entry *e = &s->entry[i];
        e->file = s->n_files - 1;
        e->tensor.data = data + e->begin;
        if (e->tensor.bytes && (uintptr_t)e->tensor.data % dtype_bytes(e->tensor.dtype) != 0)
            TRY(copy_aligned(s, &e->tensor, err));
    }
    return STATUS_OK;
}

// Maps the file; from here on safetensors_close() undoes it.
static enum status map_file(
    struct safetensors *s, int fd, const char *path, size_t bytes, struct error *err)
{
    struct file *f = &s->file[s->n_files];
    struct stat st;
    void *map = MAP_FAILED;
    f->path = arena_text(&s->arena, path, strlen(path));
    if (!f->path)
        return no_memory(path, err);
    if (fstat(fd, &st) == 0)
        map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return status_fail(err, STATUS_IO, "cannot map %s: %s", path, strerror(errno));
    *f =
        (struct file){.path = f->path, .fd = fd, .bytes = bytes, .map = map, .changed = st.st_mtim};
    s->n_files++;
    return STATUS_OK;
}

static enum status add_file(struct safetensors *s, const char *path, struct error *err)
{
    int fd;
    size_t bytes;
    uint8_t *header = NULL;
    size_t header_bytes = 0;
    uint32_t first = s->n_entries;
    TRY(text_file_open(path, &fd, &bytes, err));
    enum status status = read_header(fd, path, bytes, &header, &header_bytes, err);
    if (status != STATUS_OK)
        goto close_fd;
    const struct safetensors_header_args args = {
        .path = path,
        .header = header,
        .header_bytes = header_bytes,
        .data_bytes = bytes - 8 - header_bytes,
        .names = &s->arena,
    };
    status = safetensors_header_parse(&args, &s->entry, &s->n_entries, err);
    free(header);
    if (status == STATUS_OK)
        status = map_file(s, fd, path, bytes, err);
    if (status != STATUS_OK)
        goto close_fd;
    return place_tensors(s, first, s->file[s->n_files - 1].map + 8 + header_bytes, err);
close_fd:
    close(fd);
    return status;
}

static int by_name(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    return strcmp(x->tensor.name, y->tensor.name);
}

static enum status sort_names(struct safetensors *s, struct error *err)
{
    if (s->n_entries == 0)
        return STATUS_OK;
    qsort(s->entry, s->n_entries, sizeof *s->entry, by_name);
    for (uint32_t i = 1; i < s->n_entries; i++)
        if (by_name(&s->entry[i - 1], &s->entry[i]) == 0)
            return status_fail(err, STATUS_INVALID, "tensor \"%s\" is in both %s and %s",
                s->entry[i].tensor.name, s->file[s->entry[i - 1].file].path,
                s->file[s->entry[i].file].path);
    return STATUS_OK;
}

static enum status make(struct safetensors **out, struct error *err)
{
    struct safetensors *s = calloc(1, sizeof *s);
    if (!s)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a list of tensors");
    arena_init(&s->arena, SAFETENSORS_NAMES_BYTES);
    *out = s;
    return STATUS_OK;
}

enum status safetensors_open_file(const char *path, struct safetensors **out, struct error *err)
{
    struct safetensors *s = NULL;
    TRY(make(&s, err));
    enum status status = add_file(s, path, err);
    if (status == STATUS_OK)
        status = sort_names(s, err);
    if (status == STATUS_OK)
        *out = s;
    else
        safetensors_close(s);
    return status;
}

// ---- a directory -------------------------------------------------------------------------------

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0;
}

// A shard is a plain file name: an index from a stranger must not lead out of its directory.
static bool is_plain_name(const char *name)
{
    return name[0] != '.' && !strchr(name, '/') && strlen(name) <= 255 &&
           has_suffix(name, ".safetensors");
}

static bool file_exists(const char *dir, const char *name)
{
    char path[TEXT_FILE_PATH_BYTES];
    struct stat st;
    return text_file_path(path, dir, name) && stat(path, &st) == 0;
}

static enum status fail_no_weights(const char *dir, struct error *err)
{
    static const char *const others[] = {".bin", ".pt", ".pth", ".gguf", ".ckpt", ".h5"};
    DIR *d = opendir(dir);
    if (!d)
        return status_fail(
            err, STATUS_NOT_FOUND, "cannot read directory %s: %s", dir, strerror(errno));
    char found[64] = "";
    for (struct dirent *e; !found[0] && (e = readdir(d));)
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            if (has_suffix(e->d_name, others[i]))
                snprintf(found, sizeof found, "%.63s", e->d_name);
    closedir(d);
    if (!found[0])
        return status_fail(err, STATUS_NOT_FOUND,
            "%s has neither model.safetensors nor model.safetensors.index.json", dir);
    return status_fail(err, STATUS_UNSUPPORTED,
        "%s has weights as %s, but only safetensors are read: convert them once with python3 -c "
        "'from transformers import AutoModelForCausalLM as M; "
        "M.from_pretrained(\"DIR\").save_pretrained(\"NEW\")'",
        dir, found);
}

static enum status add_shard(
    struct safetensors *s, const char *dir, const char *name, uint32_t *file, struct error *err)
{
    char path[TEXT_FILE_PATH_BYTES];
    if (!is_plain_name(name))
        return status_fail(err, STATUS_DENIED,
            "%s/model.safetensors.index.json names the shard \"%s\", but a plain name of a "
            ".safetensors file in that directory was expected",
            dir, name);
    if (!text_file_path(path, dir, name))
        return status_fail(err, STATUS_TOO_LARGE, "the path of %s is too long", name);
    for (uint32_t i = s->n_files; i-- > 0;)
        if (strcmp(s->file[i].path, path) == 0) {
            *file = i;
            return STATUS_OK;
        }
    if (s->n_files == SAFETENSORS_FILES_MAX)
        return status_fail(
            err, STATUS_TOO_LARGE, "%s has more than %d shards", dir, (int)SAFETENSORS_FILES_MAX);
    TRY(add_file(s, path, err));
    *file = s->n_files - 1;
    return STATUS_OK;
}

// Opens the shards of weight_map and proves that each tensor is where the map says.
static enum status add_map(struct safetensors *s, const char *dir, json_t *map, struct error *err)
{
    const char *name;
    json_t *value;
    uint32_t file = 0;
    if (!json_is_object(map) || json_object_size(map) == 0)
        return status_fail(err, STATUS_INVALID,
            "%s/model.safetensors.index.json: \"weight_map\" is not an object of names", dir);
    json_object_foreach(map, name, value)
    {
        if (!json_is_string(value))
            return status_fail(err, STATUS_INVALID,
                "%s/model.safetensors.index.json: the shard of \"%s\" is not a string", dir, name);
        TRY(add_shard(s, dir, json_string_value(value), &file, err));
    }
    TRY(sort_names(s, err));
    json_object_foreach(map, name, value)
    {
        const struct tensor *t = safetensors_find(s, name);
        TRY(add_shard(s, dir, json_string_value(value), &file, err));
        if (!t || entry_of(t)->file != file)
            return status_fail(err, STATUS_INVALID,
                "%s has no tensor \"%s\", which the index places there", s->file[file].path, name);
    }
    return STATUS_OK;
}

static enum status add_index(struct safetensors *s, const char *dir, struct error *err)
{
    char path[TEXT_FILE_PATH_BYTES];
    char *text;
    size_t bytes;
    json_error_t why;
    if (!text_file_path(path, dir, "model.safetensors.index.json"))
        return status_fail(err, STATUS_TOO_LARGE, "the path %s is too long", dir);
    TRY(text_file_read(path, INDEX_BYTES_MAX, &text, &bytes, err));
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    free(text);
    if (!root)
        return status_fail(
            err, STATUS_INVALID, "%s, line %d: not valid JSON: %s", path, why.line, why.text);
    enum status status = add_map(s, dir, json_object_get(root, "weight_map"), err);
    json_decref(root);
    return status;
}

static enum status add_single(struct safetensors *s, const char *dir, struct error *err)
{
    char path[TEXT_FILE_PATH_BYTES];
    if (!text_file_path(path, dir, "model.safetensors"))
        return status_fail(err, STATUS_TOO_LARGE, "the path %s is too long", dir);
    TRY(add_file(s, path, err));
    return sort_names(s, err);
}

enum status safetensors_open_dir(const char *dir, struct safetensors **out, struct error *err)
{
    struct safetensors *s = NULL;
    enum status status;
    TRY(make(&s, err));
    if (file_exists(dir, "model.safetensors"))
        status = add_single(s, dir, err);
    else if (file_exists(dir, "model.safetensors.index.json"))
        status = add_index(s, dir, err);
    else
        status = fail_no_weights(dir, err);
    if (status == STATUS_OK)
        *out = s;
    else
        safetensors_close(s);
    return status;
}

// ---- looking up --------------------------------------------------------------------------------

const struct tensor *safetensors_find(const struct safetensors *s, const char *name)
{
    uint32_t low = 0, high = s->n_entries;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(s->entry[middle].tensor.name, name);
        if (order == 0)
            return &s->entry[middle].tensor;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

uint32_t safetensors_count(const struct safetensors *s)
{
    return s->n_entries;
}

const struct tensor *safetensors_at(const struct safetensors *s, uint32_t index)
{
    return &s->entry[index].tensor;
}

uint32_t safetensors_index(const struct safetensors *s, const struct tensor *t)
{
    return (uint32_t)(entry_of(t) - s->entry);
}

uint64_t safetensors_file_bytes(const struct safetensors *s)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < s->n_files; i++)
        sum += s->file[i].bytes;
    return sum;
}

enum status safetensors_recheck(const struct safetensors *s, struct error *err)
{
    for (uint32_t i = 0; i < s->n_files; i++) {
        const struct file *f = &s->file[i];
        struct stat st;
        if (fstat(f->fd, &st) != 0 || (size_t)st.st_size != f->bytes ||
            st.st_mtim.tv_sec != f->changed.tv_sec || st.st_mtim.tv_nsec != f->changed.tv_nsec)
            return status_fail(
                err, STATUS_IO, "%s was changed while it was being read: load it again", f->path);
    }
    return STATUS_OK;
}

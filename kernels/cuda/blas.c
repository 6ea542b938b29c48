// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/blas.h"

#include "base/check.h"

#if !defined(PHALANX_CUBLASLT)

enum status blas_open(const char *file, struct blas **out, struct error *err)
{
    (void)file, (void)out;
    return status_fail(err, STATUS_UNSUPPORTED,
        "this build does without cuBLASLt: its header was not there when it was made");
}

void blas_close(struct blas *b)
{
    check(b == NULL);
}

enum status blas_multiply(
    struct blas *b, const struct blas_product *p, const struct blas_clock *clock, struct error *err)
{
    (void)b, (void)p, (void)clock;
    return status_fail(err, STATUS_UNSUPPORTED, "this build does without cuBLASLt");
}

#else

#include "kernels/cuda/library.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRIES_MAX = 512, RUNS = 3, ALIGNMENT = 16 };

// X(function, its type): what is taken from the library.
#define BLAS_SYMBOLS(X)                                                                            \
    X(cublasLtCreate)                                                                              \
    X(cublasLtDestroy)                                                                             \
    X(cublasLtGetVersion)                                                                          \
    X(cublasLtMatmul)                                                                              \
    X(cublasLtMatmulAlgoGetHeuristic)                                                              \
    X(cublasLtMatmulDescCreate)                                                                    \
    X(cublasLtMatmulDescDestroy)                                                                   \
    X(cublasLtMatmulDescSetAttribute)                                                              \
    X(cublasLtMatmulPreferenceCreate)                                                              \
    X(cublasLtMatmulPreferenceDestroy)                                                             \
    X(cublasLtMatmulPreferenceSetAttribute)                                                        \
    X(cublasLtMatrixLayoutCreate)                                                                  \
    X(cublasLtMatrixLayoutDestroy)                                                                 \
    X(cublasLtMatrixLayoutSetAttribute)

// One kind of product. The matrices are column-major to cuBLASLt: w [k, n] transposed times
// x [k, m] gives out [n, m].
struct entry {
    enum dtype type, out_type;
    uint32_t n, k, bucket; // about as many rows: 64, 128, 256, ...
    uint64_t x_stride, w_stride, out_stride;
    bool has_bias, timed, refused; // refused: cuBLASLt has nothing for it
    uint32_t m;                    // that the layouts say
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulAlgo_t algorithm;
};

struct blas {
#define MEMBER(name) __typeof__(&name) name;
    BLAS_SYMBOLS(MEMBER)
#undef MEMBER
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    uint32_t n_entries;
    struct entry entry[ENTRIES_MAX];
};

static enum status failed(cublasStatus_t s, const char *what, struct error *err)
{
    return status_fail(err, STATUS_UNSUPPORTED, "cuBLASLt: %s gave status %d", what, (int)s);
}

static enum status take_symbols(struct blas *b, void *library, const char *name, struct error *err)
{
    const struct {
        const char *name;
        void *to;
    } symbol[] = {
#define ROW(name) {#name, &b->name},
        BLAS_SYMBOLS(ROW)
#undef ROW
    };
    for (size_t i = 0; i < COUNT_OF(symbol); i++) {
        void *p = dlsym(library, symbol[i].name);
        if (p == NULL)
            return status_fail(err, STATUS_UNSUPPORTED, "%s has no %s", name, symbol[i].name);
        memcpy(symbol[i].to, &p, sizeof p); // POSIX: functions and data have pointers of one size
    }
    size_t version = b->cublasLtGetVersion(), wanted = CUBLAS_VER_MAJOR;
    if (version / 10000 != wanted)
        return status_fail(
            err, STATUS_UNSUPPORTED, "%s is version %zu; expected %zu.x", name, version, wanted);
    return STATUS_OK;
}

static enum status make_preference(struct blas *b, struct error *err)
{
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    uint64_t workspace = BLAS_WORKSPACE_BYTES;
    uint32_t bytes = ALIGNMENT;
    cublasStatus_t s = b->cublasLtMatmulPreferenceCreate(&b->preference);
    if (s != CUBLAS_STATUS_SUCCESS)
        return failed(s, "a preference", err);
    s = b->cublasLtMatmulPreferenceSetAttribute(
        b->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    for (size_t i = 0; i < COUNT_OF(aligned) && s == CUBLAS_STATUS_SUCCESS; i++)
        s = b->cublasLtMatmulPreferenceSetAttribute(
            b->preference, aligned[i], &bytes, sizeof bytes);
    return s == CUBLAS_STATUS_SUCCESS ? STATUS_OK : failed(s, "a preference", err);
}

#define NAME_OF(major) NAME_OF_(major)
#define NAME_OF_(major) "libcublasLt.so." #major

enum status blas_open(const char *file, struct blas **out, struct error *err)
{
    const char *name = file != NULL ? file : NAME_OF(CUBLAS_VER_MAJOR);
    void *library = file != NULL ? dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)
                                 : library_open(name, err);
    if (library == NULL)
        return file != NULL ? status_fail(err, STATUS_UNSUPPORTED, "%s cannot be loaded: %s", file,
                                  dlerror())
                            : STATUS_UNSUPPORTED;
    struct blas *b = calloc(1, sizeof *b);
    if (b == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for the algorithms of cuBLASLt");
    enum status s = take_symbols(b, library, name, err);
    if (s == STATUS_OK) {
        cublasStatus_t c = b->cublasLtCreate(&b->handle);
        s = c == CUBLAS_STATUS_SUCCESS ? make_preference(b, err) : failed(c, "its start", err);
    }
    if (s != STATUS_OK) {
        blas_close(b);
        return s;
    }
    *out = b;
    return STATUS_OK;
}

static void entry_close(struct blas *b, struct entry *e)
{
    if (e->product != NULL)
        b->cublasLtMatmulDescDestroy(e->product);
    cublasLtMatrixLayout_t all[] = {e->w, e->x, e->out};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        if (all[i] != NULL)
            b->cublasLtMatrixLayoutDestroy(all[i]);
}

void blas_close(struct blas *b)
{
    if (b == NULL)
        return;
    for (uint32_t i = 0; i < b->n_entries; i++)
        entry_close(b, &b->entry[i]);
    if (b->preference != NULL)
        b->cublasLtMatmulPreferenceDestroy(b->preference);
    if (b->handle != NULL)
        b->cublasLtDestroy(b->handle);
    free(b);
}

static uint32_t bucket_of(uint32_t m)
{
    uint32_t bucket = 64;
    while (bucket < m && bucket < 1u << 31)
        bucket *= 2;
    return bucket;
}

static cudaDataType_t type_of(enum dtype t)
{
    return t == DTYPE_F32 ? CUDA_R_32F : t == DTYPE_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

// Floats are multiplied as floats: PEDANTIC keeps TF32 out, whatever the environment says.
static cublasStatus_t describe(struct blas *b, struct entry *e)
{
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cudaDataType_t bias_type = type_of(e->out_type);
    cublasStatus_t s = b->cublasLtMatmulDescCreate(&e->product,
        e->type == DTYPE_F32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = b->cublasLtMatmulDescSetAttribute(
            e->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    if (s == CUBLAS_STATUS_SUCCESS && e->has_bias)
        s = b->cublasLtMatmulDescSetAttribute(
            e->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (s == CUBLAS_STATUS_SUCCESS && e->has_bias)
        s = b->cublasLtMatmulDescSetAttribute(
            e->product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = b->cublasLtMatrixLayoutCreate(
            &e->w, type_of(e->type), e->k, e->n, (int64_t)e->w_stride);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = b->cublasLtMatrixLayoutCreate(
            &e->x, type_of(e->type), e->k, e->m, (int64_t)e->x_stride);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = b->cublasLtMatrixLayoutCreate(
            &e->out, type_of(e->out_type), e->n, e->m, (int64_t)e->out_stride);
    return s;
}

// What differs from call to call: the number of rows, and where the bias lies.
static cublasStatus_t adjust(struct blas *b, struct entry *e, const struct blas_product *p)
{
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    uint64_t rows = p->m;
    if (e->m != p->m) {
        s = b->cublasLtMatrixLayoutSetAttribute(
            e->x, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows);
        if (s == CUBLAS_STATUS_SUCCESS)
            s = b->cublasLtMatrixLayoutSetAttribute(
                e->out, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows);
        e->m = s == CUBLAS_STATUS_SUCCESS ? p->m : 0;
    }
    if (s == CUBLAS_STATUS_SUCCESS && e->has_bias)
        s = b->cublasLtMatmulDescSetAttribute(
            e->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof p->bias);
    return s;
}

static cublasStatus_t enqueue(struct blas *b, const struct entry *e, const struct blas_product *p,
    const cublasLtMatmulAlgo_t *algorithm)
{
    const float one = 1.0f, zero = 0.0f;
    return b->cublasLtMatmul(b->handle, e->product, &one, p->w, e->w, p->x, e->x, &zero, p->out,
        e->out, p->out, e->out, algorithm, p->workspace, BLAS_WORKSPACE_BYTES, p->stream);
}

static cublasStatus_t ask(struct blas *b, const struct entry *e, int wanted,
    cublasLtMatmulHeuristicResult_t *found, int *n_found)
{
    *n_found = 0;
    cublasStatus_t s = b->cublasLtMatmulAlgoGetHeuristic(
        b->handle, e->product, e->w, e->x, e->out, e->out, b->preference, wanted, found, n_found);
    return s == CUBLAS_STATUS_SUCCESS && *n_found < 1 ? CUBLAS_STATUS_NOT_SUPPORTED : s;
}

// Milliseconds of a few runs after one that is not counted; below 0 if it cannot run.
static float time_of(struct blas *b, const struct entry *e, const struct blas_product *p,
    const cublasLtMatmulAlgo_t *algorithm, const struct blas_clock *clock)
{
    if (enqueue(b, e, p, algorithm) != CUBLAS_STATUS_SUCCESS)
        return -1.0f;
    clock->begin(clock->context);
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < RUNS && s == CUBLAS_STATUS_SUCCESS; i++)
        s = enqueue(b, e, p, algorithm);
    float ms = clock->end_ms(clock->context);
    return s == CUBLAS_STATUS_SUCCESS ? ms : -1.0f;
}

// Chooses the algorithm of an entry. Where none can be timed, cuBLASLt's own first choice stays.
static cublasStatus_t choose(
    struct blas *b, struct entry *e, const struct blas_product *p, const struct blas_clock *clock)
{
    cublasLtMatmulHeuristicResult_t found[BLAS_CANDIDATES];
    int n_found, best = 0;
    float least = -1.0f;
    cublasStatus_t s = ask(b, e, clock != NULL ? BLAS_CANDIDATES : 1, found, &n_found);
    if (s != CUBLAS_STATUS_SUCCESS)
        return s;
    for (int i = 0; clock != NULL && i < n_found && n_found > 1; i++) {
        float ms = found[i].state == CUBLAS_STATUS_SUCCESS ? time_of(b, e, p, &found[i].algo, clock)
                                                           : -1.0f;
        if (ms >= 0 && (least < 0 || ms < least)) {
            least = ms;
            best = i;
        }
    }
    e->algorithm = found[best].algo;
    e->timed = clock != NULL;
    return found[best].state;
}

static bool is_of(const struct entry *e, const struct blas_product *p)
{
    return e->n == p->n && e->k == p->k && e->type == p->type && e->out_type == p->out_type &&
           e->bucket == bucket_of(p->m) && e->x_stride == p->x_stride &&
           e->w_stride == p->w_stride && e->out_stride == p->out_stride &&
           e->has_bias == (p->bias != NULL);
}

// The entry of the product, new if there was none; the table begins again when it is full.
static struct entry *find(struct blas *b, const struct blas_product *p, cublasStatus_t *s)
{
    *s = CUBLAS_STATUS_SUCCESS;
    for (uint32_t i = 0; i < b->n_entries; i++)
        if (is_of(&b->entry[i], p))
            return &b->entry[i];
    if (b->n_entries == ENTRIES_MAX) {
        while (b->n_entries > 0)
            entry_close(b, &b->entry[--b->n_entries]);
    }
    struct entry *e = &b->entry[b->n_entries];
    *e = (struct entry){.type = p->type,
        .out_type = p->out_type,
        .n = p->n,
        .k = p->k,
        .bucket = bucket_of(p->m),
        .x_stride = p->x_stride,
        .w_stride = p->w_stride,
        .out_stride = p->out_stride,
        .has_bias = p->bias != NULL,
        .m = p->m};
    *s = describe(b, e);
    if (*s != CUBLAS_STATUS_SUCCESS) {
        entry_close(b, e);
        return NULL;
    }
    b->n_entries++;
    return e;
}

enum status blas_multiply(
    struct blas *b, const struct blas_product *p, const struct blas_clock *clock, struct error *err)
{
    uint32_t before = b->n_entries;
    cublasStatus_t s;
    struct entry *e = find(b, p, &s);
    if (e == NULL || e->refused)
        return failed(e == NULL ? s : CUBLAS_STATUS_NOT_SUPPORTED, "a product", err);
    s = adjust(b, e, p);
    bool is_new = before != b->n_entries;
    if (s == CUBLAS_STATUS_SUCCESS && (is_new || (clock != NULL && !e->timed)))
        s = choose(b, e, p, clock);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = enqueue(b, e, p, &e->algorithm);
    if (s == CUBLAS_STATUS_SUCCESS)
        return STATUS_OK;
    // An algorithm may not do for another number of rows of its bucket: then cuBLASLt's first one
    // for exactly this.
    cublasLtMatmulHeuristicResult_t exact;
    int n_found;
    if (!is_new && ask(b, e, 1, &exact, &n_found) == CUBLAS_STATUS_SUCCESS &&
        exact.state == CUBLAS_STATUS_SUCCESS)
        s = enqueue(b, e, p, &exact.algo);
    e->refused = is_new && s != CUBLAS_STATUS_SUCCESS;
    return s == CUBLAS_STATUS_SUCCESS ? STATUS_OK : failed(s, "a product", err);
}

#endif

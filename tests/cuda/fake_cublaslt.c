// SPDX-License-Identifier: Apache-2.0
// A library with cuBLASLt's interface that multiplies in memory of the host, so that what calls it
// is tested without a device. It has three algorithms: the first is slow, the second does not do
// odd numbers of rows and is quick for others, the third is quick. Work is enqueued where the test
// says.
#include "tests/cuda/fake_cublaslt.h"

#include "base/dtype.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct layout {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t distance;
};

struct product {
    cublasOperation_t transposed;
    cublasLtEpilogue_t epilogue;
    const void *bias;
};

struct work {
    const void *a, *b, *bias;
    void *d;
    struct layout la, lb, ld;
    bool slow;
};

static struct {
    fake_enqueue *enqueue;
    unsigned runs[FAKE_ALGORITHMS], questions;
    bool refuses;
} fake;

void fake_cublaslt_begin(fake_enqueue *enqueue, bool refuses)
{
    memset(&fake, 0, sizeof fake);
    fake.enqueue = enqueue;
    fake.refuses = refuses;
}

unsigned fake_cublaslt_runs(unsigned algorithm)
{
    return fake.runs[algorithm];
}

unsigned fake_cublaslt_questions(void)
{
    return fake.questions;
}

size_t cublasLtGetVersion(void)
{
    return CUBLAS_VER_MAJOR * 10000;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = calloc(1, 1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    *p = calloc(1, sizeof **p);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    free(p);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
    cublasLtMatmulPreferenceAttributes_t what, const void *value, size_t bytes)
{
    (void)p, (void)value;
    bool workspace = what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
    return bytes == (workspace ? 8 : 4) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescCreate(
    cublasLtMatmulDesc_t *d, cublasComputeType_t compute, cudaDataType_t scale)
{
    bool known = compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_PEDANTIC;
    struct product *p = calloc(1, sizeof(cublasLtMatmulDescOpaque_t));
    *d = (cublasLtMatmulDesc_t)(void *)p;
    return known && scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    free(d);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(
    cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what, const void *value, size_t bytes)
{
    struct product *p = (struct product *)(void *)d;
    if (what == CUBLASLT_MATMUL_DESC_TRANSA && bytes == sizeof p->transposed)
        memcpy(&p->transposed, value, bytes);
    else if (what == CUBLASLT_MATMUL_DESC_EPILOGUE && bytes == sizeof p->epilogue)
        memcpy(&p->epilogue, value, bytes);
    else if (what == CUBLASLT_MATMUL_DESC_BIAS_POINTER && bytes == sizeof p->bias)
        memcpy(&p->bias, value, bytes);
    else if (what != CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE)
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
    uint64_t rows, uint64_t columns, int64_t distance)
{
    struct layout *l = calloc(1, sizeof(cublasLtMatrixLayoutOpaque_t));
    if (l == NULL || distance < (int64_t)rows)
        return CUBLAS_STATUS_INVALID_VALUE;
    *l = (struct layout){type, rows, columns, distance};
    *out = (cublasLtMatrixLayout_t)(void *)l;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    free(l);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(
    cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t what, const void *value, size_t bytes)
{
    if (what != CUBLASLT_MATRIX_LAYOUT_COLS || bytes != 8)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&((struct layout *)(void *)l)->columns, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
    cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
    cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int wanted,
    cublasLtMatmulHeuristicResult_t found[], int *n_found)
{
    (void)handle, (void)product, (void)a, (void)b, (void)c, (void)d, (void)preference;
    fake.questions++;
    *n_found = fake.refuses ? 0 : wanted < FAKE_ALGORITHMS ? wanted : FAKE_ALGORITHMS;
    for (int i = 0; i < *n_found; i++) {
        memset(&found[i], 0, sizeof found[i]);
        found[i].algo.data[0] = (uint64_t)i;
    }
    return fake.refuses ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

static double element(const void *p, cudaDataType type, uint64_t i)
{
    if (type == CUDA_R_32F)
        return (double)((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return (double)(type == CUDA_R_16F ? dtype_f32_from_f16(h) : dtype_f32_from_bf16(h));
}

static void multiply(void *argument)
{
    struct work *w = argument;
    if (w->slow)
        nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
    for (uint64_t j = 0; j < w->ld.columns; j++)
        for (uint64_t i = 0; i < w->ld.rows; i++) {
            double sum = w->bias != NULL ? element(w->bias, w->ld.type, i) : 0;
            for (uint64_t k = 0; k < w->la.rows; k++)
                sum += element(w->a, w->la.type, i * (uint64_t)w->la.distance + k) *
                       element(w->b, w->lb.type, j * (uint64_t)w->lb.distance + k);
            uint64_t at = j * (uint64_t)w->ld.distance + i;
            if (w->ld.type == CUDA_R_32F)
                ((float *)w->d)[at] = (float)sum;
            else
                ((uint16_t *)w->d)[at] = w->ld.type == CUDA_R_16F ? dtype_f16_from_f32((float)sum)
                                                                  : dtype_bf16_from_f32((float)sum);
        }
    free(w);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
    const void *alpha, const void *a, cublasLtMatrixLayout_t la, const void *b,
    cublasLtMatrixLayout_t lb, const void *beta, const void *c, cublasLtMatrixLayout_t lc, void *d,
    cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t bytes,
    cudaStream_t stream)
{
    (void)handle, (void)lc;
    const struct product *p = (const struct product *)(const void *)product;
    float one, zero;
    memcpy(&one, alpha, 4);
    memcpy(&zero, beta, 4);
    struct work *w = calloc(1, sizeof *w);
    if (w == NULL || p->transposed != CUBLAS_OP_T || one != 1.0f || zero != 0.0f || c != d)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&w->la, la, sizeof w->la);
    memcpy(&w->lb, lb, sizeof w->lb);
    memcpy(&w->ld, ld, sizeof w->ld);
    uint64_t which = algorithm->data[0];
    bool fits = w->la.rows == w->lb.rows && w->la.columns == w->ld.rows &&
                w->lb.columns == w->ld.columns && which < FAKE_ALGORITHMS;
    if (!fits || (which == FAKE_EVEN_ROWS && w->ld.columns % 2 != 0)) {
        free(w);
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    w->a = a;
    w->b = b;
    w->d = d;
    w->bias = p->epilogue == CUBLASLT_EPILOGUE_BIAS ? p->bias : NULL;
    w->slow = which == FAKE_SLOW || (which == FAKE_QUICK && w->ld.columns % 2 == 0);
    fake.runs[which]++;
    memset(workspace, (int)which, bytes < 4096 ? bytes : 4096);
    fake.enqueue(stream, multiply, w);
    return CUBLAS_STATUS_SUCCESS;
}

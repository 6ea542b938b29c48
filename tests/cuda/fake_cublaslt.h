// SPDX-License-Identifier: Apache-2.0
// What a test tells the library that stands for cuBLASLt, and asks of it.
#ifndef PHALANX_TESTS_CUDA_FAKE_CUBLASLT_H
#define PHALANX_TESTS_CUDA_FAKE_CUBLASLT_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FAKE_SLOW, FAKE_EVEN_ROWS, FAKE_QUICK, FAKE_ALGORITHMS };

typedef void fake_enqueue(void *stream, void (*work)(void *), void *argument);

// Forgets all counts. `refuses`: there is no algorithm for anything.
void fake_cublaslt_begin(fake_enqueue *enqueue, bool refuses);
unsigned fake_cublaslt_runs(unsigned algorithm);
unsigned fake_cublaslt_questions(void); // how often algorithms were asked for

#ifdef __cplusplus
}
#endif

#endif

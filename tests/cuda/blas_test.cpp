// SPDX-License-Identifier: Apache-2.0
// linear through cuBLASLt, by a library that stands for it: when it is asked, that the quickest
// algorithm is kept, that values are right, and what happens where it has no answer or is not
// there.
#include "tests/cuda/fake_cublaslt.h"
#include "tests/cuda/linear_cases.hpp"

#include "kernels/cuda/blas.h"
#include "kernels/cuda/linear.cuh"

#include <dlfcn.h>

namespace
{

struct controls {
    decltype(&fake_cublaslt_begin) begin;
    decltype(&fake_cublaslt_runs) runs;
    decltype(&fake_cublaslt_questions) questions;

    controls()
    {
        void *library = dlopen(FAKE_CUBLASLT, RTLD_NOW | RTLD_NODELETE);
        if (library == nullptr)
            fail_msg("%s", dlerror());
        take(library, "fake_cublaslt_begin", &begin);
        take(library, "fake_cublaslt_runs", &runs);
        take(library, "fake_cublaslt_questions", &questions);
        dlclose(library);
    }

    static void take(void *library, const char *name, void *to)
    {
        void *p = dlsym(library, name);
        assert_non_null(p);
        std::memcpy(to, &p, sizeof p);
    }
};

void enqueue(void *stream, void (*work)(void *), void *argument)
{
    cudaLaunchHostFunc(static_cast<cudaStream_t>(stream), work, argument);
}

// Seeds that give strides whose rows are aligned, or not, are the caller's to choose.
void open_in(linear_case &c)
{
    struct error err;
    c.device->determinism = DETERMINISM_RUN;
    if (linear_blas_open(c.device, FAKE_CUBLASLT, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

constexpr uint64_t aligned_seed = 60; // x_stride = K, out_stride = N, with a bias; floats come out
constexpr enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

unsigned runs_of_all(const controls &fake)
{
    return fake.runs(FAKE_SLOW) + fake.runs(FAKE_EVEN_ROWS) + fake.runs(FAKE_QUICK);
}

void products_have_their_values(void **)
{
    controls fake;
    for (enum dtype t : types)
        for (bool out_f32 : {false, true}) {
            linear_case c(t, t, 40, 24, 72, aligned_seed);
            c.set_out(out_f32, out_f32 == (t == DTYPE_F32)); // a bias only of out's own type
            fake.begin(enqueue, false);
            open_in(c);
            c.run(1);
            c.check_values();
            assert_true(runs_of_all(fake) > 0);
        }
}

void the_quickest_is_kept(void **)
{
    controls fake;
    linear_case c(DTYPE_BF16, DTYPE_BF16, 44, 24, 72, aligned_seed);
    c.set_out(false, true);
    fake.begin(enqueue, false);
    open_in(c);
    c.run(1); // even: tries all three, then runs the quickest once more
    c.check_values();
    assert_int_equal(fake.questions(), 1);
    assert_int_equal(fake.runs(FAKE_SLOW), 4);
    assert_int_equal(fake.runs(FAKE_QUICK), 4);
    assert_int_equal(fake.runs(FAKE_EVEN_ROWS), 5);
    c.check_rows(2, 40, 2); // of the same kind: no question
    assert_int_equal(fake.questions(), 1);
    assert_int_equal(fake.runs(FAKE_EVEN_ROWS), 6);
    c.check_rows(0, 41, 3); // the kept one refuses: another is asked for
    assert_int_equal(fake.questions(), 2);
    assert_int_equal(fake.runs(FAKE_SLOW), 5);
    assert_int_equal(fake.runs(FAKE_EVEN_ROWS), 6);
}

void others_take_our_kernels(void **)
{
    controls fake;
    linear_case c(DTYPE_BF16, DTYPE_BF16, 70, 24, 72, aligned_seed),
        odd_k(DTYPE_F16, DTYPE_F16, 50, 24, 73, aligned_seed),
        mixed(DTYPE_F32, DTYPE_BF16, 50, 24, 72, aligned_seed);
    fake.begin(enqueue, false);
    for (linear_case *other : {&odd_k, &mixed}) {
        open_in(*other);
        other->run(1);
        other->check_values();
    }
    c.set_out(false, true);
    c.run(1); // DETERMINISM_BATCH
    open_in(c);
    c.check_rows(7, 32, 2); // few rows
    c.device->determinism = DETERMINISM_BATCH;
    c.check_rows(7, 60, 2);
    assert_int_equal(runs_of_all(fake), 0);
    fake.begin(enqueue, true);
    c.device->determinism = DETERMINISM_RUN;
    c.check_rows(7, 60, 2); // no algorithm: asked for once
    c.check_rows(7, 60, 2);
    assert_int_equal(fake.questions(), 1);
}

void recorded_products_are_not_timed(void **)
{
    controls fake;
    linear_case c(DTYPE_F16, DTYPE_F16, 40, 24, 72, aligned_seed);
    c.set_out(false, false);
    fake.begin(enqueue, false);
    open_in(c);
    cudaGraph_t g;
    cudaGraphExec_t x;
    linear_memory there(c.table, c.device, c.out.bytes.size());
    struct linear_args a = c.args(0, c.m, there.p);
    assert_non_null(device_workspace(c.device, 64 << 20)); // nothing grows while it is recorded
    assert_int_equal(cudaStreamBeginCapture(c.device->stream, cudaStreamCaptureModeRelaxed), 0);
    c.device->recording = true;
    cuda_linear(c.device, &a);
    c.device->recording = false;
    assert_int_equal(cudaStreamEndCapture(c.device->stream, &g), 0);
    assert_int_equal(runs_of_all(fake), 1);
    assert_int_equal(cudaGraphInstantiate(&x, g, 0), 0);
    assert_int_equal(cudaGraphLaunch(x, c.device->stream), 0);
    c.finish(&c.out, there, 1);
    c.check_values();
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(g);
    c.run(2); // now there is time
    assert_int_equal(fake.runs(FAKE_QUICK), 4);
    c.check_values();
}

void gates_follow_the_product(void **)
{
    controls fake;
    for (bool gated : {false, true}) {
        linear_case c(DTYPE_BF16, DTYPE_BF16, 40, 48, 72, aligned_seed);
        c.set_out(false, true);
        fake.begin(enqueue, false);
        open_in(c);
        c.check_act(gated, ACT_SILU, 5);
        assert_true(runs_of_all(fake) > 0);
    }
}

void a_library_that_is_not_there_has_a_sentence(void **)
{
    struct blas *b = nullptr;
    struct error err;
    assert_int_equal(blas_open("/nowhere/libcublasLt.so.13", &b, &err), STATUS_UNSUPPORTED);
    assert_non_null(std::strstr(err.text, "/nowhere/libcublasLt.so.13"));
    assert_int_equal(blas_open(NO_CUBLASLT, &b, &err), STATUS_UNSUPPORTED);
    assert_non_null(std::strstr(err.text, "cublasLtCreate"));
    assert_null(b);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_have_their_values),
        cmocka_unit_test(the_quickest_is_kept),
        cmocka_unit_test(others_take_our_kernels),
        cmocka_unit_test(recorded_products_are_not_timed),
        cmocka_unit_test(gates_follow_the_product),
        cmocka_unit_test(a_library_that_is_not_there_has_a_sentence),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}

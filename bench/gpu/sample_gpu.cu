// SPDX-License-Identifier: Apache-2.0
// sample_gpu [tiny]: choosing tokens from rows of 128256 logits, for the usual parameters; one pass
// over the logits at the speed of a copy is the ceiling. The emulated program (sample_gpu_emu tiny)
// only shows that this one works.
#include "bench/gpu/rows.cuh"

#include <vector>

namespace
{

constexpr uint32_t slots = 256, ids_max = 4096;

struct variant {
    const char *name;
    float temperature, top_p, repetition_penalty;
    int32_t top_k;
    uint32_t n_logprobs;
};

void run(bench *b, const float *logits, uint32_t vocab_size, uint32_t rows, const variant &v)
{
    std::vector<uint32_t> ids(1024);
    for (uint32_t i = 0; i < ids.size(); i++)
        ids[i] = i * 97 % vocab_size;
    std::vector<struct sample_row> row(rows);
    std::vector<struct sample_result> result(rows);
    for (uint32_t i = 0; i < rows; i++) {
        struct sampler_begin_args a = {};
        a.slot = row[i].slot = i;
        a.params.seed = i;
        a.params.temperature = v.temperature;
        a.params.top_k = v.top_k;
        a.params.top_p = v.top_p;
        a.params.typical_p = 1;
        a.params.repetition_penalty = v.repetition_penalty;
        a.params.n_logprobs = v.n_logprobs;
        a.ids = ids.data();
        a.n_ids = a.prompt_length = (uint32_t)ids.size();
        cuda_sampler_begin(b->d, &a);
    }
    timing t = measure(b, [&](unsigned i) {
        struct sample_args a = {};
        for (struct sample_row &r : row)
            r.position = i;
        a.n_rows = rows;
        a.vocab_size = vocab_size;
        a.logits = logits;
        a.row = row.data();
        a.result = result.data();
        cuda_sample(b->d, &a);
    });
    char shape[32];
    snprintf(shape, sizeof shape, "%u", vocab_size);
    double bytes = 4.0 * rows * vocab_size;
    print_row("sample", shape, rows, v.name, t, bytes, 0, bytes / b->copy_bytes_us);
}

} // namespace

int main(int argc, char **argv)
{
    static const variant all[] = {
        {"greedy", 0, 1, 1, 0, 0},
        {"temperature", 1, 1, 1, 0, 0},
        {"top_k50_top_p0.9", 1, 0.9f, 1, 50, 0},
        {"top_p0.95", 1, 0.95f, 1, 0, 0},
        {"penalty_top_p0.95", 1, 0.95f, 1.1f, 0, 0},
        {"top_p0.95_logprobs20", 1, 0.95f, 1, 0, 20},
    };
    bool tiny = argc > 1 && strcmp(argv[1], "tiny") == 0;
    uint32_t vocab_size = tiny ? 500 : 128256;
    struct error err;
    bench b = {};
    bench_open(&b, DTYPE_BF16);
    measure_copy(&b, tiny ? 1 << 20 : (size_t)2 << 30);
    if (cuda_sampler_open(b.d, slots, vocab_size, ids_max, &err) != STATUS_OK)
        give_up("samplers", err.text);
    float *logits = take_filled<float>(&b, (uint64_t)slots * vocab_size, 9, 3);
    for (uint32_t rows = 1; rows <= (tiny ? 1 : slots); rows *= 4)
        for (const variant &v : all)
            run(&b, logits, vocab_size, rows, v);
    cudaFree(logits);
    bench_close(&b);
    return 0;
}

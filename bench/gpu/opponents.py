#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What torch and transformers do on the same device in the same run: rows that bench/gpu/merge.awk
puts beside ours, in the columns of rows.cuh.

    opponents.py ops [--tiny] [--device cuda] [--seconds N]
    opponents.py model --shape config.json --name NAME [--tiny] [--device cuda] [--seconds N]

Names of rows (op, shape, m) are those of linear_gpu, attention_gpu, ops_gpu, sample_gpu and
model_gpu. What cannot be run is a row that says so. Numbers are random, never zeros.
"""
import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

CACHE_BYTES = 256 << 20  # inputs rotate through more than the second cache holds


class Bench:
    def __init__(self, args):
        self.device = args.device
        self.tiny = args.tiny
        self.type = torch.bfloat16
        self.deadline = time.monotonic() + args.seconds
        self.generator = torch.Generator(device=self.device).manual_seed(1)

    def late(self):
        return time.monotonic() > self.deadline

    def random(self, *shape):
        return torch.randn(*shape, device=self.device, dtype=self.type, generator=self.generator)

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def clock(self, f, runs, first):
        """Microseconds of one of `runs` runs."""
        if self.device != "cuda":
            begun = time.perf_counter()
            for i in range(runs):
                f(first + i)
            return (time.perf_counter() - begun) * 1e6 / runs
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        for i in range(runs):
            f(first + i)
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended) * 1e3 / runs

    def measure(self, op, shape, m, variant, f, samples=21):
        """A row: median and spread of samples of about 300 us of runs."""
        try:
            if self.late():
                raise TimeoutError("no time was left")
            samples = 3 if self.tiny else samples
            once = [self.clock(f, 1, i) for i in range(3)][-1]
            runs = max(1, min(64, int(300 / max(once, 1))))
            v = sorted(self.clock(f, runs, 3 + i * runs) for i in range(samples))
            self.wait()
        except Exception as e:  # one row less, and its reason
            row(op, shape, m, variant, None, 0, reason(e))
            return None
        us = statistics.median(v)
        row(op, shape, m, variant, us, (v[len(v) * 3 // 4] - v[len(v) // 4]) / us)
        return us


def reason(e):
    return " ".join(str(e).split())[:120] or type(e).__name__


def row(op, shape, m, variant, us, spread, why=None):
    text = f"{us:.2f}" if us is not None else f"not run: {why}"
    print(op, shape, m, variant, text, "-", "-", "-", "-", f"{spread:.3f}", sep="\t", flush=True)


# ---- ops ----------------------------------------------------------------------------------------


def linear(b):
    shapes = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]
    counts = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096]
    if b.tiny:
        shapes, counts = [(48, 64)], counts[:5]
    for n, k in shapes:
        copies = min(16, CACHE_BYTES // 2 // (2 * n * k) + 1)
        w = [b.random(n, k) for _ in range(copies)]
        for m in counts:
            x = b.random(m, k)
            b.measure("linear", f"{n}x{k}", m, "torch:matmul", lambda i: F.linear(x, w[i % copies]))


def sdpa(b, name, q, k, v, causal, op, shape, m):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
               "math": SDPBackend.MATH}[name]
    variant = "cudnn:sdpa" if name == "cudnn" else f"torch:sdpa,{name}"
    grouped = q.shape[1] != k[0].shape[1]
    with sdpa_kernel([backend]):
        b.measure(op, shape, m, variant, lambda i: F.scaled_dot_product_attention(
            q, k[i % len(k)], v[i % len(v)], is_causal=causal, enable_gqa=grouped))


def attention(b):
    heads = [(32, 8, 128), (64, 8, 128), (32, 32, 128)]
    backends = ["flash", "cudnn"]
    decode = [(n, c) for n in (1, 16, 64, 256) for c in (1024, 4096, 16384)]
    prompts = [1024, 4096, 16384, 32768]
    if b.tiny:
        heads, decode, prompts, backends = [(4, 1, 64)], [(2, 100)], [40], ["math"]
    for hq, hkv, d in heads:
        for n, c in decode:
            size = 2 * n * c * hkv * d * 2
            if size > 24 << 30 or b.late():
                continue
            copies = 1 if size >= CACHE_BYTES else min(64, CACHE_BYTES // size + 1)
            q = b.random(n, hq, 1, d)
            k = [b.random(n, hkv, c, d) for _ in range(copies)]
            v = [b.random(n, hkv, c, d) for _ in range(copies)]
            for name in backends:
                sdpa(b, name, q, k, v, False, "attention_decode", f"{hq}/{hkv}x{d},ctx{c}", n)
        for n in prompts:
            if b.late():
                continue
            q, k, v = b.random(1, hq, n, d), [b.random(1, hkv, n, d)], [b.random(1, hkv, n, d)]
            for name in backends:
                sdpa(b, name, q, k, v, True, "attention_prefill", f"{hq}/{hkv}x{d},ctx{n}", n)


def moves(b):
    hidden, ffn, vocab = (64, 96, 200) if b.tiny else (4096, 14336, 128256)
    w = b.random(hidden)
    table = b.random(vocab, hidden)
    compiled = None if b.tiny else torch.compile(
        lambda x, r: (F.rms_norm(x + r, (hidden,), w, 1e-5), x + r))
    for m in ([1, 3] if b.tiny else [1, 16, 256, 4096]):
        x, r, wide = b.random(m, hidden), b.random(m, hidden), b.random(m, 2 * ffn)
        ids = torch.randint(vocab, (m,), device=b.device)
        b.measure("norm", str(hidden), m, "torch:rms_norm",
                  lambda i: F.rms_norm(x + r, (hidden,), w, 1e-5))
        if compiled:
            b.measure("norm", str(hidden), m, "torch:compiled", lambda i: compiled(x, r))
        b.measure("act", str(ffn), m, "torch:silu", lambda i: F.silu(wide[:, :ffn]) * wide[:, ffn:])
        b.measure("embed", str(hidden), m, "torch:embedding", lambda i: F.embedding(ids, table))
        b.measure("gather", str(hidden), m, "torch:index_select",
                  lambda i: torch.index_select(x, 0, ids % m))
        b.measure("clip", str(hidden), m, "torch:clamp", lambda i: x.clamp_(-3, 3))


def sample(b):
    vocab = 500 if b.tiny else 128256

    def top_k_top_p(logits):
        value, index = torch.topk(logits, 50)
        p = torch.softmax(value, -1)
        p = p * ((p.cumsum(-1) - p) < 0.9)
        return index.gather(-1, torch.multinomial(p, 1))

    def top_p(logits):
        value, index = torch.sort(logits, descending=True)
        p = torch.softmax(value, -1)
        p = p * ((p.cumsum(-1) - p) < 0.95)
        return index.gather(-1, torch.multinomial(p, 1))

    kinds = {"greedy": lambda x: x.argmax(-1),
             "temperature": lambda x: torch.multinomial(torch.softmax(x, -1), 1),
             "top_k50_top_p0.9": top_k_top_p, "top_p0.95": top_p}
    for m in ([1] if b.tiny else [1, 4, 16, 64, 256]):
        logits = 3 * b.random(m, vocab).float()
        for name, f in kinds.items():
            b.measure("sample", str(vocab), m, f"torch:{name}", lambda i: f(logits))


# ---- models -------------------------------------------------------------------------------------


def make_model(b, shape, layers=None):
    import transformers

    with open(shape, encoding="utf-8") as f:
        config = json.load(f)
    if layers:
        config["num_hidden_layers"] = layers
    config = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    with torch.device(b.device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=b.type)
    for p in model.parameters():
        with torch.no_grad():
            p.normal_(0, 0.02, generator=b.generator)
    return model.eval()


def step_times(b, f, steps):
    v = []
    for _ in range(steps):
        b.wait()
        begun = time.perf_counter()
        f()
        b.wait()
        v.append((time.perf_counter() - begun) * 1e6)
    v = sorted(v[len(v) // 4:])  # the first ones warm up
    us = statistics.median(v)
    return us, (v[len(v) * 3 // 4] - v[len(v) // 4]) / us


def eager(b, model, name, m, context):
    from transformers import DynamicCache

    vocab = model.config.vocab_size
    cache = DynamicCache()
    ids = torch.randint(3, vocab, (m, context), device=b.device)
    model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    ids = ids[:, -1:]

    def step():
        nonlocal ids
        out = model(ids, past_key_values=cache, use_cache=True)
        ids = out.logits[:, -1:].argmax(-1)

    us, spread = step_times(b, step, 4 if b.tiny else 24)
    row("decode", f"{name},ctx{context}", m, "transformers:eager", us, spread)


def prompts(b, model, name, n):
    ids = torch.randint(3, model.config.vocab_size, (1, n), device=b.device)
    us, spread = step_times(b, lambda: model(ids, use_cache=False, logits_to_keep=1),
                            4 if b.tiny else 8)
    row("prompt", f"{name},ctx{n}", n, "transformers:eager", us, spread)


def static(b, shape, name, m, context, layers, all_layers):
    """A compiled step over a static cache; of a few layers, scaled to all of them."""
    from transformers import StaticCache

    model = make_model(b, shape, layers)
    cache = StaticCache(config=model.config, max_cache_len=context + 64)
    ids = torch.randint(3, model.config.vocab_size, (m, context), device=b.device)
    at = torch.arange(context, device=b.device)
    model(ids, past_key_values=cache, cache_position=at, use_cache=True, logits_to_keep=1)
    step = torch.compile(model.forward, mode="reduce-overhead", fullgraph=False)
    state = {"ids": ids[:, -1:].clone(), "at": torch.tensor([context], device=b.device)}

    def once():
        out = step(state["ids"], past_key_values=cache, cache_position=state["at"], use_cache=True)
        state["ids"] = out.logits[:, -1:].argmax(-1).clone()
        state["at"] += 1

    us, spread = step_times(b, once, 4 if b.tiny else 32)
    row("decode", f"{name},ctx{context}", m,
        f"transformers:compiled,{layers} of {all_layers} layers", us * all_layers / layers, spread)


def attempt(op, shape, m, variant, f):
    try:
        f()
    except Exception as e:  # one row less, and its reason
        row(op, shape, m, variant, None, 0, reason(e))


def model(b, shape, name):
    counts, contexts, lengths = ([1, 4, 16, 64], [128, 1024], [512, 2048])
    if b.tiny:
        counts, contexts, lengths = [2], [20, 60], [40]
    with open(shape, encoding="utf-8") as f:
        all_layers = json.load(f)["num_hidden_layers"]
    whole = make_model(b, shape)
    for context in contexts:
        for m in counts:
            if b.late():
                row("decode", f"{name},ctx{context}", m, "transformers:eager", None, 0,
                    "no time was left")
                continue
            attempt("decode", f"{name},ctx{context}", m, "transformers:eager",
                    lambda: eager(b, whole, name, m, context))
    for n in lengths:
        if not b.late():
            attempt("prompt", f"{name},ctx{n}", n, "transformers:eager",
                    lambda: prompts(b, whole, name, n))
    del whole
    for m in ([] if b.tiny else [1, 16]):
        layers = min(8, all_layers)
        if b.late():
            row("decode", f"{name},ctx128", m, "transformers:compiled", None, 0, "no time was left")
            continue
        attempt("decode", f"{name},ctx128", m, "transformers:compiled",
                lambda: static(b, shape, name, m, 128, layers, all_layers))


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["ops", "model"])
    p.add_argument("--shape")
    p.add_argument("--name", default="model")
    p.add_argument("--device", default="cuda")
    p.add_argument("--seconds", type=float, default=60)
    p.add_argument("--tiny", action="store_true")
    args = p.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("opponents.py: torch sees no GPU", file=sys.stderr)
        return 1
    b = Bench(args)
    with torch.inference_mode():
        if args.what == "model":
            model(b, args.shape, args.name)
        else:
            for f in (linear, attention, moves, sample):
                f(b)
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the golden models: tiny random models in Hugging Face's layout, and what transformers
computes with them on a CPU in float32 with eager attention. See README.md.
usage: make_golden.py [--out FOLDER] [NAME ...]"""
import argparse
import json
import os
import shutil
import zlib

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from golden_text import PROMPTS, long_text
import families
import rewrite
import tokenizers_small

LONG = 300        # Tokens of the long prompt: it crosses position 256.
ALL_ROWS = 48     # Prompts up to this length are clear of ties in all their rows of logits,
LAST_ROWS = 16    # longer ones in the last few. So many are stored, or as the options say.
GREEDY = 24       # Greedy tokens per prompt.
FAMILY_PROMPTS = (9, 41)  # Tokens of the prompts of families' models,
FAMILY_ROWS = 10          # and the rows of logits that are kept of each.
MARGIN = 2e-3     # No stored row and no greedy step is nearer to a tie than this.

BASE = dict(vocab_size=515, bos_token_id=1, eos_token_id=2, pad_token_id=0, hidden_size=64,
            intermediate_size=90, num_hidden_layers=2, num_attention_heads=8,
            num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=False)
# Wider heads give RoPE eight frequencies, so that scaling rules have something to tell apart.
ROPE = dict(BASE, hidden_size=48, intermediate_size=72, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, tie_word_embeddings=True)


def rope(kind, **params):
    return dict(ROPE, rope_parameters=dict(dict(rope_type=kind, rope_theta=10000.0), **params))


LLAMA3 = dict(rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(factor=8.0, original_max_position_embeddings=64)

# name: (model type, stored dtype, config, options). Options: shard = largest shard,
# classic = write rope_theta and rope_scaling instead of rope_parameters, long = add a prompt of
# LONG tokens, max_model_len = the length that dynamic NTK chooses its factors for.
MODELS = {
    "llama-gqa-sharded": ("llama", "float32", BASE, dict(shard="130KB", long=True, rows=ALL_ROWS)),
    "llama-mha-bf16": ("llama", "bfloat16", dict(BASE, num_key_value_heads=8), {}),
    "llama-mqa-f16": ("llama", "float16", dict(BASE, num_key_value_heads=1), {}),
    "llama-tied-headdim": ("llama", "bfloat16", dict(
        BASE, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True), {}),
    "llama-bias": ("llama", "float16", dict(BASE, attention_bias=True, mlp_bias=True), {}),
    "llama-padded-vocab": ("llama", "bfloat16", dict(
        BASE, vocab_size=528, hidden_size=32, num_hidden_layers=3, rms_norm_eps=1e-2,
        rope_parameters=dict(rope_type="default", rope_theta=1000.0)), dict(classic=True)),
    "rope-linear": ("llama", "bfloat16", rope("linear", factor=4.0), {}),
    "rope-linear-classic": ("llama", "bfloat16", rope("linear", factor=2.5),
                            dict(classic="type")),
    "rope-dynamic": ("llama", "bfloat16", dict(
        rope("dynamic", factor=2.0), max_position_embeddings=32), dict(max_model_len=160)),
    "rope-dynamic-classic": ("llama", "bfloat16", dict(
        rope("dynamic", factor=4.0), max_position_embeddings=32),
        dict(max_model_len=96, classic="type")),
    "rope-llama3": ("llama", "bfloat16", rope("llama3", **LLAMA3), dict(long=True)),
    "rope-llama3-classic": ("llama", "bfloat16", rope("llama3", **dict(
        LLAMA3, factor=32.0, high_freq_factor=8.0)), dict(classic=True)),
    "rope-yarn": ("llama", "bfloat16", rope("yarn", **YARN), dict(long=True)),
    "rope-yarn-classic": ("llama", "bfloat16", rope(
        "yarn", **dict(YARN, factor=4.0, attention_factor=1.3, beta_fast=16.0, beta_slow=2.0)),
        dict(classic=True)),
    "rope-yarn-mscale": ("llama", "bfloat16", rope(
        "yarn", **dict(YARN, mscale=0.707, mscale_all_dim=0.4)), {}),
    "rope-yarn-mscale-equal": ("llama", "bfloat16", rope(
        "yarn", **dict(YARN, mscale=1.0, mscale_all_dim=1.0, truncate=False)), {}),
    "mistral-window24": ("mistral", "bfloat16", dict(BASE, sliding_window=24), dict(long=True)),
    "mistral-full": ("mistral", "bfloat16", dict(
        ROPE, sliding_window=None, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
        dict(classic=True)),
}


# Those of families have no tokenizer, and lie in families/NAME.
ALL = dict(MODELS, **families.MODELS)


def randomise(model, seed, gain=1.0):
    """Every parameter, so that a dropped bias or two swapped norms show in the logits."""
    gen = torch.Generator().manual_seed(seed)
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=gen)
            if is_norm(name):
                p.copy_((name.endswith("weight") and not zero_is_one(model)) + 0.2 * r)
            elif p.ndim == 1:
                p.copy_(0.3 * r)
            elif any(w in name for w in ("embed", "wte", "wpe")) and "proj" not in name:
                p.copy_(r * (0.15 if tied else 0.5))
            else:
                p.copy_(r * 1.4 * gain / p.shape[-1] ** 0.5)
    model.tie_weights()


def is_norm(name):
    return any(w in name for w in ("norm", "ln_", "ln_f"))


def zero_is_one(model):
    """Whether the stored weight w of a norm means 1 + w."""
    return model.config.model_type.startswith("gemma")


def cast(model, dtype):
    """Parameters only: RoPE's frequencies are buffers and stay float32."""
    for p in model.parameters():
        p.data = p.data.to(dtype)


def write_classic(folder, style):
    """The config as older versions wrote it: rope_theta and rope_scaling at the top level."""
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    params = config.pop("rope_parameters")
    config["rope_theta"] = params.pop("rope_theta")
    kind = params.pop("rope_type")
    key = "type" if style == "type" else "rope_type"
    config["rope_scaling"] = None if kind == "default" else dict({key: kind}, **params)
    config["torch_dtype"] = config.pop("dtype")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


def prompts_of(tok, options):
    """(text or null, ids) of each prompt of this model."""
    if tok is None:
        gen = torch.Generator().manual_seed(7)
        lengths = (3, 7) if options.get("short") else FAMILY_PROMPTS
        return [(None, torch.randint(3, 91, (n,), generator=gen).tolist()) for n in lengths]
    long_ids = tok.encode(long_text()).ids
    if "max_model_len" in options:
        # Hugging Face goes back to the unscaled factors for sequences that fit into
        # max_position_embeddings, so these prompts are all longer than that.
        n = options["max_model_len"]
        return [(None, long_ids[:40]), (None, long_ids[:n - GREEDY - 7]),
                (None, [1] + long_ids[50:50 + n - GREEDY - 1])]
    rows = [(t, tok.encode(t).ids) for t in PROMPTS]
    if options.get("long"):
        check(len(long_ids) >= LONG, "the long text is too short")
        rows.append((None, long_ids[:LONG]))
    return rows


def check(ok, what):
    if not ok:
        raise SystemExit("make_golden.py: " + what)


def alibi_mask(heads, n):
    """Causal, with ALiBi's bias, for a number of heads between powers of two."""
    below = 2 ** (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / below) for i in range(below)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / below) for i in range(heads - below)]
    distance = torch.arange(n)[None, :] - torch.arange(n)[:, None]
    bias = torch.tensor(slopes)[:, None, None] * distance
    return bias.masked_fill(distance > 0, float("-inf"))[None]


def logits_of(model, ids):
    more = {}
    if getattr(model, "golden_alibi", False):
        model.model.rotary_emb.inv_freq.zero_()  # no angle: nothing is rotated
        more = dict(attention_mask=alibi_mask(model.config.num_attention_heads, len(ids)))
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False, **more).logits[0].float()


def margin(rows):
    top = rows.topk(2, dim=-1).values
    return float((top[:, 0] - top[:, 1]).min())


def warm_up(model, options):
    """Dynamic NTK: Hugging Face chooses the factors anew for each forward pass (5.12 forgets the
    longest length so far). One pass of max_model_len tokens sets them; then they are frozen, as
    choosing them once from the longest length does."""
    if "max_model_len" in options:
        logits_of(model, [3] * options["max_model_len"])
        model.model.rotary_emb.rope_type = "default"


def prepare(model, options):
    """What an equivalent checkpoint of another family computes otherwise."""
    model.golden_alibi = options.get("alibi", False)
    if model.config.model_type == "mpt":
        # transformers does not hand attn_config.alibi_bias_max on; MPT's published code uses it.
        build, most = model.transformer.build_mpt_alibi_tensor, model.config.attn_config.alibi_bias_max
        model.transformer.build_mpt_alibi_tensor = lambda heads, length, device=None: build(
            heads, length, most, device)
    if options.get("head_norm"):
        w = model.lm_head.weight
        w.data = torch.nn.functional.normalize(w.data)


def greedy(model, ids, count):
    """Generated ids, their log-probabilities, and the smallest distance to the second best."""
    all_ids, least = list(ids), 1e9
    for _ in range(count):
        last = logits_of(model, all_ids)[-1:]
        least = min(least, margin(last))
        all_ids.append(int(last.argmax()))
    logp = logits_of(model, all_ids).log_softmax(-1)
    out = all_ids[len(ids):]
    return out, [float(logp[len(ids) + i - 1, t]) for i, t in enumerate(out)], least


def run_prompts(model, tok, options):
    warm_up(model, options)
    results = []
    for text, ids in prompts_of(tok, options):
        logits = logits_of(model, ids)
        most, last = (ALL_ROWS, LAST_ROWS) if tok else (FAMILY_ROWS, FAMILY_ROWS)
        kept = logits if len(ids) <= most else logits[-last:]
        out, logp, step_margin = greedy(model, ids, GREEDY)
        stored = kept[-options.get("rows", LAST_ROWS):].contiguous().clone()
        results.append(dict(text=text, ids=ids, logits=stored, out=out, logp=logp,
                            margin=min(step_margin, margin(kept))))
    return results


def good(results, tok, tied):
    """Clear of ties, varied, and within the tokenizer's vocabulary without its specials. Small
    models whose head is their embedding like to repeat themselves."""
    varied = GREEDY // 2 if tok else 4 if tied else GREEDY // 3
    size = tok.get_vocab_size() if tok else 91
    return all(r["margin"] > MARGIN and len(set(r["out"])) >= varied
               and 3 <= min(r["out"]) and max(r["out"]) < size for r in results)


def finish(folder, options):
    """Turns the saved model into another family's, and its config into the classic style."""
    path, weights = os.path.join(folder, "config.json"), os.path.join(folder, "model.safetensors")
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    if "rewrite" in options:
        config, tensors = getattr(rewrite, options["rewrite"])(config, load_file(weights))
        save_file({n: t.contiguous() for n, t in tensors.items()}, weights)
    for key, value in options.get("keys", {}).items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    with open(path, "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


def build(name, folder, tok):
    """Tries seeds until the greedy sequences are varied and clear of ties; writes the model."""
    kind, dtype, config, options = ALL[name]
    stored = getattr(torch, dtype)
    for attempt in range(2000):
        seed = zlib.crc32(name.encode()) + attempt
        cfg = AutoConfig.for_model(kind, **config)
        model = AutoModelForCausalLM.from_config(
            cfg, attn_implementation=options.get("attention", "eager")).float().eval()
        randomise(model, seed, options.get("gain", 1.0))
        cast(model, stored)
        cast(model, torch.float32)
        whole = {n: p.data.clone() for n, p in model.named_parameters()}
        prepare(model, options)
        if not good(run_prompts(model, tok, options), tok, model.config.tie_word_embeddings):
            continue
        for n, p in model.named_parameters():
            p.data = whole[n]
        model.config.dtype = dtype
        cast(model, stored)
        model.save_pretrained(folder, max_shard_size=options.get("shard", "5GB"))
        if options.get("classic"):
            write_classic(folder, options["classic"])
        return seed
    raise SystemExit(f"make_golden.py: no good seed for {name}")


def write_golden(name, folder, seed, tok):
    """Reads the model back, as a server does, and stores what it computes."""
    kind, dtype, _, options = ALL[name]
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=options.get("attention", "eager")).eval()
    prepare(model, options)
    results = run_prompts(model, tok, options)
    check(good(results, tok, model.config.tie_word_embeddings), f"{name}: reading the model back changed its results")
    tensors, rows = {}, []
    for k, r in enumerate(results):
        tensors[f"p{k}.input_ids"] = torch.tensor(r["ids"])
        tensors[f"p{k}.logits"] = r["logits"]
        tensors[f"p{k}.greedy_ids"] = torch.tensor(r["out"])
        tensors[f"p{k}.greedy_logprobs"] = torch.tensor(r["logp"])
        rows.append(dict(text=r["text"], input_ids=r["ids"], greedy_ids=r["out"],
                         greedy_text=tok.decode(r["out"]) if tok else None,
                         logit_rows=len(r["logits"]), logits_std=float(r["logits"].std()),
                         min_top1_margin=r["margin"]))
    save_file(tensors, os.path.join(folder, "golden.safetensors"))
    positions = getattr(model.config, "max_position_embeddings", 96)
    head = dict(model=name, model_type=kind, transformers=transformers.__version__,
                torch=torch.__version__.split("+")[0], seed=seed, stored_dtype=dtype,
                compute_dtype="float32", tied=model.config.tie_word_embeddings,
                max_model_len=options.get("max_model_len", positions))
    if tok is None:
        finish(folder, options)
    for file in os.listdir(folder):
        os.chmod(os.path.join(folder, file), 0o644)
    with open(os.path.join(folder, "golden.json"), "w", encoding="utf-8") as f:
        head = json.dumps(head, indent=1)[:-2]
        f.write(head + ',\n "prompts": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]\n}\n")
    print(f"{name:24s} seed +{seed - zlib.crc32(name.encode()):<3d} margins",
          " ".join(f"{r['margin']:.4f}" for r in results),
          "std %.2f" % results[0]["logits"].std(), flush=True)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    args = argparse.ArgumentParser()
    args.add_argument("--out", default=here)
    args.add_argument("names", nargs="*", help="models to make (default: all)")
    args = args.parse_args()
    torch.set_num_threads(1)
    # Two families of splitting, so that each is served end to end.
    toks = tokenizers_small.make_all(os.path.join(args.out, "tokenizers"))
    for name in args.names or ALL:
        kind = "models" if name in MODELS else "families"
        folder = os.path.join(args.out, kind, name)
        shutil.rmtree(folder, ignore_errors=True)
        tok = None
        if name in MODELS:
            split = "gpt2-split" if name.startswith("rope") else "llama3-split"
            tokenizers_small.write(toks[split], folder)
            tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        write_golden(name, folder, build(name, folder, tok), tok)


if __name__ == "__main__":
    main()

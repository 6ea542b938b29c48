#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the demo model on the stories that make_corpus.py wrote. See README.md.
usage: train.py CORPUS OUT_DIR [--minutes M]"""
import argparse
import itertools
import json
import math
import os
import sys
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
VOCAB, CONTEXT, BATCH_TOKENS = 2048, 512, 4096
SHORT_SHARE = 0.85  # This share of the time on windows of half the context: they cost less.
CONFIG = dict(vocab_size=VOCAB, hidden_size=256, intermediate_size=640, num_hidden_layers=5,
              num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=CONTEXT,
              tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
              rms_norm_eps=1e-5, initializer_range=0.03)


def train_tokenizer(texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[PAD, BOS, EOS], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])])
    return tok


def write_tokenizer(tok, out):
    tok.save(os.path.join(out, "tokenizer.json"))
    with open(os.path.join(out, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=BOS, eos_token=EOS,
                       pad_token=PAD, clean_up_tokenization_spaces=False,
                       model_max_length=CONTEXT), f, indent=1)
        f.write("\n")


def read_corpus(path):
    """Distinct stories; a cut-off one loses its last, unfinished sentence."""
    rows, seen = [], set()
    with open(path, encoding="utf-8") as f:
        for line in f:
            text, complete = json.loads(line)
            text = " ".join(text.replace("\n", "\n ").split(" ")).replace("\n ", "\n").strip()
            if not complete:
                text = text[:max(text.rfind(c) for c in '.!?"') + 1]
            if len(text) > 80 and text not in seen and "\ufffd" not in text:
                seen.add(text)
                rows.append((text, complete))
    return rows


def encode(tok, rows):
    """One stream of ids: BOS, story, EOS where the story is complete."""
    stream = []
    for (_, complete), e in zip(rows, tok.encode_batch([t for t, _ in rows])):
        stream += e.ids + ([2] if complete else [])
    return torch.tensor(stream)


def windows(stream, length, gen):
    """Endless batches; each pass begins at another offset and visits its windows in random order."""
    batch = BATCH_TOKENS // length
    while True:
        start = int(torch.randint(length, (1,), generator=gen))
        n = (len(stream) - start - 1) // length
        order = torch.randperm(n, generator=gen)
        for i in range(0, n - batch + 1, batch):
            at = start + order[i:i + batch, None] * length + torch.arange(length + 1)
            yield stream[at]


def loss_of(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def held_out_loss(model, stream):
    model.eval()
    n = (len(stream) - 1) // 256
    at = torch.arange(n)[:, None] * 256 + torch.arange(257)
    with torch.no_grad():
        total = sum(float(loss_of(model, b)) * len(b) for b in stream[at].split(16))
    model.train()
    return total / n


def save(model, out):
    for p in model.parameters():
        p.grad = None
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.tie_weights()
    copy.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    copy.to(torch.bfloat16).save_pretrained(out)
    os.chmod(os.path.join(out, "model.safetensors"), 0o644)


def optimizers(model):
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [torch.optim.Muon(matrices, lr=0.004, weight_decay=0.1, momentum=0.95,
                             adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=0.004, betas=(0.9, 0.98), weight_decay=0.0)]


def rate(share):
    """Share of the learning rate after this share of the time: warm-up, then a cosine to zero."""
    return min(1.0, share / 0.02) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, share)))


def train(model, stream, held, out, minutes):
    gen = torch.Generator().manual_seed(1)
    optims = optimizers(model)
    peaks = [o.param_groups[0]["lr"] for o in optims]
    begin = saved = time.time()
    short, full = windows(stream, CONTEXT // 2, gen), windows(stream, CONTEXT, gen)
    for step in itertools.count():
        share = (time.time() - begin) / (60 * minutes)
        batch = next(short if share < SHORT_SHARE else full)
        for o, peak in zip(optims, peaks):
            o.param_groups[0]["lr"] = peak * max(1e-3, rate(share))
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optims:
            o.step()
            o.zero_grad(set_to_none=True)
        if step % 20 == 0 or share >= 1:
            print(f"step {step:5d}  {100 * share:5.1f} %  loss {loss.item():.3f}  "
                  f"{(step + 1) * BATCH_TOKENS / (time.time() - begin):.0f} tokens/s", flush=True)
        if time.time() - saved > 300 or share >= 1:
            saved = time.time()
            print(f"step {step:5d}  held-out loss {held_out_loss(model, held):.4f}", flush=True)
            save(model, out)
        if share >= 1:
            return


def main():
    args = argparse.ArgumentParser()
    args.add_argument("corpus")
    args.add_argument("out")
    args.add_argument("--minutes", type=float, default=35)
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    os.makedirs(args.out, exist_ok=True)
    rows = read_corpus(args.corpus)
    held, rows = rows[:200], rows[200:]
    tok = train_tokenizer([t for t, _ in rows])
    write_tokenizer(tok, args.out)
    stream, held = encode(tok, rows), encode(tok, held)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    model.set_attn_implementation("eager")  # Faster than the fused one on many CPUs' bf16.
    print(f"{len(rows)} stories, {len(stream)} tokens, {len(held)} held out; "
          f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    train(model, stream, held, args.out, args.minutes)


if __name__ == "__main__":
    sys.exit(main())

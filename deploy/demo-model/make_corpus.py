#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Samples the demo model's training text, children's stories, from a larger model of the
Llama architecture. See README.md.
usage: make_corpus.py TEACHER_DIR OUT.jsonl [--seconds S] [--seed N]
Each line of OUT is [text, complete]: complete is false where a story was cut at the context's end."""
import argparse
import json
import random
import time

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH, CONTEXT, TOP_K, TOP_P, TEMPERATURE = 384, 256, 48, 0.96, 0.75
BOS, EOS = 1, 2

NAMES = """Lily Tom Ben Mia Max Sam Anna Tim Sara Jack Lucy Leo Emma Jane Bob Molly Billy Daisy Amy
Joe Kitty Spot Rosie Fred Nora Peter Ella Oscar Ruby Henry""".split()
ANIMALS = """cat dog bird rabbit bear fox frog mouse duck pig cow horse lion turtle squirrel bee fish
owl monkey elephant dragon butterfly hen sheep""".split()
KINDS = """little big happy sad old small kind brave clever red blue shy lazy hungry funny lonely
pretty tiny friendly curious silly quiet""".split()
PLACES = """park forest garden house kitchen beach farm lake school river town village castle market
zoo mountain shop yard cave field""".split()
THINGS = """ball box tree flower cake boat hat kite car book key stone toy apple ring drum doll bike
lamp coat cookie star bell map swing wagon balloon puzzle""".split()
DAYS = "sunny rainy cold windy warm snowy".split()
OPENINGS = """One day, NAME|One day, a KIND ANIMAL|NAME and NAME|The KIND ANIMAL|NAME was a KIND
There was a KIND ANIMAL|In the PLACE,|NAME had a KIND THING|Once there was a KIND THING
NAME went to the PLACE|A KIND ANIMAL|NAME found a THING|NAME wanted|NAME saw a KIND ANIMAL
Once upon a time, there was a KIND ANIMAL named NAME|Once upon a time, in a KIND PLACE,
Once upon a time, NAME found a THING|It was a DAY day|NAME and the ANIMAL|"Mom, can I
Once upon a time, a ANIMAL and a ANIMAL|NAME loved to|The THING was|One morning, NAME
One night, the ANIMAL|My ANIMAL|The sun""".replace("\n", "|").split("|")


def opening():
    """The first words of a story; three in ten stories begin as the teacher likes."""
    if random.random() < 0.3:
        return ""
    lists = dict(NAME=NAMES, ANIMAL=ANIMALS, KIND=KINDS, PLACE=PLACES, THING=THINGS, DAY=DAYS)
    words = random.choice(OPENINGS).split(" ")
    out = []
    for word in words:
        key = word.rstrip(",")
        out.append(random.choice(lists[key]) + word[len(key):] if key in lists else word)
    return " ".join(out)


class Teacher:
    """A batched decoder for plain Llama models without grouped KV heads, in bfloat16."""

    def __init__(self, folder):
        self.tok = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        c, w = model.config, model.state_dict()
        assert c.num_key_value_heads == c.num_attention_heads
        self.heads, self.eps = c.num_attention_heads, c.rms_norm_eps
        self.dim = c.hidden_size // self.heads
        self.embed, self.head = w["model.embed_tokens.weight"], model.lm_head.weight
        self.last_norm = w["model.norm.weight"]
        self.layers = [self.layer(w, f"model.layers.{i}.") for i in range(c.num_hidden_layers)]
        inv = 1.0 / c.rope_parameters["rope_theta"] ** (torch.arange(0, self.dim, 2) / self.dim)
        angles = torch.outer(torch.arange(CONTEXT).float(), inv)
        self.cos = torch.cat([angles.cos()] * 2, -1).bfloat16()
        self.sin = torch.cat([angles.sin()] * 2, -1).bfloat16()
        shape = (len(self.layers), BATCH, self.heads, CONTEXT, self.dim)
        self.keys = torch.zeros(shape, dtype=torch.bfloat16)
        self.values = torch.zeros(shape, dtype=torch.bfloat16)

    @staticmethod
    def layer(w, p):
        qkv = torch.cat([w[p + f"self_attn.{x}_proj.weight"] for x in "qkv"])
        gate_up = torch.cat([w[p + f"mlp.{x}_proj.weight"] for x in ("gate", "up")])
        return (w[p + "input_layernorm.weight"], qkv, w[p + "self_attn.o_proj.weight"],
                w[p + "post_attention_layernorm.weight"], gate_up, w[p + "mlp.down_proj.weight"])

    def norm(self, x, weight):
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)

    def rotate(self, x, t):
        half = self.dim // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * self.cos[t] + turned * self.sin[t]

    def step(self, ids, t):
        """ids [BATCH] at position t -> the last hidden state [BATCH, hidden]."""
        x = self.embed[ids]
        for (n1, wqkv, wo, n2, wgu, wd), k, v in zip(self.layers, self.keys, self.values):
            qkv = F.linear(self.norm(x, n1), wqkv).view(BATCH, 3, self.heads, self.dim)
            k[:, :, t], v[:, :, t] = self.rotate(qkv[:, 1], t), qkv[:, 2]
            a = F.scaled_dot_product_attention(self.rotate(qkv[:, 0], t)[:, :, None],
                                               k[:, :, :t + 1], v[:, :, :t + 1])
            x = x + F.linear(a.reshape(BATCH, -1), wo)
            gate, up = F.linear(self.norm(x, n2), wgu).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, wd)
        return self.norm(x, self.last_norm)


def sample(hidden, head, keep, gen):
    """One id per row. keep: the ids that the rows of head stand for, or None for all."""
    best, ids = F.linear(hidden, head).float().topk(TOP_K)
    probs = (best / TEMPERATURE).softmax(-1)
    probs = probs * ((probs.cumsum(-1) - probs) < TOP_P)
    ids = ids.gather(1, torch.multinomial(probs, 1, generator=gen))[:, 0]
    return ids if keep is None else keep[ids]


def stories(teacher, keep, gen):
    """One batch of stories: lists of ids, and whether each came to its end."""
    head = teacher.head if keep is None else teacher.head[keep].contiguous()
    rows = [[BOS] + teacher.tok(opening(), add_special_tokens=False).input_ids
            for _ in range(BATCH)]
    done = [False] * BATCH
    ids = torch.full((BATCH,), BOS)
    for t in range(CONTEXT - 1):
        following = sample(teacher.step(ids, t), head, keep, gen).tolist()
        for b, token in enumerate(following):
            if len(rows[b]) > t + 1:
                following[b] = rows[b][t + 1]
            elif token in (BOS, EOS):
                done[b], following[b] = True, 0
            elif not done[b]:
                rows[b].append(token)
        ids = torch.tensor(following)
        if sum(done) > 0.93 * BATCH:
            break
    return rows, done


def main():
    args = argparse.ArgumentParser()
    args.add_argument("teacher")
    args.add_argument("out")
    args.add_argument("--seconds", type=float, default=1320)
    args.add_argument("--seed", type=int, default=7)
    args = args.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    random.seed(args.seed)
    gen = torch.Generator().manual_seed(args.seed)
    teacher = Teacher(args.teacher)
    seen = torch.zeros(len(teacher.head), dtype=torch.bool)
    seen[[BOS, EOS]] = True
    keep, begin, wave, total = None, time.time(), 0, 0
    with open(args.out, "w", encoding="utf-8") as f:
        while time.time() - begin < args.seconds:
            rows, done = stories(teacher, keep, gen)
            for row, complete in zip(rows, done):
                seen[row] = True
                text = teacher.tok.decode(row, skip_special_tokens=True)
                f.write(json.dumps([text, complete], ensure_ascii=False) + "\n")
                total += len(row)
            wave += 1
            if wave == 2:  # Words that two batches did not use are rare: leave them out.
                keep = seen.nonzero()[:, 0]
            print(f"{time.time() - begin:6.0f} s  {total} tokens", flush=True)


if __name__ == "__main__":
    main()

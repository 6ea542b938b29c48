#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Greedy completions of deploy/demo-model by transformers in float32 (demo.json).
usage: make_demo.py [MODEL_DIR [FILE]]"""
import json
import os
import sys

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
MARGIN = 1e-3
COUNT = 48
# Tried in this order; those that come near a tie or to an end within COUNT tokens are left out.
PROMPTS = ["Once upon a time, there was a little", "Lily and Ben went to the park. They saw",
           "The small bird was sad because", "One day, Tom found a big box in the garden.",
           "The old dog", "Mia had a red balloon.", "\"Mom, can I have a cookie?\" asked Max.",
           "In the forest, a fox", "It was a sunny day and Sam", "The cat and the mouse"]


def greedy(model, ids):
    out, logp, least = [], [], 1e9
    for _ in range(COUNT):
        with torch.no_grad():
            row = model(input_ids=torch.tensor([ids + out]), use_cache=False).logits[0, -1].float()
        top = row.topk(2).values
        least = min(least, float(top[0] - top[1]))
        out.append(int(row.argmax()))
        logp.append(float(row.log_softmax(-1)[out[-1]]))
    return out, logp, least


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "../../deploy/demo-model")
    path = sys.argv[2] if len(sys.argv) > 2 else os.path.join(HERE, "demo.json")
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    rows = []
    for text in PROMPTS:
        ids = tok.encode(text).ids
        out, logp, least = greedy(model, ids)
        if least > MARGIN and 2 not in out and len(rows) < 4:
            rows.append(dict(text=text, input_ids=ids, greedy_ids=out, greedy_logprobs=logp,
                             greedy_text=tok.decode(out), min_top1_margin=least))
            print(text, "|", rows[-1]["greedy_text"], "| margin %.4f" % least)
    head = json.dumps(dict(model="deploy/demo-model", transformers=transformers.__version__,
                           torch=torch.__version__.split("+")[0], compute_dtype="float32",
                           max_model_len=model.config.max_position_embeddings), indent=1)[:-2]
    with open(path, "w", encoding="utf-8") as f:
        f.write(head + ',\n "prompts": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]\n}\n")
    if len(rows) < 4:
        raise SystemExit("make_demo.py: fewer than four clear prompts")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Distributions that a sampler must arrive at, computed in float64; the rules stand in README.md.
usage: make_sampling.py [FILE]"""
import json
import os
import sys

import numpy as np

V = 50
DEFAULTS = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0,
                repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0,
                logit_bias={}, min_tokens=0, eos_token_id=2, stop_token_ids=[])
NEAR = 1e-6  # No sum or threshold lies nearer than this to where it decides.


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def far(values, border):
    """Cases whose result hangs on rounding are refused."""
    values = np.asarray(values, dtype=np.float64)
    if np.any(np.abs(values - border) < NEAR):
        raise ValueError("a value lies on the border")


def bias_and_min_tokens(x, p, prompt, output):
    if len(output) < p["min_tokens"]:
        x[[p["eos_token_id"], *p["stop_token_ids"]]] = -np.inf
    for token, bias in p["logit_bias"].items():
        x[int(token)] += bias
    return x


def penalties(x, p, prompt, output):
    seen = sorted(set(prompt) | set(output))
    r = p["repetition_penalty"]
    x[seen] = np.where(x[seen] > 0, x[seen] / r, x[seen] * r)
    counts = np.bincount(np.asarray(output, dtype=np.int64), minlength=len(x))
    x = x - p["frequency_penalty"] * counts
    return x - p["presence_penalty"] * (counts > 0)


def min_p(x, p):
    probs = softmax(x)
    far(probs / probs.max(), p["min_p"])
    return np.where(probs < p["min_p"] * probs.max(), -np.inf, x)


def top_k(x, p):
    k = min(p["top_k"], len(x))
    return np.where(x < np.sort(x)[-k], -np.inf, x)


def top_p(x, p):
    probs = softmax(x)
    order = np.argsort(-probs, kind="stable")
    before = np.cumsum(probs[order]) - probs[order]
    far(before[1:], p["top_p"])
    out = np.full_like(x, -np.inf)
    stay = order[before < p["top_p"]]
    gone = order[before >= p["top_p"]]
    if len(gone) and probs[stay].min() - probs[gone].max() < 1e-9 and probs[gone].max() > 0:
        raise ValueError("equal probabilities on both sides of top_p")
    out[stay] = x[stay]
    return out


def typical_p(x, p):
    probs = softmax(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        logp = np.where(probs > 0, np.log(probs), -np.inf)
        entropy = -np.nansum(np.where(probs > 0, probs * logp, 0.0))
        distance = np.abs(-logp - entropy)
    order = np.argsort(distance, kind="stable")
    total = np.cumsum(probs[order])
    far(total[:-1], p["typical_p"])
    last = min(int((total < p["typical_p"]).sum()), len(x) - 1)
    near = np.abs(distance - distance[order[last]])
    if np.any((near > 0) & (near < NEAR)):
        raise ValueError("almost equal distances at typical_p's border")
    return np.where(distance > distance[order[last]], -np.inf, x)


def run(case):
    """The stages and the final distribution of one case."""
    p = dict(DEFAULTS, **case["params"])
    prompt, output = case["prompt_ids"], case["output_ids"]
    x = np.asarray(case["logits"], dtype=np.float64)
    stages = []

    def done(name):
        stages.append(dict(after=name, probs=softmax(x)))

    if p["min_tokens"] or p["logit_bias"]:
        x = bias_and_min_tokens(x, p, prompt, output)
        done("logit_bias")
    if (p["repetition_penalty"], p["frequency_penalty"], p["presence_penalty"]) != (1.0, 0.0, 0.0):
        x = penalties(x, p, prompt, output)
        done("penalties")
    if p["temperature"] < 1e-5:
        return stages, np.eye(len(x))[int(np.argmax(x))]
    if p["temperature"] != 1.0:
        x = x / max(p["temperature"], 1e-2)
        done("temperature")
    for name, step, on in (("min_p", min_p, p["min_p"] > 0), ("top_k", top_k, p["top_k"] > 0),
                           ("top_p", top_p, p["top_p"] < 1),
                           ("typical_p", typical_p, p["typical_p"] < 1)):
        if on:
            x = step(x, p)
            done(name)
    return stages, softmax(x)


# The rows that the cases use: ordinary, flat, peaked, with equal values, and of large values.
def row(kind, rng):
    x = rng.normal(0.0, 2.5, V)
    if kind == "flat":
        x = rng.normal(0.0, 0.2, V)
    if kind == "peaked":
        x[rng.integers(V)] += 14.0
    if kind == "ties":
        x = np.round(x)
    if kind == "equal":
        x = np.full(V, 1.5)
    if kind == "large":
        x = x * 1000.0
    if kind == "negative":
        x = -np.abs(x) - 5.0
    return [float(v) for v in x.astype(np.float32)]


NAMED = [
    ("plain", "normal", {}), ("plain flat", "flat", {}), ("plain large", "large", {}),
    ("plain equal", "equal", {}),
    ("temperature 0.7", "normal", dict(temperature=0.7)),
    ("temperature 2", "normal", dict(temperature=2.0)),
    ("temperature 0 is greedy", "normal", dict(temperature=0.0)),
    ("temperature 1e-6 is greedy", "normal", dict(temperature=1e-6)),
    ("greedy takes the lowest of equal ids", "equal", dict(temperature=0.0)),
    ("greedy ignores top_k and top_p", "normal", dict(temperature=0.0, top_k=5, top_p=0.5)),
    ("temperature 2e-5 counts as 0.01", "flat", dict(temperature=2e-5)),
    ("temperature 0.005 counts as 0.01", "flat", dict(temperature=0.005)),
    ("temperature 0.01", "flat", dict(temperature=0.01)),
    ("temperature 0.02", "flat", dict(temperature=0.02)),
    ("top_k 1", "normal", dict(top_k=1)), ("top_k 5", "normal", dict(top_k=5)),
    ("top_k -1 is off", "normal", dict(top_k=-1)),
    ("top_k of the vocabulary", "normal", dict(top_k=V)),
    ("top_k above the vocabulary", "normal", dict(top_k=1000)),
    ("top_k keeps ids equal to the k-th", "ties", dict(top_k=7)),
    ("top_k 1 with equal ids", "equal", dict(top_k=1)),
    ("top_p 1 is off", "normal", dict(top_p=1.0)), ("top_p 0.9", "normal", dict(top_p=0.9)),
    ("top_p 0.5", "normal", dict(top_p=0.5)), ("top_p tiny keeps one", "normal", dict(top_p=1e-4)),
    ("top_p 0.999", "flat", dict(top_p=0.999)), ("top_p peaked", "peaked", dict(top_p=0.95)),
    ("min_p 0.1", "normal", dict(min_p=0.1)), ("min_p 0.9", "flat", dict(min_p=0.9)),
    ("min_p after temperature", "normal", dict(min_p=0.2, temperature=3.0)),
    ("typical_p 0.9", "normal", dict(typical_p=0.9)), ("typical_p 0.2", "normal", dict(typical_p=0.2)),
    ("typical_p flat", "flat", dict(typical_p=0.5)), ("typical_p peaked", "peaked", dict(typical_p=0.3)),
    ("typical_p equal", "equal", dict(typical_p=0.51)),
    ("typical_p tiny", "normal", dict(typical_p=1e-3)),
    ("repetition 1.3", "normal", dict(repetition_penalty=1.3)),
    ("repetition below 1", "normal", dict(repetition_penalty=0.8)),
    ("repetition of negative logits", "negative", dict(repetition_penalty=1.5)),
    ("frequency 0.7", "normal", dict(frequency_penalty=0.7)),
    ("presence 1.1", "normal", dict(presence_penalty=1.1)),
    ("negative penalties", "normal", dict(frequency_penalty=-0.5, presence_penalty=-1.0)),
    ("all penalties", "normal", dict(repetition_penalty=1.2, frequency_penalty=0.4,
                                     presence_penalty=0.6)),
    ("penalties then greedy", "peaked", dict(repetition_penalty=5.0, temperature=0.0)),
    ("bias", "normal", dict(logit_bias={"3": 4.5, "10": -2.25, "49": 1.0})),
    ("bias of 100 and -100", "normal", dict(logit_bias={"7": 100.0, "8": -100.0})),
    ("bias before penalties", "normal", dict(logit_bias={"5": 6.0, "6": -6.0},
                                             repetition_penalty=1.5)),
    ("bias decides greedy", "normal", dict(logit_bias={"31": 50.0}, temperature=0.0)),
    ("min_tokens masks", "normal", dict(min_tokens=100, stop_token_ids=[9, 11])),
    ("min_tokens reached", "normal", dict(min_tokens=4, stop_token_ids=[9, 11])),
    ("min_tokens beats bias", "normal", dict(min_tokens=100, logit_bias={"2": 100.0})),
    ("min_tokens then greedy", "eos", dict(min_tokens=100, temperature=0.0)),
    ("min_tokens with penalties", "normal", dict(min_tokens=100, repetition_penalty=1.4,
                                                 presence_penalty=0.5)),
    ("top_k before top_p", "normal", dict(top_k=4, top_p=0.6)),
    ("top_k and top_p, warm", "flat", dict(top_k=20, top_p=0.8, temperature=1.5)),
    ("min_p, top_k, top_p", "normal", dict(min_p=0.02, top_k=12, top_p=0.9, temperature=1.2)),
    ("top_p then typical_p", "normal", dict(top_p=0.9, typical_p=0.6)),
    ("top_k then typical_p", "flat", dict(top_k=10, typical_p=0.5)),
    ("everything", "normal", dict(
        temperature=0.8, min_p=0.01, top_k=25, top_p=0.95, typical_p=0.9, repetition_penalty=1.1,
        frequency_penalty=0.2, presence_penalty=0.3, logit_bias={"4": 1.5, "20": -1.5},
        min_tokens=64, stop_token_ids=[13])),
]


def random_params(rng):
    p = {}
    options = dict(temperature=rng.uniform(0.3, 2.0), top_k=int(rng.integers(1, 40)),
                   top_p=rng.uniform(0.3, 0.99), min_p=rng.uniform(0.001, 0.2),
                   typical_p=rng.uniform(0.3, 0.95), repetition_penalty=rng.uniform(0.8, 1.6),
                   frequency_penalty=rng.uniform(-1, 1), presence_penalty=rng.uniform(-1, 1),
                   logit_bias={str(int(rng.integers(V))): float(np.round(rng.normal() * 5, 3))})
    for name, value in options.items():
        if rng.random() < 0.5:
            p[name] = round(value, 4) if isinstance(value, float) else value
    return p


def telling(case, probs, attempt):
    """Rows on which the filters leave something to compare, where there are such rows."""
    p, left = dict(DEFAULTS, **case["params"]), int((probs > 0).sum())
    if "equal to the k-th" in case["name"]:
        return left > p["top_k"]
    lone = p["temperature"] < 1e-5 or p["top_k"] == 1 or attempt > 100
    return lone or left > 2


def make_case(name, kind, params, seed):
    """Tries rows until no decision hangs on rounding."""
    for attempt in range(200):
        rng = np.random.default_rng([seed, attempt])
        case = dict(name=name, params=params, logits=row(kind, rng),
                    prompt_ids=rng.integers(0, V, 12).tolist(),
                    output_ids=rng.integers(0, V // 2, 9).tolist())
        if kind == "eos":
            case["logits"][2] = 20.0
        try:
            stages, probs = run(case)
        except ValueError:
            continue
        if not telling(case, probs, attempt):
            continue
        case["params"] = dict(DEFAULTS, **params)
        case["stages"] = [dict(after=s["after"], probs=tidy(s["probs"])) for s in stages]
        case["probs"] = tidy(probs)
        return case
    raise SystemExit("make_sampling.py: no clear row for " + name)


def tidy(probs):
    """Twelve digits; what no float32 can hold counts as zero."""
    return [float(f"{v:.12g}") if v > 1e-30 else 0.0 for v in probs]


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "sampling.json")
    rng = np.random.default_rng(20)
    kinds = ["normal", "flat", "peaked", "negative"]
    todo = NAMED + [(f"random {i}", kinds[i % len(kinds)], random_params(rng)) for i in range(24)]
    cases = [make_case(*t, seed) for seed, t in enumerate(todo)]
    with open(path, "w", encoding="utf-8") as f:
        f.write(json.dumps(dict(numpy=np.__version__, vocab_size=V))[:-1] + ',\n "cases": [\n  ')
        f.write(",\n  ".join(map(json.dumps, cases)) + "\n ]\n}\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()

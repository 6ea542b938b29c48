# SPDX-License-Identifier: Apache-2.0
"""Small random tokenizers that use every part of tokenizer.json which Phalanx knows, and what
Hugging Face's tokenizers library (0.23.3) makes of some texts and ids with them.
usage: tokenizer_vectors.py [SEED [COUNT]] > tokenizer_vectors.json"""
import json
import random
import sys

from tokenizers import Tokenizer

META = "\u2581"
POOL = list("abcdstxyzAB019 .,'!-_\n\t") + [META, "Ġ", "Ċ", "é", "É", "ñ", "Ã", "©", "漢", "ß", "İ"]
WORDS = ["a", "b", "ab", "abc", "A", "B", "x", " ", "  ", "   ", "\n", "\r\n", "\t", "1", "12", "0190", ".",
         ",", "!", "'s", "don't", "é", "e\u0301", "漢", "漢字", "\u00a0", "\u3000", "\u200b", "\u200d", "ﬁ",
         "Ａ", "²", "½", "٣", "€", "$", "^", "_", "-", "👍🏽", "\U0001d518", "İ", "ß", "ſ", META, META * 2, "Ġ",
         "<x>", "<y>", "[m]", "nor", "Nor", "<x> ", " <x>", "\x00", "\u180e", "\x85", "\u0300", "q",
         "st", "xyz", "c b a", "s t", "Ⓐ", "‿", "각", "\u1100\u1161", "\u212b", "\u1e9b\u0323"]
REGEXES = [r"\s+", r"\w+", r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", r"\d", r"[a-c]+", r"(?i:AB|'s)",
           r"x*", r"\S+", r"a{1,2}+b?", r"^a|b$", r"[^\s\w]", r"\h{2}", r"(?<=a)b", r"[a-z&&[^b-s]]+", r"\D+",
           r"[\s\d]+", r"a|(?i)b|st", r"\p{Han}+", r"(?m:a.)", r"[^a-z&&[^x]]", r"\u0061+", r"b{,2}c", r"\W", r"\H+",
           r"[[:alpha:]]+", r"[a[xy]]+", r"\b", r"(a|b)+?c", r"[]a]", r"\P{L}", r"[\S]", r"\p{^L}+"]


def behaviors(rng):
    return rng.choice(["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"])


def pattern(rng, empty=True):
    """`empty`: it may match nothing. Replacing that confuses that library's offsets."""
    if rng.random() < 0.6:
        regex = rng.choice(REGEXES)
        return {"Regex": regex if empty or regex not in (r"x*", r"\b") else r"x+"}
    return {"String": rng.choice([" ", "a", "ab", META, ".", "b", "\n", "x*"])}


def normalizer(rng, depth=0):
    kind = rng.choice(["Prepend", "Replace", "Replace", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip",
                       "StripAccents", "Sequence"])
    if kind == "Sequence" and depth < 2:
        return {"type": kind, "normalizers": [normalizer(rng, depth + 1) for _ in range(rng.randrange(4))]}
    if kind == "Prepend":
        return {"type": kind, "prepend": rng.choice([META, "a", " "])}
    if kind == "Replace":
        return {"type": kind, "pattern": pattern(rng, False), "content": rng.choice([META, "", "a", "bb ", "é"])}
    if kind == "Strip":
        return {"type": kind, "strip_left": rng.random() < 0.5, "strip_right": rng.random() < 0.5}
    return {"type": "NFC" if kind == "Sequence" else kind}


def pre_tokenizer(rng, depth=0):
    kind = rng.choice(["ByteLevel", "ByteLevel", "Split", "Split", "Split", "Digits", "Punctuation", "Whitespace",
                       "WhitespaceSplit", "Metaspace", "CharDelimiterSplit", "Sequence", "Sequence"])
    flag = rng.random() < 0.5
    if kind == "Sequence":
        if depth >= 2:
            return {"type": "WhitespaceSplit"}
        return {"type": kind, "pretokenizers": [pre_tokenizer(rng, depth + 1) for _ in range(rng.randrange(4))]}
    if kind == "ByteLevel":
        return {"type": kind, "add_prefix_space": flag, "trim_offsets": True, "use_regex": rng.random() < 0.6}
    if kind == "Split":
        return {"type": kind, "pattern": pattern(rng), "behavior": behaviors(rng), "invert": rng.random() < 0.3}
    if kind == "Digits":
        return {"type": kind, "individual_digits": flag}
    if kind == "Punctuation":
        return {"type": kind, "behavior": behaviors(rng)}
    if kind == "Metaspace":
        return {"type": kind, "replacement": META, "prepend_scheme": rng.choice(["first", "always", "never"]),
                "split": flag}
    if kind == "CharDelimiterSplit":
        return {"type": kind, "delimiter": rng.choice([" ", "a", META])}
    return {"type": kind}


def decoder(rng):
    meta = {"type": "Metaspace", "replacement": META, "prepend_scheme": rng.choice(["first", "always", "never"]),
            "split": True}
    replace = {"type": "Replace", "pattern": {"String": META}, "content": " "}
    fuse, fallback = {"type": "Fuse"}, {"type": "ByteFallback"}
    strip = {"type": "Strip", "content": rng.choice(" a"), "start": rng.randrange(3), "stop": 0}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    late = {"type": "Replace", "pattern": {"String": rng.choice([META, "a", "\ufffd"])}, "content": rng.choice(["a ", ""])}
    early = {"type": "Replace", "pattern": pattern(rng), "content": rng.choice(["ab", "", "<0x41>"])}
    return rng.choice([
        None, byte_level, fallback, fuse, replace, meta, {"type": "Sequence", "decoders": []},
        {"type": "Sequence", "decoders": [replace, fallback, fuse, strip]},
        {"type": "Sequence", "decoders": [replace, fallback, fuse, strip]},
        {"type": "Sequence", "decoders": [fallback, meta]},
        {"type": "Sequence", "decoders": [early, fallback, late, fuse, strip]},
        {"type": "Sequence", "decoders": [early, byte_level, late, strip]},
        {"type": "Sequence", "decoders": [meta, late, fuse]},
        {"type": "Sequence", "decoders": [early, early]},
    ])


def model(rng):
    chars = rng.sample(POOL, rng.randrange(12, len(POOL)))
    fallback = rng.random() < 0.5
    tokens = ["<unk>"] + chars
    if fallback:
        tokens += [f"<0x{b:02X}>" for b in range(256) if rng.random() < 0.98 or b < 128]
    merges, made = [], list(chars)
    for _ in range(rng.randrange(40)):
        a, b = rng.choice(made), rng.choice(made)
        if len(a + b) > 6 or " " in a + b and rng.random() < 0.8 or [a, b] in merges:
            continue
        merges.append([a, b])
        if a + b not in tokens:
            tokens.append(a + b)
            made.append(a + b)
    if rng.random() < 0.3:
        tokens.append("abc d")
    rng.shuffle(tokens)
    if rng.random() < 0.5 and not any(" " in a or " " in b for a, b in merges):
        merges = [" ".join(m) for m in merges]
    return {"type": "BPE", "dropout": None, "unk_token": rng.choice([None, "<unk>"]), "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": rng.random() < 0.5, "byte_fallback": fallback,
            "ignore_merges": rng.random() < 0.3, "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}


def normal_form(normalizer, text):
    if normalizer is None:
        return text
    state = dict(version="1.0", added_tokens=[], normalizer=normalizer, pre_tokenizer=None, post_processor=None,
                 decoder=None, model={"type": "BPE", "vocab": {}, "merges": []})
    return Tokenizer.from_str(json.dumps(state)).normalizer.normalize_str(text)


def added(rng, vocab, normalizer):
    rows, next_id, normal_forms = [], len(vocab), set()
    for content in rng.sample(["<x>", "<y>", "[m]", "nor", "Nor", "ab", "  ", META, "<unk>", "\n", "x>"], rng.randrange(6)):
        flag = lambda p: rng.random() < p
        row = dict(content=content, single_word=flag(0.25), lstrip=flag(0.25), rstrip=flag(0.25), normalized=flag(0.4),
                   special=flag(0.5))
        # A token whose normal form is empty makes that library panic or match everywhere; of two
        # tokens with the same one it takes any.
        form = normal_form(normalizer, content)
        row["normalized"] &= form != "" and form not in normal_forms
        normal_forms.add(form)
        row["id"] = vocab.get(content, next_id)
        next_id += content not in vocab
        rows.append(row)
    return rows


def post_processor(rng, rows):
    if not rows or rng.random() < 0.5:
        return None
    a, b = rng.choice(rows), rng.choice(rows)
    special = lambda row: {"SpecialToken": {"id": row["content"], "type_id": 0}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [special(a), sequence, special(b)],
                "pair": [sequence, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {r["content"]: {"id": r["content"], "ids": [r["id"]], "tokens": [r["content"]]}
                                   for r in (a, b)}}
    roberta = {"type": "RobertaProcessing", "sep": [b["content"], b["id"]], "cls": [a["content"], a["id"]],
               "trim_offsets": True, "add_prefix_space": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    return rng.choice([template, roberta, byte_level, {"type": "Sequence", "processors": [byte_level, template]}])


def ids_of(tok, text, special):
    try:
        return tok.encode(text, add_special_tokens=special).ids
    except BaseException:  # the unknown token is missing from the vocabulary,
        return None  # or where that library panics; such rows are not compared


def case(rng):
    m = model(rng)
    normal = normalizer(rng) if rng.random() < 0.5 else None
    rows = added(rng, m["vocab"], normal)
    state = dict(version="1.0", truncation=None, padding=None, added_tokens=rows,
                 normalizer=normal,
                 pre_tokenizer=pre_tokenizer(rng) if rng.random() < 0.8 else None,
                 post_processor=post_processor(rng, rows), decoder=decoder(rng), model=m)
    tok = Tokenizer.from_str(json.dumps(state))
    encode, decode = [], []
    for _ in range(12):
        text = "".join(rng.choice(WORDS) for _ in range(rng.choice([0, 1, 2, 3, 5, 8, 13, 30])))
        parsed, around = ids_of(tok, text, False), ids_of(tok, text, True)
        tok.encode_special_tokens = True
        plain = ids_of(tok, text, False)
        tok.encode_special_tokens = False
        encode.append([text, parsed, around, plain])
    # Since 0.23 that library decodes a token with "normalized" as its normal form, and then takes
    # it for no special one. Here a token decodes as its content, as it did before.
    tok = Tokenizer.from_str(json.dumps(dict(state, added_tokens=[dict(r, normalized=False) for r in rows])))
    for _ in range(6):
        pool = [i for t, i in m["vocab"].items() if t.startswith("<0x")] if rng.random() < 0.4 else None
        ids = [rng.choice(pool or range(len(m["vocab"]) + 8)) if rng.random() < 0.9 else
               rng.randrange(len(m["vocab"]) + 8) for _ in range(rng.choice([0, 1, 2, 5, 10, 20]))]
        decode.append([ids, tok.decode(ids, skip_special_tokens=False), tok.decode(ids, skip_special_tokens=True)])
    return dict(tokenizer=state, encode=encode, decode=decode)


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 80
    rows = []
    for i in range(count):
        rng = random.Random(seed * 1000003 + i)
        rows.append(json.dumps(case(rng), separators=(",", ":")))
    sys.stdout.write("[\n" + ",\n".join(rows) + "\n]\n")


main()

# SPDX-License-Identifier: Apache-2.0
"""Small random tokenizers that use every part of tokenizer.json which Phalanx knows, and what
Hugging Face's tokenizers library (0.23) makes of some texts and ids with them. The tables of
Precompiled are made by SentencePiece.
usage: tokenizer_vectors.py [SEED [COUNT]] > tokenizer_vectors.json"""
import base64
import io
import json
import os
import random
import sys
import tempfile

import sentencepiece
from tokenizers import Tokenizer

META = "\u2581"
POOL = list("abcdstxyzAB019 .,'!-_\n\t") + [META, "Ġ", "Ċ", "é", "É", "ñ", "Ã", "©", "漢", "ß", "İ"]
WORDS = ["a", "b", "ab", "abc", "A", "B", "x", " ", "  ", "   ", "\n", "\r\n", "\t", "1", "12", "0190", ".",
         ",", "!", "'s", "don't", "é", "e\u0301", "漢", "漢字", "\u00a0", "\u3000", "\u200b", "\u200d", "ﬁ",
         "Ａ", "²", "½", "٣", "€", "$", "^", "_", "-", "👍🏽", "\U0001d518", "İ", "ß", "ſ", META, META * 2, "Ġ",
         "<x>", "<y>", "[m]", "nor", "Nor", "<x> ", " <x>", "\x00", "\u180e", "\x85", "\u0300", "q",
         "st", "xyz", "abcab", "xyzst", "é\u0301", "e\u0301\u0301", "A\u0301\u0301\u0301", "-" * 40, "-" * 55, "c b a", "s t", "Ⓐ", "‿", "각", "\u1100\u1161", "\u212b", "\u1e9b\u0323"]
REGEXES = [r"\s+", r"\w+", r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", r"\d", r"[a-c]+", r"(?i:AB|'s)",
           r"x*", r"\S+", r"a{1,2}+b?", r"^a|b$", r"[^\s\w]", r"\h{2}", r"(?<=a)b", r"[a-z&&[^b-s]]+", r"\D+",
           r"[\s\d]+", r"a|(?i)b|st", r"\p{Han}+", r"(?m:a.)", r"[^a-z&&[^x]]", r"\u0061+", r"b{,2}c", r"\W", r"\H+",
           r"[[:alpha:]]+", r"[a[xy]]+", r"\b", r"(a|b)+?c", r"[]a]", r"\P{L}", r"[\S]", r"\p{^L}+"]


# What a precompiled table replaces: characters, and one key that begins another.
RULES = [("A", "a"), ("B", "bb"), ("\t", " "), ("\u00a0", " "), ("\u3000", " "), ("é", "y"), ("e\u0301", "x"), ("e\u0301\u0301", "z"),
         ("ﬁ", "fi"), ("\u212b", "Å"), ("\u200b", ""), ("½", "1/2"), ("漢字", "K"), ("漢", "k"), ("\u1100\u1161", "가")]


def charsmap():
    """precompiled_charsmap of RULES, taken out of a model that SentencePiece trained with them."""
    with tempfile.TemporaryDirectory() as folder:
        tsv = os.path.join(folder, "rules.tsv")
        with open(tsv, "w", encoding="utf-8") as f:
            for a, b in RULES:
                f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n")
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c d"] * 20), model_writer=out, vocab_size=8, hard_vocab_limit=False,
            normalization_rule_tsv=tsv, minloglevel=2)
    spec = field(out.getvalue(), 3)
    return base64.b64encode(field(spec, 2)).decode()


def field(message, number):
    """The bytes of a protobuf field of which there is one."""
    def varint(i):
        value, shift = 0, 0
        while True:
            b = message[i]
            value |= (b & 127) << shift
            i, shift = i + 1, shift + 7
            if b < 128:
                return value, i
    i, found = 0, b""
    while i < len(message):
        key, i = varint(i)
        if key & 7 == 2:
            n, i = varint(i)
            if key >> 3 == number:
                found = message[i:i + n]
            i += n
        elif key & 7 == 0:
            _, i = varint(i)
        else:
            i += 4 if key & 7 == 5 else 8
    return found


CHARSMAP = charsmap()


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
                       "StripAccents", "Nmt", "ByteLevel", "Precompiled", "Precompiled", "BertNormalizer",
                       "BertNormalizer", "Sequence"])
    if kind == "Sequence" and depth < 2:
        return {"type": kind, "normalizers": [normalizer(rng, depth + 1) for _ in range(rng.randrange(4))]}
    if kind == "Prepend":
        return {"type": kind, "prepend": rng.choice([META, "a", " "])}
    if kind == "Replace":
        return {"type": kind, "pattern": pattern(rng, False), "content": rng.choice([META, "", "a", "bb ", "é"])}
    if kind == "Strip":
        return {"type": kind, "strip_left": rng.random() < 0.5, "strip_right": rng.random() < 0.5}
    if kind == "Precompiled":
        return {"type": kind, "precompiled_charsmap": CHARSMAP}
    if kind == "BertNormalizer":
        return {"type": kind, "clean_text": rng.random() < 0.7, "handle_chinese_chars": rng.random() < 0.7,
                "strip_accents": rng.choice([None, True, False]), "lowercase": rng.random() < 0.6}
    return {"type": "NFC" if kind == "Sequence" else kind}


def pre_tokenizer(rng, depth=0):
    kind = rng.choice(["ByteLevel", "ByteLevel", "Split", "Split", "Split", "Digits", "Punctuation", "Whitespace",
                       "WhitespaceSplit", "Metaspace", "CharDelimiterSplit", "BertPreTokenizer", "FixedLength",
                       "Sequence", "Sequence"])
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
    if kind == "FixedLength":
        return {"type": kind, "length": rng.randrange(1, 5)}
    if kind == "CharDelimiterSplit":
        return {"type": kind, "delimiter": rng.choice([" ", "a", META])}
    return {"type": kind}


def decoder(rng, model):
    meta = {"type": "Metaspace", "replacement": META, "prepend_scheme": rng.choice(["first", "always", "never"]),
            "split": True}
    replace = {"type": "Replace", "pattern": {"String": META}, "content": " "}
    fuse, fallback = {"type": "Fuse"}, {"type": "ByteFallback"}
    strip = {"type": "Strip", "content": rng.choice(" a"), "start": rng.randrange(3), "stop": 0}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    late = {"type": "Replace", "pattern": {"String": rng.choice([META, "a", "\ufffd"])}, "content": rng.choice(["a ", ""])}
    early = {"type": "Replace", "pattern": pattern(rng), "content": rng.choice(["ab", "", "<0x41>"])}
    if model["type"] == "WordPiece" and rng.random() < 0.6:
        return {"type": "WordPiece", "prefix": model["continuing_subword_prefix"], "cleanup": rng.random() < 0.5}
    if model.get("end_of_word_suffix") and rng.random() < 0.6:
        return {"type": "BPEDecoder", "suffix": model["end_of_word_suffix"]}
    words = rng.choice([
        {"type": "WordPiece", "prefix": rng.choice(["##", "a", ""]), "cleanup": rng.random() < 0.5},
        {"type": "BPEDecoder", "suffix": rng.choice(["</w>", "b", "ab"])},
        {"type": "CTC", "pad_token": rng.choice(["<unk>", "a"]), "word_delimiter_token": rng.choice(["b", META]),
         "cleanup": rng.random() < 0.5}])
    if rng.random() < 0.25:
        return rng.choice([words, {"type": "Sequence", "decoders": [early, words, fuse]}])
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


def word_tokens(rng, prefix, suffix):
    """Characters and pairs of them, as they stand in the middle, behind `prefix` or before `suffix`."""
    chars = rng.sample(POOL, rng.randrange(12, len(POOL)))
    more = [rng.choice(chars) + rng.choice(chars) for _ in range(rng.randrange(30))]
    tokens = chars + more
    tokens += [prefix + t for t in tokens if prefix and rng.random() < 0.8]
    tokens += [t + suffix for t in chars + more if suffix and rng.random() < 0.8]
    return list(dict.fromkeys(["<unk>", ".", " .", "n't", " n't", "'s", "do not", " do not"] + tokens))


def unigram(rng):
    tokens = word_tokens(rng, "", "")
    tokens += [f"<0x{b:02X}>" for b in range(256)] if rng.random() < 0.4 else []
    rng.shuffle(tokens)
    # Few different scores, so that ways to cut a text are often equal, and some of 17 digits.
    scores = [-1.5, -2.0, -3.0, -rng.random() * 10, -rng.random() * 100 - 10]
    vocab = [[t, rng.choice(scores)] for t in tokens]
    # Runs of dashes have ways whose sums differ in their last bit only.
    vocab = [row for row in vocab if row[0] not in ("-", "---")] + [["-", -5.129043102264404], ["---", -12.130167007446289]]
    return {"type": "Unigram", "unk_id": [t for t, _ in vocab].index("<unk>"), "byte_fallback": rng.random() < 0.5,
            "vocab": vocab}


def words(rng, kind):
    prefix = rng.choice(["##", "##", "a", ""]) if kind == "WordPiece" else ""
    tokens = word_tokens(rng, prefix, "")
    rng.shuffle(tokens)
    state = {"type": kind, "unk_token": "<unk>", "vocab": {t: i for i, t in enumerate(tokens)}}
    if kind == "WordPiece":
        state.update(continuing_subword_prefix=prefix, max_input_chars_per_word=rng.choice([100, 5]))
    return state


def affixed(rng):
    """BPE with something before or behind characters."""
    prefix, suffix = rng.choice([("", "</w>"), ("##", ""), ("##", "</w>")])
    tokens = word_tokens(rng, prefix, suffix)
    tokens += [prefix + t + suffix for t in tokens[:10] if prefix and suffix]
    tokens = list(dict.fromkeys(tokens))
    rng.shuffle(tokens)
    merges = []
    for _ in range(400):
        a, b = rng.choice(tokens), rng.choice(tokens)
        if b.startswith(prefix) and " " not in a + b and a + b[len(prefix):] in tokens and [a, b] not in merges:
            merges.append([a, b])
    return {"type": "BPE", "dropout": None, "unk_token": rng.choice([None, "<unk>"]),
            "continuing_subword_prefix": prefix or None, "end_of_word_suffix": suffix or None,
            "fuse_unk": rng.random() < 0.5, "byte_fallback": False, "ignore_merges": rng.random() < 0.3,
            "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}


def model(rng):
    kind = rng.random()
    if kind < 0.2:
        return unigram(rng)
    if kind < 0.35:
        return words(rng, rng.choice(["WordPiece", "WordPiece", "WordLevel"]))
    if kind < 0.45:
        return affixed(rng)
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
    vocab = m["vocab"] if isinstance(m["vocab"], dict) else {t: i for i, (t, _) in enumerate(m["vocab"])}
    normal = normalizer(rng) if rng.random() < 0.5 else None
    rows = added(rng, vocab, normal)
    state = dict(version="1.0", truncation=None, padding=None, added_tokens=rows,
                 normalizer=normal,
                 pre_tokenizer=pre_tokenizer(rng) if rng.random() < 0.8 else None,
                 post_processor=post_processor(rng, rows), decoder=decoder(rng, m), model=m)
    tok = Tokenizer.from_str(json.dumps(state))
    encode, decode = [], []
    for _ in range(12):
        own = list(vocab) if rng.random() < 0.4 else []
        if "Precompiled" in json.dumps(normal) and rng.random() < 0.5:
            own = ["e\u0301\u0301", "é\u0301", "A\u0301\u0301\u0301", "é", "e\u0301", "\u1100\u1161", "A", "a", " "]
        text = "".join(rng.choice(own or WORDS) for _ in range(rng.choice([0, 1, 2, 3, 5, 8, 13, 30])))
        parsed, around = ids_of(tok, text, False), ids_of(tok, text, True)
        tok.encode_special_tokens = True
        plain = ids_of(tok, text, False)
        tok.encode_special_tokens = False
        encode.append([text, parsed, around, plain])
    # Since 0.23 that library decodes a token with "normalized" as its normal form, and then takes
    # it for no special one. Here a token decodes as its content, as it did before.
    tok = Tokenizer.from_str(json.dumps(dict(state, added_tokens=[dict(r, normalized=False) for r in rows])))
    for _ in range(6):
        pool = [i for t, i in vocab.items() if t.startswith("<0x")] if rng.random() < 0.4 else None
        ids = [rng.choice(pool or range(len(vocab) + 8)) if rng.random() < 0.9 else
               rng.randrange(len(vocab) + 8) for _ in range(rng.choice([0, 1, 2, 5, 10, 20]))]
        decode.append([ids, tok.decode(ids, skip_special_tokens=False), tok.decode(ids, skip_special_tokens=True)])
    return dict(tokenizer=state, encode=encode, decode=decode)


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 150
    rows = []
    for i in range(count):
        rng = random.Random(seed * 1000003 + i)
        rows.append(json.dumps(case(rng), separators=(",", ":")))
    sys.stdout.write("[\n" + ",\n".join(rows) + "\n]\n")


main()

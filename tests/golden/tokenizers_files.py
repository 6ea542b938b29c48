# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers without a tokenizer.json, trained on the project's own text, and what the libraries
that they come from make of texts and ids with them: SentencePiece models, and a vocab.txt of BERT's kind.
usage: tokenizers_files.py   (writes tokenizers/spm/ and tokenizers/bert/)"""
import io
import json
import os
import random
import struct
import tempfile

import sentencepiece

from golden_text import training_lines
from tokenizers_small import TEXTS

# Rules of normalization: single characters, sequences, a space that comes and one that goes.
RULES = [("\t", " "), ("\u00a0", " "), ("\u3000", " "), ("é", "e"), ("e\u0301", "E"), ("e\u0301\u0302", "Q"),
         ("ﬁ", "fi"), ("½", " 1/2"), ("\u200b", ""), ("\u200d", ""), ("漢", "k"), ("ß", "ss"), ("\ufeff", ""), ("…", "...")]
SYMBOLS = ["<u>", "foo bar", "  ", "é", "\u2581the", "keeper's"]
COMMON = dict(minloglevel=2, hard_vocab_limit=False, character_coverage=1.0, num_threads=1)
KINDS = {
    "unigram": dict(model_type="unigram", vocab_size=260, rules=True),
    "unigram-symbols": dict(model_type="unigram", vocab_size=300, rules=True, user_defined_symbols=SYMBOLS,
                            remove_extra_whitespaces=False),
    "unigram-fallback": dict(model_type="unigram", vocab_size=560, byte_fallback=True, normalization_rule_name="identity",
                             add_dummy_prefix=False),
    "unigram-suffix": dict(model_type="unigram", vocab_size=260, rules=True, treat_whitespace_as_suffix=True,
                           unk_surface="?"),
    "bpe": dict(model_type="bpe", vocab_size=300, rules=True),
    "bpe-llama": dict(model_type="bpe", vocab_size=600, byte_fallback=True, normalization_rule_name="identity",
                      remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True),
    "bpe-symbols": dict(model_type="bpe", vocab_size=620, byte_fallback=True, rules=True, user_defined_symbols=SYMBOLS,
                        control_symbols=["<c>"], remove_extra_whitespaces=False, add_dummy_prefix=False),
    # Ways that are equally good, or in float but not in double.
    "unigram-ties": dict(model_type="unigram", vocab_size=300, rules=True, ties=lambda i: -(4 + i % 3) * 0.7),
    "bpe-ties": dict(model_type="bpe", vocab_size=400, rules=True, ties=lambda i: -(i % 5)),
    "bpe-suffix": dict(model_type="bpe", vocab_size=300, normalization_rule_name="identity", treat_whitespace_as_suffix=True),
}
MORE = ["foo bar", "a foo bar b", "foo  bar", "<u>", " <u> x", "x<u><u>", "é", "e\u0301\u0302e\u0301", "  the  keeper's  ",
        "ß½…", "\u200b \u200b", "½", " ½", "the\u3000keeper", "<c>", "<s>a</s>", "a\u2581b", "\u2581", "\u2581\u2581 the", "…"]


def train(lines, rules=False, **options):
    out = io.BytesIO()
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the model keeps the name of this file
        if rules:
            options["normalization_rule_tsv"] = "rules.tsv"
            with open("rules.tsv", "w", encoding="utf-8") as f:
                for a, b in RULES:
                    f.write("\t".join(" ".join(f"{ord(c):X}" for c in side) for side in (a, b)) + "\n")
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, **COMMON, **options)
        os.chdir(here)
    return out.getvalue()


def with_ties(model, score):
    """The model with other scores for its normal pieces, by their numbers: few different ones."""
    def varint(i):
        value, shift = 0, 0
        while True:
            b = out[i]
            value, i, shift = value | (b & 127) << shift, i + 1, shift + 7
            if b < 128:
                return value, i
    out, i, number = bytearray(model), 0, 0
    while i < len(out) and out[i] == 0x0a:  # pieces come first
        n, i = varint(i + 1)
        end = i + n
        skip, at = varint(i + 1)  # the text, then the score; other types than NORMAL follow it
        at += skip
        if out[at] == 0x15 and at + 5 == end:
            out[at + 1:at + 5] = struct.pack("<f", score(number))
        number, i = number + 1, end
    return bytes(out)


def rows_of(sp, name):
    rng = random.Random(name)
    encode, decode = [], []
    for text in [t for t in TEXTS if "\0" not in t] + MORE:
        ids = sp.encode(text)
        encode.append([text, ids, sp.decode(ids)])
    # Control pieces say nothing there; here they are shown unless they are skipped.
    pool = [i for i in range(sp.get_piece_size()) if not sp.is_control(i)]
    runs = [i for i in pool if sp.is_byte(i)]
    for _ in range(80):
        some = runs if runs and rng.random() < 0.4 else pool
        ids = [rng.choice(some if rng.random() < 0.9 else pool) for _ in range(rng.choice([1, 2, 3, 5, 8, 20]))]
        decode.append([ids, sp.decode(ids)])
    return dict(encode=encode, decode=decode)


def make_bert(folder):
    """By transformers' BertTokenizerFast, lower-casing and not."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import BertTokenizerFast
    os.makedirs(folder, exist_ok=True)
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer, tok.pre_tokenizer = normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer()
    tok.train_from_iterator(training_lines(), trainers.WordPieceTrainer(
        vocab_size=400, show_progress=False, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    vocab = os.path.join(folder, "vocab.txt")
    with open(vocab, "w", encoding="utf-8") as f:
        f.write("".join(t + "\n" for t, _ in sorted(tok.get_vocab().items(), key=lambda kv: kv[1])))
    golden = {}
    for lower in (False, True):
        tok = BertTokenizerFast(vocab=vocab, do_lower_case=lower)._tokenizer
        texts = TEXTS + MORE + ["[CLS] a [SEP] [MASK]", "[UNK]x", "keepers' [PAD]"]
        golden["lower" if lower else "plain"] = [
            [t, tok.encode(t, add_special_tokens=True).ids, tok.decode(tok.encode(t).ids, skip_special_tokens=False)]
            for t in texts]
    with open(os.path.join(folder, "golden.json"), "w", encoding="utf-8") as f:
        f.write("{\n" + ",\n".join(f" {json.dumps(k)}: [\n  " + ",\n  ".join(json.dumps(r) for r in rows) + "]"
                                   for k, rows in golden.items()) + "\n}\n")


def make_spm(folder):
    golden = {}
    os.makedirs(folder, exist_ok=True)
    for name, options in KINDS.items():
        options = dict(options)
        ties = options.pop("ties", None)
        model = train(list(training_lines()), **options)
        if ties:
            model = with_ties(model, ties)
        with open(os.path.join(folder, name + ".model"), "wb") as f:
            f.write(model)
        golden[name] = rows_of(sentencepiece.SentencePieceProcessor(model_proto=model), name)
    with open(os.path.join(folder, "golden.json"), "w", encoding="utf-8") as f:
        lines = [f" {json.dumps(name)}: {{\n" + ",\n".join(
            f"  {json.dumps(k)}: [\n   " + ",\n   ".join(json.dumps(r) for r in rows) + "]"
            for k, rows in parts.items()) + "}" for name, parts in golden.items()]
        f.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizers")
    make_spm(os.path.join(here, "spm"))
    make_bert(os.path.join(here, "bert"))

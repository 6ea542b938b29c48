# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers of the three kinds that Llama-like models come with, and what Hugging Face's
library makes of some texts with them (tokenizers/golden.json)."""
import json
import os
import random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

from golden_text import PROMPTS, training_lines

SPECIALS = ["<|pad|>", "<|bos|>", "<|eos|>"]
VOCAB = 515  # 3 specials, 256 bytes and 256 merges; odd on purpose, so that shards are uneven.
# The pattern that Llama 3's tokenizer splits by.
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def add_bos(tok, bos, bos_id, inner):
    template = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B",
                                             special_tokens=[(bos, bos_id)])
    tok.post_processor = processors.Sequence([inner, template]) if inner else template


def byte_level(split_pattern=None, vocab=VOCAB, lines=None, specials=SPECIALS):
    """Byte-level BPE: GPT-2's split, or another pattern given as a regular expression."""
    tok = Tokenizer(models.BPE())
    if split_pattern is None:
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(split_pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=specials, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(lines or training_lines(), trainer)
    add_bos(tok, specials[1], 1, processors.ByteLevel(trim_offsets=False))
    return tok


def byte_fallback():
    """Llama 2's kind: spaces become U+2581, unknown characters become byte tokens."""
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    tok = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"),
                                           normalizers.Replace(" ", "\u2581")])
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False)
    words = [w for line in training_lines() for w in line.replace(" ", " \0").split("\0")]
    tok.train_from_iterator(words, trainer)
    state = json.loads(tok.to_str())
    # The byte tokens are ordinary entries of the vocabulary, only the first three are special.
    state["added_tokens"] = state["added_tokens"][:3]
    tok = Tokenizer.from_str(json.dumps(state))
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                     decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    add_bos(tok, "<s>", 1, None)
    return tok


def write(tok, folder, specials=SPECIALS, **more):
    os.makedirs(folder, exist_ok=True)
    tok.save(os.path.join(folder, "tokenizer.json"))
    config = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=specials[1],
                  eos_token=specials[2], clean_up_tokenization_spaces=False, **more)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=1)
        f.write("\n")


TEXTS = PROMPTS + [
    "", " ", "  ", "   leading", "trailing   ", "a  b   c    d", "\n", "\n\n", " \n ", "\r\n",
    "tab\there\t\tand", "line one\nline two\r\nline three\n\n\nline six", "\u00a0no-break\u00a0space",
    "It's we're I'll you'd they've I'm DON'T", "'S 'LL 'x", "HELLO Hello hello hELLO",
    "1", "12", "123", "1234", "1234567890", "3.14159", "0x1F", "1,000,000.00", "2024-02-29T12:00:00Z",
    "for (int i = 0; i < 10; i++) {\n\ttotal += values[i] * 2;\n}\n", "a_b-c/d\\e|f", "!!!???...",
    "#include <stdio.h>\n\nint main(void)\n{\n    return 0;\n}\n", "http://example.org/?q=a&b=c#d",
    "Das Mädchen lief über die Brücke.", "L'été, le café est fermé.", "naïve cafe\u0301 e\u0301\u0302",
    "Ελληνικά", "Привет, мир", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "日本語のテキスト", "中文字符,标点。", "한국어 텍스트", "¹²³ ½ ٣ Ⅷ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛",
    "😀", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷", "👍🏽 ok", "zero\u200bwidth\u200djoiner", "\ufeffbom", "soft\u00adhyphen",
    "\u3000ideographic space", "\u2028line separator", "\u0085next line", "\u0000nul", "\u0001\u001f\u007f",
    "\u2581lower one eighth block", "a\u2581b", "\ufffd", "\uffff", "\U0010ffff",
    "<|bos|>", "<|eos|>", "a<|eos|>b", "<|bos|><|bos|> x", "<|pad|> <|eos|> <|bos|>", "<|eos", "<|eos|",
    "<s>", "</s>", "a</s> b", "<s> x</s>", "<unk>", "<0x41>", "x<unk>y",
    "ſ K ı İ ß ẞ ﬁ ŉ", "'ſ don'ſ", "a" * 300, "ab " * 100, " " * 130, "\n" * 70, "é" * 64, "😀" * 33,
    "the the the the", "The keeper's cat, the captain's hat; the ships' lights.",
    "mixed日本語and English과 한국어 עם עברית 123", "e\u0301" * 20, "\t \t \t x", "x \n\n  \n y",
]


def rows_of(tok, texts, id_lists):
    """ids: without BOS; with_bos: as served; text: the decoded ids, without and with the specials."""
    encode, decode = [], []
    for text in texts:
        ids = tok.encode(text, add_special_tokens=False).ids
        with_bos = tok.encode(text).ids
        encode.append(dict(text=text, ids=ids, with_bos=with_bos,
                           decoded=tok.decode(ids, skip_special_tokens=True),
                           decoded_all=tok.decode(with_bos, skip_special_tokens=False)))
    for ids in id_lists:
        decode.append(dict(ids=ids, decoded=tok.decode(ids, skip_special_tokens=True),
                           decoded_all=tok.decode(ids, skip_special_tokens=False)))
    return dict(encode=encode, decode=decode)


def random_ids(vocab, seed, count=30):
    rng = random.Random(seed)
    return [[rng.randrange(vocab) for _ in range(rng.choice([1, 2, 3, 5, 8, 20]))]
            for _ in range(count)]


def make_all(folder):
    kinds = {"gpt2-split": byte_level(), "llama3-split": byte_level(LLAMA3),
             "byte-fallback": byte_fallback()}
    golden = {}
    for name, tok in kinds.items():
        specials = ["<unk>", "<s>", "</s>"] if name == "byte-fallback" else SPECIALS
        write(tok, os.path.join(folder, name), specials)
        tok = Tokenizer.from_file(os.path.join(folder, name, "tokenizer.json"))
        golden[name] = rows_of(tok, TEXTS, random_ids(tok.get_vocab_size(), name))
    with open(os.path.join(folder, "golden.json"), "w", encoding="utf-8") as f:
        lines = []
        for name, parts in golden.items():
            blocks = [f'  {json.dumps(k)}: [\n   ' + ",\n   ".join(json.dumps(r) for r in rows) + "]"
                      for k, rows in parts.items()]
            lines.append(f' {json.dumps(name)}: {{\n' + ",\n".join(blocks) + "}")
        f.write("{\n" + ",\n".join(lines) + "\n}\n")
    return kinds


if __name__ == "__main__":
    make_all(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizers"))

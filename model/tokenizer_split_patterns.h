// SPDX-License-Identifier: Apache-2.0
// The regular expressions that models of the field split text by where their files do not say it.
#ifndef PHALANX_MODEL_TOKENIZER_SPLIT_PATTERNS_H
#define PHALANX_MODEL_TOKENIZER_SPLIT_PATTERNS_H

// GPT-2: also what ByteLevel does unless told otherwise.
#define TOKENIZER_SPLIT_GPT2                                                                       \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
// Digits one by one (Qwen), or up to three together (cl100k: GPT-4, Llama 3, GLM-4).
#define TOKENIZER_SPLIT_WORDS(digits)                                                              \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                           \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TOKENIZER_SPLIT_QWEN TOKENIZER_SPLIT_WORDS("\\p{N}")
#define TOKENIZER_SPLIT_CL100K TOKENIZER_SPLIT_WORDS("\\p{N}{1,3}")
// o200k (GPT-4o): words by case.
#define TOKENIZER_SPLIT_O200K                                                                      \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"    \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"                                                                \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"   \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"                                                                \
    "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#endif

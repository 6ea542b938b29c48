# SPDX-License-Identifier: Apache-2.0
# Tests of the tokenizer; included by CMakeLists.txt.
pkg_check_modules(LZMA REQUIRED IMPORTED_TARGET liblzma)
phalanx_test(tokenizer_test SOURCES tokenizer_test.c LINK phalanx_tokenizer LABELS model)
phalanx_test(tokenizer_spans_test SOURCES tokenizer_spans_test.c LINK phalanx_tokenizer LABELS model)
phalanx_test(tokenizer_files_test SOURCES tokenizer_files_test.c tokenizer_convert.c
  LINK phalanx_tokenizer LABELS model)
phalanx_test(tokenizer_cache_test SOURCES tokenizer_cache_test.c LINK phalanx_tokenizer LABELS model)
phalanx_test(tokenizer_golden_test SOURCES tokenizer_golden_test.c tokenizer_convert.c
  LINK phalanx_tokenizer PkgConfig::LZMA LABELS model)
phalanx_test(tokenizer_golden_all_test SOURCES tokenizer_golden_test.c tokenizer_convert.c
  LINK phalanx_tokenizer PkgConfig::LZMA LABELS model long TIMEOUT 600)
target_compile_definitions(tokenizer_golden_all_test PRIVATE TOKENIZER_GOLDEN_ALL)

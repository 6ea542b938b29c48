#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What deploy/check --full does with stages that fail: it goes on, says which, and ends with 1. The
# programs that it calls are stand-ins, which fail where FAIL says so.
set -eu
unset FUZZ_SECONDS # of a deploy/check that runs this test
source_dir=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/deploy" "$dir/bin" "$dir/build/fuzz/bin"
cp "$source_dir/deploy/check" "$dir/deploy"

stand_in() {
    {
        echo '#!/bin/sh'
        echo "words=\"\$(basename \"\$0\") \$*\""
        echo "echo \"\$words\" >>\"$dir/log\""
        echo 'case "$words" in *"${FAIL:-nothing}"*) exit 9 ;; esac'
        echo "$2"
    } >"$dir/$1"
    chmod +x "$dir/$1"
}
stand_in bin/cmake ''
stand_in bin/ctest ''
stand_in deploy/install-deps ''
stand_in build/fuzz/bin/plan_fuzz ''
stand_in build/fuzz/bin/config_fuzz ''

# check CODE FAIL WORDS...: its exit code, from a folder that is not the repository's.
check() {
    expected=$1
    fail=$2
    shift 2
    : >"$dir/log"
    code=0
    (cd / && FAIL=$fail PATH="$dir/bin:$PATH" "$dir/deploy/check" "$@") >"$dir/out" 2>&1 || code=$?
    [ "$code" = "$expected" ] || fail_test "deploy/check $*: ended with $code, expected $expected"
}
fail_test() {
    echo "$1"
    cat "$dir/out" "$dir/log"
    exit 1
}
says() { grep -q "$1" "$dir/out" || fail_test "does not say \"$1\""; }
ran() { [ "$(grep -c "$1" "$dir/log")" = "$2" ] || fail_test "expected $2 of \"$1\""; }

check 0 nothing
ran '^ctest --preset release -LE long$' 1
ran '^ctest' 1
check 9 'ctest --preset release'
check 2 nothing --quick
check 2 nothing --full nothing

check 9 install-deps --full # nothing can be built without
ran '^cmake' 0

check 0 nothing --full
ran '^install-deps --full$' 1
for stage in release clang asan tsan fuzz long; do
    says "^$stage *passed"
done
ran '^ctest' 5
ran '_fuzz -max_total_time=60 ' 2
FUZZ_SECONDS=7 check 0 nothing --full fuzz
ran '_fuzz -max_total_time=7 ' 2
for stage in clang asan tsan; do
    check 1 "ctest --preset $stage" --full
    says "^$stage *FAILED"
    [ "$(grep -c 'passed in' "$dir/out")" = 5 ] || fail_test "expected five stages that passed"
done
check 1 'cmake --build --preset tsan' --full
says '^tsan *FAILED'
ran '^ctest --preset tsan' 0
check 1 'cmake --preset fuzz' --full
says '^fuzz *FAILED'
ran '_fuzz' 0
check 1 config_fuzz --full # the other targets still have their time
says '^fuzz *FAILED'
ran '^plan_fuzz' 1
check 1 'ctest --preset release -L long' --full
says '^release *passed'
says '^long *FAILED'

check 0 'preset asan' --full clang fuzz
ran '^ctest' 1
check 1 'preset asan' --full clang asan
says '^clang *passed'
says '^asan *FAILED'

#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# sanitize.sh BUILD: the tests of the ops on a device under compute-sanitizer: accesses outside of
# memory, and races in shared memory for those of few launches. It refuses some machines; then its
# own words are what is kept.
set -u
build=$1
export PHALANX_TEST_DEVICE=cuda PHALANX_BIN="$build/bin" PHALANX_PLUGIN_DIR="$build/bin"
status=0
check() { # TOOL TEST
    from=$(date +%s)
    compute-sanitizer --tool "$1" --error-exitcode 9 "$build/tests/$2" >"$build/sanitize.log" 2>&1
    rc=$?
    grep -E 'ERROR SUMMARY|RACECHECK SUMMARY|not supported' "$build/sanitize.log" | head -n 2
    if [ $rc != 0 ]; then
        status=1
        echo "$1 $2: $rc" >&2
        grep '=========' "$build/sanitize.log" | head -n 20 >&2
    fi
    echo "$1 $2: $rc after $(($(date +%s) - from)) s"
}
for test in cuda_rows_test cuda_rope_test cuda_copy_test cuda_weight_test cuda_attention_test; do
    check memcheck $test
done
check racecheck cuda_rows_test
check memcheck cuda_linear_test
rm -f "$build/sanitize.log"
exit $status

#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# ops.sh BUILD TABLE DEVICE: the tests of tests/cuda on a device (cuda, or emu), one line for each
# in TABLE. The programs are those that run on the emulator; PHALANX_TEST_DEVICE=cuda makes them
# load libphalanx_cuda.so. ops.sh --list prints the programs.
set -u
tests="cuda_linear_test cuda_attention_test cuda_rows_test cuda_rope_test cuda_copy_test
cuda_weight_test cuda_graph_test cuda_ahead_test cuda_experts_test cuda_sample_test"
if [ "${1:-}" = --list ]; then
    echo "$tests"
    exit 0
fi
[ $# = 3 ] || { echo "usage: ops.sh BUILD TABLE DEVICE | --list" >&2; exit 2; }
build=$1 table=$2 device=$3
printf 'test\tdevice\tresult\tseconds\n' >"$table"
status=0
for test in $tests; do
    from=$(date +%s)
    if [ ! -x "$build/tests/$test" ]; then
        result="not run: it was not built" status=1
    elif PHALANX_TEST_DEVICE=$device PHALANX_BIN=$build/bin PHALANX_PLUGIN_DIR=$build/bin \
        timeout -k 2 60 "$build/tests/$test" >"$table.log" 2>&1; then
        result=passed
    else
        result=FAILED status=1
        echo "== $test" >&2
        cat "$table.log" >&2
    fi
    printf '%s\t%s\t%s\t%s\n' "$test" "$device" "$result" "$(($(date +%s) - from))" >>"$table"
done
rm -f "$table.log"
exit $status

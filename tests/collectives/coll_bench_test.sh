#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# coll_bench_test.sh PROGRAM MPIEXEC NP: phalanx-coll-bench --device emu on NP ranks. Every variant
# of ours has one row of each size, with all fields and no wrong element; NCCL, which has no device
# here, is said in one line not to be there.
set -eu
program=$1 mpiexec=$2 np=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

run() { "$mpiexec" -n "$np" "$program" --device emu "$@" >"$dir/out" 2>"$dir/err"; }
fail() {
    echo "$1"
    cat "$dir/out" "$dir/err"
    exit 1
}

# All three algorithms: flags in the data, one-shot and two-shot.
run --sizes 1K,8704 --samples 1 --output jsonl || fail "the run has failed"
grep -v '^#' "$dir/out" >"$dir/rows"
number='[0-9]*\.[0-9][0-9][0-9]'
for bytes in 1024 8704; do
    for variant in private symmetric private-graph symmetric-graph; do
        row="{\"np\": $np, \"op\": \"all_reduce\", \"variant\": \"$variant\", \"bytes\": $bytes, "
        row="$row\"us\": $number, \"algbw_gbs\": $number, \"busbw_gbs\": $number, \"wrong\": 0}"
        [ "$(grep -cx "$row" "$dir/rows")" = 1 ] || fail "no right row of $variant, $bytes bytes"
    done
done
[ "$(wc -l <"$dir/rows")" = 8 ] || fail "there are other rows"
[ "$(grep -c '^# no nccl: ' "$dir/out")" = 1 ] || fail "not one line says why there is no NCCL"

if run --ops broadcast || ! grep -q -- '--device: all_reduce is measured' "$dir/err"; then
    fail "another operation was not refused"
fi

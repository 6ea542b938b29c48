#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# coll_check.sh BENCH MPIEXEC NUMPROC_FLAG: phalanx-coll-bench with sizes that neither ranks, rows nor
# lines divide. Every operation has to give a right result, and all_reduce a row for every size.
set -eu
bench=$1 mpiexec=$2 flag=$3
ops=all_reduce,all_reduce_norm,reduce_scatter,all_gather,broadcast,barrier,touch,logits,kv_heads,experts,two_groups
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
fail() { echo "np $np: $1"; cat "$rows"; exit 1; }
for np in 1 3 4; do
    "$mpiexec" "$flag" "$np" "$bench" --ops "$ops" --sizes 5,13,1000,10000,70000 --samples 3 \
        --tuned=false --output jsonl >"$rows"
    ! grep -v '"wrong": 0}$' "$rows" >/dev/null || fail "wrong elements"
    for bytes in 4 12 1000 10000 70000; do
        for variant in private symmetric mpi; do
            grep -q "\"op\": \"all_reduce\", \"variant\": \"$variant\", \"bytes\": $bytes," "$rows" ||
                fail "no row of $variant all_reduce of $bytes bytes"
        done
    done
done
"$mpiexec" "$flag" 2 "$bench" --sizes 3 >/dev/null 2>&1 && { echo "a size of 3 was taken"; exit 1; }
echo "right on 1, 3 and 4 ranks"

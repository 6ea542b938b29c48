#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# coll.sh BIN DEVICE [tiny]: phalanx-coll-bench --device on as many ranks as there are GPUs, at
# least two and at most eight; with fewer GPUs ranks share them, which says something of kernels and
# nothing of links. Its rows come out as bench/gpu/merge.awk reads them: the shape says how many
# ranks and GPUs, and whether calls were made one by one or as a graph; m is the bytes. What could
# not be had is said as the bench says it, in lines of "# no". Fails where a sum was wrong or a
# variant of ours is missing.
set -u
[ $# -ge 2 ] || { echo "usage: coll.sh BIN DEVICE [tiny]" >&2; exit 2; }
bin=$1 device=$2 tiny=${3:-}
command -v mpirun >/dev/null || { echo "there is no mpirun" >&2; exit 1; }
gpus=$("$bin/phalanx-devices" 2>/dev/null | grep -c "^$device [0-9]")
[ "$gpus" -ge 1 ] || gpus=1
np=$gpus
[ "$np" -ge 2 ] || np=2
[ "$np" -le 8 ] || np=8
[ "$gpus" -le "$np" ] || gpus=$np
sizes=1K,4K,16K,64K,128K,256K,512K,1M,16M
samples=0
[ "$gpus" = "$np" ] || samples=2 # each call costs turns of the GPU
if [ -n "$tiny" ]; then
    sizes=1K,4K
    samples=1
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
mpirun --oversubscribe --bind-to none -np "$np" "$bin/phalanx-coll-bench" --device "$device" \
    --sizes "$sizes" --samples "$samples" --output jsonl >"$rows" || exit 1
grep '^#' "$rows"
tr -d '{}",' <"$rows" | awk -v gpus="$gpus" '
/^#/ { next }
{
    for (i = 1; i < NF; i += 2)
        f[$i] = $(i + 1)
    v = f["variant:"]
    graph = sub(/-graph$/, "", v)
    wrong += f["wrong:"]
    seen[v, graph]++
    if (!(f["bytes:"] in sizes)) {
        sizes[f["bytes:"]] = 1
        n++
    }
    if (f["wrong:"] > 0)
        next
    shape = "np" f["np:"] "," gpus (gpus == 1 ? "gpu" : "gpus") "," (graph ? "graph" : "eager")
    printf "%s\t%s\t%s\t%s\t%s\t%s\t0\t-\t-\t-\n", f["op:"], shape, f["bytes:"], v, f["us:"],
        f["bytes:"]
}
END {
    for (graph = 0; graph < 2; graph++)
        if (n == 0 || seen["private", graph] != n || seen["symmetric", graph] != n) {
            print "rows are missing" >"/dev/stderr"
            exit 1
        }
    if (wrong > 0) {
        print wrong " elements are wrong" >"/dev/stderr"
        exit 1
    }
}'

#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What a server costs before and between requests, a row each: time from launch to ready beside
# that of mpirun alone, memory of the ranks beside their weights and KV cache, processor time of the
# whole cluster while idle, and time from launch to the first token.
#
#   bench/start_bench.sh [--bin DIR] [--degree N] [--kv-cache-memory BYTES] [--idle SECONDS] MODEL
#
# The page cache decides about the times: the first round only fills it.
set -eu
bin=$(dirname "$0")/../build/release/bin degree=2 kv=128MiB idle=20 model=
while [ $# -gt 0 ]; do
    case "$1" in
    --bin) bin=$2; shift 2 ;;
    --degree) degree=$2; shift 2 ;;
    --kv-cache-memory) kv=$2; shift 2 ;;
    --idle) idle=$2; shift 2 ;;
    --help) sed -n '3,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "start_bench: unknown option $1" >&2; exit 2 ;;
    *) model=$1; shift ;;
    esac
done
[ -d "$model" ] || { echo "start_bench: expected a model directory" >&2; exit 2; }
dir=$(mktemp -d)
server=
stop() {
    [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null && wait "$server" || true; }
    server=
}
trap 'stop; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
endpoint="ipc://$dir/bench.ipc"

now_ms() { echo $(($(date +%s%N) / 1000000)); }
row() { printf '%-44s %s\n' "$1" "$2"; }
# The middle one of the numbers on standard input.
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
# A process and all below it.
tree() {
    echo "$1"
    for child in $(cat "/proc/$1/task/"*/children 2>/dev/null); do tree "$child"; done
}
# Clock ticks that a list of processes has used; the name in field 2 may hold blanks.
ticks() { for p in "$@"; do sed 's/.*) //' "/proc/$p/stat"; done | awk '{t += $12 + $13} END {print t}'; }
name_of() { cat "/proc/$1/comm" 2>/dev/null || true; }

start() {
    mkfifo "$dir/ready"
    "$bin/phalanx" serve --model "$model" --model-name bench --endpoint "$endpoint" \
        --tensor-parallel-degree "$degree" --kv-cache-memory "$kv" >"$dir/ready" 2>"$dir/log" &
    server=$!
    read -r line <"$dir/ready" || { cat "$dir/log" >&2; exit 1; }
    rm "$dir/ready"
}

root=
[ "$(id -u)" != 0 ] || root=--allow-run-as-root
for round in 0 1 2 3 4 5; do
    t=$(now_ms)
    mpirun $root --oversubscribe --bind-to none --mca plm isolated -np "$degree" true
    [ "$round" = 0 ] || echo $(($(now_ms) - t)) >>"$dir/mpirun"
    t=$(now_ms)
    start
    [ "$round" = 0 ] || echo $(($(now_ms) - t)) >>"$dir/serve"
    "$bin/phalanx" generate --endpoint "$endpoint" --tokens 5,6,7,8 --max-tokens 1 --ignore-eos \
        --output jsonl >/dev/null
    [ "$round" = 0 ] || echo $(($(now_ms) - t)) >>"$dir/first"
    [ "$round" = 5 ] || stop
done
mpirun_ms=$(median <"$dir/mpirun") serve_ms=$(median <"$dir/serve") first_ms=$(median <"$dir/first")
row "mpirun -np $degree true" "$mpirun_ms ms"
row "launch to ready" "$serve_ms ms ($((serve_ms - mpirun_ms)) ms beyond mpirun)"
row "launch to first token, 4 prompt tokens" "$first_ms ms"

# Memory, before and after enough requests to write every KV page once.
ranks=
for p in $(tree "$server"); do [ "$(name_of "$p")" != phalanx-worker ] || ranks="$ranks $p"; done
pss() { for p in $ranks; do cat "/proc/$p/smaps_rollup"; done | awk '/^Pss:/ {k += $2} END {print k}'; }
field() { "$bin/phalanx" models --endpoint "$endpoint" --output jsonl | sed "s/.*\"$1\":\([0-9]*\).*/\1/"; }
weights=$(field weight_bytes) cache=$(field kv_bytes) vocab=$(field vocab_size)
due=$(((weights + cache) * degree / 1024))
fresh=$(pss)
"$bin/serve_bench" --endpoint "$endpoint" --clients 16 --prompt-tokens 96 --output-tokens 32 \
    --vocab-size "$vocab" --rounds 2 >"$dir/load"
used=$(pss)
mib() { echo "$(($1 / 1024)) MiB"; }
row "weights and KV cache of all ranks" "$(mib "$due")"
row "PSS of the ranks, fresh" "$(mib "$fresh")"
row "PSS of the ranks, after load" \
    "$(mib "$used"), $(awk "BEGIN {printf \"%.3f\", $used / $due}") of weights and KV cache"

sleep 1
all=$(tree "$server")
before=$(ticks $all)
sleep "$idle"
hz=$(getconf CLK_TCK)
row "idle: processor time of the cluster" \
    "$(awk "BEGIN {printf \"%.2f\", ($(ticks $all) - $before) * 100 / $hz / $idle}") % of a core"

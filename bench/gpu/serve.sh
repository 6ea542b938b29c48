#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# serve.sh BIN SHAPE DEVICE OUT: serves a model of random weights, made on the device, and compares
# what clients get: alone, beside others, and with prompts in small pieces. With --determinism batch
# all of it is the same, bit for bit; with run, how much differs is told, not judged.
set -u
[ $# = 4 ] || { echo "usage: serve.sh BIN SHAPE DEVICE OUT" >&2; exit 2; }
bin=$1 shape=$2 device=$3 out=$4
requests=8 tokens=32 prompt=96 length=256
if [ "$device" = emu ]; then
    requests=3 tokens=4 prompt=12 length=64
fi
rm -rf "$out"
mkdir -p "$out" || exit 1
dir=$(mktemp -d /tmp/phalanx-gpu.XXXXXX) # short: sockets live there
server=
stop() {
    [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null; wait "$server"; }
    server=
}
finish() {
    stop
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM

# start NAME OPTIONS...
start() {
    name=$1
    shift
    rm -f "$dir/ready"
    mkfifo "$dir/ready"
    "$bin/phalanx" serve --model "$shape" --model-name shape --random-weights --device "$device" \
        --seed 7 --max-model-len $length --max-num-seqs $requests --endpoint "ipc://$dir/e.ipc" \
        --no-prefix-cache "$@" >"$dir/ready" 2>"$out/$name.err" &
    server=$!
    begun=$(date +%s%N)
    if ! read -r line <"$dir/ready"; then
        echo "serve.sh: the server ($name) did not start: $(tail -n 1 "$out/$name.err")" >&2
        exit 1
    fi
    echo "$name: $line after $((($(date +%s%N) - begun) / 1000000)) ms"
    grep '^memory' "$out/$name.err"
}

# Ids of a prompt of its own for each request.
ids() {
    awk -v n="$1" -v count="$prompt" 'BEGIN {
        for (i = 0; i < count + n; i++)
            printf "%s%d", i ? "," : "", 3 + (i * 37 + n * 11) % 450
    }'
}

# Tokens with their log-probabilities; the times in the last line are taken away.
ask() { # NAME NUMBER
    "$bin/phalanx" generate --endpoint "ipc://$dir/e.ipc" --model shape --tokens "$(ids "$2")" \
        --max-tokens $tokens --ignore-eos --temperature 0.8 --top-p 0.95 --seed "$2" --logprobs 5 \
        --output jsonl 2>>"$out/$1.err" |
        sed -E 's/"(queued_ms|first_token_ms|total_ms)":[0-9.]+,?//g; s/"cached_tokens":[0-9]+,//' \
            >"$out/$1.$2.jsonl"
}

alone() {
    for i in $(seq "$requests"); do ask "$1" "$i"; done
}

together() {
    pids=
    for i in $(seq "$requests"); do
        ask "$1" "$i" &
        pids="$pids $!"
    done
    for p in $pids; do wait "$p"; done
}

# same A B: how many requests of both are equal; complete ones only.
same() {
    equal=0
    for i in $(seq "$requests"); do
        if [ "$(grep -c '"id"' "$out/$1.$i.jsonl")" = "$tokens" ] &&
            cmp -s "$out/$1.$i.jsonl" "$out/$2.$i.jsonl"; then
            equal=$((equal + 1))
        fi
    done
    echo "$1 and $2: $equal of $requests alike"
    [ "$equal" = "$requests" ]
}

status=0
start batch --determinism batch --max-num-batched-tokens 512
alone alone
together together
stop
start pieces --determinism batch --max-num-batched-tokens 24
alone pieces
together pieces-together
stop
same alone together || status=1
same alone pieces || status=1
same alone pieces-together || status=1
start run --determinism run --max-num-batched-tokens 512
alone run-alone
together run-together
stop
same run-alone run-together || true
same alone run-alone || true
exit $status

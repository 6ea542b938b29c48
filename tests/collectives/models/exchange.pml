// SPDX-License-Identifier: Apache-2.0
// The partial exchange of collectives/shm_exchange.c. Three ranks in a line, 0 - 1 - 2: 0 and 2 do
// not exchange. A rank's signal says that its slots may be written; a source then writes its block and
// raises the flag of the pair. A rank may begin the next exchange while others are still in this one.
// Five barriers lie between two exchanges. Epochs wrap; what a pair that rests has left behind is older
// than half a round of them, so flags count only if they are of the very exchange.
//
// Checked: no deadlock; what is read in a slot is the block of this exchange, not an older one (ABA)
// and not the next one (reuse); pairs outside the relation do not wait for each other.
//
// bugs: NO_START_SIGNAL FLAG_BEFORE_BLOCK SHARED_FLAG FLAG_BY_DISTANCE NO_SIGNED_DISTANCE
#define N 3
#define OPS 9
#define MOD 8
#define FIRST 5

byte line[N];     // step of the rank
byte done[N * N]; // [destination * N + source]
byte slot[N * N];

#ifdef NO_SIGNED_DISTANCE
#define REACHED(w, e) ((w) >= (e))
#else
#define REACHED(w, e) ((((w) + MOD - (e)) % MOD) < MOD / 2)
#endif
#ifdef FLAG_BY_DISTANCE
#define RAISED(w, e) REACHED(w, e)
#else
#define RAISED(w, e) ((w) == (e))
#endif
#define BARRIER(op) ((op) >= 3 && (op) < 8)
#define PEERS(a, b) ((a) != (b) && ((a) == 1 || (b) == 1) && !BARRIER(op))
#ifdef SHARED_FLAG
#define PAIR(to, from) ((to)*N)
#else
#define PAIR(to, from) ((to)*N + (from))
#endif

proctype rank(byte me)
{
    byte epoch = FIRST, op = 1, q;
    do
    :: op <= OPS ->
        epoch = (epoch + 1) % MOD;
        line[me] = epoch;
        q = 0;
        do
        :: q < N && BARRIER(op) -> (REACHED(line[q], epoch)); q++
        :: else -> break
        od;
        q = 0;
        do
        :: q < N && PEERS(me, q) ->
#ifndef NO_START_SIGNAL
            (REACHED(line[q], epoch));
#endif
#ifdef FLAG_BEFORE_BLOCK
            done[PAIR(q, me)] = epoch;
            slot[q * N + me] = op;
#else
            slot[q * N + me] = op;
            done[PAIR(q, me)] = epoch;
#endif
            q++
        :: q < N && !PEERS(me, q) -> q++
        :: q == N -> break
        od;
        q = 0;
        do
        :: q < N && PEERS(me, q) ->
            (RAISED(done[PAIR(me, q)], epoch));
            assert(slot[me * N + q] == op);
            q++
        :: q < N && !PEERS(me, q) -> q++
        :: q == N -> break
        od;
        op++
    :: else -> break
    od
}

init
{
    byte i;
    atomic {
        for (i : 0 .. N * N - 1) {
            done[i] = FIRST
        }
        for (i : 0 .. N - 1) {
            line[i] = FIRST
        }
        for (i : 0 .. N - 1) {
            run rank(i)
        }
    }
}

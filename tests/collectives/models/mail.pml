// SPDX-License-Identifier: Apache-2.0
// Small blocks of the partial exchange of collectives/shm_exchange.c: each pair has two mails in each
// direction, used in turn, and nobody waits before it writes. Three ranks in a line, 0 - 1 - 2: 0 and
// 2 do not exchange, and 1 and 2 rest for five exchanges, so the turns of the pairs differ. Epochs wrap,
// and what a pair that rests has left behind is older than half a round of them: only a flag of the
// very exchange counts.
//
// Checked: no deadlock; a mail that is read is that of this exchange, not an older one (ABA) and not
// a later one (reuse), although its source may be an exchange ahead.
//
// bugs: ONE_MAIL FLAG_BEFORE_BLOCK TURN_OF_ALL BY_DISTANCE
#define N 3
#define OPS 8
#define MOD 8
#define FIRST 5

byte done[N * N * 2]; // [(destination * N + source) * 2 + turn]
byte block[N * N * 2];

#ifdef BY_DISTANCE
#define RAISED(w, e) ((((w) + MOD - (e)) % MOD) < MOD / 2)
#else
#define RAISED(w, e) ((w) == (e))
#endif
#define LINE(a, b) ((a) != (b) && ((a) == 1 || (b) == 1))
#define PEERS(a, b, op) (LINE(a, b) && !((op) >= 2 && (op) <= 6 && (a) + (b) == 3))
#ifdef ONE_MAIL
#define TURN(q) 0
#else
#ifdef TURN_OF_ALL
#define TURN(q) (next[me]) /* one counter for all pairs of a rank */
#else
#define TURN(q) (next[q])
#endif
#endif
#define MAIL(to, from, q) (((to) * N + (from)) * 2 + TURN(q))

proctype rank(byte me)
{
    byte epoch = FIRST, op = 1, q;
    byte next[N];
    do
    :: op <= OPS ->
        epoch = (epoch + 1) % MOD;
        q = 0;
        do
        :: q < N && PEERS(me, q, op) ->
#ifdef FLAG_BEFORE_BLOCK
            done[MAIL(q, me, q)] = epoch;
            block[MAIL(q, me, q)] = op;
#else
            block[MAIL(q, me, q)] = op;
            done[MAIL(q, me, q)] = epoch;
#endif
            q++
        :: q < N && !PEERS(me, q, op) -> q++
        :: q == N -> break
        od;
        q = 0;
        do
        :: q < N && PEERS(me, q, op) ->
            (RAISED(done[MAIL(me, q, q)], epoch));
            assert(block[MAIL(me, q, q)] == op);
            next[q] = 1 - next[q];
#ifdef TURN_OF_ALL
            next[me] = 1 - next[me];
#endif
            q++
        :: q < N && !PEERS(me, q, op) -> q++
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
        for (i : 0 .. N * N * 2 - 1) {
            done[i] = FIRST
        }
        for (i : 0 .. N - 1) {
            run rank(i)
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
// Flags in the data (LL): each 8-byte store holds 4 bytes of data and the epoch; a reader polls until
// the flag is the epoch. Two buffers in turn by the parity of the epoch, nothing is cleared. The proof
// that a buffer may be reused: a rank pushes epoch e + 2 only after it has read the others' epoch
// e + 1, which they pushed after reading epoch e. Epochs wrap; flags start as an epoch that is never
// used next.
//
// Checked: no deadlock; the data are those of the epoch, in both halves of a packet, over the wrap.
//
// bugs: ONE_BUFFER FLAG_APART NO_WAIT FLAGS_MOD_2
#define N 2
#define ELEMENTS 2
#define OPS 6
#ifdef FLAGS_MOD_2
#define MOD 2
#else
#define MOD 8
#endif
#define FIRST (MOD - 2)

#ifdef ONE_BUFFER
#define AT(to, from, e, i) (((to)*N + (from)) * ELEMENTS + (i))
#else
#define AT(to, from, e, i) ((((to)*N + (from)) * 2 + (e) % 2) * ELEMENTS + (i))
#endif
byte data[N * N * 2 * ELEMENTS], flag[N * N * 2 * ELEMENTS];

proctype rank(byte me)
{
    byte op = 1, epoch = FIRST, q, i;
    do
    :: op <= OPS ->
        epoch = (epoch + 1) % MOD;
        q = 1 - me;
        i = 0;
        do
        :: i < ELEMENTS ->
#ifdef FLAG_APART
            flag[AT(q, me, epoch, i)] = epoch;
            data[AT(q, me, epoch, i)] = op;
#else
            atomic {
                data[AT(q, me, epoch, i)] = op;
                flag[AT(q, me, epoch, i)] = epoch
            };
#endif
            i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < ELEMENTS ->
#ifndef NO_WAIT
            (flag[AT(me, q, epoch, i)] == epoch);
#endif
            assert(data[AT(me, q, epoch, i)] == op);
            i++
        :: else -> break
        od;
        op++
    :: else -> break
    od
}

init
{
    byte i;
    atomic {
        for (i : 0 .. N * N * 2 * ELEMENTS - 1) {
            flag[i] = FIRST
        }
        for (i : 0 .. N - 1) {
            run rank(i)
        }
    }
}

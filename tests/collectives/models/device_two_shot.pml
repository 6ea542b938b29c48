// SPDX-License-Identifier: Apache-2.0
// Two-shots of collectives/cuda, pushed and in the heaps in turn. Pushed: slices go to their owners
// (stage 0), all meet, each owner sums and pushes the sum to all (stage 1), all meet, sums are copied
// out; both stages have two buffers by the parity of the turn (which one-shots need: here one would do,
// as a run with -DONE_BUFFER shows). In the heaps: all meet, each rank reads
// its slice of all buffers and writes the sum to all, all meet. Flags are compared for equality, one for
// each phase and parity. Epochs come round (6 instead of 2^32).
//
// Checked: no deadlock; sums are of this operation's inputs from all ranks; results are of this
// operation's sums; an input is not overwritten before its slice has been read.
//
// bugs: NO_START NO_MIDDLE NO_END ONE_STAGE ONE_PHASE FLAG_BEFORE_DATA
#ifndef N
#define N 2
#endif
#define OPS 7
#define ROUND 6
#define PUSHED(op) ((op) % 3 != 0)

#define START 0
#define MIDDLE 1
#define END 2
#define SUM 100 // added to the number of an operation: its sum

byte part[N * 4 * N];  // [rank][parity][stage][source]
byte heap[N * N];      // [rank][slice]
byte flag[N * 3 * 2 * N]; // [rank][phase][parity][source]

#ifdef ONE_BUFFER
#define PARITY 0
#else
#define PARITY (epoch % 2)
#endif
#ifdef ONE_STAGE
#define PART(to, stage, from) (((to) * 4 + PARITY * 2) * N + (from))
#else
#define PART(to, stage, from) (((to) * 4 + PARITY * 2 + (stage)) * N + (from))
#endif
#ifdef ONE_PHASE
#define FLAG(to, phase, from) (((to) * 6 + epoch % 2) * N + (from))
#else
#define FLAG(to, phase, from) (((to) * 6 + (phase) * 2 + epoch % 2) * N + (from))
#endif

inline raise_flags(phase)
{
    q = 0;
    do
    :: q < N -> flag[FLAG(q, phase, me)] = epoch + 1; q++
    :: else -> break
    od
}

inline await_flags(phase)
{
    q = 0;
    do
    :: q < N -> (flag[FLAG(me, phase, q)] == epoch + 1); q++
    :: else -> break
    od
}

inline meet(phase)
{
    raise_flags(phase);
    await_flags(phase)
}

inline pushed()
{
#ifdef FLAG_BEFORE_DATA
    raise_flags(START);
#endif
    q = 0;
    do
    :: q < N -> part[PART(q, 0, me)] = op; q++
    :: else -> break
    od;
#ifdef FLAG_BEFORE_DATA
    await_flags(START);
#else
    meet(START);
#endif
    q = 0;
    do
    :: q < N -> assert(part[PART(me, 0, q)] == op); q++
    :: else -> break
    od;
    q = 0;
    do
    :: q < N -> part[PART(q, 1, me)] = op + SUM; q++
    :: else -> break
    od;
#ifndef NO_MIDDLE
    meet(MIDDLE);
#endif
    q = 0;
    do
    :: q < N -> assert(part[PART(me, 1, q)] == op + SUM); q++
    :: else -> break
    od
}

inline in_heaps()
{
    q = 0;
    do
    :: q < N -> heap[me * N + q] = op; q++ // the input, in the order of the stream
    :: else -> break
    od;
#ifndef NO_START
    meet(START);
#endif
    q = 0;
    do
    :: q < N -> assert(heap[q * N + me] == op); q++
    :: else -> break
    od;
    q = 0;
    do
    :: q < N -> heap[q * N + me] = op + SUM; q++
    :: else -> break
    od;
#ifndef NO_END
    meet(END);
#endif
    q = 0;
    do
    :: q < N -> assert(heap[me * N + q] == op + SUM); q++
    :: else -> break
    od
}

proctype rank(byte me)
{
    byte op = 1, epoch = ROUND - 3, q;
    do
    :: op <= OPS ->
        epoch = (epoch + 1) % ROUND;
        if
        :: PUSHED(op) -> pushed()
        :: else -> in_heaps()
        fi;
        op++
    :: else -> break
    od
}

init
{
    byte i;
    atomic {
        for (i : 0 .. N - 1) {
            run rank(i)
        }
    }
}

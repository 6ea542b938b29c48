// SPDX-License-Identifier: Apache-2.0
// Packets of collectives/cuda (pad.cuh, pieces.cuh): each word holds data and the turn; two buffers by
// the parity of the turn; readers wait for the turn, not for a flag. Turns and epochs come round (8
// instead of 2^32): what an operation has left in words that its successors did not write must be
// forgotten before its turn comes again, whatever operation runs where that is done. Large operations
// fill both words of a buffer, small ones one, one-shots none. The same holds for flags of a phase that
// few operations have: the operation at turn 3 ends with a meeting of its own.
//
// Checked: no deadlock; every word that is taken was pushed by this operation, over more than a round,
// for each kind of operation in between and at the turns of forgetting.
//
// bugs: NO_FORGETTING FORGET_IN_PACKETS_ONLY NO_MEETING NO_FORGETTING_FLAGS ONE_BUFFER FLAG_APART
#define N 2
#define WORDS 2
#define OPS 11
#define ROUND 8
#define HALF 4

#define LARGE 2
#define SMALL 1
#define ONE_SHOT 0

// The operation at turn 3 is large; others are drawn once.
byte between, at_forgetting;
#define FORGETS(turn) (((turn) & (HALF - 2)) == 0)
#define KIND(turn) ((turn) == 3 -> LARGE : (FORGETS(turn) -> at_forgetting : between))

#ifdef ONE_BUFFER
#define PARITY(turn) 0
#else
#define PARITY(turn) ((turn) % 2)
#endif
#define AT(to, turn, i) (((to) * 2 + PARITY(turn)) * WORDS + (i))
#define FLAG(to, phase, turn) (((to) * 3 + (phase)) * 2 + (turn) % 2)
#define START 0
#define CLEAR 1
#define LAST 2

byte data[N * 2 * WORDS], turn_of[N * 2 * WORDS]; // a packet: pushed by the other rank
byte part[N * 2];                                 // of one-shots
byte flag[N * 3 * 2];                             // epochs; 0: none
byte finished[N];                                 // operations

inline meet(phase)
{
    flag[FLAG(q, phase, turn)] = epoch;
    (flag[FLAG(me, phase, turn)] == epoch)
}

inline forget_flags()
{
    i = 0;
    do
    :: i < 6 ->
        // Near ones may be new.
        atomic {
            if
            :: flag[me * 6 + i] != 0 && (flag[me * 6 + i] + 8 - epoch) % 8 > 1 &&
               (flag[me * 6 + i] + 8 - epoch) % 8 < 7 -> flag[me * 6 + i] = 0
            :: else -> skip
            fi
        };
        i++
    :: else -> break
    od
}

inline forget_packets()
{
    i = 0;
    do
    :: i < WORDS ->
        atomic {
            data[AT(me, turn, i)] = 0;
            turn_of[AT(me, turn, i)] = (turn + HALF) % ROUND
        };
        i++
    :: else -> break
    od
}

proctype rank(byte me)
{
    byte op = 1, turn = 2, epoch = 2, i, n, q;
    q = 1 - me;
    do
    :: op <= OPS ->
        turn = (turn + 1) % ROUND;
        epoch = (epoch == 8 -> 1 : epoch + 1);
        n = KIND(turn);
#ifndef NO_FORGETTING_FLAGS
        if
        :: epoch == 1 || epoch == 1 + HALF -> forget_flags()
        :: else -> skip
        fi;
#endif
        if
#ifndef NO_FORGETTING
#ifdef FORGET_IN_PACKETS_ONLY
        :: FORGETS(turn) && n != ONE_SHOT -> forget_packets()
#else
        :: FORGETS(turn) -> forget_packets()
#endif
#endif
        :: else -> skip
        fi;
        if
        :: n == ONE_SHOT ->
            part[q * 2 + turn % 2] = op;
            meet(START);
            assert(part[me * 2 + turn % 2] == op)
        :: else ->
#ifndef NO_MEETING
            if
            :: FORGETS(turn) -> meet(CLEAR)
            :: else -> skip
            fi;
#endif
            flag[FLAG(q, START, turn)] = epoch;
            i = 0;
            do
            :: i < n ->
#ifdef FLAG_APART
                turn_of[AT(q, turn, i)] = turn;
                data[AT(q, turn, i)] = op;
#else
                atomic {
                    data[AT(q, turn, i)] = op;
                    turn_of[AT(q, turn, i)] = turn
                };
#endif
                i++
            :: else -> break
            od;
            i = 0;
            do
            :: i < n ->
                atomic {
                    (turn_of[AT(me, turn, i)] == turn);
                    assert(data[AT(me, turn, i)] == op)
                };
                i++
            :: else -> break
            od;
            (flag[FLAG(me, START, turn)] == epoch)
        fi;
        finished[me] = op;
        if
        :: turn == 3 ->
            meet(LAST);
            assert(finished[q] >= op)
        :: else -> skip
        fi;
        op++
    :: else -> break
    od
}

init
{
    byte i;
    atomic {
        for (i : 0 .. N * 2 * WORDS - 1) {
            turn_of[i] = 7 // of nobody: the first turns to come are others
        }
        select(between : 0 .. 2);
        select(at_forgetting : 0 .. 2);
        for (i : 0 .. N - 1) {
            run rank(i)
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
// One-shots of collectives/cuda: data are pushed into the part that the receiver keeps for the source,
// one of two by the parity of the turn; a flag {epoch, signature} follows, compared for equality. One
// rank may call something else at one operation: others see another signature, or that it has gone on
// without raising the flag that they wait for. Or it gives up by itself there (a block that is too
// large). One that gives up tells all.
//
// Checked: no deadlock, also where calls differ; what is read is of this operation; nobody finishes an
// operation in which calls differ; without that nobody gives up.
//
// bugs: ONE_BUFFER ONE_FLAG FLAG_BEFORE_DATA NO_LOOK NO_ABORT NO_SIGNATURE
#define N 3
#define OPS 4
#define DIFFERS_AT 2
#define SAME 1
#define OTHER 2 // its flags are of another phase, as those of an exchange are

byte part[N * N * 2], flag[N * N * 2], signature[N * N * 2]; // [to][from][parity]
byte piece[N], piece_signature[N];
bool ended[N], told[N];
byte wrong; // the rank that differs or gives up; N: none
bool quits; // it gives up

#ifdef ONE_BUFFER
#define PART(to, from, t) (((to) * N + (from)) * 2)
#else
#define PART(to, from, t) (((to) * N + (from)) * 2 + (t) % 2)
#endif
#ifdef ONE_FLAG
#define FLAG(to, from, t) (((to) * N + (from)) * 2)
#else
#define FLAG(to, from, t) (((to) * N + (from)) * 2 + (t) % 2)
#endif

inline raise_flag()
{
    if
    :: mine == SAME ->
        atomic {
            flag[FLAG(q, me, op)] = op;
            signature[FLAG(q, me, op)] = mine
        }
    :: else -> skip // the flags of the other operation lie elsewhere
    fi
}

// What a rank that has waited for long finds out; without anything it goes on waiting.
#ifdef NO_LOOK
#define LOOKS_BAD (told[me])
#else
#define LOOKS_BAD                                                                                      \
    (told[me] || (piece[q] == op && piece_signature[q] != mine) ||                                         \
        (piece[q] > op && (mine == OTHER || flag[FLAG(me, q, op)] != op)))
#endif

#ifdef NO_SIGNATURE
#define ARRIVED (flag[FLAG(me, q, op)] == op)
#else
#define ARRIVED (flag[FLAG(me, q, op)] == op && mine == SAME)
#endif

proctype rank(byte me)
{
    byte op = 1, q, mine;
    bool fine = true;
    do
    :: op <= OPS && fine ->
        mine = (op == DIFFERS_AT && me == wrong && !quits -> OTHER : SAME);
        atomic {
            piece[me] = op;
            piece_signature[me] = mine
        };
        fine = !(op == DIFFERS_AT && me == wrong && quits);
        q = (fine -> 0 : N);
        do
        :: q < N && q != me ->
#ifdef FLAG_BEFORE_DATA
            raise_flag();
            part[PART(q, me, op)] = op;
#else
            part[PART(q, me, op)] = op;
            raise_flag();
#endif
            q++
        :: q == me -> q++
        :: q == N -> break
        od;
        q = 0;
        do
        :: q < N && q != me && fine ->
            if
            :: ARRIVED -> assert(part[PART(me, q, op)] == op)
            :: LOOKS_BAD -> fine = false
            fi;
            q++
        :: q == me -> q++
        :: q == N || (q < N && q != me && !fine) -> break
        od;
        assert(!(fine && wrong < N && op == DIFFERS_AT));
        op++
    :: else -> break
    od;
    assert(fine || wrong < N);
    if
    :: !fine ->
        ended[me] = true;
#ifndef NO_ABORT
        q = 0;
        do
        :: q < N -> told[q] = true; q++
        :: else -> break
        od
#endif
    :: else -> skip
    fi
}

init
{
    byte i;
    atomic {
        select(wrong : 0 .. N);
        select(quits : 0 .. 1);
        for (i : 0 .. N - 1) {
            run rank(i)
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
// How waits of collectives/ end when something is wrong: the poison word, of which the first cause
// stays, and the mark (or the ended process) of a member that has gone. Rank 2 makes one signal less
// than the others, or signals and then goes. A wait for it may end in two ways only: the word came,
// or an error; and what a member wrote before it went still counts.
//
// Checked: nobody waits for ever; if rank 2 signalled before it went, nobody calls that step failed;
// all survivors of a failed step end with the same cause.
//
// bugs: NO_LAST_LOOK NO_POISON_CHECK OVERWRITE_POISON
#define N 3
mtype = { nothing, fine, gone, late };

bool signalled[N], left[N];
mtype poison = nothing;
mtype result[N] = nothing;
bool short_step; // rank 2 goes without its signal

inline fail(why)
{
    atomic {
#ifdef OVERWRITE_POISON
        poison = why;
#else
        if
        :: poison == nothing -> poison = why
        :: else -> skip
        fi
#endif
    };
    result[me] = poison
}

// segment_wait_turn: the gone peer is noticed in one turn and reported in the next, after one more
// look at the word. A deadline may pass at any time where rank 2 does not signal.
proctype survivor(byte me)
{
    byte q = 0;
    bool noticed = false;
    signalled[me] = true;
    do
    :: q == N -> break
    :: q < N && q == me -> q++
    :: q < N && q != me && result[me] == nothing ->
        if
        :: signalled[q] -> q++; noticed = false
#ifndef NO_POISON_CHECK
        :: !signalled[q] && poison != nothing -> result[me] = poison
#endif
        :: !signalled[q] && poison == nothing && noticed -> fail(gone)
#ifdef NO_LAST_LOOK
        :: left[q] && poison == nothing -> fail(gone)
#else
        :: !signalled[q] && left[q] && !noticed && poison == nothing -> noticed = true
#endif
        :: !signalled[q] && short_step && me == 0 && poison == nothing -> fail(late)
        fi
    :: q < N && q != me && result[me] != nothing -> break
    od;
    if
    :: result[me] == nothing -> result[me] = fine
    :: else -> skip
    fi;
    left[me] = true
}

proctype leaver(byte me)
{
    if
    :: signalled[me] = true
    :: short_step = true
    fi;
    left[me] = true
}

init
{
    atomic {
        run survivor(0);
        run survivor(1);
        run leaver(2)
    };
    (left[0] && left[1] && left[2]);
    assert(short_step || (result[0] == fine && result[1] == fine));
    assert(!short_step || (result[0] != fine && result[1] != fine));
    assert(!short_step || result[0] == result[1])
}

// SPDX-License-Identifier: Apache-2.0
// Steps and slots of collectives/shm.h. N ranks; each counts steps in an epoch that wraps (16 instead
// of 2^32), signals by one store to its own line (WORDS words, epoch mod WORDS), waits for all by
// signed distance, and stages data in two slots in turn. A slot is written again only when all others
// have signalled a step after the last in which they read it. Seven barriers in a row leave the slots
// alone for so long that this step would seem to lie ahead: once in FORGET steps it is made younger.
//
// Checked: no deadlock; every rank reads the data of its own operation (no reuse too early, no ABA,
// over the wrap of the epochs), in broadcasts, one-shots, two-shots and barriers in turn.
//
// bugs: NO_FORGETTING NO_SLOT_WAIT NO_SIGNED_DISTANCE SIGNAL_BEFORE_DATA WAIT_FOR_THE_READING
#ifndef N
#define N 2
#endif
#define OPS 16
#define MOD 16
#define WORDS 4
#define FORGET 2

// What a word holds: the epoch. FIRST is close to the wrap.
#define FIRST 13
byte word[N * WORDS];
byte slot[N * 2]; // which operation wrote it

#ifdef NO_SIGNED_DISTANCE
#define REACHED(w, e) ((w) >= (e))
#else
#define REACHED(w, e) ((((w) + MOD - (e)) % MOD) < MOD / 2)
#endif

// Of what lies more than twice FORGET back.
inline younger(i)
{
    if
    :: (epoch + MOD - slot_epoch[i]) % MOD > 2 * FORGET ->
        slot_epoch[i] = (epoch + MOD - 2 * FORGET) % MOD
    :: else -> skip
    fi
}

inline signal()
{
    epoch = (epoch + 1) % MOD;
#ifndef NO_FORGETTING
    if
    :: epoch % FORGET == 0 -> younger(0); younger(1)
    :: else -> skip
    fi;
#endif
    word[me * WORDS + epoch % WORDS] = epoch
}

// Until all have signalled step `e`; the word looked at is that of the step.
inline wait_all(e)
{
    q = 0;
    do
    :: q < N ->
        if
        :: q == me -> skip
        :: else -> (REACHED(word[q * WORDS + (e) % WORDS], (e) % MOD))
        fi;
        q++
    :: else -> break
    od
}

// Three broadcasts from rank 0 in a row (the root waits for nobody), a one-shot, a two-shot; in the
// middle seven barriers.
#define BARRIER(op) ((op) >= 6 && (op) < 13)
#define BROADCAST(op) ((op) % 5 < 3 && !BARRIER(op))
#define TWO_SHOT(op) ((op) % 5 == 4 && !BARRIER(op))

// Others' slots of this turn hold what this operation put there.
inline read_all(from, until)
{
    q = from;
    do
    :: q < until ->
        assert(slot[q * 2 + turn] == op);
        q++
    :: else -> break
    od
}

inline put()
{
    if
    :: !BROADCAST(op) || me == 0 -> slot[me * 2 + turn] = op
    :: else -> skip
    fi
}

proctype rank(byte me)
{
    byte epoch = FIRST, turn = 0, op = 1, q, slot_epoch[2];
    slot_epoch[0] = FIRST + MOD - 1;
    slot_epoch[1] = FIRST + MOD - 1;
    do
    :: op <= OPS && BARRIER(op) ->
        signal();
        wait_all(epoch);
        op++
    :: op <= OPS && !BARRIER(op) ->
        // The slot of this turn, once nobody reads it any more.
        if
#ifndef NO_SLOT_WAIT
        :: !BROADCAST(op) || me == 0 ->
#ifdef WAIT_FOR_THE_READING
            wait_all((slot_epoch[turn]) % MOD)
#else
            wait_all((slot_epoch[turn] + 1) % MOD)
#endif
#endif
        :: else -> skip // a reader of the broadcast writes to no slot
        fi;
#ifdef SIGNAL_BEFORE_DATA
        signal();
        put();
#else
        put();
        signal();
#endif
        if
        :: BROADCAST(op) && me == 0 -> skip
        :: BROADCAST(op) && me != 0 ->
            (REACHED(word[epoch % WORDS], epoch));
            read_all(0, 1)
        :: else ->
            wait_all(epoch);
            read_all(0, N);
            if
            :: TWO_SHOT(op) -> // others read the slot once more
                signal();
                wait_all(epoch);
                read_all(0, N)
            :: else -> skip
            fi
        fi;
        slot_epoch[turn] = epoch;
        turn = 1 - turn;
        op++
    :: else -> break
    od
}

init
{
    byte i, k;
    atomic {
        for (i : 0 .. N - 1) {
            for (k : 0 .. WORDS - 1) {
                word[i * WORDS + k] = FIRST
            }
        }
        for (i : 0 .. N - 1) {
            run rank(i)
        }
    }
}

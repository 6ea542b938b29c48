// SPDX-License-Identifier: Apache-2.0
// How the readers of collectives/ring.c sleep: a sleeper adds itself, reads the bell's count, looks
// at the position again and sleeps only if the count is still the same (futex). The writer moves the
// position, then looks for sleepers. A ring of two places, so the writer sleeps for room likewise.
// Two readers. The time-out of the sleep is left out, so that a lost wake-up is a deadlock here.
//
// Checked: no deadlock; every reader gets every message, in order, and none is overwritten unread.
//
// bugs: NO_SECOND_LOOK LOOK_FOR_SLEEPERS_FIRST NO_COUNT WAKE_ONE NO_ROOM_CHECK
#define READERS 2
#define PLACES 2
#define MESSAGES 3

byte head, tail[READERS], data[PLACES];
byte data_sleepers, data_count, room_sleepers, room_count;
byte data_asleep, room_asleep; // bit k: sleeper k is in the kernel; of room only 0, the writer

#ifdef WAKE_ONE
#define AWAKE(asleep) (asleep & (asleep - 1))
#else
#define AWAKE(asleep) 0
#endif

inline ring_bell(sleepers, count, asleep)
{
    if
    :: sleepers == 0 -> skip
    :: else ->
#ifndef NO_COUNT
        count = count + 1;
#endif
        asleep = (asleep == 0 -> 0 : AWAKE(asleep))
    fi
}

// The futex compares and goes to sleep in one step.
inline sleep_at(sleepers, count, asleep, who, condition)
{
    sleepers = sleepers + 1;
    seen = count;
    if
#ifdef NO_SECOND_LOOK
    :: true ->
#else
    :: condition -> skip
    :: else ->
#endif
        atomic {
            if
            :: count != seen -> skip
            :: else ->
                asleep = asleep | (1 << who);
                ((asleep & (1 << who)) == 0)
            fi
        }
    fi;
    sleepers = sleepers - 1
}

proctype writer()
{
    byte n = 0, seen, q;
    do
    :: n < MESSAGES ->
        q = 0;
        do
        :: q < READERS ->
#ifndef NO_ROOM_CHECK
            do
            :: n - tail[q] < PLACES -> break
            :: else -> sleep_at(room_sleepers, room_count, room_asleep, 0, (n - tail[q] < PLACES))
            od;
#endif
            q++
        :: else -> break
        od;
        data[n % PLACES] = n;
#ifdef LOOK_FOR_SLEEPERS_FIRST
        ring_bell(data_sleepers, data_count, data_asleep);
        head = n + 1;
#else
        head = n + 1;
        ring_bell(data_sleepers, data_count, data_asleep);
#endif
        n++
    :: else -> break
    od
}

proctype reader(byte me)
{
    byte n = 0, seen;
    do
    :: n < MESSAGES ->
        do
        :: head > n -> break
        :: else -> sleep_at(data_sleepers, data_count, data_asleep, me, (head > n))
        od;
        assert(data[n % PLACES] == n);
        n++;
        tail[me] = n;
        ring_bell(room_sleepers, room_count, room_asleep)
    :: else -> break
    od
}

init
{
    byte i;
    atomic {
        run writer();
        for (i : 0 .. READERS - 1) {
            run reader(i)
        }
    }
}

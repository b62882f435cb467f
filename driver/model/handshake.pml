/* handshake.pml - the handshake of docs/design.md for spin, which tries every order of events.
 *
 *     spin -DPROCESSES=2 -DTIMEOUT=0 -a handshake.pml && cc -O2 -DNFAIR=3 -o pan pan.c && ./pan -a -f -N released
 *
 * and so on for the other claims, at the end. tests/core/test_proofs.py runs them all.
 *
 * One critical section of the core is one atomic step here; any other step may come between two steps. A held thread
 * wakes only when it is woken: the slices after which real threads check again are a second safeguard, not modelled.
 * Two or three processes start: the second gets the pid of the first as soon as the kernel frees it, after the first
 * has exited. Where they are two, another process creates a second thread in the first, before or after its image; with
 * three that would be too many orders. Two controllers register, one after the other; the first may die at any moment.
 * At any moment one of these may happen: the driver is stopped, a process exits while it is held, or both threads of the
 * first are terminated. A blocked process may survive some attempts to terminate it.
 */

#ifndef PROCESSES
#define PROCESSES 3
#endif
#define PIDS 2
#define TRIES 1
#define PID(process) ((process) / 2)
#if PROCESSES > 2
#define any_unseen (unseen[0] || unseen[1] || unseen[2])
#define any_waits (state[0] == Held || state[1] == Held || state[2] == Held)
#define each_leaves (leaves(0) && leaves(1) && leaves(2))
#else
#define any_unseen (unseen[0] || unseen[1])
#define any_waits (state[0] == Held || state[1] == Held)
#define each_leaves (leaves(0) && leaves(1))
#endif
#define leaves(process) (in_hold[process] -> <> !in_hold[process])
#define extra_leaves (extra_in_hold -> <> !extra_in_hold)
#define is_held(p) ((in_hold[p] || (p == 0 && extra_in_hold)) && !woken[p])
#define others_wait(other_in_hold, other_left) (other_in_hold && !other_left)
#define may_go(p) (verdict[p] != Block || killed[p] || stopping || state[p] == Exiting)

mtype:state = { Nothing, New, Named, Held, Answered, Released, Exiting };
mtype:verdict = { None, Allow, Block };

/* The core. The number of a process is its start key. */
mtype:state state[PROCESSES] = Nothing;
mtype:verdict verdict[PROCESSES] = None;
byte found[PIDS];               /* by pid: number + 1 of the record in the table; 0 = none */
bool unseen[PROCESSES];
bool woken[PROCESSES];          /* the record's signal */
bool in_worker[PROCESSES];
bool last_try[PROCESSES];       /* the driver is stopping: released after this attempt */
byte tries[PROCESSES];
chan to_terminate = [PROCESSES] of { byte };
byte owner;                     /* the registered controller; 0 = none */
bool event;                     /* the controller's auto-reset event */
bool stopping;

/* The world. */
byte kernel[PIDS];              /* the process that really has the pid: number + 1 */
bool in_hold[PROCESSES];        /* its first thread waits */
bool extra_in_hold;             /* the second thread of process 0 waits */
bool ran;                       /* the second thread of process 0 has run, or has ended */
bool dying;                     /* both threads of process 0 are terminated */
bool first_left, extra_left;    /* a terminated thread of process 0 leaves its hold, because the other waits */
bool killed[PROCESSES];
bool answered[PROCESSES];       /* by a controller's ALLOW or BLOCK */
mtype:verdict meant[PROCESSES] = None; /* the controller's verdict that got DONE */
byte over;                      /* processes that have exited */

inline release(p) { woken[p] = true }

inline decide(p, v) {
    verdict[p] = v;
    if
    :: v == Block -> state[p] = Answered; to_terminate ! p
    :: else -> state[p] = Released; release(p)
    fi
}

inline tell(p) {
    if
    :: owner -> unseen[p] = true; event = true
    :: else
    fi
}

/* on_exit, and a creation that finds an older record of its pid */
inline retire(slot) {
    if
    :: found[slot] ->
        p = found[slot] - 1;
        found[slot] = 0;
        if
        :: to_terminate ?? [eval(p)] -> to_terminate ?? eval(p)
        :: else
        fi;
        state[p] = Exiting;
        unseen[p] = false;
        if
        :: is_held(p) && !in_worker[p] -> release(p)
        :: else
        fi
    :: else
    fi;
    p = 0
}

/* disconnect, RESET and stop: everything that is held gets this verdict at once */
inline end_controller(v) {
    for (p : 0 .. PROCESSES - 1) {
        if
        :: state[p] == Held -> decide(p, v)
        :: else
        fi;
        unseen[p] = false
    }
    p = 0;
    owner = 0;
    event = false
}

/* ALLOW or BLOCK for (pid, start key) */
inline answer(slot, key, v) {
    if
    :: found[slot] != key + 1                                    /* unknown, or stale */
    :: found[slot] == key + 1 && state[found[slot] - 1] != Held   /* late */
    :: found[slot] == key + 1 && state[found[slot] - 1] == Held ->
        meant[key] = v;
        answered[found[slot] - 1] = true;
        decide(found[slot] - 1, v)
    fi
}

proctype Process(byte me) {
    byte p;
    atomic {    /* on_create */
        kernel[PID(me)] == 0;
        kernel[PID(me)] = me + 1;
        retire(PID(me));
        found[PID(me)] = me + 1;
        state[me] = New
    }
    atomic {    /* begin_hold */
        if
        :: found[PID(me)] != me + 1     /* its exit has been notified */
        :: found[PID(me)] == me + 1 && is_held(me) -> in_hold[me] = true; tell(me)  /* its second thread came first */
        :: found[PID(me)] == me + 1 && !is_held(me) && state[me] != New     /* and has been decided */
        :: found[PID(me)] == me + 1 && state[me] == New && (stopping || !owner) -> state[me] = Named
        :: else -> state[me] = Held; in_hold[me] = true; tell(me)
        fi
    }
    do          /* the wait */
    :: atomic { woken[me] || !in_hold[me] -> break }
#if TIMEOUT
    :: atomic { state[me] == Held -> decide(me, Allow) }    /* still_held, after the timeout */
#endif
    :: atomic {                                             /* still_held, in a terminated thread */
            me == 0 && dying && in_hold[0] && !woken[0] && others_wait(extra_in_hold, extra_left) ->
            first_left = true; break
        }
    :: atomic {
            me == 0 && dying && in_hold[0] && state[0] == Held && !others_wait(extra_in_hold, extra_left) ->
            state[0] = Answered; to_terminate ! 0
        }
    od;
    atomic {    /* end_hold */
        assert((me == 0 && first_left) || may_go(me));
        assert((me == 0 && first_left) || !answered[me] || verdict[me] == meant[me]);
        in_hold[me] = false
    }
    me != 0 || !extra_in_hold;      /* a process is gone when all its threads are */
    if          /* it exits, with or without a notification, and then its pid is free */
    :: atomic { found[PID(me)] == me + 1 -> retire(PID(me)); kernel[PID(me)] = 0; over++ }
    :: atomic { kernel[PID(me)] = 0; over++ }
    fi
}

/* A second thread, in its own notification. */
proctype Extra() {
    byte p;
    atomic {
        state[0] != Nothing;
        if
        :: found[0] == 1 && state[0] == New && owner && !stopping -> state[0] = Held; extra_in_hold = true
        :: found[0] == 1 && state[0] == New && (!owner || stopping) -> state[0] = Named; goto runs
        :: found[0] == 1 && is_held(0) -> extra_in_hold = true
        :: else -> goto runs        /* not held: exempt, decided, or gone */
        fi
    }
    do
    :: atomic { woken[0] -> break }
    :: atomic {
            dying && !woken[0] && others_wait(in_hold[0], first_left) ->
            extra_left = true; break
        }
    :: atomic {
            dying && state[0] == Held && !others_wait(in_hold[0], first_left) ->
            state[0] = Answered; to_terminate ! 0
        }
    od;
    if
    :: atomic { extra_left -> extra_in_hold = false; ran = true; goto ended }
    :: atomic { !extra_left -> extra_in_hold = false }
    fi;
runs:
    atomic {
        assert(state[0] != Held && state[0] != Answered && may_go(0));
        ran = true
    };
ended:
    skip
}

proctype Controller(byte me; bool mortal) {
    byte p, given;
end_register:
    atomic {    /* REGISTER */
        owner == 0 || stopping;
        if
        :: stopping -> goto gone
        :: else -> owner = me; event = false
        fi
    }
end_serve:
    do
    :: atomic { event && owner == me -> event = false };
        do      /* FETCH one, answer it; until there is none */
        :: atomic { owner == me && any_unseen ->
                if
                :: unseen[0] -> given = 0
                :: unseen[1] -> given = 1
#if PROCESSES > 2
                :: unseen[2] -> given = 2
#endif
                fi;
                unseen[given] = false
            };
            if
            :: atomic { owner == me -> answer(PID(given), given, Allow) }
            :: atomic { owner == me -> answer(PID(given), given, Block) }
            :: atomic { owner != me -> goto gone }
            fi
        :: atomic { owner == me && !any_unseen -> break }
        :: atomic { owner != me -> break }
        :: mortal -> goto gone
        od
    :: atomic { owner != me -> break }
    :: mortal -> break
    od;
gone:
    atomic {    /* its handle is closed, or its process ends */
        if
        :: owner == me -> end_controller(Block)
        :: else
        fi;
        given = 0
    }
}

active proctype Worker() {
    byte p, now;
end_work:
    do
    :: atomic { to_terminate ? now -> in_worker[now] = true; last_try[now] = stopping };
        if      /* terminate by pid: the process that has it now dies */
        :: atomic {
                assert(kernel[PID(now)] == now + 1 && (in_hold[now] || (now == 0 && extra_in_hold)));
                killed[now] = true
            }
        :: tries[now] < TRIES || last_try[now] -> skip      /* or it cannot be done */
        fi;
        atomic {    /* terminated */
            in_worker[now] = false;
            if
            :: !killed[now] && tries[now] < TRIES -> tries[now]++
            :: else
            fi;
            if
            :: state[now] == Exiting -> release(now)
            :: state[now] != Exiting && (killed[now] || last_try[now]) -> state[now] = Released; release(now)
            :: else -> to_terminate ! now
            fi;
            now = 0
        }
    od
}

proctype Stopper() {
    byte p;
    atomic { stopping = true; end_controller(Allow) }
}

/* Terminates both threads of process 0, once they wait. */
proctype Ender() {
    atomic { in_hold[0] && extra_in_hold -> dying = true }
}

/* Ends the process that has the first pid at that moment. */
proctype Killer() {
    byte p;
    atomic { retire(0) }
}

init {
    atomic {
        if
        :: run Controller(1, true)
        :: run Controller(1, false)
        fi;
        run Controller(2, false);
        run Process(0); run Process(1);
#if PROCESSES > 2
        run Process(2);
#else
        run Extra();
#endif
        if
        :: run Stopper()
        :: run Killer()
#if PROCESSES == 2
        :: run Ender()
#endif
        :: skip
        fi
    }
}

/* Every hold ends some time: no wake-up of a thread or of the controller is lost. */
ltl released { [] (each_leaves && extra_leaves) }
/* No process waits for a verdict without a controller: after a stop, after the end of the controller. */
ltl answerable { [] ((stopping || owner == 0) -> !any_waits) }
/* Every process exits; and, by the assertions above, no verdict has reached another process, and no thread of a held or
   blocked process has run. */
ltl ends { <> (over == PROCESSES && ran) }

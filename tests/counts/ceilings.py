"""Every ceiling of tests/counts, in one place. This module measures nothing.

A gate that fails prints its count. Find what the change added to a warm call. If the change is
worth that cost, raise the ceiling here, in the same commit, and give the reason in its message.
"""

# The ceilings of the io thread's system calls per warm call: first the number without waits, then
# the number of waits (epoll_wait or io_uring_enter), by driver, function and number of connections.
# `local` answers inside the plane; `tcp` and `unix` are POOL functions whose echo listens on such a
# socket; `http` has the TCP echo and is called at `/fn/`.
#
# With 16 connections, one wait serves many calls: 0.06 to 0.38 waits per call were measured,
# depending on the timing of echo and client.
#
# With io_uring, a wait also receives bytes. The two receives that remain check the client's socket
# for a FIN, and the pod's connection for unread bytes.
SYSTEM_CALLS = {
    ("epoll", "local", 1): (2, 1),
    ("epoll", "local", 16): (2, 0.4),
    ("epoll", "tcp", 1): (4, 2),
    ("epoll", "tcp", 16): (4, 0.4),
    ("epoll", "unix", 1): (4, 2),
    ("epoll", "unix", 16): (4, 0.4),
    ("epoll", "http", 1): (4, 2),
    ("epoll", "http", 16): (4, 0.4),
    ("uring", "local", 1): (2, 1),
    ("uring", "local", 16): (2, 0.4),
    ("uring", "tcp", 1): (4, 2),
    ("uring", "tcp", 16): (4, 0.4),
    ("uring", "unix", 1): (4, 2),
    ("uring", "unix", 16): (4, 0.4),
    ("uring", "http", 1): (4, 2),
    ("uring", "http", 16): (4, 0.4),
}

# Futexes, bells and yields of the io thread per warm call with an inline scheduler.
INLINE_MESSAGES = 0.0

# Bells per warm call over one connection with a pinned scheduler, if all threads slept before. The
# io thread sends the ticket and the end of the call to the scheduler, with a futex each. The
# scheduler sends the grant to the io thread, with one byte.
PINNED_TO_SCHEDULER = 2.0
PINNED_TO_IO = 1.0

# These numbers are added to the ceilings, because some system calls belong to no call: a thread
# wakes up for its own deadlines twenty times a second.
SLACK = 0.05
SLACK_WAITS = 0.5

# Instructions of the io thread in user space per warm call over one connection with epoll. Each
# ceiling is the measured count plus 3 % for differences between compilers.
INSTRUCTIONS = {
    "local": 10_750 * 1.03,
    "tcp": 16_450 * 1.03,
    "http": 25_650 * 1.03,
}

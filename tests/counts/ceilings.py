"""Every ceiling of tests/counts, in one place. It measures nothing.

A gate that fails says what was counted. Look at what the change added to a warm call. If that is
worth it, raise the ceiling here, in the same commit, and say why in its message.
"""

# System calls of the io thread per warm call: (all but the waits, waits), by driver, function and
# connections. `local` answers inside the plane; `tcp` and `unix` are POOL functions whose echo
# listens on such a socket. A wait is epoll_wait or io_uring_enter; over 16 connections one serves many
# calls, how many is up to the timing of echo and client (0.06 to 0.38 was seen), so that there the
# ceiling has room. With io_uring the wait receives too, so the client's socket is asked whether a FIN
# came with the request (one recvfrom a call), and a pod's connection whether it is quiet (another).
SYSTEM_CALLS = {
    ("epoll", "local", 1): (2, 1),
    ("epoll", "local", 16): (2, 0.4),
    ("epoll", "tcp", 1): (4, 2),
    ("epoll", "tcp", 16): (4, 0.4),
    ("epoll", "unix", 1): (4, 2),
    ("epoll", "unix", 16): (4, 0.4),
    ("uring", "local", 1): (2, 1),
    ("uring", "local", 16): (2, 0.4),
    ("uring", "tcp", 1): (4, 2),
    ("uring", "tcp", 16): (4, 0.4),
    ("uring", "unix", 1): (4, 2),
    ("uring", "unix", 16): (4, 0.4),
}

# Futexes, bells and yields of the io thread per warm call where the scheduler is inline.
INLINE_MESSAGES = 0.0

# Bells rung per warm call over one connection where the scheduler has a thread of its own, all
# threads asleep before: ticket and done to the scheduler (a futex each), the grant to the io thread
# (a byte). Fewer where a thread is still awake; a fourth message would ring a fourth.
PINNED_TO_SCHEDULER = 2.0
PINNED_TO_IO = 1.0

# What a call needs is a whole number; this much more is not of the calls. A thread wakes up for its
# own deadlines twenty times a second, which on a slow machine is more waits per call.
SLACK = 0.05
SLACK_WAITS = 0.5

# Instructions of the io thread per warm call over one connection, epoll, in user space: parse,
# route, admit, grant, reply. What was measured, and 3 % for compilers.
INSTRUCTIONS = {
    "local": 10_750 * 1.03,
    "tcp": 16_450 * 1.03,
}

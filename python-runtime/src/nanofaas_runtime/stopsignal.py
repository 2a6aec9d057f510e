"""The signal with which the watchdog stops a plain call; SIGALRM and SIGUSR1 are left alone."""

from __future__ import annotations

import signal

STOP_SIGNAL = signal.SIGRTMIN + 9

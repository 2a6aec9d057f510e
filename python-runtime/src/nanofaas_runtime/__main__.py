"""Entry of `python3 -m nanofaas_runtime`: reads the environment, runs the watchdog or a worker."""

from __future__ import annotations

import sys

from . import paths

paths.hide_folder()  # A module of the folder could replace one of the later imports.

from . import log
from .settings import BadSetting, Settings


def main() -> int:
    """Runs the pod or its Job to the end. Returns the exit status: 0 after a drain or a reported
    result, 2 if a setting is wrong, and another status after a failure."""
    import os

    log.reserve_stderr()
    try:
        settings = Settings.from_environment(os.environ)
    except BadSetting as error:
        log.line("error", str(error))
        return 2
    from .watchdog import Watchdog

    watchdog = Watchdog(settings)
    status = watchdog.run()
    if status is not None:
        return status
    # This process is now a worker that the watchdog has just forked.
    if settings.job is not None:
        from .job import run_job

        return run_job(settings, settings.job, watchdog.link)
    from .worker import run_worker

    return run_worker(settings, watchdog.link)


if __name__ == "__main__":
    sys.exit(main())

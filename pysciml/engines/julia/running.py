"""Julia as a process that takes long, and ends with all it has started when this one is interrupted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence


def call(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run a command in a session of its own; its exit code.

    Its standard input ends when this process has ended in whatever way, after which `ending.jl` ends it. When this
    one is interrupted it is killed, and with it the processes it compiles in.
    """
    ours = {**variables, "PYSCIML_OWN_SESSION": "yes"}
    with subprocess.Popen(command, env=ours, stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            return process.wait()
        except BaseException:
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
            raise

"""Starting Julia inside this process, once, and the rules for calling it.

juliacall reads its settings when it is first imported. Those the user has set are respected; the
others are set for the moment of the import and taken back:

``HANDLE_SIGNALS=yes``
    Julia with several threads needs its own handling of the signals it stops threads with. Ctrl-C
    is given back to Python afterwards.
``THREADS=auto``
    One Julia thread for each core, for ensembles.

The thread that started Julia counts, for Julia's garbage collector, as one that runs Julia, whatever it
does: while it computed in Python, a collection begun by a solve in another thread waited for it. `_rest`
tells the collector otherwise. juliacall enters Julia through functions that go back to work by themselves
and rest again when they return, as those of threads Julia did not start always do.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
from dataclasses import dataclass
from typing import Any, Final

from pysciml.engines.julia import environment, sysimage
from pysciml.engines.julia.environment import SETUP
from pysciml.errors import EngineUnavailableError

_SETTINGS: Final = {
    "PYTHON_JULIACALL_HANDLE_SIGNALS": "yes",
    "PYTHON_JULIACALL_THREADS": "auto",
    "PYTHON_JULIACALL_AUTOLOAD_IPYTHON_EXTENSION": "no",
}


@dataclass(frozen=True)
class Calls:
    """The functions every solve calls, looked up once; the interpreter lock is released in the first three."""

    start: Any
    start_on_device: Any
    advance: Any
    outcome: Any
    write_outcome: Any
    progress: Any


_lock = threading.RLock()
_calls: Calls | None = None
_named_by: tuple[str | None, ...] = ()
_started: tuple[int, Any] | None = None
_interrupts_are_ours = False
_resting: set[int] = set()


def running() -> bool:
    """Whether this process has started Julia for pysciml."""
    return _started is not None and _started[0] == os.getpid()


def found() -> bool:
    """Whether it was started from the environment that would be found now; no file is looked at."""
    return running() and _named_by == environment.named_by()


def julia() -> Any:
    """The Julia module ``PySciML``; starts Julia if need be (seconds, the first time).

    Raises
    ------
    EngineUnavailableError
        If it cannot be started here; the message says what mends it.
    """
    global _started, _named_by
    with _lock:
        if _started is None:
            _named_by = environment.named_by()
            _started = os.getpid(), _start()
        pid, module = _started
        if pid != os.getpid():
            raise EngineUnavailableError(
                f"Julia was started in process {pid}, and this one was forked from it: Julia's threads do not "
                "survive a fork. Start worker processes with the 'spawn' or 'forkserver' method of "
                "multiprocessing, or fork before the first solve",
                engine="julia",
            )
        _give_back_interrupts()
        _rest(module)
        return module


def calls() -> Calls:
    """What a solve calls; starts Julia if need be, and raises as `julia` does."""
    global _calls
    module = julia()
    if _calls is None:
        _calls = Calls(
            module.start_at._jl_call_nogil,
            module.start_on_device_at._jl_call_nogil,
            module.advance_b._jl_call_nogil,
            module.outcome,
            module.write_outcome,
            module.progress,
        )
    return _calls


def _start() -> Any:
    found = environment.find()
    if isinstance(found, str):
        raise EngineUnavailableError(found, engine="julia")
    already = "juliacall" in sys.modules
    settings = dict(_SETTINGS, PYTHON_JULIACALL_EXE=found.executable, PYTHON_JULIACALL_PROJECT=found.project)
    settings |= sysimage.settings(found)
    ours = {} if already else {key: value for key, value in settings.items() if key not in os.environ}
    if os.environ.get("PYTHON_JULIACALL_HANDLE_SIGNALS") == "no":
        ours.pop("PYTHON_JULIACALL_THREADS", None)  # several threads without Julia's signals crash
    os.environ.update(ours)
    try:
        import juliacall

        base = juliacall.Base  # pyright: ignore[reportAttributeAccessIssue]
        if already:  # somebody else's Julia: make our packages visible to it, behind its own
            base.push_b(base.LOAD_PATH, found.project)
        # By its source, as nothing has compiled yet what it takes to call a function; the package brings that.
        module = juliacall.Main.seval("Base.require(Main, :PySciML)")  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:
        reason = " ".join(str(error).split())
        raise EngineUnavailableError(
            f"Julia ({found.executable}, project {found.project}) does not start: {reason[:2000]}; "
            f"if its packages are incomplete, run `{SETUP}` again",
            engine="julia",
        ) from error
    finally:
        for key in ours:
            os.environ.pop(key, None)
    return module


def _give_back_interrupts() -> None:
    """Let Ctrl-C reach Python again: Julia blocks the signal and takes over its handler."""
    global _interrupts_are_ours
    if _interrupts_are_ours or threading.current_thread() is not threading.main_thread():
        return  # Python sets handlers in its main thread alone: the first call from there does it
    _interrupts_are_ours = True
    handler = signal.getsignal(signal.SIGINT)
    if handler is not None:
        signal.signal(signal.SIGINT, handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _rest(module: Any) -> None:
    """Let Julia's garbage collector go on without this thread while it is in Python.

    Threads that Julia did not start rest between their calls by themselves; for them this changes nothing.
    """
    thread = threading.get_ident()
    if thread in _resting or (_resting and threading.current_thread() is not threading.main_thread()):
        return
    _resting.add(thread)
    enter, leave = map(int, module.resting_at())
    if not enter:
        return
    before = ctypes.PYFUNCTYPE(ctypes.c_int8)(enter)()

    def work_again() -> None:
        if threading.get_ident() == thread:
            ctypes.PYFUNCTYPE(None, ctypes.c_int8)(leave)(before)

    atexit.register(work_again)  # runs before juliacall's own, which ends Julia in the state it was left in


def message_of(error: BaseException) -> str:
    """Julia's own message of an error, without the stack, on one line."""
    inner = getattr(error, "exception", None)
    if inner is None:
        return str(error)
    import juliacall

    base = juliacall.Base  # pyright: ignore[reportAttributeAccessIssue]
    text = str(base.sprint(base.showerror, inner))
    return " ".join(text.removeprefix("ArgumentError: ").split())

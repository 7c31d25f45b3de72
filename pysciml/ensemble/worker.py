"""The child process: reads portions from standard input, writes results to standard output."""

from __future__ import annotations

import os
import signal
import sys

from pysciml.engines import base
from pysciml.ensemble.loop import Portion
from pysciml.ensemble.messages import read_options, receive, send, unpack_model
from pysciml.errors import PySciMLError
from pysciml.graph import Model


def main() -> None:
    """Serve until the parent closes the stream."""
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not mix with answers
    model: Model | None = None
    while (message := receive(sys.stdin.buffer)) is not None:
        header, arrays = message
        if "model" in header:
            model = unpack_model(header, arrays)
            continue
        assert model is not None
        options = read_options(header["options"], arrays)
        start, end = header["tspan"]
        near = (arrays["near_u0"], arrays["near_p"]) if "near_u0" in arrays else None
        portion = Portion(base.get(header["engine"]), model, header["algorithm"], (start, end), options, near)
        try:
            u, retcodes = portion.solve(arrays["u0"], arrays["p"])
        except PySciMLError as error:
            send(answers, {"error": str(error)}, {})
        else:
            send(answers, {"retcodes": retcodes.tolist(), "algorithms": sorted(portion.algorithms)}, {"u": u})


if __name__ == "__main__":
    main()

"""Ctrl-C and requests to end during a training run: the current step is completed first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# What Ctrl-C, a batch scheduler or docker stop, and a closed terminal send.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Have every signal to end raise KeyboardInterrupt, as Ctrl-C does.

    Signals that are ignored stay ignored. In a thread other than the main one, the context does
    nothing.
    """
    earlier_handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                earlier_handlers[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in earlier_handlers.items():
            signal.signal(number, handler)


class HeldInterrupt:
    """A context in which the first signal to end sets `asked` instead of ending the program.

    The current step is thus completed. A second signal has its usual effect at once. Signals that
    are ignored, as in a program started with nohup, stay ignored. Python handles signals in the
    main thread alone; in another thread the context does nothing.

    Attributes:
        asked: Whether the program was asked to end.
    """

    def __init__(self):
        self.asked = False

    def __enter__(self):
        self.earlier_handlers = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):
                    self.earlier_handlers[number] = signal.signal(number, self.hold)
        return self

    def hold(self, number, frame):
        """Remember the first signal and let the next one have its usual effect."""
        self.asked = True
        for held, handler in self.earlier_handlers.items():
            signal.signal(held, handler)

    def __exit__(self, *exception):
        for number, handler in self.earlier_handlers.items():
            signal.signal(number, handler)

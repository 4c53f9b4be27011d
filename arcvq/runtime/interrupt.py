"""Ctrl-C during a training run: the current step is completed first."""

import signal
import threading


class HeldInterrupt:
    """A context in which the first Ctrl-C sets `asked` instead of raising KeyboardInterrupt.

    The current step is thus completed. A second Ctrl-C raises at once. Python handles signals in
    the main thread alone; in another thread the context does nothing.

    Attributes:
        asked: Whether Ctrl-C was pressed.
    """

    def __init__(self):
        self.asked = False

    def __enter__(self):
        self.in_main_thread = threading.current_thread() is threading.main_thread()
        if self.in_main_thread:
            self.earlier_handler = signal.signal(signal.SIGINT, self.hold)
        return self

    def hold(self, number, frame):
        """Remember the first Ctrl-C and let the next one raise."""
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *exception):
        if self.in_main_thread:
            signal.signal(signal.SIGINT, self.earlier_handler)

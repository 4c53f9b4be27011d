import os
import signal
import threading

import pytest

from arcvq.runtime.interrupt import HeldInterrupt


def test_the_first_interrupt_is_held_and_the_second_raises():
    with HeldInterrupt() as interrupt:
        assert not interrupt.asked
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_nothing_changes():
    handlers = []

    def work():
        with HeldInterrupt() as interrupt:
            handlers.append((signal.getsignal(signal.SIGINT), interrupt.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [(signal.default_int_handler, False)]

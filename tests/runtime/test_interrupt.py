import os
import signal
import threading

import pytest

from arcvq.runtime.interrupt import SIGNALS, HeldInterrupt, signals_interrupt


class Ended(Exception):
    pass


def end(number, frame):
    raise Ended


@pytest.fixture(params=SIGNALS, ids=lambda number: number.name)
def number(request):
    """A signal, which raises Ended when it arrives."""
    earlier = signal.signal(request.param, end)
    yield request.param
    signal.signal(request.param, earlier)


def test_the_first_signal_is_held_and_the_second_has_its_usual_effect(number):
    with HeldInterrupt() as interrupt:
        assert not interrupt.asked
        os.kill(os.getpid(), number)
        assert interrupt.asked
        with pytest.raises(Ended):
            os.kill(os.getpid(), number)
            signal.pause()
    assert signal.getsignal(number) is end


def test_a_signal_that_is_ignored_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    with HeldInterrupt() as interrupt:
        os.kill(os.getpid(), number)
        assert not interrupt.asked
    assert signal.getsignal(number) is signal.SIG_IGN


def test_in_another_thread_nothing_changes():
    handlers = []

    def work():
        with HeldInterrupt() as interrupt:
            handlers.append((signal.getsignal(signal.SIGINT), interrupt.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [(signal.default_int_handler, False)]


def test_every_signal_to_end_interrupts_where_that_is_asked_for(number):
    signal.signal(number, signal.SIG_DFL)
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        os.kill(os.getpid(), number)
        signal.pause()
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_handler_of_the_program_itself_stays(number):
    with pytest.raises(Ended), signals_interrupt():
        os.kill(os.getpid(), number)
        signal.pause()

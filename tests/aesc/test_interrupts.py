from __future__ import annotations

import signal
import sys
import threading
import weakref

import pytest

from aesc.interrupts import certain_interrupts


class Thing:
    pass


def interrupt_in_a_callback() -> None:
    """Ctrl-C while Python is in a weak-reference callback: the exception is printed and dropped."""
    thing = Thing()
    watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    assert watch() is None


def test_an_interrupt_that_python_drops_is_raised_at_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda fault: dropped.append(fault.exc_type))
    with certain_interrupts() as check:
        check()
        interrupt_in_a_callback()
        assert dropped == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            check()


def fail_in_a_callback() -> None:
    """Another exception that Python drops."""
    thing = Thing()
    watch = weakref.ref(thing, lambda _: 1 / 0)
    del thing
    assert watch() is None


def test_a_dropped_interrupt_is_not_said_to_be_ignored_and_other_faults_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    with certain_interrupts() as check:
        fail_in_a_callback()
        interrupt_in_a_callback()
        with pytest.raises(KeyboardInterrupt):
            check()
    assert sys.unraisablehook is sys.__unraisablehook__
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "KeyboardInterrupt" not in said


def test_an_interrupt_that_python_drops_after_the_last_check_is_raised_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    with pytest.raises(KeyboardInterrupt), certain_interrupts() as check:  # noqa: PT012
        check()
        interrupt_in_a_callback()
    assert capsys.readouterr().err == ""


def test_an_interrupt_is_raised_at_once_as_ever() -> None:
    with certain_interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_users_own_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with certain_interrupts() as check:
            signal.raise_signal(signal.SIGINT)
            check()
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_outside_the_main_thread_nothing_is_changed() -> None:
    seen: list[bool] = []

    def work() -> None:
        with certain_interrupts() as check:
            check()
            seen.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]

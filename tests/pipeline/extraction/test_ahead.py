"""Work in threads before and behind the caller's."""

import threading
import time

import pytest

from k2distil.pipeline.extraction.ahead import ahead, behind


def test_items_come_in_order_and_are_made_in_another_thread():
    threads = set()

    def numbers():
        for number in range(20):
            threads.add(threading.current_thread())
            yield number

    assert list(ahead(numbers(), 2, "waiting")) == list(range(20))
    assert threading.current_thread() not in threads


def test_no_more_is_made_than_may_wait():
    made = []

    def numbers():
        for number in range(20):
            made.append(number)
            yield number

    items = ahead(numbers(), 2, "waiting")
    assert next(items) == 0
    time.sleep(0.3)
    assert len(made) <= 4  # one given, two waiting, one in the hand
    items.close()


def test_closing_closes_the_generator_in_its_own_thread():
    closed = []

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread())

    items = ahead(endless(), 1, "waiting")
    next(items)
    items.close()
    assert len(closed) == 1
    assert closed[0] is not threading.current_thread()
    assert not closed[0].is_alive()


def test_an_error_ahead_is_raised_after_the_items_before_it():
    def broken():
        yield 1
        raise ValueError("a bug")

    items = ahead(broken(), 1, "waiting")
    assert next(items) == 1
    with pytest.raises(ValueError, match="a bug"):
        next(items)


def test_results_from_behind_come_in_order_while_the_next_items_are_made():
    log = []

    def numbers():
        for number in range(5):
            log.append(f"made {number}")
            yield number

    def slow(number):
        time.sleep(0.05)
        log.append(f"done {number}")
        return number * 10

    assert list(behind(slow, numbers(), 1)) == [0, 10, 20, 30, 40]
    assert log.index("made 1") < log.index("done 0")
    assert log.index("done 0") < log.index("made 3")  # at most one waits beside the one in work


def test_an_error_behind_ends_the_drawing_and_the_work_that_waits():
    done = []

    def work(number):
        if number == 1:
            raise ValueError("a bug")
        done.append(number)

    with pytest.raises(ValueError, match="a bug"):
        list(behind(work, range(100), 1))
    assert done in ([0], [0, 2])  # what waited may have begun

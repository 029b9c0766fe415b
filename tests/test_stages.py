"""Where the time goes."""

import threading
import time

import torch

from k2distil.stages import Profile, add_seconds, stage


def test_stages_of_all_threads_are_summed():
    def work(name):
        with stage(name):
            time.sleep(0.05)

    with Profile() as profile:
        work("here")
        work("here")
        thread = threading.Thread(target=work, args=("there",))
        thread.start()
        thread.join()
        add_seconds("elsewhere", 3.0)
    seconds = profile.seconds()
    assert list(seconds) == ["here", "there", "elsewhere"]
    assert 0.1 <= seconds["here"] < 1.0
    assert 0.05 <= seconds["there"] < 1.0
    assert seconds["elsewhere"] == 3.0
    assert 0.15 <= profile.wall_seconds < 2.0


def test_without_a_profile_nothing_is_kept():
    with stage("nobody looks"):
        pass
    add_seconds("nobody looks", 1.0)
    with Profile() as profile:
        pass
    assert not profile.seconds()


def test_a_stage_that_fails_does_not_break_the_profile():
    with Profile() as profile:
        try:
            with stage("broken"):
                raise ValueError
        except ValueError:
            pass
        with stage("after", torch.device("cpu")):
            pass
    assert list(profile.seconds()) == ["broken", "after"]

"""Seconds of many utterances, one of which never answers."""

import signal
import subprocess
import sys
import textwrap

PROGRAM = textwrap.dedent(
    """
    import os
    import signal
    import sys
    import time
    from k2distil.batch import Utterance
    from k2distil.pipeline.run.durations import durations

    def seconds(utterance):
        if utterance.key == "b":
            os.write(1, b"waiting\\n")  # print would hold a lock that the exit waits for
            time.sleep(60)
        return 1.0

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    list(durations([Utterance("a", "a"), Utterance("b", "b")], seconds, "checking"))
    """
)


def test_a_signal_ends_what_one_of_them_holds_up():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143

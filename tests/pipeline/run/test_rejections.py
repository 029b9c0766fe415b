"""What is told of utterances without values while a run goes on."""

from k2distil.batch import Utterance, rejection
from k2distil.pipeline.run.rejections import FAILURES_SHOWN, FailureLog


def test_a_wrong_path_of_all_does_not_fill_the_log(caplog):
    rows = [rejection(Utterance(f"u{n}", f"{n}.wav"), f"{n}.wav: no") for n in range(100)]
    failures = FailureLog()
    for start in range(0, 100, 7):
        failures.tell(rows[start : start + 7])
    told = [record.message for record in caplog.records]
    assert told[:FAILURES_SHOWN] == [f"failed: {n}.wav: no" for n in range(FAILURES_SHOWN)]
    assert told[FAILURES_SHOWN:] == ["failed: more; all of them are listed at the end"]

"""What is told of utterances without values while a run goes on."""

from k2distil.batch import Utterance, rejection
from k2distil.pipeline.run.rejections import FAILURES_SHOWN, FailureLog, write_rejections


def test_a_wrong_path_of_all_does_not_fill_the_log(caplog):
    rows = [rejection(Utterance(f"u{n}", f"{n}.wav"), f"{n}.wav: no") for n in range(100)]
    failures = FailureLog()
    for start in range(0, 100, 7):
        failures.tell(rows[start : start + 7])
    told = [record.message for record in caplog.records]
    assert told[:FAILURES_SHOWN] == [f"failed: {n}.wav: no" for n in range(FAILURES_SHOWN)]
    assert told[FAILURES_SHOWN:] == ["failed: more; all of them are listed at the end"]


def test_one_utterance_is_counted_as_one(caplog, tmp_path):
    rows = [rejection(Utterance(f"u{n}", f"{n}.wav"), "no") for n in range(3)]
    write_rejections(tmp_path / "codes.h5", rows[:1], rows[1:])
    assert [record.message for record in caplog.records] == [
        f"1 utterance failed: {tmp_path / 'codes.h5.failed.tsv'}",
        f"2 utterances dropped: {tmp_path / 'codes.h5.dropped.tsv'}",
    ]

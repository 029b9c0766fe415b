"""A student's test on cv_data while it trains, shared by all processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from k2distil.batch import Rejection, in_words
from k2distil.config import TrainDistilConfig
from k2distil.data import PackedUtterances
from k2distil.distil.model import DistilModel
from k2distil.distil.scoring import error_rates, has_words
from k2distil.distil.student import Student
from k2distil.distil.vocabulary import normalize
from k2distil.pipeline.run.digests import digest_of
from k2distil.pipeline.run.lists import num_workers
from k2distil.pipeline.run.processes import Processes
from k2distil.pipeline.student.checked import Checked
from k2distil.pipeline.student.codes import Codes
from k2distil.pipeline.student.dataset import DistilDataset
from k2distil.pipeline.student.transcribe import batches_to_test, transcribe

logger = logging.getLogger(__name__)


class StudentTest:
    """Called with the model it gives figures.

    metric: which of them says what is best; digest: of the utterances.
    """

    def __init__(
        self,
        student: Student,
        utterances: PackedUtterances,
        checked: Checked,
        codes: Codes | None,
        config: TrainDistilConfig,
        processes: Processes,
    ) -> None:
        tested = utterances.at(checked.rows)
        self.dataset = DistilDataset(
            *(tested, student, codes, config.channel, config.decode_timeout),
            for_training=False,
            strict=False,
        )
        batches = batches_to_test(student, checked.seconds.tolist(), config.batch_seconds)
        self.batches = batches[processes.rank :: processes.size]
        self.num_workers = num_workers(config)
        self.processes = processes
        texts = [normalize(each.text) for each in tested if each.text]
        self.metric = "wer" if has_words(texts) else "cer"  # without spaces a sentence is one word
        self.digest = digest_of(tested, with_text=True)
        self.figures: dict[str, float] = {}  # of the last test
        self.failed = [*checked.unreadable]  # rows of failed.tsv
        self.unfit = checked.unfit

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """wer, cer and, with codes, how well they are predicted."""
        assert isinstance(model, DistilModel)
        own = transcribe(model, self.dataset, self.batches, self.num_workers, self.processes.device)
        parts = self.processes.gather(own)
        self._keep_failed([row for part in parts for row in part.failed])
        self.figures = error_rates([each for part in parts for each in part.transcripts])
        if (scores := parts[0].codes) is not None:
            for part in parts[1:]:
                scores.add_scores(part.codes)
            self.figures |= scores.figures()
        return self.figures

    def _keep_failed(self, rows: Sequence[Rejection]) -> None:
        """Every test meets the same; each is told once."""
        known = {row["key"] for row in self.failed}
        for row in rows:
            if row["key"] not in known:
                logger.warning("left out of the test: %s", in_words(row))
                self.failed.append(row)

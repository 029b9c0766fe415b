"""k2distil report: outputs of the scripts -> one HTML page to look at."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

from k2distil.atomic import write_text
from k2distil.config import ReportConfig
from k2distil.errors import ConfigError, counted
from k2distil.pipeline.outputs.contents import Contents, plain, usage
from k2distil.pipeline.outputs.open_output import open_output
from k2distil.pipeline.outputs.training_curves import training_curves
from k2distil.pipeline.run.rejections import read_rejections
from k2distil.pipeline.run.summary import Summary, prepare_output, read_summary
from k2distil.pipeline.student.folder import NAME as STUDENT
from k2distil.quantizer import Quantizer
from k2distil.report import Page, bars, curves, histogram, image
from k2distil.report.page import GENERATOR

logger = logging.getLogger(__name__)

EXPECTED = "codes, embeddings, a quantizer, or the --save_path of a student's training"
VOWELS = "aeiou"
FRAMES_SHOWN = 250  # of an utterance's codes
ROWS_SHOWN = 20  # of what failed
UNLEARNT = 0.95  # of the codes' entropy: a student above it has learnt nothing of them
MEANINGS = {  # of a quantizer's held-out figures
    "relative_error": "error of the decoded frames / their variance; 0 is best",
    "probe_cross_entropy": "nats per code for a linear probe; less: easier for a student",
    "predicted_error": "relative error of what the probe predicts, decoded",
    "flips_1": "share of codes that noise of 1 % changes",
    "flips_5": "share of codes that noise of 5 % changes",
    "usage": "perplexity of the codes / K; 1 is all entries equally often",
    "dead_codes": "entries that no frame uses, held out or of the training",
    "num_frames": "held-out frames measured",
}


def report(config: ReportConfig) -> Summary:
    """Write a page with a section per output.

    Raises:
        ConfigError: --save_path is a file that is no such page, or one of the outputs.
        DataError: an output is not there, or damaged.
        CheckpointError: one is no output of ours.
    """
    prepare_output(config.save_path, config.path)
    if config.save_path.exists() and GENERATOR not in _beginning(config.save_path):
        raise ConfigError(f"--save_path {config.save_path}: is there, and is no report; move it")
    page = Page("k2distil")
    for path in config.path:
        page.section(str(path))
        _describe(page, path)
    write_text(config.save_path, page.html)
    logger.info("%s: open it in a browser", config.save_path)
    return Summary()


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(1000).decode(errors="replace")


def _describe(page: Page, path: Path) -> None:
    if (path / f"{STUDENT}.json").is_file():
        _describe_student(page, path)
        return
    found = open_output(path, EXPECTED)
    if isinstance(found, Contents):
        _describe_h5(page, found)
    else:
        _describe_quantizer(page, found)


def _describe_quantizer(page: Page, quantizer: Quantizer) -> None:
    article = "An" if quantizer.type[0] in VOWELS else "A"
    page.text(
        f"{article} {quantizer.type} quantizer: {quantizer.num_codebooks} codebooks of "
        f"{quantizer.codebook_size} entries, for frames of {quantizer.dim} dimensions."
    )
    figures = quantizer.figures
    known = [[name, figures[name], what] for name, what in MEANINGS.items() if name in figures]
    if known:
        page.table(["on held-out frames", "", "meaning"], known)
    errors = figures.get("error_by_num_codebooks")
    if isinstance(errors, list) and errors:
        points = [(number, float(error)) for number, error in enumerate(errors, 1)]
        page.plot(
            curves({"error": points}, "codebooks", "relative error"),
            "Error when only the first codebooks are used (--num_codebooks_used)"
            + (", without the correction." if quantizer.correction is not None else "."),
        )
    if dead := figures.get("dead_codes"):
        page.warning(f"{dead:,} entries are used by no frame: train on more varied frames.")
    page.facts(plain(quantizer.provenance), folded="made of")


def _describe_h5(page: Page, contents: Contents) -> None:
    page.facts(contents.facts())
    page.facts(plain(contents.reader.meta), folded="attributes")
    shift = contents.frame_shift
    lengths = list(contents.lengths.values())
    if shift:
        page.plot(
            histogram([length * shift for length in lengths], "seconds", "utterances"),
            "Durations of the utterances.",
        )
    if contents.is_codes:
        _describe_codes(page, contents)
    else:
        page.facts(contents.moments())
    _list_rejected(page, contents.path)


def _list_rejected(page: Page, path: Path) -> None:
    """Which utterances an output lacks, and why."""
    words = {
        "failed": (page.warning, "failed; put this right and run it again."),
        "dropped": (page.text, "dropped, as the settings say."),
    }
    for kind, (tell, what) in words.items():
        if rows := read_rejections(path, kind):
            tell(f"{counted(len(rows), 'utterance')} {what}")
            page.table(
                ["utterance", "reason"], [[row["key"], row["reason"]] for row in rows[:ROWS_SHOWN]]
            )


def _describe_codes(page: Page, contents: Contents) -> None:
    counts = contents.count_codes()
    shares = [usage(each) for each in counts]
    step = contents.sample_step
    of = "" if step == 1 else f" (of one utterance in {step})"
    page.plot(
        bars(shares, "codebook", "perplexity / K"),
        f"How evenly entries are used{of}: 1 is all equally often, 1 / K one alone.",
    )
    unused = sum(int((each == 0).sum()) for each in counts)
    page.text(f"{unused:,} of {sum(map(len, counts)):,} entries come in no utterance{of}.")
    key = next(iter(contents.lengths))
    shown = contents.first[:FRAMES_SHOWN]
    shift = contents.frame_shift
    page.plot(
        image(shown.T, "seconds" if shift else "frames", "codebook", len(shown) * (shift or 1)),
        f"The codes of {key}: what stays the same for several frames is easy to learn.",
    )


def _describe_student(page: Page, folder: Path) -> None:
    stem = folder / STUDENT
    figures = read_summary(stem)
    if not figures:
        page.warning("The training is not complete.")
    told = {"best", "last", "versions"}
    page.facts({name: value for name, value in figures.items() if name not in told})
    last: dict[str, Any] = figures.get("last") or {}
    tested = {"best": figures.get("best"), "last": last and {"step": figures["steps"], **last}}
    rates = [
        [name, *(f"{100 * each[rate]:.2f} %" for rate in ("wer", "cer")), each.get("step", "")]
        for name, each in tested.items()
        if each and "wer" in each
    ]
    if rates:
        page.table(["student", "WER", "CER", "step"], rates)
    _list_rejected(page, stem)
    found = training_curves(folder / "runs")
    if not found:
        page.text("No curves: there is nothing in runs/ that TensorBoard can read.")
    losses = {"CTC": "train/ctc_loss", "codes": "train/codebook_loss"}
    _plot_curves(page, found, losses, "nats", "Losses in training.")
    errors = {"WER": "eval/wer", "CER": "eval/cer"}
    _plot_curves(page, found, errors, "errors / units", "Error rates on --cv_data.")
    if nats := found.get("eval/codebook_cross_entropy"):
        entropy = found["eval/codebook_entropy"][-1][1]
        page.plot(
            curves({"student": nats}, "step", "nats per code", level=("knows nothing", entropy)),
            "Cross entropy of the codes on --cv_data, beside their entropy.",
        )
        if nats[-1][1] > UNLEARNT * entropy:
            page.warning(
                "The student has learnt hardly anything of the codes: it had too few steps so far, "
                "they are of another list, or the teacher does not know this language."
            )
    numbers = itertools.takewhile(lambda n: f"codebook_{n}_accuracy" in last, itertools.count())
    if accuracies := [last[f"codebook_{number}_accuracy"] for number in numbers]:
        page.plot(
            bars(accuracies, "codebook", "accuracy"), "Codes predicted exactly, on --cv_data."
        )


def _plot_curves(
    page: Page,
    found: dict[str, list[tuple[int, float]]],
    tags: dict[str, str],
    y: str,
    caption: str,
) -> None:
    """tags: name in the plot -> TensorBoard's; what was not written is left out."""
    series = {name: found[tag] for name, tag in tags.items() if tag in found}
    if series:
        page.plot(curves(series, "step", y), caption)

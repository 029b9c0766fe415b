"""k2distil export --to lhotse: codes -> cuts that have them, and shards of these."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from k2distil.atomic import replacing
from k2distil.config import ExportConfig
from k2distil.errors import ConfigError, DataError
from k2distil.interop.lhotse import (
    attach_codes,
    check_field,
    make_cuts,
    read_cuts,
    require_lhotse,
    write_cuts,
    write_shar,
)
from k2distil.pipeline.exports.replacing import digest_at, digests, refuse_unknown_file
from k2distil.pipeline.run.digests import content_of, digest_of, digest_of_file
from k2distil.pipeline.run.lists import read_lists
from k2distil.pipeline.run.rejections import write_rejections
from k2distil.pipeline.run.summary import (
    Summary,
    beside,
    prepare_output,
    read_summary,
    write_summary,
)
from k2distil.storage import CodebookReader, refuse_other_settings
from k2distil.storage.convert import COPIED_FROM, write_as

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl.gz", ".jsonl")
OF_COPIES = ("dropped.tsv", "config.yaml")  # what `verify` reads beside codes


def export_lhotse(config: ExportConfig) -> Summary:
    """Write cuts whose `field` is a TemporalArray of the codes.

    Cuts without codes are left out and listed in <save_path>.failed.tsv.

    Args:
        config: with codebook_path, and cuts_path or train_data.

    Raises:
        ConfigError, DataError: see docs/errors.md.
    """
    assert config.codebook_path is not None
    _check_source(config)
    require_lhotse()
    check_field(config.field)
    save_path = config.save_path
    if not save_path.name.endswith(SUFFIXES):
        raise ConfigError(f"--save_path {save_path}: lhotse reads {' or '.join(SUFFIXES)} as cuts")
    inputs = [config.codebook_path, config.cuts_path, *(config.train_data or ())]
    prepare_output(save_path, inputs)
    reader = CodebookReader(config.codebook_path)
    if config.cuts_path is not None:
        utterances, source = [], digest_of_file(config.cuts_path)
    else:
        utterances = read_lists(config.train_data, config, save_path)
        source = digest_of(utterances, with_text=True)
    fingerprint = _fingerprint(config, reader, source)
    there, found = digest_at(save_path), read_summary(save_path)
    if there is not None:
        refuse_unknown_file(save_path, there, found)
        if not config.force:
            refuse_other_settings(save_path, found.get("fingerprint", {}), fingerprint)
    has_cuts = (found.get("sha256"), found.get("fingerprint")) == (there, fingerprint)
    shar = None if config.shar is None else str(config.shar.resolve())
    has_shards = config.shar is not None and _is_taken(config.shar)
    if has_shards and not (has_cuts and found["shar"] == shar):
        raise ConfigError(f"--shar {config.shar}: there already; give a new or empty folder")
    reader = _in_dtype(config, reader)
    if has_cuts and found["failed"] == 0:
        if config.shar is None or has_shards:
            logger.info("%s: complete already", save_path)
        else:
            write_summary(save_path, found | {"shar": shar})
            write_shar(save_path, config.shar, config.field, reader)
        return Summary(0, found)
    if config.cuts_path is None:
        cuts = make_cuts(utterances, config.channel)
    else:
        cuts = read_cuts(config.cuts_path)
    folder = config.path_prefix or reader.path.parent.resolve()
    attached = attach_codes(cuts, reader, folder, config.field)
    with replacing(save_path) as temporary:
        written, failed = write_cuts(temporary, save_path, attached)
        write_rejections(save_path, failed, [])
        figures = {
            "to": config.to,
            "written": written,
            "failed": len(failed),
            "fingerprint": fingerprint,
            **digests(temporary, there),
        }
        stays = has_cuts and figures["sha256"] == there  # and with it shards of before
        figures["shar"] = shar or (found["shar"] if stays else None)
        if has_shards and figures["sha256"] != there:
            raise DataError(
                f"--shar {config.shar}: there already, of the cuts before more could be exported; "
                "remove it, or give another --save_path and --shar"
            )
        summary = write_summary(save_path, figures, len(failed))
    logger.info("%s: %d written, %d failed", save_path, written, len(failed))
    if config.shar is not None and not has_shards:
        write_shar(save_path, config.shar, config.field, reader)
    return summary


def _check_source(config: ExportConfig) -> None:
    if (config.cuts_path is None) == (config.train_data is None):
        raise ConfigError("--to lhotse: give either --cuts_path or --train_data")
    shar, save_path = config.shar, config.save_path
    if shar is not None and save_path.resolve().is_relative_to(shar.resolve()):
        raise ConfigError(
            f"--shar {shar}: --save_path lies in it, but shards come into a folder of their own; "
            "give another"
        )
    if config.cuts_path is not None and config.cuts_path.is_dir():
        raise DataError(f"{config.cuts_path}: a folder; give a file of cuts in it")
    if config.cuts_path is not None and not config.cuts_path.is_file():
        raise DataError(f"{config.cuts_path}: no such file; check --cuts_path")


def _fingerprint(config: ExportConfig, reader: CodebookReader, source: str) -> dict[str, Any]:
    """All that decides the content of the cuts, of JSON's types."""
    return {
        "codes": content_of(reader),
        "codebook_path": str(reader.path.resolve()),
        "cuts": source,
        "field": config.field,
        "dtype": config.dtype,
        "channel": None if config.cuts_path is not None else config.channel,  # cuts have their own
        "path_prefix": None if config.path_prefix is None else str(config.path_prefix),
    }


def _is_taken(shar: Path) -> bool:
    """Whether anything is in its place: shards come into it all at once."""
    return shar.is_file() or (shar.is_dir() and any(shar.iterdir()))


def _in_dtype(config: ExportConfig, reader: CodebookReader) -> CodebookReader:
    """The reader of codes in the dtype that is wanted; a copy of the h5 where they are not."""
    there = reader[next(iter(reader))].dtype if len(reader) else None
    if config.dtype is None or there is None or there == np.dtype(config.dtype):
        return reader
    path = config.save_path.with_name(f"{reader.path.stem}.{config.dtype}.h5")
    if path.exists():
        copied_from = CodebookReader(path).meta.get(COPIED_FROM)
        if copied_from == content_of(reader):
            return CodebookReader(path)
        if copied_from is None or not config.force:
            raise DataError(f"{path}: there already, of other codes; give another --save_path")
    write_as(reader, path, np.dtype(config.dtype), content_of(reader))
    logger.info("%s: the same codes in %s", path, config.dtype)
    for name in OF_COPIES:
        if beside(reader.path, name).exists():
            shutil.copyfile(beside(reader.path, name), beside(path, name))
    return CodebookReader(path)

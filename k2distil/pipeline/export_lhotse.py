"""k2distil export --to lhotse: codes -> cuts that have them, and shards of these."""

from __future__ import annotations

import gzip
import io
import json
import logging
import shutil
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from k2distil.atomic import make_folder, replacing
from k2distil.config import ExportConfig
from k2distil.errors import ConfigError, DataError
from k2distil.interop.lhotse import (
    Rejected,
    attach_codes,
    check_field,
    make_cuts,
    read_cuts,
    require_lhotse,
)
from k2distil.pipeline.digests import content_of, digest_of, digest_of_file
from k2distil.pipeline.exported import digest_at, digests, is_ours
from k2distil.pipeline.lists import read_lists
from k2distil.pipeline.summary import (
    Summary,
    beside,
    prepare_output,
    read_summary,
    write_rejections,
    write_summary,
)
from k2distil.storage import CodebookReader, describe_differences
from k2distil.storage.convert import COPIED_FROM, write_as

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl.gz", ".jsonl")
OF_COPIES = ("dropped.tsv", "config.yaml")  # what `verify` reads beside codes
SHARD_CUTS = 1000  # lhotse's default


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
    there, has_cuts = digest_at(save_path), False
    if there is not None:
        found = read_summary(save_path)
        _check_replaceable(save_path, is_ours(there, found), found, fingerprint, config.force)
        has_cuts = found["fingerprint"] == fingerprint and found["sha256"] == there
    has_shards = config.shar is not None and _is_taken(config.shar)
    if has_shards and not has_cuts:
        raise ConfigError(f"--shar {config.shar}: there already; give a new or empty folder")
    reader = _in_dtype(config, reader)
    if has_cuts and found["failed"] == 0:
        if config.shar is None or has_shards:
            logger.info("%s: complete already", save_path)
        else:
            _write_shar(save_path, config.shar, config.field, reader)
        return Summary(0, found)
    if config.cuts_path is None:
        cuts = make_cuts(utterances, config.channel)
    else:
        cuts = read_cuts(config.cuts_path)
    folder = config.path_prefix or reader.path.parent.resolve()
    attached = attach_codes(cuts, reader, folder, config.field)
    with replacing(save_path) as temporary:
        written, rejected = _write_cuts(temporary, save_path, attached)
        rows = [asdict(each) for each in rejected]
        write_rejections(save_path, rows, [])
        figures = {
            "to": config.to,
            "written": written,
            "failed": len(rows),
            "fingerprint": fingerprint,
            **digests(temporary, there),
        }
        if has_shards and figures["sha256"] != there:
            raise DataError(
                f"--shar {config.shar}: there already, of the cuts before more could be exported; "
                "remove it, or give another --save_path and --shar"
            )
        summary = write_summary(save_path, figures, len(rows))
    logger.info("%s: %d written, %d failed", save_path, written, len(rows))
    if config.shar is not None and not has_shards:
        _write_shar(save_path, config.shar, config.field, reader)
    return summary


def _check_source(config: ExportConfig) -> None:
    if (config.cuts_path is None) == (config.train_data is None):
        raise ConfigError("--to lhotse: give either --cuts_path or --train_data")
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
        "channel": config.channel,
        "path_prefix": None if config.path_prefix is None else str(config.path_prefix),
        "shar": None if config.shar is None else str(config.shar.resolve()),
    }


def _check_replaceable(
    save_path: Path,
    is_known: bool,
    found: dict[str, Any],
    fingerprint: dict[str, Any],
    force: bool,
) -> None:
    if not is_known:
        raise DataError(
            f"{save_path}: not made by k2distil export, never replaced; give another --save_path"
        )
    differences = describe_differences(found.get("fingerprint", {}), fingerprint)
    if differences and not force:
        raise DataError(
            f"{save_path}: exported with other settings ({differences}); give another --save_path, "
            "or --force to replace it"
        )


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
    logger.info("%s: the same codes in %s", path, config.dtype)
    write_as(reader, path, np.dtype(config.dtype), content_of(reader))
    for name in OF_COPIES:
        if beside(reader.path, name).exists():
            shutil.copyfile(beside(reader.path, name), beside(path, name))
    return CodebookReader(path)


def _write_cuts(temporary: Path, path: Path, cuts: Iterable[Any]) -> tuple[int, list[Rejected]]:
    """Write cuts as lhotse does, the same bytes for the same cuts; how many, and which not.

    Args:
        temporary: where to write.
        path: what it will be called.
        cuts: all of them.

    Raises:
        DataError: there are none.
    """
    written, rejected = 0, []
    with temporary.open("wb") as raw:
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        # Of names that are not UTF-8, such as "\udcd6", JSON has the same escape.
        with io.TextIOWrapper(packed, "utf-8", "backslashreplace") as file:
            for cut in cuts:
                if isinstance(cut, Rejected):
                    rejected.append(cut)
                else:
                    file.write(json.dumps(cut.to_dict(), ensure_ascii=False) + "\n")
                    written += 1
        if not written:
            example = f", e.g. {rejected[0].key}: {rejected[0].reason}" if rejected else ""
            raise DataError(f"{path}: none of {len(rejected)} cuts can be exported{example}")
    return written, rejected


def _write_shar(cuts_path: Path, folder: Path, field: str, reader: CodebookReader) -> None:
    """Shards of everything that the cuts have, in one folder that is whole or not there."""
    from lhotse import CutSet

    cuts = CutSet.from_file(cuts_path)
    fields: dict[str, str] = {}
    for cut in cuts:
        fields |= _fields_of(cut)
    folder = folder.resolve()  # of "." there is no name
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(temporary, "--shar")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of custom fields that stay as they are
            here = CutSet.from_cuts(_here(cuts, field, reader))
            here.to_shar(temporary, fields, shard_size=SHARD_CUTS)
    except Exception as error:  # each of lhotse's audio backends has its own
        shutil.rmtree(temporary, ignore_errors=True)
        raise DataError(
            f"--shar {folder}: lhotse cannot write the shards ({_short(error)}); see to the audio "
            "and run the same command again, or leave --shar out"
        ) from error
    if folder.exists():
        folder.rmdir()
    temporary.rename(folder)


def _short(error: Exception) -> str:
    """Of lhotse's errors, which hold whole cuts, what fits a line or two."""
    return textwrap.shorten(str(error) or type(error).__name__, 300)


def _fields_of(cut: Any) -> dict[str, str]:
    """What to pack, and how: all, since the cuts of a Shar start at 0 and fit nothing outside."""
    from lhotse import Recording
    from lhotse.array import Array, TemporalArray

    fields = {"recording": "flac"} if cut.has_recording else {}
    if cut.has_features:
        fields["features"] = "lilcom"
    for name, value in cut.custom.items():
        if isinstance(value, Array | TemporalArray):
            fields[name] = "numpy"
        elif isinstance(value, Recording):
            fields[name] = "flac"
    return fields


def _here(cuts: Iterable[Any], field: str, reader: CodebookReader) -> Iterator[Any]:
    """Cuts whose codes are looked for where they are now, not where --path_prefix says."""
    from lhotse.utils import fastcopy

    for cut in cuts:
        codes = cut.custom[field]
        path = reader.file_of(codes.array.storage_key).path
        array = fastcopy(codes.array, storage_path=str(path))
        yield cut.with_custom(field, fastcopy(codes, array=array))

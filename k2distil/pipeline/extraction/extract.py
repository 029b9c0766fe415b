"""All utterances -> one h5: part by part, so that a crash loses at most the part in work."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from k2distil.batch import Utterance
from k2distil.config import SaveCodebookConfig, SaveEmbeddingConfig
from k2distil.errors import DataError
from k2distil.leases import Leases
from k2distil.pipeline.extraction.earlier import OF_THE_LIST, Earlier, find_earlier
from k2distil.pipeline.extraction.embed import PendingChunk, ValuesOf, embed
from k2distil.pipeline.extraction.make_parts import EmbedAll, make_parts
from k2distil.pipeline.extraction.outcome import finish_output, outcome_of
from k2distil.pipeline.extraction.profiling import profiled
from k2distil.pipeline.extraction.provenance import deciding, reading, request
from k2distil.pipeline.extraction.teacher import embed_options, limits_of
from k2distil.pipeline.extraction.windows import Chunk, chunks_of
from k2distil.pipeline.run.summary import Summary, versions, write_config
from k2distil.stages import stage
from k2distil.storage import (
    SHARD_HOURS,
    DamagedPartError,
    PartFolder,
    attributes_of,
    describe_differences,
    merged_already,
    note_for_merge,
    output_lease,
    refuse_foreign,
    refuse_others,
    refuse_unfinished,
    remove_parts,
)
from k2distil.teachers import Teacher

logger = logging.getLogger(__name__)

ExtractConfig = SaveEmbeddingConfig | SaveCodebookConfig


@dataclass(frozen=True)
class Plan:
    """What all processes of an extraction agree on."""

    parts: PartFolder
    chunks: list[Chunk]  # the utterances of each part
    keys: list[str]  # of the whole list
    attributes: dict[str, Any]  # of the h5's root
    earlier: Earlier | None  # None: there is no output yet


def extract(
    config: ExtractConfig,
    utterances: Sequence[Utterance],
    teacher: Teacher,
    values_of: ValuesOf,
    attributes: dict[str, Any],
) -> Summary:
    """Write the values of every utterance to config.save_path; resumes where a run stopped.

    Any number of processes may do this at the same time, on any hosts that share the folder: each
    makes the parts that no other is making, and the last one merges them. Where the output is
    there already, only the utterances that had failed are tried again, and those that are new in
    the list are added.

    Args:
        config: what the user asked for.
        utterances: in the order of the h5.
        teacher: what embeds.
        values_of: what to keep of its embeddings.
        attributes: root attributes of the h5; a run with other ones does not resume this one.

    Raises:
        DataError: the output cannot be written, or was made with other settings.
    """
    options = embed_options(config, teacher)
    if config.shard_output is not None:
        attributes = {**attributes, SHARD_HOURS: config.shard_output}
    fingerprint = deciding(attributes) | request(config, utterances, options.limits)
    attributes = {**attributes, "list": fingerprint["list"], "versions": json.dumps(versions())}
    with Leases(config.lease_seconds) as leases:
        with leases.held(output_lease(config.save_path)):
            plan = _agree(config, utterances, attributes, fingerprint, leases)
        if plan is None:
            return outcome_of(config.save_path, "complete already")
        with profiled(config.save_path) if config.profile else nullcontext(lambda: None) as look:

            def embed_all(chunks: Iterable[Chunk]) -> Generator[PendingChunk]:
                for embedding in embed(chunks, teacher, values_of, options):
                    look()
                    yield embedding

            return _carry_out(plan, embed_all, leases)


def _agree(
    config: ExtractConfig,
    utterances: Sequence[Utterance],
    attributes: dict[str, Any],
    fingerprint: dict[str, Any],
    leases: Leases,
) -> Plan | None:
    """Begin, or join what another process has begun; None: all is done.

    Raises:
        DataError: something of other settings is in the way, and there is no --force, or somebody
            is at work on it.
    """
    save_path = config.save_path
    earlier = _earlier(config, fingerprint, utterances)
    done = set() if earlier is None else earlier.keys()
    todo = [each for each in utterances if each.key not in done]
    if earlier is not None and earlier.is_same and not todo:
        try:
            refuse_unfinished(save_path, fingerprint)
        except DataError:
            if not config.force:
                raise
            refuse_others(save_path, leases)
        remove_parts(save_path)
        return None
    if earlier is not None:
        logger.info("%s: %d to be done, the others are in it", save_path, len(todo))
    settings = (save_path, fingerprint, len(todo), config.part_utterances)
    try:
        parts = PartFolder(*settings)
    except DataError as error:
        if not config.force and (earlier is None or not merged_already(save_path)):
            raise
        refuse_others(save_path, leases)
        logger.warning("starting over: %s", error)
        remove_parts(save_path)
        parts = PartFolder(*settings)
    keys = [utterance.key for utterance in utterances]
    noted = None if earlier is None else earlier.to_note()
    note_for_merge(parts, keys, attributes, earlier=noted)
    write_config(save_path, config)
    chunks = chunks_of(todo, config.part_utterances)
    return Plan(parts, chunks, keys, attributes, earlier)


def _earlier(
    config: ExtractConfig, fingerprint: dict[str, Any], utterances: Sequence[Utterance]
) -> Earlier | None:
    """What an earlier run finished that can be gone on with; None: nothing.

    Raises:
        DataError: an output of other settings is in the way, and there is no --force.
    """
    # Audio that the teacher takes whole comes out the same, whatever is done with longer audio.
    ways = [replace(config, long_audio=way) for way in ("error", "skip")]
    equivalent = [reading(each, limits_of(each)) for each in ways]
    try:
        return find_earlier(config.save_path, fingerprint, equivalent, utterances)
    except DataError as error:
        if not config.force:
            raise
        refuse_foreign(config.save_path)
        fault, _, _ = str(error).partition("; give ")  # without what helps but for --force
        logger.warning("to be replaced because of --force: %s", fault)
        return None


def _carry_out(plan: Plan, embed_all: EmbedAll, leases: Leases) -> Summary:
    """Make the parts and merge them; one that turns out damaged is made again, once."""
    save_path = plan.parts.save_path
    damaged: set[Path] = set()
    while True:
        make_parts(plan.parts, plan.chunks, embed_all, leases)
        with leases.held(output_lease(save_path)):
            if not plan.parts.exist():
                return _merged_by_others(plan)
            if len(plan.parts.done()) < len(plan.chunks):
                continue  # another process has found one damaged
            try:
                with stage("merge"):
                    return finish_output(plan.parts, plan.keys, plan.attributes, plan.earlier)
            except DamagedPartError as error:
                if error.part in damaged:
                    raise
                damaged.add(error.part)
                logger.warning("%s", error)
            except DataError:
                if plan.parts.exist():
                    raise
                # We slept, were taken for dead, and succeeded.
                return _merged_by_others(plan)


def _merged_by_others(plan: Plan) -> Summary:
    """What there is where the parts are gone.

    Raises:
        DataError: no output, or one of other settings.
    """
    path = plan.parts.save_path
    wanted, found = plan.parts.fingerprint, None
    if path.exists():
        found = json.loads(attributes_of(path).get("fingerprint", "{}"))
        found |= {name: wanted[name] for name in OF_THE_LIST}  # there may be more in it by now
    if found is None or describe_differences(found, wanted):
        what = "there is no such file" if found is None else "it has other settings"
        raise DataError(
            f"{path}: {what}, and the parts that were to become it are gone; run the same command "
            "again"
        )
    return outcome_of(path, "merged by another process")

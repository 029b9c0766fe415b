"""HuBERT, wav2vec2 and WavLM as transformers saves them, pretrained or fine-tuned."""

from __future__ import annotations

from k2distil.batch import SAMPLE_RATE
from k2distil.errors import CheckpointError
from k2distil.teachers.hf_source import HfSource
from k2distil.teachers.hubert import WEIGHT_NORM, HubertWeights, choose_do_normalize
from k2distil.teachers.tensors import refuse_lora, select, translate

PREFIX = r"((hubert|wav2vec2|wavlm)\.)?(?=(feature_extractor|feature_projection|encoder)\.)"


def read_hf_hubert(source: HfSource, do_normalize: bool | None) -> HubertWeights:
    """The encoder of a Hugging Face HuBERT, wav2vec2 or WavLM; heads are left out.

    Raises:
        CheckpointError: the weights cannot be read, or are for another sample rate.
        ConfigError: do_normalize is neither given nor in the checkpoint, or they contradict.
    """
    tensors = source.tensors()
    refuse_lora(tensors, source.checkpoint)
    found = {
        translate(name, WEIGHT_NORM): tensor for name, tensor in select(tensors, PREFIX).items()
    }
    extractor = source.feature_extractor()
    if (rate := extractor.get("sampling_rate", SAMPLE_RATE)) != SAMPLE_RATE:
        raise CheckpointError(
            f"{source.checkpoint}: trained on audio of {rate} Hz, by its preprocessor_config.json; "
            f"a teacher hears {SAMPLE_RATE}: choose one that was trained so"
        )
    saved = extractor.get("do_normalize")
    if saved is None and do_normalize is None:
        source.refuse_unreachable(["preprocessor_config.json"], "or give --do_normalize")
    normalizes = choose_do_normalize(saved, do_normalize, source.checkpoint)
    return HubertWeights(source.config, found, {}, normalizes)

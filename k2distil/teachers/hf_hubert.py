"""HuBERT, wav2vec2 and WavLM as transformers saves them, pretrained or fine-tuned."""

from __future__ import annotations

from k2distil.teachers.hf_source import HfSource
from k2distil.teachers.hubert import WEIGHT_NORM, HubertWeights, choose_do_normalize
from k2distil.teachers.tensors import refuse_lora, select, translate

PREFIX = r"((hubert|wav2vec2|wavlm)\.)?(?=(feature_extractor|feature_projection|encoder)\.)"


def read_hf_hubert(source: HfSource, do_normalize: bool | None) -> HubertWeights:
    """The encoder of a Hugging Face HuBERT, wav2vec2 or WavLM; heads are left out.

    Raises:
        CheckpointError: the weights cannot be read.
        ConfigError: do_normalize is neither given nor in the checkpoint, or they contradict.
    """
    tensors = source.tensors()
    refuse_lora(tensors, source.checkpoint)
    found = {
        translate(name, WEIGHT_NORM): tensor for name, tensor in select(tensors, PREFIX).items()
    }
    saved = source.json("preprocessor_config.json").get("do_normalize")
    if saved is None:  # transformers 5 saves a whole processor in one file
        processor = source.json("processor_config.json")
        saved = processor.get("feature_extractor", {}).get("do_normalize")
    if saved is None and do_normalize is None:
        source.refuse_unreachable(["preprocessor_config.json"], "or give --do_normalize")
    normalizes = choose_do_normalize(saved, do_normalize, source.checkpoint)
    return HubertWeights(source.config, found, {}, normalizes)

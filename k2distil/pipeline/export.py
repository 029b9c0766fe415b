"""k2distil export: a quantizer, or codes -> files for another toolkit."""

from __future__ import annotations

from dataclasses import fields

from k2distil.config import ExportConfig
from k2distil.errors import ConfigError
from k2distil.pipeline.run.summary import Summary

# Keys that no other command has; those that one has may stand in a yaml for the whole chain.
ONLY_LHOTSE = ("cuts_path", "field", "dtype", "shar", "path_prefix")


def export(config: ExportConfig) -> Summary:
    """Write what `config.to` names.

    Raises:
        ConfigError, DataError, CheckpointError: see docs/errors.md.
    """
    if config.to == "lhotse":
        from k2distil.pipeline.exports.lhotse import export_lhotse

        _require(config, "codebook_path")
        return export_lhotse(config)
    from k2distil.pipeline.exports.multi_quantization import export_multi_quantization

    for each in fields(config):
        if each.name in ONLY_LHOTSE and getattr(config, each.name) != each.default:
            raise ConfigError(f"--{each.name}: not for --to {config.to}; leave it out")
    _require(config, "quantizer_path")
    return export_multi_quantization(config)


def _require(config: ExportConfig, name: str) -> None:
    if getattr(config, name) is None:
        raise ConfigError(f"--{name}: missing, --to {config.to} needs it; add it to the command")

"""A Hugging Face checkpoint: a folder, or a hub id whose files are fetched as they are needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from k2distil.errors import CheckpointError
from k2distil.teachers.pickle_file import load_pickle

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first found is used
FindFile = Callable[[str], Path | None]


class HfSource:
    """Finds and reads the files of a checkpoint."""

    def __init__(self, checkpoint: str):
        """checkpoint: folder or hub id.

        Raises:
            CheckpointError: neither of them, or a folder that holds an adapter only.
        """
        self.checkpoint = checkpoint
        folder = Path(checkpoint)
        self._find = _in_folder(folder) if folder.is_dir() else _on_hub(checkpoint)
        config = self._find("config.json")
        if config is None:
            if self._find("adapter_config.json") is not None:
                raise CheckpointError(
                    f"{checkpoint}: holds an adapter (adapter_config.json) and no model; load it "
                    "with peft, call merge_and_unload(), and save the result with save_pretrained"
                )
            raise CheckpointError(
                f"{checkpoint}: no config.json there; give a Hugging Face folder, a hub id, "
                "or the .pt file itself"
            )
        self.config = _read_json(config)

    def json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file, {} where the checkpoint has none of that name."""
        path = self._find(name)
        return {} if path is None else _read_json(path)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, under their names, mapped from disk where the format allows it."""
        for name in WEIGHTS:
            path = self._find(name)
            if path is not None:
                return _read_weights(path)
            index = self.json(f"{name}.index.json")
            if index:
                return self._read_shards(sorted(set(index["weight_map"].values())))
        raise CheckpointError(
            f"{self.checkpoint}: none of {', '.join(WEIGHTS)} nor their shards are there; "
            "download the weights too"
        )

    def _read_shards(self, names: list[str]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name in names:
            path = self._find(name)
            if path is None:
                raise CheckpointError(
                    f"{self.checkpoint}: shard {name} is named in the index and missing; "
                    "download it too"
                )
            tensors |= _read_weights(path)
        return tensors


def read_config(config_class: Any, fields: dict[str, Any], checkpoint: str) -> Any:
    """A transformers configuration; what `fields` leaves out is at transformers' default."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        return config_class.from_dict(fields)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise CheckpointError(
            f"{checkpoint}: config.json is no {config_class.__name__} ({error}); download it again"
        ) from None


def _in_folder(folder: Path) -> FindFile:
    def find(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    return find


def _on_hub(checkpoint: str) -> FindFile:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    def find(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(checkpoint, name))
        except EntryNotFoundError as error:
            if name != "config.json":
                return None
            reason: Exception = error
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = error
        raise CheckpointError(
            f"{checkpoint}: no such file or folder, and not found on the Hugging Face hub "
            f"({str(reason).splitlines()[0]}); check the path, or the hub id and the network"
        ) from None

    return find


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object; download it again")
    return content


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".bin":
        return load_pickle(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not readable as safetensors ({error}); download it again"
        ) from None

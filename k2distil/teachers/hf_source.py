"""A Hugging Face checkpoint: a folder, or a hub id whose files are fetched as they are needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from k2distil.errors import CheckpointError
from k2distil.teachers.pickle_file import load_pickle, unreadable
from k2distil.teachers.tensors import require_names, unwrapped

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first found is used
FindFile = Callable[[str], Path | None]


class HfSource:
    """Finds and reads the files of a checkpoint."""

    def __init__(self, checkpoint: str):
        """checkpoint: folder or hub id.

        Raises:
            CheckpointError: neither of them, or an adapter in it.
        """
        self.checkpoint = checkpoint
        self._unreachable: list[str] = []  # neither in the cache nor, without network, to be had
        folder = Path(checkpoint)
        self._find = (
            _in_folder(folder) if folder.is_dir() else _on_hub(checkpoint, self._unreachable)
        )
        config = self._find("config.json")
        if self._find("adapter_config.json") is not None:
            raise CheckpointError(
                f"{checkpoint}: holds an adapter (adapter_config.json), which is not merged into "
                "the weights; load it with peft, call merge_and_unload(), and save the result with "
                "save_pretrained"
            )
        if config is None:
            raise CheckpointError(
                f"{checkpoint}: no config.json there; give a Hugging Face folder, a hub id, "
                "or the .pt file itself"
            )
        self.config = _read_json(config)

    def json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file, {} where the checkpoint has none of that name."""
        path = self._find(name)
        return {} if path is None else _read_json(path)

    def feature_extractor(self) -> dict[str, Any]:
        """What the audio is made into, by preprocessor_config.json; {} where nothing says it."""
        found = self.json("preprocessor_config.json")
        if "do_normalize" not in found:  # transformers 5 saves a whole processor in one file
            found |= self.json("processor_config.json").get("feature_extractor", {})
        return found

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, under their names, mapped from disk where the format allows it."""
        for name in WEIGHTS:
            path = self._find(name)
            if path is not None:
                return unwrapped(_read_weights(path))
            index = self.json(f"{name}.index.json")
            if index:
                return unwrapped(self._read_shards(self._shards_of(index, f"{name}.index.json")))
        self.refuse_unreachable([file for name in WEIGHTS for file in (name, f"{name}.index.json")])
        raise CheckpointError(
            f"{self.checkpoint}: none of {', '.join(WEIGHTS)} nor their shards are there; "
            "download the weights too"
        )

    def refuse_unreachable(self, names: Sequence[str], otherwise: str = "") -> None:
        """Tell a checkpoint that has none of these files from a hub that could not be asked.

        Raises:
            CheckpointError: one of them was looked for without a network; it may well exist.
        """
        unreachable = [name for name in names if name in self._unreachable]
        if unreachable:
            raise CheckpointError(
                f"{self.checkpoint}: {' and '.join(unreachable)} not in the local cache, and the "
                "Hugging Face hub cannot be reached; connect to the network, or download the "
                f"model where there is one (hf download {self.checkpoint}) {otherwise}".rstrip()
            )

    def _shards_of(self, index: dict[str, Any], name: str) -> list[str]:
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{self.checkpoint}/{name}: no weight_map; download it again")
        return sorted(set(map(str, weight_map.values())))

    def _read_shards(self, names: list[str]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name in names:
            path = self._find(name)
            if path is None:
                self.refuse_unreachable([name])
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
        path = folder / name
        try:
            return path if path.is_file() else None
        except PermissionError as error:
            raise unreadable(path, error) from None

    return find


def _on_hub(checkpoint: str, unreachable: list[str]) -> FindFile:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def find(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(checkpoint, name))
        except Exception as error:  # requests' or httpx' own among them, by the hub's version
            if isinstance(error, EntryNotFoundError) and name != "config.json":
                if isinstance(error, LocalEntryNotFoundError):  # a subclass: no network
                    unreachable.append(name)
                return None
            reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{checkpoint}: no such file or folder, and not found on the Hugging Face hub "
            f"({reason}); check the path, or the hub id and the network (HF_ENDPOINT names a "
            "mirror)"
        )

    return find


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object; download it again")
    return content


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".bin":
        return dict(require_names(load_pickle(path), str(path)))
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise unreadable(path, error) from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not readable as safetensors ({error}); download it again"
        ) from None

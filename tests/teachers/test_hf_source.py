import os
from pathlib import Path

import huggingface_hub.constants
import pytest

from k2distil.errors import CheckpointError
from k2distil.teachers import build_teacher
from tests.teachers.tiny import make_hf_hubert, make_hf_whisper, with_config

HF = "huggingface-whisper"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache that nothing is fetched into."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def snapshot_of(hub_id: str) -> Path:
        repo = tmp_path / "hub" / f"models--{hub_id.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text("abc")
        return repo / "snapshots" / "abc"

    return snapshot_of


@pytest.mark.parametrize("max_shard_size", ["5GB", "100KB"])
def test_a_hub_id_is_the_same_as_its_folder(hub, tmp_path, max_shard_size):
    make_hf_whisper(hub("some-org/whisper-nano"), max_shard_size=max_shard_size)
    folder = make_hf_whisper(tmp_path / "folder")
    teacher = build_teacher(HF, "some-org/whisper-nano")
    assert teacher.name == "some-org/whisper-nano"
    assert teacher.digest == build_teacher(HF, folder).digest


def test_a_hubert_by_hub_id_finds_its_do_normalize(hub):
    make_hf_hubert(hub("some-org/hubert-nano"), "layer")
    assert build_teacher("hubert", "some-org/hubert-nano").num_layers == 3


@pytest.mark.parametrize(
    "checkpoint", ["some-org/not-there", "no--valid/id", "exp/no such folder", "no/way.pt"]
)
@pytest.mark.parametrize("encoder_type", [HF, "wenet-whisper"])
def test_what_is_neither_there_nor_on_the_hub_is_named(hub, encoder_type, checkpoint):
    with pytest.raises(CheckpointError, match=f"^{checkpoint}: no such file or folder"):
        build_teacher(encoder_type, checkpoint)


def test_a_file_that_no_network_could_bring_is_not_said_to_be_absent(hub):
    whisper = Path(make_hf_whisper(hub("org/whisper"), max_shard_size="100KB"))
    shard = sorted(whisper.glob("model-*.safetensors"))[1]
    shard.unlink()
    remedy = r"hub cannot be reached; connect .*\(hf download org/"
    with pytest.raises(CheckpointError, match=f"org/whisper: {shard.name} not in .*{remedy}"):
        build_teacher(HF, "org/whisper")
    (whisper / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=rf"model\.safetensors and .*{remedy}whisper"):
        build_teacher(HF, "org/whisper")
    hubert = Path(make_hf_hubert(hub("org/hubert"), "layer"))
    for name in ("preprocessor_config.json", "processor_config.json"):
        (hubert / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=rf"{remedy}hubert\) or give --do_normalize"):
        build_teacher("hubert", "org/hubert")
    assert build_teacher("hubert", "org/hubert", do_normalize=True).num_layers == 3


def test_whatever_the_hubs_client_raises_names_the_checkpoint(hub, monkeypatch):
    def broken(*_):
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    with pytest.raises(CheckpointError, match=r"org/a: no such file .*\(TimeoutError\)"):
        build_teacher(HF, "org/a")


def test_an_index_without_a_weight_map_is_refused(tmp_path):
    folder = Path(make_hf_whisper(tmp_path / "shards", max_shard_size="100KB"))
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json: no weight_map"):
        build_teacher(HF, str(folder))


@pytest.mark.parametrize("name", ["", "config.json", "model.safetensors"])
def test_what_may_not_be_read_is_named(tmp_path, monkeypatch, name):
    """chmod would not keep root out, who often runs the tests."""
    forbidden = Path(make_hf_whisper(tmp_path / "hf")) / name
    is_file, read_text = Path.is_file, Path.read_text

    def no(path, found):
        if path == forbidden:
            raise PermissionError(13, "Permission denied", str(path))
        return found

    monkeypatch.setattr(Path, "is_file", lambda path: no(path, is_file(path)))
    monkeypatch.setattr(Path, "read_text", lambda path, **how: no(path, read_text(path, **how)))
    with pytest.raises(CheckpointError, match=f"{forbidden}: cannot be read .Permission denied"):
        build_teacher(HF, str(tmp_path / "hf"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path, name):
    path = Path(make_hf_whisper(tmp_path / "hf")) / name
    path.chmod(0)
    with pytest.raises(CheckpointError, match=f"{path}: cannot be read .Permission denied"):
        build_teacher(HF, str(tmp_path / "hf"))


def test_a_folder_with_an_adapter_only_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge_and_unload"):
        build_teacher(HF, str(tmp_path))


def test_an_adapter_beside_the_weights_is_not_passed_over(tmp_path):
    folder = Path(make_hf_whisper(tmp_path / "hf"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not merged into the weights"):
        build_teacher(HF, str(folder))


def test_incomplete_folders_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        build_teacher(HF, str(tmp_path))
    folder = Path(make_hf_whisper(tmp_path / "shards", max_shard_size="100KB"))
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:100])
    with pytest.raises(CheckpointError, match=f"{shard}: not readable as safetensors"):
        build_teacher(HF, str(folder))
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"shard {shard.name} is named in the index"):
        build_teacher(HF, str(folder))
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"none of model\.safetensors, pytorch_model\.bin"):
        build_teacher(HF, str(folder))
    for broken in ("{", "[]"):
        (folder / "config.json").write_text(broken)
        with pytest.raises(CheckpointError, match=r"config\.json.*download it again"):
            build_teacher(HF, str(folder))


def test_a_config_that_contradicts_the_weights_names_the_tensors(tmp_path):
    folder = make_hf_whisper(tmp_path / "whisper")
    with_config(folder, encoder_layers=4, num_mel_bins=128)
    with pytest.raises(CheckpointError) as caught:
        build_teacher(HF, folder)
    assert "missing (layers.3." in str(caught.value)
    assert "conv1.weight is (64, 80, 3), expected (64, 128, 3)" in str(caught.value)

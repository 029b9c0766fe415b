"""verify and inspect on what the scripts themselves write."""

import subprocess
import sys

import h5py

from tests.scripts.conftest import ROOT, WENET_TEACHER, environment, succeed


def k2distil(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "k2distil", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())


def test_what_the_scripts_write_is_found_right_until_a_bit_of_it_changes(corpus, tmp_path):
    embedding, codes = tmp_path / "e.h5", tmp_path / "c.h5"
    audio = ["--train_data", corpus.path]
    succeed("save_embedding.sh", *WENET_TEACHER, *audio, "--save_path", embedding, "--num_audio", 9)
    flags = ["--quantizer_out_dim", 2, "--quantizer_codebook_size", 16, "--save_path", tmp_path]
    succeed("train_quantizer_offline.sh", "--embedding_path", embedding, *flags)
    flags = ["--quantizer_path", tmp_path, "--save_codebook", "--save_path", codes]
    succeed("save_codebook.sh", *WENET_TEACHER, *audio, *flags)

    done = k2distil("verify", "--embedding_path", embedding, *audio)
    assert done.returncode == 0, done.stdout
    assert "9 utterances of 9 in the list" in done.stdout
    done = k2distil("verify", "--codebook_path", codes, *audio)
    assert done.returncode == 0, done.stdout
    assert "24 utterances of 24 in the list" in done.stdout
    for path, words in [(embedding, "standard deviation"), (codes, "perplexity / K")]:
        assert words in k2distil("inspect", "--path", path).stdout
    assert "entries a codebook" in k2distil("inspect", "--path", tmp_path).stdout

    with h5py.File(codes) as file:
        offset = file["utt07"].id.get_offset()
    with codes.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    done = k2distil("verify", "--codebook_path", codes, *audio)
    assert done.returncode == 1
    assert "content: 1\n" in done.stdout

"""--shard_output: several files that every script takes by one name, and never half of them."""

import signal

import h5py
import numpy as np

from k2distil.quantizer import load_quantizer
from k2distil.storage import CodebookReader, EmbeddingReader
from tests.scripts.conftest import WENET_TEACHER, command, interrupt, k2distil, run, speech, succeed
from tests.scripts.student_material import flags as student_flags
from tests.scripts.student_material import losses

HOURS = 8 / 3600  # 8 s
SMALL = ["--quantizer_out_dim", 2, "--quantizer_codebook_size", 16]


def assert_same(one, other) -> None:
    assert list(one) == list(other)
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


def test_the_whole_chain_works_on_several_files_as_on_one(material, tmp_path):
    teacher = [*WENET_TEACHER, "--train_data", material.path]
    several = ["--shard_output", HOURS]
    succeed("save_embedding.sh", *teacher, "--save_path", tmp_path / "one.h5")
    succeed("save_embedding.sh", *teacher, "--save_path", tmp_path / "e.h5", *several)
    assert len(list(tmp_path.glob("e-*.h5"))) == 4  # 28 s
    assert_same(EmbeddingReader(tmp_path / "one.h5"), EmbeddingReader(tmp_path / "e.h5"))
    for name in ("one", "e"):
        succeed(
            *("train_quantizer_offline.sh", *SMALL, "--embedding_path", tmp_path / f"{name}.h5"),
            *("--save_path", tmp_path / f"{name}.pt"),
        )
    assert load_quantizer(tmp_path / "one.pt").id == load_quantizer(tmp_path / "e.pt").id

    make_codes = ["save_codebook.sh", *teacher, "--save_codebook"]
    make_codes += ["--quantizer_path", tmp_path / "e.pt"]
    codes = tmp_path / "codes.h5"
    codes.unlink()  # the material's own
    succeed(*make_codes, "--save_path", codes, *several)
    assert "complete already" in succeed(*make_codes, "--save_path", codes, *several)
    refused = run(*make_codes, "--save_path", codes)
    assert refused.returncode == 2
    assert "shard_hours: 0.00222222" in refused.stderr
    succeed(*make_codes, "--save_path", tmp_path / "undivided.h5")
    assert_same(CodebookReader(tmp_path / "undivided.h5"), CodebookReader(codes))
    for number, file in enumerate(CodebookReader(codes).files):
        assert file.path == tmp_path / f"codes-0000{number}.h5"
        assert sum(map(len, file.values())) <= 400
        with h5py.File(file.path) as plain:
            assert all(np.array_equal(plain[key][:], file[key]) for key in file)

    train_data = ["--train_data", material.path]
    assert "all right" in k2distil("verify", "--codebook_path", codes)
    assert "all right" in k2distil("verify", "--codebook_path", codes, *train_data)
    assert "4: codes-00000.h5 to codes-00003.h5" in k2distil("inspect", "--path", codes)
    log = succeed("train_distil.sh", *student_flags(material))
    assert "20 utterances, 2 codebooks of 16" in log
    assert len(losses(log)) == 12


def test_killed_in_its_merge_it_goes_on_there_and_nothing_half_is_read(corpus, tmp_path):
    flags = [*WENET_TEACHER, "--train_data", corpus.path]
    path = tmp_path / "e.h5"
    making = ["save_embedding.sh", *flags, "--save_path", path, "--shard_output", 1e-6]
    made = tmp_path / "e.h5.parts" / "merged"
    running = command(*making, "--num_workers", 0, "--gpu", "cpu")
    status, _ = interrupt(running, (made / "e-00001.h5").exists, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert not path.exists()
    # The last may lack its index, and is then made again.
    whole = {each.name: each.stat().st_mtime_ns for each in sorted(made.glob("e-*.h5"))[:-1]}
    assert 1 <= len(whole) < 24
    log = succeed(*making)
    assert "resuming: 1 of 1 parts are done" in log
    assert all((tmp_path / name).stat().st_mtime_ns == when for name, when in whole.items())
    assert len(list(tmp_path.glob("e-*.h5"))) == 24  # an utterance each
    assert not (tmp_path / "e.h5.parts").exists()
    succeed("save_embedding.sh", *flags, "--save_path", tmp_path / "one.h5")
    assert_same(EmbeddingReader(tmp_path / "one.h5"), EmbeddingReader(path))

    succeed(*making[:-1], HOURS, "--force")  # fewer, larger ones
    assert len(list(tmp_path.glob("e-*.h5"))) == 4
    assert_same(EmbeddingReader(tmp_path / "one.h5"), EmbeddingReader(path))


def test_what_had_failed_is_added_in_a_file_of_its_own(corpus, tmp_path):
    corpus.list("late", "late.wav")
    path = tmp_path / "e.h5"
    making = ["save_embedding.sh", *WENET_TEACHER, "--train_data", corpus.path]
    making += ["--save_path", path, "--shard_output", HOURS]
    failed = run(*making)
    assert failed.returncode == 1
    assert "24 written, 1 failed" in failed.stderr
    before = {each: each.stat().st_mtime_ns for each in tmp_path.glob("e-*.h5")}
    corpus.add("late", speech(1.0))
    corpus.lines.pop()  # it was in the list already
    assert "25 written" in succeed(*making)
    assert all(each.stat().st_mtime_ns == when for each, when in before.items())
    reader = EmbeddingReader(path)
    assert len(reader) == 25
    assert list(reader.files[-1]) == ["late"]
    assert "all right" in k2distil(
        *("verify", "--embedding_path", path, "--train_data", corpus.path)
    )

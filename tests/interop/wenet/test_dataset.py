"""Codes through a WeNet pipeline, from an h5 to a padded batch."""

import pickle

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterDataPipe

from k2distil.errors import ConfigError, DataError
from k2distil.interop.wenet import AddCodes, add_codes, add_padded_codes, pad_codes
from k2distil.storage import CodebookReader
from tests.interop.wenet.stand_ins import padding
from tests.storage.arrays import make_h5

LENGTHS = {"short": 4, "long": 9, "middle": 6}  # teacher frames


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {key: rng.integers(0, 256, (num, 2), np.uint8) for key, num in LENGTHS.items()}


@pytest.fixture
def codes_path(tmp_path, arrays):
    return make_h5(tmp_path / "codes.h5", arrays)


def samples(keys=tuple(LENGTHS)):
    return [{"key": key, "feat": torch.zeros(2 * LENGTHS.get(key, 5), 4)} for key in keys]


def test_samples_get_the_bytes_of_their_key_and_keep_the_rest(codes_path, arrays):
    for source in (codes_path, str(codes_path), CodebookReader(codes_path)):
        found = list(add_codes(iter(samples()), source, 2))
        assert [sample["key"] for sample in found] == list(LENGTHS)
        for sample in found:
            assert sample["codes"].dtype == np.uint8
            assert np.array_equal(sample["codes"], arrays[sample["key"]])
            assert len(sample["feat"]) == 2 * LENGTHS[sample["key"]]


def test_the_first_versions_reader_sees_the_same_codes(codes_path, arrays):
    with h5py.File(codes_path) as file:
        for sample in add_codes(samples(), codes_path, 2):
            assert np.array_equal(file[sample["key"]][:], sample["codes"])


def test_a_batch_has_the_codes_in_its_own_order_padded_with_minus_100(codes_path, arrays):
    batch_samples = list(add_codes(samples(), codes_path, 2))
    batch = add_padded_codes(padding(batch_samples), batch_samples)
    assert batch["keys"] == ["long", "middle", "short"]
    assert batch["codes_lengths"].tolist() == [9, 6, 4]
    assert batch["codes"].shape == (3, 9, 2)
    assert batch["codes"].dtype == torch.int16
    for key, row, num in zip(batch["keys"], batch["codes"], batch["codes_lengths"], strict=True):
        assert np.array_equal(row[:num].numpy(), arrays[key])
        assert (row[num:] == -100).all()


def test_wide_codes_keep_a_type_that_holds_them():
    for dtype, expected in [("int16", torch.int16), ("int32", torch.int32)]:
        codes, _ = pad_codes([{"codes": np.full((3, 2), 30_000, dtype)}])
        assert codes.dtype == expected
        assert (codes == 30_000).all()


class Lines(IterDataPipe):
    """The source of a WeNet dataset."""

    def __iter__(self):
        yield from samples()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_worker_processes_map_it_as_wenets_dataset_does(codes_path, arrays, context):
    dataset = Lines().map(AddCodes(codes_path, 2)).batch(3, wrapper_class=in_a_batch)
    loader = DataLoader(dataset, None, num_workers=1, multiprocessing_context=context)
    (batch,) = list(loader)
    assert np.array_equal(batch["codes"][0].numpy(), arrays["long"])


def in_a_batch(batch_samples):
    return add_padded_codes(padding(batch_samples), batch_samples)


def test_a_key_without_codes_is_an_error_or_ignored(codes_path):
    with pytest.raises(DataError, match=r"codes\.h5\[absent\]: no codes; .*missing_codes=\"ignore"):
        list(add_codes(samples(["absent"]), codes_path, 2))
    found = list(add_codes(samples(["absent", "short"]), codes_path, 2, missing_codes="ignore"))
    codes, lengths = pad_codes(found)
    assert lengths.tolist() == [0, 4]
    assert (codes[0] == -100).all()
    alone, _ = pad_codes(found[:1])
    assert alone.shape == (1, 0, 2)


def test_another_number_of_codebooks_is_refused_with_both(codes_path):
    with pytest.raises(DataError, match=r"codes\.h5\[short\]: \(4, 2\), expected \(num_frames, 8"):
        list(add_codes(samples(), codes_path, 8))


def test_the_number_of_codebooks_is_that_of_the_file_where_it_is_not_given(tmp_path, arrays):
    path = tmp_path / "codes.h5"
    with h5py.File(path, "w") as file:
        file["short"] = arrays["short"]
    with pytest.raises(DataError, match=r"codes\.h5: no num_codebooks in it; give num_codebooks"):
        AddCodes(path)
    with h5py.File(path, "a") as file:
        file.attrs["num_codebooks"] = 2
    assert AddCodes(path)({"key": "short"})["codes"].shape == (4, 2)


def test_several_files_of_one_quantizer_are_read_as_one(codes_path, arrays, tmp_path):
    other = make_h5(tmp_path / "other.h5", {"more": np.full((3, 2), 7, np.uint8)})
    add = pickle.loads(pickle.dumps(AddCodes([codes_path, str(other)], 2)))
    assert np.array_equal(add({"key": "long"})["codes"], arrays["long"])
    assert add({"key": "more"})["codes"].tolist() == [[7, 7]] * 3
    with pytest.raises(DataError, match=r"codes\.h5, .*other\.h5\[absent\]: no codes"):
        add({"key": "absent"})


def test_files_of_two_quantizers_are_refused_with_both(tmp_path):
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for path in paths:
        with h5py.File(path, "w") as file:
            file[path.stem] = np.zeros((3, 2), np.uint8)
            file.attrs.update(num_codebooks=2, quantizer_id=path.stem)
    with pytest.raises(ConfigError, match=r"quantizer_id is a in .*a\.h5, b in .*b\.h5; give"):
        AddCodes(paths)
    with pytest.raises(ConfigError, match="no file of codes"):
        AddCodes([])


def test_another_missing_codes_is_refused(codes_path):
    with pytest.raises(ConfigError, match="missing_codes 'skip': expected error or ignore"):
        AddCodes(codes_path, 2, "skip")


def test_the_generator_opens_nothing_before_it_runs(tmp_path):
    generator = add_codes(samples(), tmp_path / "absent.h5", 2)
    with pytest.raises(DataError, match=r"absent\.h5: cannot be opened"):
        next(generator)

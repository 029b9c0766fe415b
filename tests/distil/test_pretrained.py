"""Students continued from folders: of ours, of transformers after pretraining, damaged ones."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from k2distil.distil.pretrained import has_tokenizer, load_student
from k2distil.distil.student import KNOWN_TO_WORK, make_student, transformers_is_old
from k2distil.distil.vocabulary import characters_of, make_tokenizer
from k2distil.errors import CheckpointError
from tests.distil.test_student import KINDS, TOKENIZER

pytestmark = pytest.mark.skipif(transformers_is_old(), reason="a newer transformers is needed")
HEADS = {"wav2vec2": "lm_head", "parakeet_ctc": "ctc_head"}


@pytest.fixture(params=HEADS)
def saved(request, tmp_path):
    """The folder of a student, and how its head's weights begin."""
    make_student(KINDS[request.param], TOKENIZER, seed=0).save(tmp_path / "s", {})
    return tmp_path / "s", HEADS[request.param]


def change_weights(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_config(folder, **more):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    encoder = config.get("encoder_config", {})
    for key, value in more.items():
        (encoder if key in encoder else config)[key] = value
    path.write_text(json.dumps(config))


def without_head(folder, head):
    change_weights(folder, lambda state: {n: w for n, w in state.items() if not n.startswith(head)})


def test_weights_that_are_missing_are_named_and_never_random(saved):
    folder, _ = saved
    change_config(folder, num_hidden_layers=4)
    with pytest.raises(CheckpointError, match=r"no weights for .*layers\.2.* more: they are"):
        load_student(folder)
    with pytest.raises(CheckpointError, match="no weights for"):
        load_student(folder, TOKENIZER, seed=0)


def test_weights_of_another_size_are_named_with_both(saved):
    folder, _ = saved
    change_config(folder, intermediate_size=40)
    with pytest.raises(CheckpointError, match=r"is \(48.* in its weights, \(40.* by its config"):
        load_student(folder)


def test_damaged_weights_are_named(saved):
    folder, _ = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="a damaged file has to be copied again"):
        load_student(folder)


def test_without_a_head_it_can_be_trained_but_not_tested(saved):
    folder, head = saved
    whole = load_student(folder).model.state_dict()
    without_head(folder, head)
    with pytest.raises(CheckpointError, match=rf"no weights of its CTC head \({head}.*train it"):
        load_student(folder)
    one, same, other = (load_student(folder, seed=seed).model.state_dict() for seed in (1, 1, 2))
    for name, weight in whole.items():
        assert torch.equal(one[name], same[name])
        assert torch.equal(one[name], weight) == (not name.startswith(head)) or "bias" in name
    assert not torch.equal(one[f"{head}.weight"], other[f"{head}.weight"])


@pytest.mark.parametrize("text", ["one two three", "ONE TWO"])  # the second: as many characters
def test_other_tokens_get_a_head_of_their_own(text, saved):
    folder, head = saved
    old = load_student(folder).model.state_dict()
    tokenizer = make_tokenizer(characters_of([text]))
    student = load_student(folder, tokenizer, seed=1)
    new = student.model.state_dict()
    assert student.model.config.vocab_size == len(tokenizer) == len(new[f"{head}.weight"])
    if text.isupper():
        assert len(tokenizer) == len(TOKENIZER)
        assert not torch.equal(new[f"{head}.weight"], old[f"{head}.weight"])
    now, before = tokenizer.get_vocab(), TOKENIZER.get_vocab()
    assert tokenizer.pad_token in before
    for name in (f"{head}.weight", f"{head}.bias"):
        for token, row in now.items():
            is_known = token in before and torch.equal(new[name][row], old[name][before[token]])
            assert is_known == (token in before), token
    assert all(torch.equal(new[name], old[name]) for name in old if not name.startswith(head))
    student.save(folder.with_name("t"), {})
    again = load_student(folder.with_name("t"))
    assert again.encode_text(text) == student.encode_text(text)
    assert torch.equal(again.model.state_dict()[f"{head}.weight"], new[f"{head}.weight"])


def test_a_folder_after_pretraining_has_no_tokenizer(saved):
    folder, head = saved
    old = load_student(folder).model.state_dict()[f"{head}.weight"]
    assert has_tokenizer(folder)
    for path in [*folder.glob("*token*"), *folder.glob("*vocab*")]:
        path.unlink()
    assert not has_tokenizer(folder)
    tokenizer = make_tokenizer(["<pad>", "<unk>", "a", "b", "c"])
    assert load_student(folder, tokenizer, seed=0).tokenizer is tokenizer
    # The head it has is of tokens that nobody knows any more.
    again = load_student(folder, TOKENIZER, seed=1).model.state_dict()[f"{head}.weight"]
    assert again.shape == old.shape
    assert not torch.equal(again, old)
    without_head(folder, head)
    assert load_student(folder, tokenizer, seed=0).tokenizer is tokenizer


def test_a_path_that_is_no_student_says_what_may_be_meant(saved):
    folder, _ = saved
    with pytest.raises(CheckpointError, match=r"absent: no such folder; check the path$"):
        load_student(folder / "absent")
    with pytest.raises(CheckpointError, match=r"check the path, or .* hf download a/b-c --local"):
        load_student(Path("a/b-c"))
    best = folder.with_name("student") / "best"
    best.parent.mkdir()
    folder.rename(best)
    (best.parent / "checkpoint-5").mkdir()
    for given in (best.parent, best.parent / "checkpoint-5"):
        with pytest.raises(CheckpointError, match=rf"no config\.json in it; give {best}$"):
            has_tokenizer(given)


@pytest.mark.parametrize("kind", KNOWN_TO_WORK[1:])  # parakeet_ctc has no model without a head
def test_every_kind_can_be_trained_after_pretraining(kind, tmp_path):
    """As its base model is saved: no head, and of some kinds no vocab_size either."""
    from transformers import AutoConfig, AutoModel

    small = KINDS["wav2vec2-bert" if kind == "wav2vec2-bert" else "wav2vec2"]
    options = {key: value for key, value in small.items() if key != "model_type"}
    base = AutoModel.from_config(AutoConfig.for_model(kind, **options))
    base.save_pretrained(tmp_path)
    make_student(small, TOKENIZER, 0).feature_extractor.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer in it; train it"):
        load_student(tmp_path)
    student, same = (load_student(tmp_path, TOKENIZER, seed=3).model.state_dict() for _ in "ab")
    assert student.keys() == same.keys()
    assert all(torch.equal(student[name], same[name]) for name in student)
    prefix = next(name for name in student if name.endswith("layers.0.final_layer_norm.weight"))
    prefix = prefix.removesuffix("encoder.layers.0.final_layer_norm.weight")
    for name, weight in base.state_dict().items():
        assert torch.equal(student[prefix + name], weight)


def test_the_tokens_it_has_leave_its_head_as_it_is(saved):
    folder, head = saved
    old = load_student(folder).model.state_dict()
    same = load_student(folder, make_tokenizer(characters_of(["one two"])), seed=1).model
    assert torch.equal(same.state_dict()[f"{head}.weight"], old[f"{head}.weight"])

"""Tokens: of the text, of WeNet's units, of a transformers folder."""

import pytest

from k2distil.distil.vocabulary import (
    characters_of,
    make_tokenizer,
    parts_chinese,
    read_tokenizer,
)
from k2distil.errors import DataError


def test_characters_write_their_text_and_read_it_back():
    tokens = characters_of(["two  five", "你好 五"])
    assert tokens == ["<pad>", "<unk>", "|", *"efiotvw", "五", "你", "好"]
    tokenizer = make_tokenizer(tokens)
    assert tokenizer.pad_token_id == 0
    ids = tokenizer("five 你好").input_ids
    assert [tokens[index] for index in ids] == ["f", "i", "v", "e", "|", "你", "好"]
    ctc = [index for each in ids for index in (each, each, 0)]  # repeated, blanks between
    assert tokenizer.decode(ctc) == "five 你好"
    assert tokenizer("x").input_ids == [1]


def test_a_text_without_spaces_has_no_boundary_token():
    assert characters_of(["三一", "八"]) == ["<pad>", "<unk>", "一", "三", "八"]


def test_wenets_units_keep_their_ids(tmp_path):
    path = tmp_path / "units.txt"
    path.write_text("<blank> 0\n<unk> 1\n▁ 2\n三 3\n一 4\n<sos/eos> 5\n", encoding="utf-8")
    tokenizer = read_tokenizer(path)
    assert len(tokenizer) == 6
    assert tokenizer("三 一").input_ids == [3, 2, 4]
    assert tokenizer.pad_token_id == 0


def test_a_byte_order_mark_and_line_breaks_of_unicode_do_no_harm(tmp_path):
    path = tmp_path / "units.txt"
    path.write_text("<blank> 0\r\n<unk> 1\r\n\u2028 2\r\n三 3\r\n", encoding="utf-8-sig")
    assert read_tokenizer(path)("三").input_ids == [3]


def test_a_folder_of_transformers_is_read_as_it_is(tmp_path):
    make_tokenizer(["<pad>", "<unk>", "a", "b"]).save_pretrained(tmp_path)
    assert read_tokenizer(tmp_path)("ab").input_ids == [2, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<blank> 0\n三 2\n", "the ids 0 to 1"),
        ("三 0\n", "no <blank>"),
        ("<blank> 0\n三 1\n", 'no <unk>; add it as a last line: "<unk> 2"'),
        ("<blank> 0\n▁two 1\n", "units of several characters (▁two"),
        ("<blank> zero\n", "line 1"),
        ("<blank> 0\n三 1\n三 2\n", "line 3: '三' stands for '三', as line 2 does"),
        ("<blank> 0\n<space> 1\n▁ 2\n", "line 3: '▁' stands for '|', as line 2 does"),
    ],
)
def test_units_that_cannot_be_used_are_named(text, words, tmp_path):
    path = tmp_path / "units.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_tokenizer(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_units_in_another_encoding_are_told_with_the_remedy(tmp_path):
    path = tmp_path / "units.txt"
    path.write_text("<blank> 0\n三 1\n", encoding="gbk")
    with pytest.raises(DataError, match=r"units.txt: not UTF-8 text; convert it with iconv"):
        read_tokenizer(path)


def test_a_tokenizer_that_is_none_of_ctcs_is_named(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model = models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "b": 3}, unk_token="<unk>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="does not decode CTC's repeats"):
        read_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(DataError, match="no tokenizer of transformers"):
        read_tokenizer(tmp_path)


def test_a_wide_space_is_a_space_and_no_chinese_character():
    parted = ["我 爱", "我\u3000爱", "我 \u3000 爱", "你好， 我"]
    whole = ["我爱 \u3000new york", "new\u3000\u3000\u3000york", "我爱你 \u3000", "나는 간다"]
    assert [text for text in [*parted, *whole] if parts_chinese(text)] == parted

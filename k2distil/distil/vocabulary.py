"""The student's tokens: characters of the training text, or a vocabulary of the user's."""

from __future__ import annotations

import json
import logging
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from k2distil.errors import NOT_UTF8, DataError
from k2distil.torchaudio_guard import hide_broken_torchaudio

logger = logging.getLogger(__name__)

BLANK, UNKNOWN, WORD_BOUNDARY = "<pad>", "<unk>", "|"  # as in transformers' CTC models
WENET_NAMES = {"<blank>": BLANK, "<unk>": UNKNOWN, "<space>": WORD_BOUNDARY, "▁": WORD_BOUNDARY}
SPOKEN_MARKS = {"'", "’", "-", WORD_BOUNDARY}  # don't, tip-top
WENET_UNUSED = ("<sos/eos>", "<sos>", "<eos>")

# Han, kana, their punctuation and full-width forms. Not Hangul: Korean has spaces between words.
_CHINESE = "[\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff60\U00020000-\U0003ffff]"
_SPACE_BESIDE = re.compile(f"(?<={_CHINESE}) | (?={_CHINESE})")
_SPACE_BETWEEN = re.compile(rf"{_CHINESE}\s+{_CHINESE}")


def normalize(text: str) -> str:
    """Words with one space between them.

    >>> normalize(" two  five ")
    'two five'
    """
    return " ".join(text.split())


def without_chinese_spaces(text: str) -> str:
    """Without the spaces beside Chinese and Japanese characters, which nobody says.

    >>> without_chinese_spaces("我 爱 new york 你")
    '我爱new york你'
    """
    return _SPACE_BESIDE.sub("", text)


def parts_chinese(text: str) -> bool:
    """Whether a space stands between two Chinese or Japanese characters, as in text of tokens.

    >>> parts_chinese("我 爱 你"), parts_chinese("我爱 new york")
    (True, False)
    """
    return _SPACE_BETWEEN.search(text) is not None


def make_tokenizer(tokens: Sequence[str]) -> Any:
    """transformers' tokenizer for CTC; a token's place is its id, and <pad> is CTC's blank."""
    hide_broken_torchaudio()
    from transformers import Wav2Vec2CTCTokenizer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), "utf-8")
        return Wav2Vec2CTCTokenizer(
            str(path),
            pad_token=BLANK,
            unk_token=UNKNOWN,
            bos_token=None,
            eos_token=None,
            word_delimiter_token=WORD_BOUNDARY,
        )


def characters_of(texts: Iterable[str]) -> list[str]:
    """The tokens that write these texts: blank, unknown, and each character in code point order."""
    found = {character for text in texts for character in normalize(text)}
    boundary = [WORD_BOUNDARY] if " " in found else []
    return [BLANK, UNKNOWN, *boundary, *sorted(found - {" ", WORD_BOUNDARY})]


def odd_tokens(tokens: Iterable[str]) -> list[str]:
    """What texts should be rid of before they make a vocabulary, in words; as a rule nothing.

    >>> odd_tokens(["a", "B", "b", "Ａ", "，", "'"])
    ['both cases (B b)', 'full-width forms (Ａ)', 'punctuation (，)']
    """
    there = {each for each in tokens if len(each) == 1 and each not in SPOKEN_MARKS}
    found = sorted(there)
    cases = [f"{each} {each.lower()}" for each in found if each != each.lower() in there]
    wide = [each for each in found if "\uff01" <= each <= "\uff5e" and each.isalnum()]
    marks = [each for each in found if unicodedata.category(each)[0] in "PS"]
    kinds = {"both cases": cases, "full-width forms": wide, "punctuation": marks}
    return [f"{kind} ({', '.join(each)})" for kind, each in kinds.items() if each]


def read_tokenizer(path: Path) -> Any:
    """The tokenizer of a folder of transformers, or of WeNet's units.txt ("token id" lines).

    Of WeNet's units only single characters can be used without its own tokenizer; `<blank>`
    becomes CTC's blank, `▁` or `<space>` the word boundary.

    Raises:
        DataError: it is neither, ids are missing, there is no blank, units have many letters, or
            two are the same token.
    """
    if path.is_dir():
        hide_broken_torchaudio()
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: no tokenizer of transformers ({str(error).splitlines()[0]}); give the "
                "folder that tokenizer.save_pretrained made"
            ) from error
        if tokenizer.pad_token_id is None:
            raise DataError(f"{path}: no pad_token, which is CTC's blank; set it and save it again")
        _check_ctc(tokenizer, path)
        return tokenizer
    return make_tokenizer(_read_units(path))


def _check_ctc(tokenizer: Any, path: Path) -> None:
    """Refuse a tokenizer that does not join repeats and leave out blanks as CTC's do.

    Raises:
        DataError: naming the classes that do.
    """
    blank = tokenizer.pad_token_id
    token = next(index for index in range(len(tokenizer)) if index not in tokenizer.all_special_ids)
    if tokenizer.decode([blank, token, token, blank]) != tokenizer.decode([token]):
        raise DataError(
            f"{path}: {type(tokenizer).__name__} does not decode CTC's repeats and blanks; give a "
            "Wav2Vec2CTCTokenizer or ParakeetTokenizer"
        )


def _read_units(path: Path) -> list[str]:
    by_id: dict[int, str] = {}
    lines_of: dict[str, int] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte order mark is no part of a token
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {NOT_UTF8}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); check --vocabulary") from error
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        token, _, index = line.rstrip().rpartition(" ")
        if not token or not index.isdigit():
            raise DataError(f'{path}: line {number}: expected "token id", got {line!r}')
        named = WENET_NAMES.get(token, token)
        if named in lines_of:
            raise DataError(
                f"{path}: line {number}: {token!r} stands for {named!r}, as line {lines_of[named]} "
                "does; keep one of them"
            )
        lines_of[named], by_id[int(index)] = number, named
    if sorted(by_id) != list(range(len(by_id))):
        raise DataError(f"{path}: expected the ids 0 to {len(by_id) - 1}, each once")
    tokens = [by_id[index] for index in range(len(by_id))]
    if BLANK not in tokens:
        raise DataError(f"{path}: no <blank>; CTC needs one")
    special = {BLANK, UNKNOWN, WORD_BOUNDARY, *WENET_UNUSED}
    if long := [token for token in tokens if len(token) > 1 and token not in special]:
        raise DataError(
            f"{path}: units of several characters ({', '.join(long[:3])}, ...) need their own "
            "tokenizer; give a folder of transformers, or leave --vocabulary out for characters"
        )
    if UNKNOWN not in tokens:
        raise DataError(f'{path}: no <unk>; add it as a last line: "<unk> {len(tokens)}"')
    if WORD_BOUNDARY not in tokens:
        logger.info(
            "%s: has no ▁ or <space>: the space between words is token %d", path, len(tokens)
        )
    return tokens

"""Rates against hand counts, code scores against plain sums."""

import math
import unicodedata

import pytest
import torch

from k2distil.distil.scoring import CodeScores, Transcript, error_rates, has_words, worst

TRANSCRIPTS = [
    Transcript("a", "one two three", "one too three"),
    Transcript("b", "four", "four"),
    Transcript("c", "five six", "six"),
]


def test_rates_are_errors_per_word_and_character():
    rates = error_rates(TRANSCRIPTS)
    assert rates["wer"] == pytest.approx(2 / 6)
    assert rates["cer"] == pytest.approx((1 + 5) / (13 + 4 + 8))


def test_spaces_between_chinese_characters_are_no_characters():
    texts = [
        ("我 爱 北 京", "我 爱 南 京"),
        ("我爱北京", "我 爱 北 京"),
        ("用 new york", "用new york"),
    ]
    rates = error_rates([Transcript(each[0], *each) for each in texts])
    assert rates["cer"] == pytest.approx(1 / (4 + 4 + 9))
    shown = worst([Transcript("a", "我 爱 你", "我爱你")], 1)
    assert "REF: 我爱你\nHYP: 我爱你" in shown
    korean = error_rates([Transcript("k", "나는 간다", "나는간다")])
    assert korean["cer"] == pytest.approx(1 / 5)


def test_the_worst_come_first_with_their_keys():
    shown = worst(TRANSCRIPTS, 2).split("\n\n")
    assert "c" in shown[0] or "a" in shown[0]
    assert len(worst(TRANSCRIPTS, 0)) == 0
    assert "REF: one two three" in worst(TRANSCRIPTS, 2)


def test_marks_are_below_wide_characters():
    shown = worst([Transcript("键", "我去new家", "去new他")], 1).splitlines()
    assert shown == ["键", "REF: 我去new家", "HYP: * 去new他", "     D      S"]


def test_words_are_where_most_texts_have_spaces_and_letters():
    assert has_words(["one two", "three four", "five"])
    assert not has_words(["yes", "no", "not now"])
    assert not has_words(["今天天气很好", "我 爱 北京", "你好"])
    assert not has_words(["我 爱 你", "今 天 好"])
    assert has_words(["привет мир", "как дела"])
    assert not has_words(["我用 iPhone 打电话", "play 周杰伦 的 歌"])
    assert has_words(["we met in 北京 on monday", "yes we did"])


def test_accents_count_the_same_composed_and_apart():
    texts = ("café déjà vu", "tiếng việt", "한국어 음성")
    for text in texts:
        apart = unicodedata.normalize("NFD", text)
        assert apart != text
        transcripts = [Transcript("b", "one two", "one"), Transcript("a", text, apart)]
        assert error_rates(transcripts[1:]) == {"wer": 0.0, "cer": 0.0}
        assert worst(transcripts, 1).startswith("b")
        assert worst(transcripts[::-1], 1).startswith("b")


def test_code_scores_equal_plain_sums():
    torch.manual_seed(0)
    ratio, number, size = 2, 3, 5
    logits = torch.randn(40, ratio * number, size)
    codes = torch.randint(0, size, (40, ratio * number))
    codes[7:9] = -100
    codes[20, 3:] = -100  # the second teacher frame is missing
    scores = CodeScores(ratio * number, size, number)
    scores.add(logits[:15], codes[:15])
    other = CodeScores(ratio * number, size, number)
    other.add(logits[15:], codes[15:])
    scores.add_scores(other)
    figures = scores.figures()
    nats = [[] for _ in range(number)]
    counts = torch.zeros(number, size)
    for row in range(40):
        for place in range(ratio * number):
            if (code := int(codes[row, place])) >= 0:
                probability = logits[row, place].softmax(-1)[code]
                nats[place % number].append(-math.log(probability))
                counts[place % number, code] += 1
    together = [each for book in nats for each in book]
    assert figures["codebook_cross_entropy"] == pytest.approx(sum(together) / len(together))
    for book in range(number):
        mean = sum(nats[book]) / len(nats[book])
        assert figures[f"codebook_{book}_cross_entropy"] == pytest.approx(mean)
    entropies = [
        torch.distributions.Categorical(each).entropy() + ((each > 0).sum() - 1) / (2 * each.sum())
        for each in counts
    ]
    assert figures["codebook_entropy"] == pytest.approx(float(sum(entropies) / number), rel=1e-5)


def test_the_entropy_of_few_codes_is_near_that_of_all():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (500, 1), generator=generator)
    scores = CodeScores(1, 256, 1)
    scores.add(torch.zeros(500, 1, 256), codes)
    figures = scores.figures()
    assert figures["codebook_cross_entropy"] == pytest.approx(math.log(256))
    assert figures["codebook_entropy"] == pytest.approx(math.log(256), rel=0.02)


def test_without_codes_there_are_no_figures():
    assert CodeScores(2, 5, 2).figures() == {}

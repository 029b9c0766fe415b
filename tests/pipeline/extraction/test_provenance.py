"""What tells lists and embeddings apart, and what does not."""

from dataclasses import replace

import pytest

from k2distil.batch import Utterance
from k2distil.errors import ConfigError
from k2distil.pipeline.extraction.provenance import check_same_embedding, teacher_provenance
from k2distil.pipeline.run.digests import ENTRIES_MODULUS, digest_of, digest_of_entries
from tests.pipeline.extraction.test_embed import StubTeacher

FIRST, SECOND = Utterance("a", "a.wav"), Utterance("b", "b.wav")


@pytest.mark.parametrize(
    "change",
    [{"key": "c"}, {"wav": "c.wav"}, {"start": 0.5}, {"end": 2.0}, {"channel": 1}],
    ids=str,
)
def test_other_audio_is_another_list(change):
    other = replace(FIRST, **change)
    assert digest_of([other, SECOND]) != digest_of([FIRST, SECOND])
    assert digest_of_entries([other, SECOND]) != digest_of_entries([FIRST, SECOND])


def test_the_order_counts_in_a_list_and_not_among_its_entries():
    assert digest_of([SECOND, FIRST]) != digest_of([FIRST, SECOND])
    both = digest_of_entries([FIRST]) + digest_of_entries([SECOND])
    assert digest_of_entries([SECOND, FIRST]) == both % ENTRIES_MODULUS


def test_text_counts_where_it_is_learnt():
    other = replace(FIRST, text="one")
    assert digest_of([other]) == digest_of([FIRST])
    assert digest_of([other], with_text=True) != digest_of([FIRST], with_text=True)


def test_the_last_layer_has_its_final_norm_whatever_is_asked_for():
    norms = [teacher_provenance(StubTeacher(), norm, "float32") for norm in ("none", "final")]
    assert norms[0] == norms[1]
    assert norms[0]["middle_layer_norm"] == "final"


def test_a_quantizer_of_another_teacher_is_refused_with_the_name_of_that_one():
    asked = teacher_provenance(StubTeacher(), "none", "float32") | {"teacher_digest": "31" * 32}
    trained_on = asked | {"teacher": "exp/final.pt", "teacher_digest": "cb" * 32}
    for force in (False, True):
        with pytest.raises(ConfigError) as caught:
            check_same_embedding("q.pt", trained_on, asked, force)
        assert str(caught.value) == (
            "q.pt: trained for exp/final.pt (digest cbcbcbcbcbcb...), this teacher has "
            "313131313131...; give that one as --checkpoint, or train a quantizer for this "
            "teacher; --force does not help"
        )
    del trained_on["teacher"]
    with pytest.raises(
        ConfigError, match=r"trained for a teacher \(digest cbcbcbcbcbcb\.\.\.\), this"
    ):
        check_same_embedding("q.pt", trained_on, asked, force=False)

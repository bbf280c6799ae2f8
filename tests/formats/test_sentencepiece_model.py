"""Our reader of SentencePiece files agrees with SentencePiece's own."""

import pytest
import sentencepiece

from codegemma_keras.formats import sentencepiece_model
from tests.small_vocabulary import small_vocabulary


def test_pieces_are_sentencepieces_own():
    model = sentencepiece.SentencePieceProcessor(model_proto=small_vocabulary())
    pieces = list(sentencepiece_model.pieces(small_vocabulary()))
    ids = list(range(model.vocab_size()))
    assert [name for name, _, _ in pieces] == model.id_to_piece(ids)
    assert [score for _, score, _ in pieces] == model.get_score(ids)
    kinds = [kind for _, _, kind in pieces]
    assert [kind == sentencepiece_model.CONTROL for kind in kinds] == model.is_control(
        ids
    )
    assert [kind == sentencepiece_model.UNKNOWN for kind in kinds] == model.is_unknown(
        ids
    )
    assert [kind == sentencepiece_model.BYTE for kind in kinds] == model.is_byte(ids)


def test_rewriting_nothing_changes_nothing():
    whole = small_vocabulary()
    assert sentencepiece_model.rewrite(whole) == whole
    pieces = dict(enumerate(sentencepiece_model.pieces(whole)))
    names = {i: name for i, (name, _, _) in pieces.items()}
    types = {i: kind for i, (_, _, kind) in pieces.items()}
    for again in (
        sentencepiece_model.rewrite(whole, names, types),
        sentencepiece_model.replace(whole, pieces.values()),
    ):
        assert list(sentencepiece_model.pieces(again)) == list(pieces.values())
        model = sentencepiece.SentencePieceProcessor(model_proto=again)
        assert model.encode("def f(") == sentencepiece.SentencePieceProcessor(
            model_proto=whole
        ).encode("def f(")


def test_rewrite_changes_names_and_types():
    new = sentencepiece_model.rewrite(
        small_vocabulary(), {4: "x" * 300, 699: "\u00e9"}, {4: 3}
    )
    pieces = list(sentencepiece_model.pieces(new))
    assert pieces[4] == ("x" * 300, 0.0, sentencepiece_model.CONTROL)
    assert pieces[699][0] == "\u00e9"
    model = sentencepiece.SentencePieceProcessor(model_proto=new)
    assert model.is_control(4)
    assert model.id_to_piece(699) == "\u00e9"


@pytest.mark.parametrize(
    "broken", [b"\x0a", b"\x0a\x05ab", b"\x0a\x02\x08\x01", b"\xff" * 9]
)
def test_other_bytes_are_refused(broken):
    with pytest.raises(ValueError, match="no valid SentencePiece model"):
        list(sentencepiece_model.pieces(broken))

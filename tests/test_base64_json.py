"""Extracting base64 strings from JSON gives what `json.loads` gives, for any text and any chunks.

These tests call the extractor directly; test_image_transport.py tests it over HTTP.
"""

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.lib.base64_json import Base64Decoder, Base64Encoded, Base64Extractor, BufferContent, SegmentedContent, decode
from app.lib.base64_json.content import PIECE_BYTES
from tests import oracle

IMAGE = bytes(range(256)) * 300
KEYS = st.sampled_from(["data", "thoughtSignature", "text", "inlineData", "d\\u0061ta", '\\"data', "uri", "données"])


@st.composite
def base64_texts(draw: st.DrawFn) -> str:
    content = draw(st.binary(max_size=200)) * draw(st.sampled_from([1, 1, 1, 400]))
    text = base64.b64encode(content, draw(st.sampled_from([b"+/", b"-_"]))).decode()
    if draw(st.booleans()):
        text = text.rstrip("=")
    broken = draw(st.sampled_from(["", "", "", "!", "=", "é", "\n", " ", '"', "\\", "\x00"]))
    place = draw(st.integers(0, len(text)))
    return text[:place] + broken + text[place:]


def _escaped(text: str, draw: st.DrawFn) -> str:
    written = json.dumps(text, ensure_ascii=draw(st.booleans()))
    for character, escape in {"/": "\\/", "=": "\\u003d", "A": "\\u0041"}.items():
        if draw(st.booleans()):
            written = written.replace(character, escape)
    return written


@st.composite
def documents(draw: st.DrawFn) -> str:
    """JSON as any server may write it: keys in any order, space anywhere, unnecessary escapes."""
    space = st.sampled_from(["", "", " ", "\n  ", "\t", "\r\n"])

    def value(depth: int) -> str:
        kind = draw(st.sampled_from(["base64", "text", "number", "list", "object", "object"] if depth else ["text"]))
        if kind == "base64":
            return _escaped(draw(base64_texts()), draw)
        if kind == "text":
            return _escaped(draw(st.text(max_size=30) | st.sampled_from(['"data": "QUJD"', "data", "\\", ":"])), draw)
        if kind == "number":
            return draw(st.sampled_from(["0", "-1.5e3", "true", "null"]))
        members = [value(depth - 1) for _ in range(draw(st.integers(0, 4)))]
        if kind == "list":
            return "[" + ",".join(draw(space) + member + draw(space) for member in members) + "]"
        keys = [f'"{draw(KEYS)}"' for _ in members]
        pairs = [
            draw(space) + key + draw(space) + ":" + draw(space) + member + draw(space)
            for key, member in zip(keys, members, strict=True)
        ]
        return "{" + ",".join(pairs) + "}"

    return draw(space) + value(4)


@st.composite
def split(draw: st.DrawFn, texts: st.SearchStrategy[bytes]) -> list[bytes]:
    """The text cut into chunks at random."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    if draw(st.booleans()):
        cuts = list(range(0, len(text), draw(st.integers(1, 7))))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A document with random damage."""
    text = bytearray(draw(documents()).encode(errors="surrogatepass"))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        match draw(st.sampled_from(["cut", "insert", "replace", "remove"])):
            case "cut":
                del text[place:]
            case "insert":
                text[place:place] = draw(
                    st.sampled_from([b'"', b"\\", b":", b"\n", b"\\u00", b"\xff", b'"data":"', b"{"])
                )
            case "replace":
                text[place : place + 1] = draw(st.binary(max_size=1))
            case "remove":
                del text[place : place + draw(st.integers(1, 5))]
    return bytes(text)


@given(split(documents().map(lambda text: text.encode(errors="surrogatepass"))))
@example([b'{"data":"QUJ', b'D","thoughtSignature":"QU', b'I="}'])
@example([b'{"data":"QU\\u00', b'4aD\\u003d","da', b'ta":"\\', b'/\\/8="}'])
def test_a_document_means_the_same_for_any_chunks(chunks: list[bytes]) -> None:
    """
    The remaining text is the same JSON with placeholders. The placeholders stand for the same bytes.
    """
    oracle.check(chunks)


@given(split(mutated()))
@example([b'{"data":"QUJD'])
@example([b'{"data":"QU\\x4aD"}'])
@example([b'{"data" "QUJD"}'])
@example([b'{"data":"QUJD\\'])
def test_invalid_json_never_becomes_an_image(chunks: list[bytes]) -> None:
    """
    A damaged text is JSON after extraction only if it was JSON before, with the same content.
    """
    oracle.check(chunks)


@given(split(documents().map(str.encode).filter(lambda text: b"thoughtSignature" in text)))
def test_strings_without_a_sink_are_dropped_while_they_arrive(chunks: list[bytes]) -> None:
    """
    The remaining text has an empty string for each. No memory is used for them.
    """
    extractor = Base64Extractor[Base64Decoder]({"thoughtSignature": None})

    rest = b"".join(map(extractor.feed, chunks)) + extractor.close()

    left: list[Any] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        left.extend(value for key, value in found if key == "thoughtSignature" and isinstance(value, str))
        return {key: "" if key == "thoughtSignature" and isinstance(value, str) else value for key, value in found}

    found = json.loads(rest, object_pairs_hook=pairs)
    assert set(left) <= {""}
    assert found == json.loads(b"".join(chunks), object_pairs_hook=pairs)
    assert extractor.extracted == {}


@given(st.binary(max_size=400), st.integers(1, 50), st.sampled_from([b"+/", b"-_"]), st.booleans(), st.booleans())
def test_base64_in_pieces_decodes_to_the_same_bytes(
    content: bytes, size: int, alphabet: bytes, padded: bool, wrapped: bool
) -> None:
    text = base64.b64encode(content * 100, alphabet)
    text = text if padded else text.rstrip(b"=")
    text = b"\r\n".join(text[i : i + 76] for i in range(0, len(text), 76)) if wrapped else text
    pieces: list[bytes] = []
    decoder = Base64Decoder(pieces.append)

    for start in range(0, len(text), size):
        decoder.feed(text[start : start + size])
    decoder.close()

    assert decoder.is_valid
    assert b"".join(pieces) == content * 100
    assert all(len(piece) % 3 == 0 for piece in pieces[:-1])


def test_tiny_chunks_are_joined_before_they_are_stored() -> None:
    """
    An image that arrives byte by byte uses no more memory than one that arrives at once.
    """
    pieces: list[bytes] = []
    decoder = Base64Decoder(pieces.append)

    for character in base64.b64encode(IMAGE):
        decoder.feed(bytes([character]))
    decoder.close()

    assert b"".join(pieces) == IMAGE
    assert len(pieces) < 10


@pytest.mark.parametrize("text", ["A", "QUJD=", "QU=JD", "QQ==QQ==", "====", "QUJD!", "QÄ==", "QUJD\x00"])
def test_invalid_base64_is_not_decoded(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode(text)


@pytest.mark.parametrize("length", [0, 1, 2, 3, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 2])
async def test_content_is_encoded_in_pieces_and_its_length_is_known_before(length: int) -> None:
    data = (b"abcdefg" * (length // 7 + 1))[:length]

    for content in (
        BufferContent(data),
        BufferContent(bytearray(data)),
        SegmentedContent([data[:PIECE_BYTES], data[PIECE_BYTES:]]),
    ):
        encoded = Base64Encoded(content)
        text = b"".join([piece async for piece in encoded])

        assert text == base64.b64encode(data)
        assert len(encoded) == len(text)
        assert len(content) == length
        assert content.head(100) == data[:100]
        assert content.head(length + 1) == data

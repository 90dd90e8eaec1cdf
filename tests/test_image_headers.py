"""Header parsing against Pillow's own reading, and against rubbish."""

import io
from typing import Any

import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.lib.imagefile import UnreadableImage, find_end, read_header
from tests.conftest import picture

pillow_heif.register_heif_opener()

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"restart_marker_rows": 1}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"exif": Image.Exif().tobytes()}),
    ("HEIF", {}),
]
WHOLE = [picture(format_, (40, 30), **options) for format_, options in VARIANTS]


@settings(max_examples=60, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    size=st.tuples(st.integers(2, 300), st.integers(2, 300)),
    colour=st.sampled_from(["red", "white", "#123456"]),
)
def test_sizes_are_those_that_pillow_reads(
    variant: tuple[str, dict[str, Any]], size: tuple[int, int], colour: str
) -> None:
    format_, options = variant
    data = picture(format_, size, colour, **options)

    header = read_header(data)
    assert find_end(data) == len(data)

    if format_ == "HEIF":  # coded in even numbers from 64 up; a property crops what is shown
        size = (max(64, size[0] + size[0] % 2), max(64, size[1] + size[1] % 2))
    assert (header.width, header.height) == size
    assert header.mime_type == ("image/heic" if format_ == "HEIF" else f"image/{format_.lower()}")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_file_that_ends_early_is_never_whole(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(WHOLE))
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]

    with pytest.raises(UnreadableImage):
        find_end(cut)


@settings(max_examples=400, deadline=None)
@given(
    whole=st.sampled_from(WHOLE),
    tail=st.binary(min_size=1, max_size=80)
    | st.sampled_from([*WHOLE, b"\x00" * 300, b"PK\x03\x04rest", b"\x00\x00\x00\x0bmpvdabc", b"\xff\xd9", b"<script>"]),
)
def test_an_image_ends_where_it_ends_whatever_stands_behind_it(whole: bytes, tail: bytes) -> None:
    assert find_end(whole + tail) == len(whole)
    assert read_header(whole + tail) == read_header(whole)


@settings(max_examples=1500, deadline=None)
@given(data=st.data())
def test_rubbish_is_unreadable_or_read_but_never_breaks_anything(data: st.DataObject) -> None:
    """
    Bytes changed, taken out or put in at random: an answer or `UnreadableImage`, nothing else, and soon.
    """
    mutated = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, min(len(mutated), 400)))
        length = data.draw(st.integers(0, 8))
        mutated[place : place + length] = data.draw(st.binary(max_size=8))
    for read in (read_header, find_end):
        try:
            read(bytes(mutated))
        except UnreadableImage as error:
            assert str(error)  # noqa: PT017


@given(junk=st.binary(max_size=600), start=st.sampled_from([whole[:16] for whole in WHOLE]))
def test_a_true_beginning_with_junk_behind_it_never_breaks_anything(junk: bytes, start: bytes) -> None:
    for read in (read_header, find_end):
        try:
            read(start + junk)
        except UnreadableImage as error:
            assert str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "data",
    [
        WHOLE[0][:33] + b"\x00\x00\x00\x00tEXt\x00\x00\x00\x00" * 400_000,
        b"RIFF\xff\xff\x00\x00WEBPVP8X\x0a\x00\x00\x00" + b"\x00" * 10 + b"EXIF\x00\x00\x00\x00" * 400_000,
        WHOLE[-1][:40] + b"\x00\x00\x00\x08free" * 400_000,
        b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00\xff\xda\x00\x02" + b"\xff\x00" * 2_000_000,
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * 8_000_000,
        b"\xff\xd8" + b"\xff\xd0" * 16_000_000,
        b"\xff\xd8" + b"\xff" * 32_000_000,
    ],
    ids=["png", "webp", "heif", "jpeg scan", "jpeg segments", "jpeg markers", "jpeg fill"],
)
def test_a_file_of_nothing_but_parts_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableImage):
        find_end(data)


@pytest.mark.parametrize("brand", [b"avif", b"avis", b"mp42", b"isom"])
def test_a_container_of_another_codec_is_not_heif(brand: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"AVIF|film"):
        read_header(b"\x00\x00\x00\x18ftyp" + brand + b"\x00\x00\x00\x00mif1" + brand + b"\x00" * 64)


def test_metadata_of_a_megabyte_before_the_size_is_walked_through() -> None:
    """
    Segments hold 64 KiB each; some encoders write many of them.
    """
    plain = picture("JPEG", (40, 30))
    padded = plain[:2] + (b"\xff\xe2\xff\xff" + b"\x00" * 65_533) * 16 + plain[2:]

    assert read_header(padded).width == Image.open(io.BytesIO(plain)).width
    assert find_end(padded) == len(padded)

"""Image headers: compared with what Pillow reads, and tested with damaged files."""

import io
from typing import Any

import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.lib.imagefile import UnreadableImage, find_end, read_header
from tests.conftest import image_file

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
COMPLETE = [image_file(format_, (40, 30), **options) for format_, options in VARIANTS]


@given(
    variant=st.sampled_from(VARIANTS),
    size=st.tuples(st.integers(2, 300), st.integers(2, 300)),
    colour=st.sampled_from(["red", "white", "#123456"]),
)
def test_sizes_equal_those_that_pillow_reads(
    variant: tuple[str, dict[str, Any]], size: tuple[int, int], colour: str
) -> None:
    format_, options = variant
    data = image_file(format_, size, colour, **options)

    header = read_header(data)
    assert find_end(data) == len(data)

    if format_ == "HEIF":  # coded in even numbers from 64 up; the visible size is a property
        size = (max(64, size[0] + size[0] % 2), max(64, size[1] + size[1] % 2))
    assert (header.width, header.height) == size
    assert header.mime_type == ("image/heic" if format_ == "HEIF" else f"image/{format_.lower()}")


@given(data=st.data())
def test_a_file_that_ends_early_is_never_complete(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(COMPLETE))
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]

    with pytest.raises(UnreadableImage):
        find_end(cut)


@given(
    whole=st.sampled_from(COMPLETE),
    tail=st.binary(min_size=1, max_size=80)
    | st.sampled_from(
        [*COMPLETE, b"\x00" * 300, b"PK\x03\x04rest", b"\x00\x00\x00\x0bmpvdabc", b"\xff\xd9", b"<script>"]
    ),
)
def test_bytes_after_the_image_do_not_change_where_it_ends(whole: bytes, tail: bytes) -> None:
    assert find_end(whole + tail) == len(whole)
    assert read_header(whole + tail) == read_header(whole)


@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_without_another_exception(data: st.DataObject) -> None:
    """
    Bytes are changed, removed or inserted at random. The result is a header or `UnreadableImage`.
    """
    mutated = bytearray(data.draw(st.sampled_from(COMPLETE)))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, min(len(mutated), 400)))
        length = data.draw(st.integers(0, 8))
        mutated[place : place + length] = data.draw(st.binary(max_size=8))
    for read in (read_header, find_end):
        try:
            read(bytes(mutated))
        except UnreadableImage as error:
            assert str(error)  # noqa: PT017


@given(junk=st.binary(max_size=600), start=st.sampled_from([whole[:16] for whole in COMPLETE]))
def test_a_valid_start_with_random_bytes_after_it_raises_no_other_exception(junk: bytes, start: bytes) -> None:
    for read in (read_header, find_end):
        try:
            read(start + junk)
        except UnreadableImage as error:
            assert str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "data",
    [
        COMPLETE[0][:33] + b"\x00\x00\x00\x00tEXt\x00\x00\x00\x00" * 400_000,
        b"RIFF\xff\xff\x00\x00WEBPVP8X\x0a\x00\x00\x00" + b"\x00" * 10 + b"EXIF\x00\x00\x00\x00" * 400_000,
        COMPLETE[-1][:40] + b"\x00\x00\x00\x08free" * 400_000,
        b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00\xff\xda\x00\x02" + b"\xff\x00" * 2_000_000,
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * 8_000_000,
        b"\xff\xd8" + b"\xff\xd0" * 16_000_000,
        b"\xff\xd8" + b"\xff" * 32_000_000,
    ],
    ids=["png", "webp", "heif", "jpeg scan", "jpeg segments", "jpeg markers", "jpeg fill"],
)
def test_a_file_with_too_many_parts_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableImage):
        find_end(data)


@pytest.mark.parametrize("brand", [b"avif", b"avis", b"mp42", b"isom"])
def test_a_container_of_another_codec_is_not_heif(brand: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"AVIF|video"):
        read_header(b"\x00\x00\x00\x18ftyp" + brand + b"\x00\x00\x00\x00mif1" + brand + b"\x00" * 64)


def test_a_megabyte_of_metadata_before_the_size_is_skipped() -> None:
    """
    A segment holds at most 64 KiB; some encoders write many of them.
    """
    plain = image_file("JPEG", (40, 30))
    padded = plain[:2] + (b"\xff\xe2\xff\xff" + b"\x00" * 65_533) * 16 + plain[2:]

    assert read_header(padded).width == Image.open(io.BytesIO(plain)).width
    assert find_end(padded) == len(padded)

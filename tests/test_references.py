"""Reference images as files and inline: which are accepted, and what Gemini gets."""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import httpx2
import pillow_heif
import pytest
from PIL import Image

from app.emulator import Emulator
from tests.conftest import Serve, image_file, noise_jpeg

pillow_heif.register_heif_opener()

MAKERS: dict[str, Callable[[], bytes]] = {
    "image/png": lambda: image_file("PNG"),
    "image/jpeg": lambda: image_file("JPEG"),
    "image/webp": lambda: image_file("WEBP"),
    "image/heic": lambda: image_file("HEIF"),
}


def inline_parts(gemini: Emulator) -> list[dict[str, Any]]:
    return [part["inlineData"] for part in gemini.calls[-1].body["contents"][0]["parts"] if "inlineData" in part]


def sent_bytes(inline: dict[str, Any]) -> bytes:
    return base64.urlsafe_b64decode(inline["data"])


@pytest.mark.parametrize("mime_type", MAKERS)
async def test_the_type_of_a_file_is_read_from_its_bytes(
    client: httpx2.AsyncClient, gemini: Emulator, mime_type: str
) -> None:
    """
    Clients declare `upload` or `application/octet-stream`. Gemini gets the true type and the same bytes.
    """
    data = MAKERS[mime_type]()

    response = await client.post(
        "/generate-image/with-references",
        data={"prompt": "Make it blue"},
        files=[("images", ("notes.txt", data, "application/octet-stream"))],
    )

    assert response.status_code == 200, response.text
    (inline,) = inline_parts(gemini)
    assert inline["mimeType"] == mime_type
    assert sent_bytes(inline) == data


@pytest.mark.parametrize("field", ["images", "images[]"])
async def test_files_may_be_sent_under_either_field_name(
    client: httpx2.AsyncClient, gemini: Emulator, field: str
) -> None:
    files = [(field, (f"{colour}.png", image_file(colour=colour), "image/png")) for colour in ("red", "green", "blue")]

    response = await client.post("/generate-image/with-references", data={"prompt": "Mix them"}, files=files)

    assert response.status_code == 200
    assert [sent_bytes(inline) for inline in inline_parts(gemini)] == [file[1][1] for file in files]


async def test_files_under_both_field_names_are_one_list(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    files = [("images", ("a.png", image_file(colour="red"))), ("images[]", ("b.png", image_file(colour="blue")))]

    response = await client.post("/generate-image/with-references", data={"prompt": "Mix them"}, files=files)

    assert response.status_code == 200, response.text
    assert [sent_bytes(inline) for inline in inline_parts(gemini)] == [file[1][1] for file in files]


async def test_a_form_with_too_many_files_is_too_large(client: httpx2.AsyncClient) -> None:
    files = [("images", (f"{n}.png", image_file())) for n in range(65)]

    response = await client.post("/generate-image/with-references", data={"prompt": "x"}, files=files)

    assert (response.status_code, response.json()["code"]) == (413, "too_large")


async def test_gemini_gets_roles_and_names_before_each_image(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    A prompt can then say "Anna" or "the logo". An image without a role and a name gets no label.
    """
    response = await client.post(
        "/generate-image/with-references",
        data={
            "prompt": "Anna with the logo",
            "roles": ["character", "object", "style", ""],
            "names": ["Anna", "the logo"],
            "aspectRatio": "4:5",
        },
        files=[("images", (f"{n}.png", image_file(size=(8 + n, 8)), "image/png")) for n in range(4)],
    )

    assert response.status_code == 200
    parts = gemini.calls[0].body["contents"][0]["parts"]
    assert [part.get("text", "·") for part in parts] == [
        "Anna with the logo",
        "Reference image 1 shows the character Anna:",
        "·",
        "Reference image 2 shows the object the logo:",
        "·",
        "Reference image 3 shows the style to follow:",
        "·",
        "·",
    ]
    assert gemini.calls[0].body["generationConfig"]["imageConfig"] == {"aspectRatio": "4:5", "imageSize": "2K"}


async def test_labels_may_be_a_json_list(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    response = await client.post(
        "/generate-image/with-references",
        data={"prompt": "Both", "names": '["Anna", "Ben"]', "roles": '["character", "character"]'},
        files=[("images", ("a.png", image_file())), ("images", ("b.png", image_file()))],
    )

    assert response.status_code == 200
    assert "Ben" in gemini.calls[0].body["contents"][0]["parts"][3]["text"]


async def test_with_references_the_model_chooses_the_aspect_ratio(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    await client.post(
        "/generate-image/with-references", data={"prompt": "x"}, files=[("images", ("a.png", image_file()))]
    )

    assert gemini.calls[0].body["generationConfig"]["imageConfig"] == {"imageSize": "2K"}


async def test_inline_references_may_be_data_urls_or_base64(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    data = image_file("WEBP")
    encoded = base64.b64encode(data).decode()
    variants = [
        {"url": f"data:image/png;base64,{encoded}", "role": "object", "name": "mug"},
        {"data": encoded, "mimeType": "image/png"},
        {"data": base64.urlsafe_b64encode(data).decode().rstrip("=")},
        {"data": f"data:image/webp;base64,{encoded}"},
    ]

    response = await client.post("/generate-image", json={"prompt": "x", "referenceImages": variants})

    assert response.status_code == 200
    assert {(inline["mimeType"], sent_bytes(inline)) for inline in inline_parts(gemini)} == {("image/webp", data)}
    assert "imageConfig" in gemini.calls[0].body["generationConfig"]


def apng() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:])
    return out.getvalue()


def animated_webp() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:])
    return out.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims 10,000 megapixels."""
    header = struct.pack(">II5B", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


REFUSED = {
    "text": (b"hello", 415),
    "nothing": (b"", 415),
    "gif": (image_file("GIF"), 415),
    "tiff": (image_file("TIFF"), 415),
    "bmp": (image_file("BMP"), 415),
    "avif": (image_file("AVIF"), 415),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', 415),
    "pdf": (b"%PDF-1.7\n", 415),
    "animated png": (apng(), 415),
    "animated webp": (animated_webp(), 415),
    "half a png": (image_file("PNG", (200, 200), "red")[:-30], 415),
    "half a jpeg": (image_file("JPEG", (200, 200))[:-30], 415),
    "half a webp": (image_file("WEBP", (200, 200))[:-8], 415),
    "half a heic": (image_file("HEIF", (200, 200))[:-8], 415),
    "jpeg without pixels": (image_file("JPEG").partition(b"\xff\xda")[0] + b"\xff\xd9", 415),
    "png header alone": (b"\x89PNG\r\n\x1a\n", 415),
    "jpeg header alone": (b"\xff\xd8\xff", 415),
    "riff alone": (b"RIFF\x00\x00\x00\x00WEBP", 415),
    "ftyp alone": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", 415),
    "bomb": (bomb(), 413),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_only_complete_still_images_are_accepted(client: httpx2.AsyncClient, gemini: Emulator, name: str) -> None:
    """
    Others are rejected before Gemini is called.
    """
    data, status = REFUSED[name]

    uploaded = await client.post(
        "/generate-image/with-references", data={"prompt": "x"}, files=[("images", ("a.png", data, "image/png"))]
    )
    inline = await client.post(
        "/generate-image",
        json={"prompt": "x", "referenceImages": [{"url": "data:image/png;base64," + base64.b64encode(data).decode()}]},
    )

    assert uploaded.status_code == inline.status_code == status, uploaded.text
    assert uploaded.json()["code"] == inline.json()["code"] == ("too_large" if status == 413 else "unsupported_image")
    assert "images[0]" in uploaded.json()["detail"]
    assert not gemini.calls


THUMBNAIL = Image.Exif()
THUMBNAIL[0x010F] = "A maker\xff\xd9" + "x" * 100
IMAGES = {
    "png": image_file("PNG"),
    "jpeg": image_file("JPEG", (200, 200)),
    "progressive jpeg": image_file("JPEG", (200, 200), progressive=True),
    "jpeg with restart markers": image_file("JPEG", (200, 200), restart_marker_rows=1),
    "jpeg with an end marker in its metadata": image_file(
        "JPEG", exif=THUMBNAIL.tobytes() + image_file("JPEG", (16, 16))
    ),
    "jpeg with fill bytes": image_file("JPEG").replace(b"\xff\xda", b"\xff\xff\xff\xda"),
    "webp": image_file("WEBP"),
    "heic": image_file("HEIF"),
}
FILM = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + b"\x00\x00\x00\x10mdat" + b"film" * 2
TAILS = {
    "zeros and a second picture": b"\x00" * 123 + image_file("JPEG", (32, 32)),
    "a film and a maker's words": FILM + b"LIVE_1234567890".ljust(40),
    "a maker's trailer": b"\x00\x00\x01\x0aImage_UTC_Data1700000000000SEFHk\x00\x00\x00SEFT",
    "a zip": b"PK\x03\x04rest\xff\xd9",
    "a page": b"<script>alert(1)</script>",
    "a box of film": b"\x00\x00\x00\x10mpvdfilmfilm",
    "two bytes": b"\r\n",
}


@pytest.mark.parametrize("image", IMAGES)
async def test_bytes_after_the_image_are_removed_with_a_warning(
    client: httpx2.AsyncClient, gemini: Emulator, image: str
) -> None:
    """
    Phones append videos, further images and maker notes. Attackers append files of other types.
    """
    whole = IMAGES[image]
    files = [whole, *(whole + tail for tail in TAILS.values())]
    inline = [{"data": base64.b64encode(file).decode()} for file in files]

    uploaded = await client.post(
        "/generate-image/with-references", data={"prompt": "x"}, files=[("images", ("a.jpg", file)) for file in files]
    )
    answered = await client.post("/generate-image", json={"prompt": "x", "referenceImages": inline})

    for response, field in ((uploaded, "images"), (answered, "referenceImages")):
        assert response.status_code == 200, response.text[:500]
        assert response.json()["warnings"] == [
            f"{field}[{place}]: {len(tail)} bytes after the end of the image were not sent."
            for place, tail in enumerate(TAILS.values(), start=1)
        ]
    for call in gemini.calls:
        parts = call.body["contents"][0]["parts"]
        assert [sent_bytes(part["inlineData"]) for part in parts if "inlineData" in part] == [whole] * len(files)


async def test_every_kind_of_response_has_the_warning_and_only_the_image_is_stored(client: httpx2.AsyncClient) -> None:
    whole = image_file("JPEG")
    file = [("images", ("a.jpg", whole + b"PK\x03\x04rest"))]
    chat = (await client.post("/chats", json={})).json()["url"]

    raw = await client.post(
        "/generate-image/with-references", data={"prompt": "x"}, files=file, headers={"Accept": "image/*"}
    )
    events = await client.post(
        "/generate-image/with-references", data={"prompt": "x"}, files=file, headers={"Accept": "text/event-stream"}
    )
    turn = await client.post(f"{chat}/turns", data={"prompt": "x"}, files=file)
    kept = (await client.get(chat)).json()["turns"][0]
    stored = await client.get(f"{chat}/turns/1/references/1")

    warning = "images[0]: 8 bytes after the end of the image were not sent."
    assert warning in raw.headers["x-warnings"]
    assert warning in events.text
    assert warning in turn.json()["warnings"]
    assert warning in kept["warnings"]
    assert stored.content == whole


async def test_bytes_after_a_large_image_are_removed(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    The form parser writes files above 8 MiB to disk.
    """
    whole = noise_jpeg(1, 9 * 1024 * 1024)

    response = await client.post(
        "/generate-image/with-references",
        data={"prompt": "x"},
        files=[("images", ("a.jpg", whole + b"\x00" * 1000 + whole[:2000]))],
    )

    assert response.json()["warnings"] == ["images[0]: 3,000 bytes after the end of the image were not sent."]
    assert sent_bytes(inline_parts(gemini)[0]) == whole


KNOWN = {
    "AVIF": image_file("AVIF"),
    "JPEG XL": b"\xff\x0a\xfa\x1f",
    "JPEG XL in boxes": b"\x00\x00\x00\x0cJXL \r\n\x87\n\x00\x00\x00\x14ftypjxl ",
    "JPEG 2000": image_file("JPEG2000"),
    "video (MP4)": b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41",
    "MOV": b"\x00\x00\x00\x14ftypqt  \x00\x00\x02\x00qt  ",
    "PDF": b"%PDF-1.7\n",
    "GIF": image_file("GIF"),
    "BMP": image_file("BMP"),
    "TIFF": image_file("TIFF"),
    "SVG": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- made -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "XML": b'<?xml version="1.0"?><rss/>',
    "HTML": b"\n<!DOCTYPE html><html><title>404</title></html>",
    "ZIP": b"PK\x03\x04\x14\x00",
    "WebM": b"\x1aE\xdf\xa3\x01",
    "PSD": b"8BPS\x00\x01",
    "icon": image_file("ICO"),
    "base64": base64.b64encode(image_file("JPEG")),
}


@pytest.mark.parametrize("name", KNOWN)
async def test_an_unsupported_format_is_rejected_by_name(client: httpx2.AsyncClient, name: str) -> None:
    response = await client.post(
        "/generate-image/with-references", data={"prompt": "x"}, files=[("images", ("a.jpg", KNOWN[name]))]
    )

    assert response.status_code == 415
    assert name.removesuffix(" in boxes") in response.json()["detail"].partition("Send a still")[0]


async def test_metadata_is_unchanged(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = image_file("JPEG", exif=exif.tobytes())

    await client.post("/generate-image/with-references", data={"prompt": "x"}, files=[("images", ("a.jpg", data))])

    assert sent_bytes(inline_parts(gemini)[0]) == data


@pytest.mark.parametrize(
    ("overrides", "detail"),
    [
        ({"max_reference_bytes": 100}, "images[0] may have 100 bytes"),
        ({"max_references_bytes": 200}, "may have 200 bytes together"),
        ({"max_reference_pixels": 3000}, "64×48 pixels"),
        ({"max_body_bytes": 300}, "300 bytes"),
    ],
)
async def test_limits_come_from_settings_and_are_named_in_the_problem(
    serve: Serve, gemini: Emulator, overrides: dict[str, int], detail: str
) -> None:
    async with serve(**overrides) as client:
        response = await client.post(
            "/generate-image/with-references",
            data={"prompt": "x"},
            files=[("images", ("a.png", image_file())), ("images", ("b.png", image_file()))],
        )

    assert response.status_code == 413
    assert response.json()["code"] == "too_large"
    assert detail in response.json()["detail"]
    assert not gemini.calls


async def test_a_body_without_a_content_length_is_counted_as_it_arrives(serve: Serve) -> None:
    async def endless() -> Any:
        for _ in range(1000):
            yield b" " * 1000

    async with serve(max_body_bytes=10_000) as client:
        response = await client.post("/generate-image", content=endless(), headers={"Content-Type": "application/json"})

    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("model", "roles", "names", "allowed"),
    [
        ("gemini-3-pro-image", ["object"] * 7, [], "6 object, 5 character and 3 style"),
        ("gemini-3-pro-image", ["character"] * 6, ["A", "B", "C", "D", "E", "F"], "5 character"),
        ("gemini-3-pro-image", ["style"] * 4, [], "3 style"),
        ("gemini-3-pro-image", [""] * 15, [], "14"),
        ("gemini-nano-banana-2.1", ["style"], [], "10 object and 4 character"),
        ("gemini-2.5-flash-image", [""] * 4, [], "3"),
    ],
)
async def test_too_many_references_for_the_model_are_rejected(
    client: httpx2.AsyncClient, gemini: Emulator, model: str, roles: list[str], names: list[str], allowed: str
) -> None:
    response = await client.post(
        "/generate-image/with-references",
        data={"prompt": "x", "model": model, "roles": roles, "names": names},
        files=[("images", (f"{n}.png", image_file())) for n in range(len(roles))],
    )

    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == "images"
    assert allowed in error["message"]
    assert not gemini.calls


async def test_several_images_of_a_character_count_as_one_character(client: httpx2.AsyncClient) -> None:
    """
    At most five characters are allowed, with any number of images.
    """
    response = await client.post(
        "/generate-image/with-references",
        data={"prompt": "x", "roles": ["character"] * 8, "names": ["Anna"] * 4 + ["Ben", "Cleo", "Dan", "Eva"]},
        files=[("images", (f"{n}.png", image_file())) for n in range(8)],
    )

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("data", "files", "field"),
    [
        ({"prompt": "x"}, [], "images"),
        ({}, [("images", ("a.png", image_file()))], "prompt"),
        ({"prompt": "x", "referenceImages": "1"}, [("images", ("a.png", image_file()))], "referenceImages"),
        ({"prompt": "x", "bogus": "1"}, [("images", ("a.png", image_file()))], "bogus"),
        ({"prompt": "x", "roles": ["hero"]}, [("images", ("a.png", image_file()))], "roles[0]"),
        ({"prompt": "x", "names": ["a", "b"]}, [("images", ("a.png", image_file()))], "names"),
        ({"prompt": "x", "images": "text"}, [("file", ("a.png", image_file()))], "images[0]"),
        ({"prompt": "x", "safetySettings": "[" * 100_000}, [("images", ("a.png", image_file()))], "safetySettings"),
        ({"prompt": "x", "safetySettings": "[{"}, [("images", ("a.png", image_file()))], "safetySettings"),
    ],
)
async def test_an_invalid_form_field_is_rejected_with_its_name(
    client: httpx2.AsyncClient, data: dict[str, Any], files: Any, field: str
) -> None:
    files = files or [("none", ("", b""))]

    response = await client.post("/generate-image/with-references", data=data, files=files)

    assert response.status_code == 422, response.text
    assert field in [error["field"] for error in response.json()["errors"]]


@pytest.mark.parametrize(
    ("body", "type_", "status", "code"),
    [
        (b"rubbish", "multipart/form-data; boundary=x", 400, "invalid_form"),
        (b"rubbish", "multipart/form-data", 400, "invalid_form"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n", "multipart/form-data; boundary=x", 400, "invalid_form"),
        (b'{"prompt": "x"}', "application/json", 415, "unsupported_media_type"),
        (b"prompt=x", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    ],
)
async def test_a_body_that_is_not_a_form_is_a_problem(
    client: httpx2.AsyncClient, body: bytes, type_: str, status: int, code: str
) -> None:
    response = await client.post("/generate-image/with-references", content=body, headers={"Content-Type": type_})

    assert (response.status_code, response.json()["code"]) == (status, code)

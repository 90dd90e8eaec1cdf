"""Multipart forms: complete or rejected, in the declared character encoding, without empty fields."""

import asyncio
import base64
import json
import random
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import health_while, image_file

ROUTE = "/generate-image/with-references"
BOUNDARY = "----boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
SMALL = image_file(size=(1, 1))

Part = tuple[str | bytes, str | bytes]
"""The rest of a part's header after `Content-Disposition: form-data; `, and the content of the part."""


def form(parts: Iterable[Part], end: bytes = f"--{BOUNDARY}--\r\n".encode()) -> bytes:
    def encoded(text: str | bytes) -> bytes:
        return text.encode() if isinstance(text, str) else text

    return b"".join(
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n"
        % (BOUNDARY.encode(), encoded(head), encoded(content))
        for head, content in parts
    ) + end  # fmt: skip


IMAGE: Part = ('name="images"; filename="a.png"\r\nContent-Type: image/png', SMALL)
PARTS: list[Part] = [('name="prompt"', "Make it blue"), IMAGE, IMAGE]
WHOLE = form(PARTS)


@pytest.fixture(autouse=True)
def _small_images(gemini: Emulator) -> None:
    gemini.faults.append(Fault(times=1000, image_base64=base64.b64encode(image_file("JPEG")).decode()))


async def send(
    client: httpx2.AsyncClient, body: bytes | AsyncGenerator[bytes], path: str = ROUTE, type_: str = TYPE
) -> httpx2.Response:
    return await client.post(path, content=body, headers={"Content-Type": type_})


async def chunked(body: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


async def new_chat(client: httpx2.AsyncClient) -> str:
    path: str = (await client.post("/chats", json={})).headers["location"]
    return f"{path}/turns"


def texts(gemini: Emulator) -> list[str]:
    return [part["text"] for part in gemini.calls[-1].body["contents"][-1]["parts"] if "text" in part]


def fields(response: httpx2.Response) -> list[str]:
    return [error["field"] for error in response.json().get("errors", [])]


# Truncated forms.


async def test_a_truncated_form_is_rejected(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    The content length matches, and the fields would be enough for an image. Only the closing boundary is missing.
    """
    closing = WHOLE.rindex(b"--\r\n") + 2
    cuts = {0, 1, len(BOUNDARY) + 2, len(BOUNDARY) + 4, closing - 1, closing - 2, closing - 3}
    cuts.update(random.Random(1).sample(range(closing), 100))

    answers = [await send(client, WHOLE[:cut]) for cut in sorted(cuts)]

    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(400, "invalid_form")}
    assert not gemini.calls


@pytest.mark.parametrize("way", ["length", "chunked"])
async def test_every_form_route_requires_the_closing_boundary(
    client: httpx2.AsyncClient, gemini: Emulator, way: str
) -> None:
    paths = [ROUTE, await new_chat(client)]
    for path in paths:
        for body in (form(PARTS, b""), form(PARTS[:1], b""), form(PARTS, b"--" + BOUNDARY.encode()), b"preamble\r\n"):
            cut = await send(client, chunked(body) if way == "chunked" else body, path)

            assert (cut.status_code, cut.json()["code"]) == (400, "invalid_form"), cut.text
    assert not gemini.calls


@pytest.mark.parametrize(
    "body",
    [
        WHOLE,
        WHOLE.removesuffix(b"\r\n"),
        WHOLE + b"An epilogue\r\n--" + BOUNDARY.encode() + b"\r\nthat counts for nothing",
        b"\r\n" + WHOLE,
        b"A preamble - that counts for nothing,\r\n--not even this\r\n" + WHOLE,
    ],
)
@pytest.mark.parametrize("way", ["length", "chunked"])
async def test_bytes_before_and_after_a_complete_form_are_ignored(
    client: httpx2.AsyncClient, gemini: Emulator, body: bytes, way: str
) -> None:
    answer = await send(client, chunked(body) if way == "chunked" else body)

    assert answer.status_code == 200, answer.text
    assert [part for part in gemini.calls[0].body["contents"][0]["parts"] if "inlineData" in part][1:]
    assert texts(gemini) == ["Make it blue"]


# Character encodings.

ENCODED = [
    ("utf-8", "utf-8", "Zwei Füße, 一只猫 🐈"),
    ("UTF8", "utf-8", "一只猫"),
    ("ISO-8859-1", "latin-1", "Zwei Füße à la façon"),
    ("latin1", "latin-1", "Zwei Füße"),
    ("windows-1252", "cp1252", "“Füße” – 5 €"),
    ("GB18030", "gb18030", "一只猫 🐈"),
    ("gbk", "gbk", "一只猫坐在月亮上"),
    ("GB2312", "gb2312", "一只猫"),
    ("Big5", "big5", "一隻貓坐在月亮上"),
    ("Shift_JIS", "shift_jis", "月の上の猫"),
    ("shift-jis", "cp932", "①㈱髙島屋"),
    ("EUC-KR", "euc_kr", "달 위의 고양이"),
]


@pytest.mark.parametrize(("charset", "codec", "text"), ENCODED)
@pytest.mark.parametrize("where", ["the part", "the form", "a field"])
async def test_text_is_decoded_with_the_declared_charset(
    client: httpx2.AsyncClient, gemini: Emulator, where: str, charset: str, codec: str, text: str
) -> None:
    declared = f'\r\nContent-Type: text/plain; charset="{charset}"' if where == "the part" else ""
    parts: list[Part] = [
        (f'name="prompt"{declared}', text.encode(codec)),
        (f'name="systemInstruction"{declared}', text.encode(codec)),
        (f'name="names"{declared}', text[:2].encode(codec)),
        IMAGE,
    ]
    if where == "a field":
        parts.append(('name="_charset_"', charset))

    answer = await send(client, form(parts), type_=f"{TYPE}; charset={charset}" if where == "the form" else TYPE)

    assert answer.status_code == 200, answer.text
    assert texts(gemini)[0] == text
    assert text[:2] in texts(gemini)[1]
    assert gemini.calls[0].body["systemInstruction"]["parts"][0]["text"] == text


async def test_the_charset_of_a_part_has_priority(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    prompt = ('name="prompt"\r\nContent-Type: text/plain; charset=UTF-8', "一只猫")

    answer = await send(client, form([prompt, ('name="_charset_"', "big5"), IMAGE]), type_=TYPE + ";charset=gbk")

    assert answer.status_code == 200, answer.text
    assert texts(gemini) == ["一只猫"]


@pytest.mark.parametrize("declared", ["", "punycode", "utf-7", "idna", "unicode_escape", "rot13", "hex", "x" * 1500])
@pytest.mark.parametrize("name", ["prompt", "names", "systemInstruction", "aspectRatio"])
async def test_text_that_does_not_match_its_charset_is_rejected_with_the_field_s_name(
    client: httpx2.AsyncClient, gemini: Emulator, declared: str, name: str
) -> None:
    """
    An unknown charset is ignored. The text is then UTF-8 or rejected.
    """
    type_ = f"\r\nContent-Type: text/plain; charset={declared}" if declared else ""
    parts: list[Part] = [('name="prompt"', "x"), (f'name="{name}"{type_}', "猫坐在月亮上".encode("gbk")), IMAGE]

    in_part = await send(client, form(parts))
    in_form = await send(client, form(parts), await new_chat(client), TYPE + f"; charset={declared or 'utf-8'}")

    for answer in (in_part, in_form):
        assert (answer.status_code, answer.json()["code"], fields(answer)) == (400, "invalid_form", [name])
        assert name in answer.json()["detail"]
    assert not gemini.calls


@pytest.mark.parametrize("declared", ["punycode", "utf-7", "us-ascii", "unicode_escape"])
async def test_utf_8_is_accepted_with_an_unknown_charset(
    client: httpx2.AsyncClient, gemini: Emulator, declared: str
) -> None:
    part: Part = (f'name="prompt"\r\nContent-Type: text/plain; charset={declared}', "Füße +AGE-\\u0041")

    answer = await send(client, form([part, IMAGE]), type_=f"{TYPE}; charset={declared}")

    assert answer.status_code == 200, answer.text
    assert texts(gemini) == ["Füße +AGE-\\u0041"]


@pytest.mark.parametrize(
    "content", [b"\xff\xfex\x00", "Füße".encode("utf-16-le"), b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80"]
)
async def test_invalid_utf_8_is_rejected(client: httpx2.AsyncClient, gemini: Emulator, content: bytes) -> None:
    answer = await send(client, form([('name="prompt"', content), IMAGE]))

    assert (answer.status_code, fields(answer)) == (400, ["prompt"])
    assert not gemini.calls


async def test_a_byte_order_mark_is_not_part_of_a_prompt(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    Windows puts one at the start of a text file, and `curl -F 'prompt=<file.txt'` sends it.
    """
    answer = await send(client, form([('name="prompt"', b"\xef\xbb\xbfA cat"), IMAGE]))

    assert answer.status_code == 200
    assert texts(gemini) == ["A cat"]


async def test_a_file_name_may_have_any_encoding(client: httpx2.AsyncClient) -> None:
    image = ('name="images"; filename="猫.png"'.encode("gbk"), SMALL)

    assert (await send(client, form([('name="prompt"', "x"), image]))).status_code == 200


@pytest.mark.parametrize("encoding", ["base64", "Quoted-Printable"])
async def test_a_content_transfer_encoding_is_rejected(
    client: httpx2.AsyncClient, gemini: Emulator, encoding: str
) -> None:
    """
    RFC 7578 has deprecated it. Without decoding, the prompt would be `QSBjYXQ=`.
    """
    part: Part = (f'name="prompt"\r\nContent-Transfer-Encoding: {encoding}', "QSBjYXQ=")

    answer = await send(client, form([part, IMAGE]))

    assert (answer.status_code, fields(answer)) == (400, ["prompt"])
    assert not gemini.calls


# Empty fields.

OPTIONAL = [
    "aspectRatio", "imageSize", "model", "fallbackModel", "googleSearch", "imageSearch", "systemInstruction",
    "thinkingLevel", "includeThoughts", "includeDrafts", "seed", "safetySettings", "responseFormat", "roles", "names",
]  # fmt: skip


@pytest.mark.parametrize("times", [1, 2])
async def test_an_empty_field_is_ignored(client: httpx2.AsyncClient, gemini: Emulator, times: int) -> None:
    """
    Browsers and Swagger UI send every field of a form. An unused file input has an empty file name.
    """
    unused: Part = ('name="images"; filename=""\r\nContent-Type: application/octet-stream', "")
    empty: list[Part] = [(f'name="{name}"', "") for _ in range(times) for name in OPTIONAL]
    turn: list[Part] = [('name="afterTurn"', ""), ('name="replaceTurn"', ""), unused]

    image = await send(client, form([*PARTS, *empty]))
    turned = await send(client, form([PARTS[0], *empty, *turn]), await new_chat(client))
    missing = await send(client, form([('name="prompt"', ""), *empty, unused]))

    plain, in_chat = gemini.calls
    await send(client, form(PARTS))
    assert (image.status_code, turned.status_code) == (200, 200), image.text + turned.text
    assert plain.body == gemini.calls[2].body
    assert texts(gemini) == [in_chat.body["contents"][0]["parts"][0]["text"]]
    assert (missing.status_code, fields(missing)) == (422, ["prompt", "images"])


async def test_empty_labels_and_unused_files_do_not_shift_other_labels(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    A page may have a row for each image, with a file and its name. A row may stay empty.
    """
    unused: Part = ('name="images"; filename=""', "")
    names: list[Part] = [('name="names"', name) for name in ("", "nobody", "Anna")]

    answer = await send(client, form([PARTS[0], IMAGE, unused, IMAGE, *names]))

    assert answer.status_code == 200, answer.text
    parts = gemini.calls[0].body["contents"][0]["parts"]
    assert ["inlineData" in part for part in parts] == [False, True, False, True]
    assert "2 shows Anna" in parts[2]["text"]


async def test_the_documented_examples_need_only_a_prompt(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    Swagger UI fills its forms with them, and people send them unchanged.
    """
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]

    for name in ("GenerationCreate", "TurnCreate", "ChatCreate"):
        assert [list(example) for example in schemas[name]["examples"]] == [["prompt"]], name
    for name in ("GenerationForm", "TurnForm"):
        assert all(
            "prompt" in example and set(example) <= {"prompt", "images"} for example in schemas[name]["examples"]
        )
        assert not [field for field, about in schemas[name]["properties"].items() if {"example", "examples"} & {*about}]
    assert schemas["ForkCreate"]["examples"] == [{}]


# Limits.


async def longest_stall(client: httpx2.AsyncClient, body: bytes, type_: str = TYPE) -> tuple[httpx2.Response, float]:
    """Send a form. Return the response, and the most CPU time in seconds during a health check meanwhile."""
    asking = asyncio.create_task(send(client, body, type_=type_))
    slowest = await health_while(client, asking)
    return await asking, slowest


MANY: dict[str, tuple[str, Any]] = {
    "numbers as names": ("names", [0] * 500_000),
    "lists as names": ("names", [[]] * 250_000),
    "numbers as roles": ("roles", [0] * 500_000),
    "numbers as settings": ("safetySettings", [0] * 500_000),
    "a setting of many members": ("safetySettings", [{str(number): 0 for number in range(90_000)}]),
    "a few too many": ("names", [""] * 7_000),
}


@pytest.mark.parametrize("kind", MANY)
async def test_a_list_with_too_many_items_is_rejected_at_once(
    client: httpx2.AsyncClient, gemini: Emulator, kind: str
) -> None:
    name, value = MANY[kind]
    content = json.dumps(value, separators=(",", ":"))

    answer, stall = await longest_stall(client, form([*PARTS, (f'name="{name}"', content)]))

    assert (answer.status_code, fields(answer)) == (422, [name]), answer.text[:500]
    assert len(answer.content) < 1_000
    assert stall < 0.25
    assert not gemini.calls


async def test_a_slow_charset_does_not_block_the_event_loop(client: httpx2.AsyncClient) -> None:
    """
    Python's own codec for Punycode takes seconds for this text.
    """
    content = b"x-" + b"a" * 300_000

    answer, stall = await longest_stall(client, form([('name="names"', content), *PARTS]), TYPE + "; charset=punycode")

    assert answer.status_code == 422
    assert stall < 0.25


@pytest.mark.parametrize("count", [201, 20_000])
async def test_a_form_with_too_many_fields_is_too_large(client: httpx2.AsyncClient, count: int) -> None:
    parts: list[Part] = [(f'name="field{number}"', "x") for number in range(count)]

    answer, stall = await longest_stall(client, form(parts))

    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert stall < 0.25


FILE = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'.encode()
TEXT = "달".encode("cp949")

COSTLY: dict[str, tuple[bytes, int]] = {
    "spaces behind a boundary": (FILE + f"\r\n--{BOUNDARY}".encode() + b" " * 2_000_000, 400),
    "boundaries with something behind them": (FILE + f"\r\n--{BOUNDARY}?".encode() * 100_000, 413),
    "headers of many parameters": (form([('name="prompt"\r\nContent-Type: a/a;"' + ";" * 3_900, "x")] * 190), 400),
    "much text": (
        form([(f'name="f{n}"\r\nContent-Type: a/a; charset=euc-kr', TEXT * 400_000) for n in range(20)]),
        413,
    ),
    "a long text": (form([('name="prompt"', "x" * (1024 * 1024 + 1)), IMAGE]), 413),
}


@pytest.mark.parametrize("kind", COSTLY)
async def test_text_that_is_slow_to_parse_is_rejected_at_once(client: httpx2.AsyncClient, kind: str) -> None:
    body, status = COSTLY[kind]

    answer, stall = await longest_stall(client, body)

    assert answer.status_code == status, answer.text
    assert stall < 0.25


async def test_a_content_type_with_too_many_parameters_is_rejected(client: httpx2.AsyncClient) -> None:
    answer, stall = await longest_stall(client, WHOLE, TYPE + ";" * 1_500)
    longer, longer_stall = await longest_stall(client, WHOLE, TYPE + ";" * 30_000)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_form")
    assert (longer.status_code, longer.json()["code"]) == (431, "too_large")
    assert max(stall, longer_stall) < 0.25


@pytest.mark.parametrize("content", [b"\r\n--", b"\r\n----bound", b"\r", b"\n-"])
async def test_text_may_contain_something_like_a_boundary(
    client: httpx2.AsyncClient, gemini: Emulator, content: bytes
) -> None:
    answer = await send(client, chunked(form([('name="prompt"', b"x" + content * 30), IMAGE])))

    assert answer.status_code == 200, answer.text
    assert texts(gemini) == ["x" + content.decode() * 30]

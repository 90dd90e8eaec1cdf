"""JSON bodies and headers as clients send them, and requests that would block the event loop."""

import asyncio
import base64
import json
import random
import time
from collections.abc import Callable
from urllib.parse import quote

import httpx2
import pytest

from app.emulator import Emulator
from app.lib.base64_json import Base64Extractor
from tests.conftest import health_while, image_file
from tests.oracle import Kept
from tests.test_references import inline_parts, sent_bytes

PICTURE = image_file("JPEG", (200, 200))
BASE64 = base64.b64encode(PICTURE).decode()
WRAPPED = "\r\n".join(BASE64[start : start + 76] for start in range(0, len(BASE64), 76))

JSON_TYPES = [
    ["application/json"],
    ["application/json, application/json"],
    ["application/json", "application/json"],
    ["application/json,application/json; charset=utf-8"],
    ['application/json; charset="UTF-8"', "APPLICATION/JSON;charset=utf-8"],
    ["Application/Vnd.API+JSON; charset=utf-8"],
    ["application/problem+json, application/problem+json"],
    ["application/json;"],
    ["application/json,"],
]
OTHER_TYPES = [
    ["text/plain"],
    ["application/json, text/plain"],
    ["application/json", "multipart/form-data; boundary=x"],
    ["application/json; charset=utf-8, application/json; charset=utf-16"],
    ["application/jsonp"],
    ["image/svg+json"],
]


@pytest.mark.parametrize("types", JSON_TYPES)
@pytest.mark.parametrize("route", ["/generate-image", "/chats", "/chats/…/turns", "/chats/…/fork"])
async def test_a_repeated_content_type_is_accepted(
    client: httpx2.AsyncClient, gemini: Emulator, types: list[str], route: str
) -> None:
    """
    Node's fetch joins a header that was set twice. HTTP allows other clients to send two lines.
    """
    chat = (await client.post("/chats", json={})).json()["id"]
    body = {"fromTurn": 0} if route.endswith("fork") else {"prompt": "A lighthouse"}

    response = await client.post(
        route.replace("…", chat), content=json.dumps(body), headers=[("Content-Type", type_) for type_ in types]
    )

    assert response.status_code in (200, 201), response.text[:300]
    assert len(gemini.calls) == (not route.endswith("fork"))


@pytest.mark.parametrize("types", OTHER_TYPES)
@pytest.mark.parametrize("route", ["/generate-image", "/chats", "/chats/…/turns", "/chats/…/fork"])
async def test_another_content_type_is_rejected_and_quoted(
    client: httpx2.AsyncClient, gemini: Emulator, types: list[str], route: str
) -> None:
    chat = (await client.post("/chats", json={})).json()["id"]

    response = await client.post(
        route.replace("…", chat), content=b'{"prompt": "x"}', headers=[("Content-Type", type_) for type_ in types]
    )

    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    assert f"is {', '.join(types)}." in response.json()["detail"]
    assert not gemini.calls


async def test_a_form_with_a_repeated_content_type_is_accepted(client: httpx2.AsyncClient) -> None:
    chat = (await client.post("/chats", json={})).json()["url"]
    body = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nA lighthouse\r\n--x--\r\n'
    types = [("Content-Type", "multipart/form-data; boundary=x"), ("Content-Type", 'Multipart/Form-Data; boundary="x"')]

    agreed = await client.post(f"{chat}/turns", content=body, headers=types)
    torn = await client.post(
        f"{chat}/turns", content=body, headers=[types[0], ("Content-Type", "multipart/form-data; boundary=y")]
    )

    assert agreed.status_code == 200, agreed.text[:300]
    assert torn.status_code == 415


DATA_URLS = {
    "plain": f"data:image/jpeg;base64,{BASE64}",
    "no type": f"data:;base64,{BASE64}",
    "parameters": f'data:image/jpeg;charset=x;title="a b";base64,{BASE64}',
    "a long name": f"data:image/jpeg;name={quote('ein sehr langer Name/日本語 ' * 500)};base64,{BASE64}",
    "upper case": f"DATA:IMAGE/JPEG;BASE64,{BASE64}",
    "space before base64": f"data:image/jpeg;  base64 ,{BASE64}",
    "space before all": f" \n data:image/jpeg;base64,{BASE64}",
    "line breaks": f"data:image/jpeg;base64,{WRAPPED}\n",
    "line breaks everywhere": f"da\nta:image/jpeg;ba\tse64,\n{WRAPPED}",
    "percent-encoded": f"data:image/jpeg;base64,{quote(BASE64, safe='')}",
    "percent-encoded line breaks": f"data:image/jpeg;base64,{quote(WRAPPED, safe='')}",
    "every letter percent-encoded": "data:image/jpeg;base64," + "".join(f"%{ord(letter):02x}" for letter in BASE64),
    "broken escapes": "data:image/jpeg;base64," + quote(BASE64, safe="").replace("%2", "%\n2"),
    "no padding": f"data:image/jpeg;base64,{BASE64.rstrip('=')}",
    "a fragment": f"data:image/jpeg;base64,{BASE64}#page=1%",
}


@pytest.mark.parametrize("name", DATA_URLS)
@pytest.mark.parametrize("written", [json.dumps, lambda body: json.dumps(body).replace("/", "\\/")])
async def test_a_data_url_is_parsed_as_by_browsers(
    client: httpx2.AsyncClient, gemini: Emulator, name: str, written: Callable[[object], str]
) -> None:
    body = written({"prompt": "x", "referenceImages": [{"url": DATA_URLS[name]}, {"data": DATA_URLS[name]}]})

    response = await client.post("/generate-image", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 200, response.text[:300]
    assert [sent_bytes(inline) for inline in inline_parts(gemini)] == [PICTURE] * 2


WRONG_URLS = {
    "not one of base64": f"data:image/jpeg,{BASE64}",
    "there is no ;base64": f"data:image/jpeg;base64;name=x,{BASE64}",
    "without a comma": f"data:image/jpeg;base64;{BASE64[:2000]}",
    "data URL without a comma": f"data:image/jpeg#;base64,{BASE64}",
    "is not valid base64": f"data:image/jpeg;base64,{BASE64[:-8]}!",
    "not valid base64": f"data:image/jpeg;base64,{BASE64}%4",
    "valid base64": f"data:image/jpeg;base64,{BASE64}%zz",
    "32,768 bytes before its comma": f"data:image/jpeg;name={'n' * 40_000};base64,{BASE64}",
    "fetches nothing": "https://example.com/a.jpg",
    "must be a data URL": "dat",
}


@pytest.mark.parametrize("reason", WRONG_URLS)
async def test_an_invalid_data_url_is_rejected_with_the_reason(
    client: httpx2.AsyncClient, gemini: Emulator, reason: str
) -> None:
    response = await client.post(
        "/generate-image", json={"prompt": "x", "referenceImages": [{"url": WRONG_URLS[reason]}]}
    )

    assert response.status_code == 422, response.text[:300]
    (error,) = response.json()["errors"]
    assert (error["field"], reason in error["message"]) == ("referenceImages[0]", True), error
    assert not gemini.calls


async def test_a_data_url_without_data_is_an_empty_file(client: httpx2.AsyncClient) -> None:
    response = await client.post(
        "/generate-image", json={"prompt": "x", "referenceImages": [{"url": "data:image/png;base64,"}]}
    )

    assert response.status_code == 415
    assert "it is empty" in response.json()["detail"]


SIZE = 4_000_000
MANY: dict[str, Callable[[], str]] = {
    "unknown keys": lambda: "{" + ",".join(f'"key{n}":0' for n in range(SIZE // 12)) + "}",
    "one key again and again": lambda: "{" + '"prompt":"x",' * (SIZE // 13) + '"prompt":"x"}',
    "unknown keys of a reference": lambda: (
        '{"prompt":"x","referenceImages":[{' + ",".join(f'"k{n}":""' for n in range(SIZE // 12)) + "}]}"
    ),
    "references": lambda: '{"prompt":"x","referenceImages":[' + "{}," * (SIZE // 3) + "{}]}",
    "small images": lambda: '{"prompt":"x","referenceImages":[' + '{"data":"QUJD"},' * (SIZE // 16) + "{}]}",
    "safety settings": lambda: '{"prompt":"x","safetySettings":[' + "0," * (SIZE // 2) + "0]}",
    "small arrays": lambda: '{"prompt":[' + "[]," * (SIZE // 3) + "[]]}",
    "nested arrays": lambda: '{"prompt":' + "[" * (SIZE // 2) + "]" * (SIZE // 2) + "}",
    "nested objects": lambda: '{"a":' * (SIZE // 6) + "0" + "}" * (SIZE // 6),
    "digits": lambda: '{"prompt":"x","seed":' + "1" * SIZE + "}",
    "digits behind the point": lambda: '{"prompt":"x","seed":0.' + "1" * SIZE + "}",
    "short strings": lambda: '{"prompt":[' + '"",' * (SIZE // 3) + '""]}',
    "escaped keys": lambda: "{" + '"\\u0061":0,' * (SIZE // 11) + '"a":0}',
    "escaped quotes": lambda: '{"prompt":"' + '\\"' * (SIZE // 2) + '"}',
    "line breaks": lambda: '{"prompt":"' + "\\n" * (SIZE // 2) + '"}',
    "a long prompt": lambda: '{"prompt":"' + "\\u4e2d" * (SIZE // 6) + '"}',
    "a long key": lambda: '{"' + "k" * SIZE + '":0}',
    "strings with nothing between them": lambda: '""' * 1_900_000,
}


@pytest.mark.parametrize("name", MANY)
async def test_a_body_with_very_many_members_does_not_block_the_event_loop(
    client: httpx2.AsyncClient, gemini: Emulator, name: str
) -> None:
    """
    It gets a 422 that names at most 20 fields. (Without limits these bodies took up to two minutes.)
    """
    body = MANY[name]().encode()
    begun = time.process_time()

    work = asyncio.create_task(
        client.post("/generate-image", content=body, headers={"Content-Type": "application/json"})
    )
    longest = await health_while(client, work)

    assert work.result().status_code in (400, 413, 422)
    assert len(work.result().content) < 20_000
    assert time.process_time() - begun < 3
    assert longest < 1
    assert not gemini.calls


async def test_many_unknown_fields_are_rejected_about_as_fast_as_one(client: httpx2.AsyncClient) -> None:
    """
    (The log's check of the names of fields once took 40 ms for each such request, several times as long as all else.)
    """
    one: dict[str, object] = {"prompt": "x", "unknown": 1}
    many: dict[str, object] = {"prompt": "x"} | {f"unknown{number}": 1 for number in range(20)}

    async def seconds(body: dict[str, object]) -> float:
        begun = time.process_time()
        responses = [await client.post("/generate-image", json=body) for _ in range(20)]
        assert {response.status_code for response in responses} == {422}
        return time.process_time() - begun

    await seconds(one)
    assert await seconds(many) < 4 * await seconds(one)


async def test_texts_of_the_maximum_length_are_accepted(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    The limits allow 64 references, and 6 bytes for each character, as in ASCII-only JSON.
    """
    prompt = "字" * 200_000
    references = [{"data": base64.b64encode(image_file(size=(8, 8))).decode(), "role": None, "name": "n" * 100}] * 14

    response = await client.post(
        "/generate-image",
        content=json.dumps({"prompt": prompt, "referenceImages": references}, indent=4),
        headers={"Content-Type": "application/json"},
    )

    assert response.status_code == 200, response.text[:300]
    assert gemini.calls[0].body["contents"][0]["parts"][0]["text"] == prompt


HEADERS = {
    "Accept": 'a/a;"' + ";" * 60_000,
    "Content-Type": 'application/json;"' + ";" * 60_000,
    "Prefer": "wait" + " " * 60_000 + "x",
    "If-Match": '"1",' * 15_000,
    "X-Timeout-Seconds": "1" * 60_000,
    "Origin": "http://localhost" + ":" * 60_000,
}


@pytest.mark.parametrize("name", HEADERS)
async def test_a_header_that_is_slow_to_parse_is_rejected_with_its_name(
    client: httpx2.AsyncClient, gemini: Emulator, name: str
) -> None:
    response = await client.post("/generate-image", json={"prompt": "x"}, headers={name: HEADERS[name]})

    assert (response.status_code, response.json()["code"]) == (431, "too_large")
    assert name in response.json()["detail"]
    assert not gemini.calls


async def test_a_range_header_with_many_spaces_is_parsed_fast(client: httpx2.AsyncClient) -> None:
    """
    (Its time once grew with the third power of its length.)
    """
    chat = (await client.post("/chats", json={"prompt": "x"})).json()["chatId"]
    image = f"/chats/{chat}/turns/1/image"
    begun = time.process_time()

    long = await client.get(image, headers={"Range": "bytes=" + " " * 1_900 + "x"})
    too_long = await client.get(image, headers={"Range": "bytes=" + " " * 60_000 + "x"})

    assert (long.status_code, too_long.status_code) == (200, 431)
    assert time.process_time() - begun < 1


TEXT = base64.b64encode(random.Random(1).randbytes(1_500_000)).decode()
WRITTEN = {
    "each slash escaped": TEXT.replace("/", "\\/"),
    "slashes by number": TEXT.replace("/", "\\u002f").replace("+", "\\u002B").replace("=", "\\u003d"),
    "every letter by number": "".join(f"\\u{ord(letter):04x}" for letter in TEXT[:400_000]),
    "line breaks": "\\r\\n".join(TEXT[start : start + 76] for start in range(0, len(TEXT), 76)),
    "a line break behind each letter": "\\n".join(TEXT[:800_000]),
    "a space behind each letter": " ".join(TEXT[:800_000]),
    "nothing but slashes": "\\/" * 1_000_000,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_base64_with_escapes_is_as_fast_as_the_json_parser(name: str) -> None:
    """
    PHP escapes each slash. (Removing escapes one by one took a hundred times as long.)
    """
    document = f'{{"data":"{WRITTEN[name]}"}}'.encode()
    chunks = [document[start : start + 65536] for start in range(0, len(document), 65536)]

    def extract() -> bytes:
        extractor = Base64Extractor({"data": Kept})
        for chunk in chunks:
            extractor.feed(chunk)
        (sink,) = extractor.extracted.values()
        assert sink.is_valid
        return b"".join(sink.pieces)

    def parse() -> bytes:
        return base64.b64decode(json.loads(document)["data"].encode())

    def seconds(work: Callable[[], bytes]) -> float:
        return min(_timed(work) for _ in range(3))

    assert extract() == parse()
    assert seconds(extract) < 10 * seconds(parse) + 0.05


def _timed(work: Callable[[], bytes]) -> float:
    begun = time.process_time()
    work()
    return time.perf_counter() - begun

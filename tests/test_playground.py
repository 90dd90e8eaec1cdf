"""The playground at `/`, as HTTP: who gets it, its policies, caching, weight. Browser tests use it as people do."""

import gzip
import re
from pathlib import Path
from urllib.parse import urljoin

import httpx2
import pytest

import app
from tests.conftest import Serve

FOLDER = Path(app.__file__).parent / "web"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.*") if path.name != "index.html")
KEYS = "web:0123456789abcdef"


def directives(response: httpx2.Response) -> dict[str, str]:
    policy = response.headers["content-security-policy"]
    return {name: value for name, _, value in (one.strip().partition(" ") for one in policy.split(";"))}


async def test_the_page_may_load_nothing_from_elsewhere_and_run_nothing_inline(client: httpx2.AsyncClient) -> None:
    response = await client.get("/")

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = directives(response)
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe-inline" not in response.headers["content-security-policy"]
    assert not re.search(r"<style|<script(?! type=\"module\" src=\"web/)|\sstyle=|\son\w+=", response.text)


async def test_the_frame_of_googles_suggestions_may_have_styles_but_no_origin(client: httpx2.AsyncClient) -> None:
    policy = directives(await client.get("/web/suggestions/frame.html"))

    assert policy["style-src"] == "'unsafe-inline'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'self'"
    assert "allow-same-origin" not in policy["sandbox"]


@pytest.mark.parametrize("path", FILES)
async def test_each_file_has_its_type_and_is_loaded_again_only_if_it_has_changed(
    client: httpx2.AsyncClient, path: str
) -> None:
    response = await client.get(f"/web/{path}")

    types = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
    assert response.headers["content-type"].partition(";")[0] == types[path.rpartition(".")[2]]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"
    assert response.content == (FOLDER / path).read_bytes()
    again = await client.get(f"/web/{path}", headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_everything_that_a_file_names_is_served(client: httpx2.AsyncClient) -> None:
    found = {"/web/suggestions/frame.html"}
    waiting = {"/", *found}
    while waiting:
        page = waiting.pop()
        text = (await client.get(page)).text
        names = re.findall(r"""(?:src|href)="(web/[^"]+|frame\.js)"|^import [^;]*?"([^"]+)";""", text, re.MULTILINE)
        new = {urljoin(page, one or other) for one, other in names} - found
        found |= new
        waiting |= new

    for path in found:
        assert (await client.get(path)).status_code == 200, path
    unused = {f"/web/{path}" for path in FILES} - found
    assert unused == {"/web/types.js"}  # types in comments; only the type checker reads it


async def test_the_page_weighs_less_than_100_kilobytes(client: httpx2.AsyncClient) -> None:
    paths = ["/", *(f"/web/{path}" for path in FILES if "/vendor/" not in path)]
    weight = 0
    for path in paths:
        async with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["content-encoding"] == "gzip"
            weight += len(b"".join([piece async for piece in response.aiter_raw()]))

    assert weight <= 100_000


async def test_a_client_that_does_not_accept_gzip_gets_the_file_as_it_is(client: httpx2.AsyncClient) -> None:
    for accepted in ("identity", "gzip;q=0", "br"):
        async with client.stream("GET", "/web/main.js", headers={"Accept-Encoding": accepted}) as response:
            plain = b"".join([piece async for piece in response.aiter_raw()])
        assert "content-encoding" not in response.headers
        assert plain == (FOLDER / "main.js").read_bytes()
    async with client.stream("GET", "/web/main.js", headers={"Accept-Encoding": "br, gzip"}) as response:
        compressed = b"".join([piece async for piece in response.aiter_raw()])
    assert gzip.decompress(compressed) == plain


async def test_head_is_answered_without_a_body(client: httpx2.AsyncClient) -> None:
    for path in ("/", "/web/main.js"):
        response = await client.head(path)
        assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("path", ["/web/", "/web/none.js", "/web/index.html", "/web/%2e%2e/main.py", "/web/../main.py"])
async def test_other_paths_do_not_exist(client: httpx2.AsyncClient, path: str) -> None:
    response = await client.get(path)

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_browser_gets_the_page_without_a_key_and_nothing_else(serve: Serve) -> None:
    """The page says in its first element that keys are needed, so that it asks for one before its first request."""
    async with serve(service_api_keys=KEYS) as client:
        page = await client.get("/")
        assert (page.status_code, 'data-keys="required"' in page.text) == (200, True)
        assert (await client.get("/web/main.js")).status_code == 200
        assert (await client.get("/models")).status_code == 401
        assert (await client.get("/websites")).status_code == 401


@pytest.mark.parametrize("keys", ["", KEYS])
async def test_the_playground_can_be_turned_off(serve: Serve, keys: str) -> None:
    async with serve(playground_access="off", service_api_keys=keys) as client:
        for path in ("/", "/web/main.js"):
            assert (await client.get(path)).status_code == 404


async def test_only_a_demos_page_says_demo(serve: Serve, client: httpx2.AsyncClient) -> None:
    async with serve(demo=True) as demo:
        assert "This is a demo" in (await demo.get("/")).text
    assert "demo" not in (await client.get("/")).text.lower()
    assert not [path for path in FILES if "demo" in (FOLDER / path).read_text().lower()]


def test_the_modules_are_small() -> None:
    lengths = {path: len((FOLDER / path).read_text().splitlines()) for path in FILES if "/vendor/" not in path}
    assert {path: length for path, length in lengths.items() if length > 250} == {}

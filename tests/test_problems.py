"""Plain responses, event streams and a chat's stored turns report an error identically."""

import json
from typing import Any

import httpx2
import pytest

from app.domain.catalogue import Catalogue
from app.domain.generation import GenerationRequest
from app.domain.progress import GenerationProgress
from app.emulator import Emulator, Fault
from app.gemini import GeminiClient
from app.lib.byte_budget import ByteBudget, Reservation
from app.lib.event_loop_scheduler import FairScheduler
from app.settings import Settings
from tests.conftest import image_file
from tests.test_logs import broken

OBJECTION = Fault(status=400, message="Unable to process input image.")
ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
FILES = {"images": ("a.png", image_file(), "image/png")}
EVENTS = {"Accept": "text/event-stream"}


def last_event(response: httpx2.Response) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(response.text.rpartition("data: ")[2])
    return event


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/chats", "GET, POST"),
        ("PUT", "/chats/chat_1", "GET, DELETE"),
        ("GET", "/generate-image", "POST"),
        ("POST", "/docs/assets/x.js", "GET"),
    ],
)
async def test_a_wrong_method_is_refused_with_all_methods_of_the_path(
    client: httpx2.AsyncClient, method: str, path: str, allow: str
) -> None:
    response = await client.request(method, path)

    assert (response.status_code, response.headers["allow"]) == (405, allow)
    assert response.json()["detail"] == f"This route accepts {allow.replace(', ', ' and ')}."


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("[]", "body: must be a JSON object"),
        ('{"prompt": 5}', "prompt: must be text"),
        ('{"prompt": "x", "seed": "a"}', "seed: must be a whole number"),
        ('{"prompt": "x", "seed": 9999999999}', "seed: must be less than or equal to 2147483647"),
        ('{"prompt": "x", "includeThoughts": "a"}', "includeThoughts: must be true or false"),
        ('{"prompt": "x", "responseFormat": "a"}', "responseFormat: must be 'data_url', 'b64' or 'url'"),
        ('{"prompt": "x", "referenceImages": {}}', "referenceImages: must be a list"),
        (
            '{"prompt": "x", "model": "nano banana"}',
            "model: is not a model's id or alias, such as gemini-3-pro-image; GET /models lists them",
        ),
        ('{"prompt": "x"', "The body is not valid JSON. The error is at line 1, column 15."),
    ],
)
async def test_invalid_bodies_are_described_in_plain_words(client: httpx2.AsyncClient, body: str, detail: str) -> None:
    response = await client.post("/generate-image", content=body, headers={"Content-Type": "application/json"})

    assert response.json()["detail"] == detail


async def test_a_problem_is_the_same_in_every_kind_of_response(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    For a form, its field is named as in the form, also in the chat.
    """
    gemini.faults.extend([OBJECTION] * 6)
    route = "/generate-image/with-references"
    turns = f"{(await client.post('/chats', json={})).json()['url']}/turns"

    plain = [(await client.post(path, data=ASK, files=FILES)).json() for path in (route, turns)]
    events = [last_event(await client.post(path, data=ASK, files=FILES, headers=EVENTS)) for path in (route, turns)]
    recorded = [one["problem"] for one in (await client.get(turns.removesuffix("/turns"))).json()["turns"]]
    in_json = (await client.post("/generate-image", json=ASK)).json()

    problems = [*plain, *events]
    assert {one["code"] for one in (*problems, *recorded)} == {"invalid_request"}
    assert {one["errors"][0]["field"] for one in problems} == {"images"}
    assert len({one["detail"] for one in (*problems, *recorded)}) == 1
    assert in_json["errors"][0]["field"] == "referenceImages"


async def test_unsupported_values_of_a_form_are_reported_with_the_form_s_field_names(
    client: httpx2.AsyncClient,
) -> None:
    files = [("images", (f"{number}.png", image_file(), "image/png")) for number in range(20)]

    response = await client.post("/generate-image/with-references", data=ASK, files=files, headers=EVENTS)

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "images"


@pytest.mark.parametrize("path", ["/generate-image", "turns"])
async def test_a_bug_after_the_call_to_gemini_must_not_be_retried(settings: Settings, path: str) -> None:
    """
    The generation may have been paid for, so clients must not retry on their own. A chat stores the failure.
    """
    async with broken(settings) as client:
        chat = (await client.post("/chats", json={})).json()["url"]
        response = await client.post(f"{chat}/turns" if path == "turns" else path, json=ASK)
        turns = (await client.get(chat)).json()["turns"]

    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert response.headers["x-should-retry"] == "false"
    assert [one["problem"]["code"] for one in turns] == (["internal"] if path == "turns" else [])


async def test_a_bug_while_the_image_is_encoded_is_a_problem_in_a_stream_too(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The image may have been paid for. (The encoder is replaced, because no request can provoke a bug in it.)
    """

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a bug of ours")

    monkeypatch.setattr("app.api.images.rendering.GenerationRead.model_validate", fail)

    plain = await client.post("/generate-image", json=ASK)
    streamed = last_event(await client.post("/generate-image", json=ASK, headers=EVENTS))

    assert (plain.status_code, plain.json()["code"]) == (500, "internal")
    assert streamed | {"requestId": ""} == plain.json() | {"requestId": ""}


class Buggy(Reservation):
    """A reservation with a bug: it fails when the first bytes of an image are counted."""

    def resize(self, count: int) -> None:
        if count > 0:
            raise ValueError("a bug of ours")
        super().resize(count)


@pytest.mark.parametrize("listener", [None, lambda _: None], ids=["plain", "stream"])
async def test_a_bug_inside_the_transport_is_not_reported_as_an_upstream_error(
    settings: Settings, gemini: Emulator, listener: Any
) -> None:
    """
    Our own code runs inside the SDK while a response is read. (A unit test, because no request can provoke a bug.)
    """
    progress = GenerationProgress(10, Buggy(ByteBudget(0)), listener)
    model = Catalogue("gemini-3-pro-image", {}, {}).resolve("gemini-3-pro-image").model
    async with GeminiClient(settings, FairScheduler()) as client:
        with pytest.raises(ValueError, match="a bug of ours"):
            await client.generate(GenerationRequest(prompt="x", image_size="1K"), model, progress)

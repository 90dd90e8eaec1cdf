"""Unusual requests below `/v1/images`: each error names the parameter as the caller wrote it, and says what to do."""

import base64
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file
from tests.test_openai_errors import ASK, EDITS, GENERATIONS, error
from tests.test_openai_images import events

EDIT = {"prompt": "Make it night"}


def data_url() -> str:
    return "data:image/png;base64," + base64.b64encode(image_file("PNG")).decode()


@pytest.mark.parametrize("name", ["aspectRatio", "numImages", "b64_json", "x-y"])
async def test_an_unknown_parameter_has_the_name_that_the_caller_sent(client: httpx2.AsyncClient, name: str) -> None:
    response = await client.post(GENERATIONS, json=ASK | {name: 1})

    assert (error(response)["param"], error(response)["code"]) == (name, "unknown_parameter")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"google_search": True, "model": "nano-banana"}, "google_search"),
        ({"image_search": True}, "image_search"),
        ({"thinking_level": "xhigh", "model": "nano-banana-2.1"}, "thinking_level"),
    ],
)
async def test_what_a_model_cannot_do_is_named_in_the_message_as_the_parameter_is(
    client: httpx2.AsyncClient, body: dict[str, Any], name: str
) -> None:
    response = await client.post(GENERATIONS, json=ASK | body)

    assert response.status_code == 400
    assert error(response)["param"] == name
    assert error(response)["message"].startswith(f"{name}: ")


@pytest.mark.parametrize("size", ["large", "16:9", "", " 1024x1024", "0512x512", "1024x1024\n", "100000x1"])
async def test_the_error_of_a_size_says_how_sizes_look(client: httpx2.AsyncClient, size: str) -> None:
    response = await client.post(GENERATIONS, json=ASK | {"size": size})

    assert (response.status_code, error(response)["param"]) == (400, "size")
    assert "1024x1024" in error(response)["message"]


@pytest.mark.parametrize(
    ("image", "param"),
    [
        ({"image_url": 7}, "images[0].image_url"),
        ({"image_url": {"url": None}}, "images[0]"),
        ({"image_url": {"url": 7}}, "images[0].image_url"),
        ({"image_url": {"url": "data:,", "hint": 1}}, "images[0].image_url.hint"),
        ({"image_url": ["data:,"]}, "images[0].image_url"),
        ({"b64_json": "iVBORw0KGgo="}, "images[0].b64_json"),
    ],
)
async def test_the_error_of_an_image_in_json_names_its_place_in_the_body(
    client: httpx2.AsyncClient, image: dict[str, Any], param: str
) -> None:
    response = await client.post(EDITS, json=EDIT | {"images": [image]})

    assert (response.status_code, error(response)["param"]) == (400, param)


async def test_a_contradiction_of_extra_body_and_body_is_refused(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    refused = await client.post(GENERATIONS, json=ASK | {"seed": 1, "extra_body": {"seed": 2}})
    accepted = await client.post(
        GENERATIONS, json=ASK | {"aspect_ratio": None, "extra_body": {"aspect_ratio": "16:9"} | ASK}
    )

    assert (refused.status_code, error(refused)["param"]) == (400, "seed")
    assert accepted.status_code == 200, accepted.text
    assert gemini.calls[0].body["generationConfig"]["imageConfig"]["aspectRatio"] == "16:9"
    assert len(gemini.calls) == 1


async def test_too_many_images_for_the_model_are_named_as_the_caller_sent_them(client: httpx2.AsyncClient) -> None:
    in_json = await client.post(EDITS, json=EDIT | {"images": [{"image_url": data_url()}] * 15})
    in_form = await client.post(EDITS, data=EDIT, files=[("image[]", image_file("PNG"))] * 15)

    assert [error(one)["param"] for one in (in_json, in_form)] == ["images", "image"]


async def test_a_form_field_with_two_values_is_refused(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    different = await client.post(EDITS, data=EDIT | {"n": ["1", "2"]}, files={"image": image_file("PNG")})
    equal = await client.post(EDITS, data=EDIT | {"n": ["1", "1"]}, files={"image": image_file("PNG")})

    assert (different.status_code, error(different)["param"]) == (400, "n")
    assert equal.status_code == 200
    assert len(gemini.calls) == 1


async def test_two_masks_are_refused_as_masks(client: httpx2.AsyncClient) -> None:
    files = [
        (name, image_file(colour=colour)) for name, colour in (("image", "red"), ("mask", "red"), ("mask[]", "blue"))
    ]

    response = await client.post(EDITS, data=EDIT, files=files)

    assert (error(response)["param"], error(response)["code"]) == ("mask", "unsupported_parameter")


async def test_names_of_openais_models_may_have_geminis_prefix(client: httpx2.AsyncClient) -> None:
    response = await client.post(GENERATIONS, json=ASK | {"model": "models/gpt-image-1"})

    assert response.status_code == 200, response.text


async def test_a_file_without_a_name_is_an_error_that_names_its_field(client: httpx2.AsyncClient) -> None:
    head = 'Content-Disposition: form-data; name="image"\r\nContent-Type: image/png\r\n\r\n'
    body = f"--limit\r\n{head}".encode() + image_file("PNG") + b"\r\n--limit--\r\n"

    response = await client.post(EDITS, content=body, headers={"Content-Type": "multipart/form-data; boundary=limit"})

    assert (response.status_code, error(response)["param"]) == (400, "image")


async def test_more_images_than_the_service_has_places_are_an_error_that_no_client_repeats(
    serve: Serve, gemini: Emulator
) -> None:
    async with serve(max_in_flight=1, max_queued=1) as client:
        refused = await client.post(GENERATIONS, json=ASK | {"n": 3})
        accepted = await client.post(GENERATIONS, json=ASK | {"n": 2})

    assert (refused.status_code, error(refused)["param"]) == (400, "n")
    assert accepted.status_code == 200
    assert len(gemini.calls) == 2


@pytest.mark.parametrize("faults", [["free", "paid"], ["paid", "free"]])
async def test_a_failure_that_may_have_cost_decides_for_all_images(
    client: httpx2.AsyncClient, gemini: Emulator, faults: list[str]
) -> None:
    kinds = {"free": Fault(status=429, details=[{"retryDelay": "34s"}]), "paid": Fault(reset="in_body", times=2)}
    gemini.faults.extend(kinds[name] for name in faults)

    response = await client.post(GENERATIONS, json=ASK | {"n": 2})

    assert response.status_code < 500
    assert response.status_code not in (408, 409, 429)


@pytest.mark.parametrize("place", [0, 1])
async def test_a_refusal_among_free_failures_is_never_repeated(
    client: httpx2.AsyncClient, gemini: Emulator, place: int
) -> None:
    faults = [Fault(status=429, details=[{"retryDelay": "34s"}])]
    faults.insert(place, Fault(finish_reason="IMAGE_SAFETY"))
    gemini.faults.extend(faults)

    response = await client.post(GENERATIONS, json=ASK | {"n": 2})

    assert response.status_code in (400, 424)
    assert response.headers["x-should-retry"] == "false"


async def test_a_deadline_while_gemini_draws_is_never_repeated(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(delay_seconds=5, times=9))

    response = await client.post(GENERATIONS, json=ASK | {"n": 2}, headers={"X-Timeout-Seconds": "1"})

    assert response.status_code == 424
    assert response.headers["x-should-retry"] == "false"


async def test_a_stream_of_failures_only_ends_with_one_error(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY", times=3))

    response = await client.post(GENERATIONS, json=ASK | {"stream": True, "n": 3})

    assert response.text.count("event: ") == 1
    assert response.text.rstrip().rsplit("\n\n", 1)[-1].startswith("event: error\n")


async def test_a_warning_names_the_parameter_as_the_caller_does(client: httpx2.AsyncClient) -> None:
    answer = (await client.post(GENERATIONS, json=ASK | {"thinking_level": "high"})).json()

    assert [one for one in answer["warnings"] if one.startswith("thinking_level has no effect")]


async def test_images_of_a_stream_are_numbered_as_they_end(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.extend([Fault(finish_reason="IMAGE_SAFETY"), Fault(delay_seconds=0.3, times=9)])

    response = await client.post(GENERATIONS, json=ASK | {"stream": True, "n": 2})

    (completed,) = events(response.text)
    assert [one for one in completed["warnings"] if one.startswith("Image 1 of 2 failed")]

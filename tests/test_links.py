"""Signed links to recorded generations, and the document that has them."""

import time
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from app.api.generations.document import generation_document
from app.api.generations.links import LinkMaker
from app.domain.caller import Caller
from app.domain.errors import (
    ContentBlocked,
    ExpiredLink,
    FieldError,
    InvalidLink,
    InvalidRequest,
    ServiceError,
    UpstreamBusy,
)
from app.domain.generation import Generation, GenerationRequest, Image, Usage
from app.domain.recorded import GenerationStatus, Order, RecordedGeneration
from app.lib.base64_json import SegmentedContent

BASE = "https://images.example/api"
LINKS = LinkMaker(BASE, b"k" * 32, 3600)
ID = "gen_5a4c1f0e7b6d4a9f8f0c2f1c3b7a9e12"

OPENAI_VIEW = {
    "api": "openai",
    "links": True,
    "operation": "image_generation",
    "size": "1024x1024",
    "fieldNames": {"imageSize": "size"},
}
NATIVE_VIEW = {"api": "images"}


def made(text: str | None = None) -> Generation:
    image = Image(SegmentedContent([b"not read"]), "image/jpeg", 1024, 768)
    return Generation(ID, image, "gemini-3-pro-image", Usage(total_tokens=9), text=text, drafts=(image,))


def recorded(
    view: dict[str, Any], *outcomes: Generation | ServiceError, status: str = "succeeded", ago: float = 10
) -> RecordedGeneration:
    now = time.time()
    order = Order(Caller("web", keyed=True), GenerationRequest("x"), max(1, len(outcomes)), view=view)
    return RecordedGeneration(
        ID,
        "key:web",
        GenerationStatus(status),
        is_async=True,
        created_at=now - ago - 2,
        started_at=now - ago - 1,
        finished_at=now - ago if GenerationStatus(status).is_final else None,
        attempts=1,
        order=order,
        outcomes=outcomes,
    )


def query_of(link: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(link).query))


def test_a_link_is_valid_for_its_purpose_and_its_generation_only() -> None:
    query = query_of(LINKS.image(recorded(NATIVE_VIEW, made())))

    LINKS.check("image", ID, query)
    for purpose, id_, changed in (
        ("events", ID, query),
        ("image", ID.replace("5", "6"), query),
        ("image", ID, query | {"expires": str(int(query["expires"]) + 1)}),
        ("image", ID, query | {"expires": f"0{query['expires']}"}),
        ("image", ID, query | {"expires": ""}),
        ("image", ID, query | {"expires": "never"}),
        ("image", ID, query | {"signature": ""}),
        ("image", ID, query | {"signature": query["signature"][:-1]}),
        ("image", ID, query | {"signature": "é"}),
        ("image", ID, {"signature": query["signature"]}),
        ("image", ID, {}),
    ):
        with pytest.raises(InvalidLink):
            LINKS.check(purpose, id_, changed)  # type: ignore[arg-type]
    with pytest.raises(InvalidLink):
        replace(LINKS, key=b"j" * 32).check("image", ID, query)


def test_an_expired_link_is_told_from_a_changed_one() -> None:
    generation = recorded(NATIVE_VIEW, made())
    query = query_of(replace(LINKS, ttl_seconds=0.001).image(generation))
    time.sleep(int(query["expires"]) - time.time() + 0.01)

    with pytest.raises(ExpiredLink):
        LINKS.check("image", ID, query)


@pytest.mark.parametrize("ago", [0, 10, 1790, 1810, 3590, 3610, 86_400, 600_000])
def test_a_link_works_for_at_least_half_of_its_time_and_stays_the_same_meanwhile(ago: float) -> None:
    generation = recorded(NATIVE_VIEW, made(), ago=ago)

    left = LINKS.expires_at(generation) - time.time()

    assert 1799 < left <= 3601
    assert LINKS.image(generation) == LINKS.image(generation)


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_generation_that_is_not_over_has_links_to_itself_and_its_events(status: str) -> None:
    generation = recorded(NATIVE_VIEW, status=status)

    document = generation_document(generation, LINKS)

    assert list(document) == [
        "id", "status", "createdAt", "startedAt", "finishedAt", "attempts", "mayHaveCost", "links"
    ]  # fmt: skip
    assert set(document["links"]) == {"self", "events"}
    assert document["links"]["self"] == f"{BASE}/generations/{ID}"
    assert (document["startedAt"] is None) is (status == "queued")
    assert document["createdAt"].endswith("Z")
    LINKS.check("events", ID, query_of(document["links"]["events"]))


def test_a_result_has_a_link_in_place_of_the_image() -> None:
    document = generation_document(recorded(NATIVE_VIEW, made("Here.")), LINKS)

    result = document["result"]
    assert result["image"] == {
        "url": document["links"]["image"],
        "mimeType": "image/jpeg",
        "width": 1024,
        "height": 768,
    }
    assert result["text"] == "Here."
    assert "drafts" not in result
    assert "problem" not in document
    LINKS.check("image", ID, query_of(result["image"]["url"]))


def test_a_result_of_several_images_has_a_link_for_each_that_was_made() -> None:
    busy = UpstreamBusy("Gemini is busy.")

    document = generation_document(recorded(OPENAI_VIEW, made("a"), busy, made()), LINKS)

    data = document["result"]["data"]
    assert [list(item) for item in data] == [["url", "text"], ["url"]]
    assert data[0]["url"] == document["links"]["image"]
    assert data[1]["url"] == f"{document['links']['image']}&index=1"
    assert any("Image 2 of 3 failed" in warning for warning in document["result"]["warnings"])
    LINKS.check("image", ID, query_of(data[1]["url"]))


def test_the_document_of_a_result_is_the_same_each_time() -> None:
    generation = recorded(OPENAI_VIEW, made())

    assert generation_document(generation, LINKS) == generation_document(generation, LINKS)


@pytest.mark.parametrize(
    ("status", "outcomes", "code"),
    [
        ("failed", (ContentBlocked("No."), UpstreamBusy("Busy.")), "content_blocked"),
        ("cancelled", (), "cancelled"),
        ("interrupted", (), "outcome_unknown"),
    ],
)
def test_a_generation_without_an_image_has_a_problem(
    status: str, outcomes: tuple[ServiceError, ...], code: str
) -> None:
    document = generation_document(recorded(OPENAI_VIEW, *outcomes, status=status), LINKS)

    assert document["problem"]["code"] == code
    assert "requestId" not in document["problem"]
    assert "result" not in document
    assert set(document["links"]) == {"self", "events"}


def test_a_problem_has_the_field_names_of_the_api_that_ordered() -> None:
    error = InvalidRequest([FieldError("imageSize", "must be 1K")])

    document = generation_document(recorded(OPENAI_VIEW, error, status="failed"), LINKS)

    assert document["problem"]["errors"][0]["field"] == "size"

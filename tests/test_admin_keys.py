"""`/admin/keys` does for programs what `python -m app keys` does for people."""

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from tests.conftest import Serve

ADMIN = "4f9c0e7b6d1a8253"
HEADERS = {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture
async def admin(serve: Serve, tmp_path: Path) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client with the key of the administrator."""
    async with serve(data_dir=tmp_path, require_keys=True, admin_api_key=ADMIN) as client:
        client.headers.update(HEADERS)
        yield client


async def test_a_key_is_made_changed_rotated_and_revoked(admin: httpx2.AsyncClient) -> None:
    made = await admin.post("/admin/keys", json={"name": "web", "rate": "60/min", "max_size": "2k", "expires": "90d"})
    secret = made.json().pop("secret")
    changed = await admin.patch("/admin/keys/web", json={"rate": None, "budget": "20/month", "trackUsers": True})
    rotated = await admin.post("/admin/keys/web/rotate", json={"overlap": "1h"})
    got = await admin.get("/admin/keys/web")
    listed = await admin.get("/admin/keys")
    revoked = await admin.delete("/admin/keys/web")
    after = await admin.get("/admin/keys/web")
    again = await admin.post("/admin/keys", json={"name": "web"})

    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    assert (made.json()["rate"], made.json()["maxSize"], made.json()["state"]) == ("60/min", "2K", "valid")
    assert (changed.json()["rate"], changed.json()["maxSize"]) == (None, "2K")
    assert (changed.json()["budget"], changed.json()["spentUsd"]) == ("20/month", 0)
    assert changed.json()["trackUsers"] is True
    assert changed.json()["expiresAt"] == made.json()["expiresAt"]
    assert rotated.json()["secret"] != secret
    assert rotated.headers["cache-control"] == "no-store"
    assert [one["hint"] for one in got.json()["secrets"]] == [rotated.json()["secret"][:10], secret[:10]]
    assert listed.json() == {"keys": [got.json()]}
    assert "secret" not in got.json()
    assert (revoked.status_code, revoked.content) == (204, b"")
    assert after.json()["state"] == "revoked"
    assert (again.status_code, again.json()["rate"]) == (201, None)


async def test_no_other_key_opens_the_routes_and_the_key_opens_only_metrics_too(
    admin: httpx2.AsyncClient, serve: Serve
) -> None:
    secret = (await admin.post("/admin/keys", json={"name": "web"})).json()["secret"]
    with_callers_key = await admin.get("/admin/keys", headers={"Authorization": f"Bearer {secret}"})
    without_key = await admin.get("/admin/keys", headers={"Authorization": ""})
    in_another_header = await admin.get("/admin/keys", headers={"Authorization": "", "X-API-Key": ADMIN})
    elsewhere = await admin.get("/models")
    metrics = await admin.get("/metrics")
    unknown = await admin.get("/admin/nothing")
    unknown_without_key = await admin.get("/admin/nothing", headers={"Authorization": ""})

    codes = [with_callers_key, without_key, in_another_header, elsewhere, unknown, unknown_without_key, metrics]
    assert [one.status_code for one in codes] == [401, 401, 200, 401, 404, 401, 200]


async def test_without_a_key_of_the_administrator_there_are_no_routes(client: httpx2.AsyncClient) -> None:
    found = await client.get("/admin/keys", headers=HEADERS)
    unknown = await client.get("/nothing", headers=HEADERS)
    document = (await client.get("/openapi.json")).json()

    assert found.status_code == unknown.status_code == 404
    assert found.json()["code"] == unknown.json()["code"]
    assert not [path for path in document["paths"] if path.startswith("/admin")]


@pytest.mark.parametrize("required", [True, False])
async def test_the_routes_are_documented_with_their_own_key(serve: Serve, tmp_path: Path, required: bool) -> None:
    async with serve(data_dir=tmp_path, admin_api_key=ADMIN, require_keys=required, docs_access="open") as client:
        document = (await client.get("/openapi.json")).json()

    paths = document["paths"]
    assert {"/admin/keys", "/admin/keys/{name}", "/admin/keys/{name}/rotate"} <= paths.keys()
    assert paths["/admin/keys"]["post"]["security"] == [{"Administrator": []}]
    assert ("security" in paths["/models"]["get"]) is required
    assert "HTTPValidationError" not in document["components"]["schemas"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "a:b"}, "name"),
        ({}, "name"),
        ({"name": "web", "rat": "60/min"}, "rat"),
        ({"name": "web", "rat": None}, "rat"),
        ({"name": "web", "rate": "often"}, "rate"),
        ({"name": "web", "concurrent": 0}, "concurrent"),
        ({"name": "web", "budget": "-1/day"}, "budget"),
        ({"name": "web", "maxSize": "8K"}, "maxSize"),
        ({"name": "web", "models": ["a/b"]}, "models[0]"),
        ({"name": "web", "models": []}, "models"),
        ({"name": "web", "expires": 0}, "expires"),
    ],
)
async def test_an_invalid_field_is_refused_by_name(
    admin: httpx2.AsyncClient, body: dict[str, object], field: str
) -> None:
    refused = await admin.post("/admin/keys", json=body)

    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == [field]


async def test_a_key_that_exists_or_does_not_is_a_problem(admin: httpx2.AsyncClient) -> None:
    await admin.post("/admin/keys", json={"name": "Büro 2"})
    exists = await admin.post("/admin/keys", json={"name": "Büro 2"})
    found = await admin.get("/admin/keys/B%C3%BCro%202")
    unknown = [
        await admin.get("/admin/keys/nobody"),
        await admin.patch("/admin/keys/nobody", json={"rate": None}),
        await admin.delete("/admin/keys/nobody"),
        await admin.post("/admin/keys/nobody/rotate"),
    ]

    assert (exists.status_code, exists.json()["code"]) == (409, "key_exists")
    assert found.json()["name"] == "Büro 2"
    assert {(one.status_code, one.json()["code"]) for one in unknown} == {(404, "key_not_found")}


@pytest.mark.parametrize("body", [b"\xff\xfe", b"{", b"[" * 100_000, b""])
async def test_a_body_that_is_not_json_is_refused(admin: httpx2.AsyncClient, body: bytes) -> None:
    refused = await admin.post("/admin/keys", content=body, headers={"Content-Type": "application/json"})

    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_json")

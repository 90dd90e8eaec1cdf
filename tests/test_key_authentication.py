"""Keys of the database authenticate callers, on every replica, and also while the database is away."""

import asyncio
import hashlib
from pathlib import Path

import httpx2
import pytest

from app.domain.api_key import make_secret
from app.emulator import Emulator
from tests.callers import add_key, break_database
from tests.conftest import Serve
from tests.keys_command import keys
from tests.storages import Overrides, postgres
from tests.test_admin_keys import ADMIN

BODY = {"prompt": "x", "imageSize": "1K"}
UNREACHABLE = "postgresql://user@127.0.0.1:1/database"
STATIC = "a-key-of-the-settings"
WITH_KEYS = {"require_keys": True, "admin_api_key": ADMIN}


async def made(client: httpx2.AsyncClient, name: str, **limits: object) -> dict[str, str]:
    """Make a key. Return the header that sends it."""
    response = await client.post("/admin/keys", json={"name": name, **limits}, headers={"X-API-Key": ADMIN})
    assert response.status_code == 201, response.text
    return {"X-API-Key": response.json()["secret"]}


async def status(client: httpx2.AsyncClient, key: dict[str, str]) -> int:
    return (await client.get("/models", headers=key)).status_code


async def until_status(client: httpx2.AsyncClient, key: dict[str, str], wanted: int) -> None:
    """Wait until a request with the key gets the status, for ten seconds at most."""
    async with asyncio.timeout(10):
        while await status(client, key) != wanted:  # noqa: ASYNC110 - the service says it to nobody else
            await asyncio.sleep(0.2)


async def test_a_typing_error_is_refused_without_a_look_up(serve: Serve, tmp_path: Path) -> None:
    """
    A look-up would fail here. A key that may exist is not called unknown then.
    """
    secret = make_secret()
    typo = secret[:-1] + ("x" if secret[-1] != "x" else "y")
    async with serve(data_dir=tmp_path, require_keys=True, database_url=UNREACHABLE) as client:
        refused = await client.get("/models", headers={"X-API-Key": typo})
        failed = await client.get("/models", headers={"X-API-Key": secret})
        on_v1 = await client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})

    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert (failed.status_code, failed.json()["code"]) == (503, "storage_unavailable")
    assert (on_v1.status_code, on_v1.json()["error"]["code"]) == (503, "storage_unavailable")


async def test_keys_that_were_seen_need_no_database(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    async with serve(data_dir=tmp_path, **WITH_KEYS, service_api_keys=f"batch:{STATIC}") as client:
        seen, unseen = await made(client, "web"), await made(client, "other")
        await status(client, seen)
        break_database(tmp_path)
        served = await client.post("/generate-image", json=BODY, headers=seen)
        static = await status(client, {"X-API-Key": STATIC})
        refused = await status(client, unseen)

    assert (served.status_code, static, refused) == (200, 200, 503)


@pytest.mark.slow
async def test_keys_are_read_again_when_the_database_is_back(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    """
    A revocation while the service cannot read is felt within ten seconds after it can.
    """
    with postgres() as server:
        storage: Overrides = {"data_dir": tmp_path, "database_url": server.database()}
        async with serve(**storage, **WITH_KEYS) as client:
            seen, unseen = await made(client, "web"), await made(client, "other")
            await status(client, seen)
            server.stop()
            refused = await status(client, unseen)
            await asyncio.sleep(10)
            served = await status(client, seen)
            server.start()
            await until_status(client, unseen, 200)
            await client.delete("/admin/keys/web", headers={"X-API-Key": ADMIN})
            await until_status(client, seen, 401)

    assert (refused, served) == (503, 200)


async def test_changes_are_felt_on_every_replica_within_ten_seconds(
    serve: Serve, gemini: Emulator, storage: Overrides, tmp_path: Path
) -> None:
    settings: Overrides = {**storage, **WITH_KEYS, "service_api_keys": f"batch:{STATIC}"}
    environment = {"DATABASE_URL": storage["database_url"]} if "database_url" in storage else {}
    async with serve(**settings) as here, serve(**settings) as there:
        revoked, rotated, expiring = [
            await made(here, "revoked"), await made(here, "rotated"), await made(here, "expiring", expires="1s")
        ]  # fmt: skip
        before = [await status(one, key) for one in (here, there) for key in (revoked, rotated, expiring)]
        await here.delete("/admin/keys/revoked", headers={"X-API-Key": ADMIN})
        other = await keys(tmp_path, "rotate", "rotated", "--overlap", "1s", **environment)
        at_once = [await status(one, {"X-API-Key": other.secret}) for one in (here, there)]
        during_overlap = await status(there, rotated)
        await asyncio.gather(
            *(until_status(one, key, 401) for one in (here, there) for key in (revoked, rotated, expiring))
        )
        afterwards = [await status(one, {"X-API-Key": other.secret}) for one in (here, there)]

    assert before == [200] * 6
    assert at_once == [200, 200]
    assert during_overlap == 200
    assert afterwards == [200, 200]


async def test_where_no_key_is_required_one_of_the_database_names_its_caller(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    async with serve(data_dir=tmp_path, admin_api_key=ADMIN) as client:
        key = await made(client, "web")
        theirs = await client.post("/chats", json={}, headers=key)
        without_key = await client.get("/chats")
        with_it = await client.get("/chats", headers=key)
        unknown = await status(client, {"X-API-Key": make_secret()})
        of_another_service = await status(client, {"Authorization": "Bearer sk-anything"})

    assert theirs.status_code == 201
    assert without_key.json()["chats"] == []
    assert len(with_it.json()["chats"]) == 1
    assert (unknown, of_another_service) == (401, 200)


async def test_a_name_is_the_same_caller_in_the_settings_and_in_the_database(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    async with serve(data_dir=tmp_path, **WITH_KEYS, service_api_keys=f"web:{STATIC}") as client:
        chat = (await client.post("/chats", json={}, headers={"X-API-Key": STATIC})).headers["location"]
        found = await client.get(chat, headers=await made(client, "web"))
        of_another = await client.get(chat, headers=await made(client, "other"))

    assert (found.status_code, of_another.status_code) == (200, 404)


async def test_limits_in_the_database_hold_for_a_name_in_the_settings(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    storage: Overrides = {"data_dir": tmp_path}
    await add_key(storage, "web", rate="1/day")
    async with serve(**storage, service_api_keys=f"web:{STATIC}") as client:
        answers = [await client.post("/generate-image", json=BODY, headers={"X-API-Key": STATIC}) for _ in range(2)]

    assert [one.status_code for one in answers] == [200, 429]
    assert answers[1].json()["code"] == "rate_limited"


async def test_secrets_and_end_users_are_in_no_log_and_no_metric(
    serve: Serve, gemini: Emulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    user = "anna@example.com"
    async with serve(data_dir=tmp_path, **WITH_KEYS, log_level="debug", log_format="json") as client:
        key = await made(client, "web", trackUsers=True)
        wrong = {"X-API-Key": make_secret()}
        for headers in (key, wrong, {"X-API-Key": key["X-API-Key"][:-1]}):
            await client.post("/generate-image", json=BODY, headers={**headers, "X-End-User": user})
        metrics = (await client.get("/metrics", headers=key)).text
        listed = (await client.get("/admin/keys", headers={"X-API-Key": ADMIN})).text
    written = "".join(capfd.readouterr())

    assert f'"endUser": "{hashlib.sha256(user.encode()).hexdigest()[:16]}"' in written
    for hidden in (key["X-API-Key"], key["X-API-Key"][:-1], wrong["X-API-Key"], ADMIN, user):
        assert hidden not in written + metrics + listed


async def test_spaces_around_the_values_of_headers_mean_nothing(serve: Serve, tmp_path: Path) -> None:
    async with serve(data_dir=tmp_path, service_api_keys=f"batch:{STATIC}") as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        head = f"GET /models HTTP/1.1\r\nHost: x\r\nX-API-Key: {STATIC} \r\nX-End-User:\tanna\t\r\n\r\n"
        writer.write(head.encode())
        status_line = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        await writer.wait_closed()

    assert status_line.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("user", ["", "a b", "a" * 65, "Zoë"])
async def test_an_end_user_has_1_to_64_visible_characters(client: httpx2.AsyncClient, user: str) -> None:
    refused = await client.get("/models", headers={b"X-End-User": user.encode()})

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "X-End-User"

"""`python -m app keys` gives out, changes and ends keys, and says in a sentence what it cannot do."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.api.keys.request import KeyCreate, KeyRotation
from app.domain.api_key import is_well_formed, make_secret
from tests.conftest import Serve
from tests.keys_command import keys

SECRET = re.compile(r"gim_[0-9A-Za-z]{38}")


async def test_a_key_can_be_made_before_there_is_a_database_or_a_service(serve: Serve, tmp_path: Path) -> None:
    made = await keys(tmp_path, "add", "web", "--rate", "60/min", "--budget", "0.30/day")
    async with serve(data_dir=tmp_path, require_keys=True) as client:
        accepted = await client.get("/models", headers={"Authorization": f"Bearer {made.secret}"})
        refused = await client.get("/models")

    assert SECRET.fullmatch(made.secret)
    assert is_well_formed(made.secret)
    assert made.output.count(made.secret) == 1
    assert "60/min" in made.output
    assert (accepted.status_code, refused.status_code) == (200, 401)
    for file in tmp_path.glob("chats.db*"):
        assert made.secret.encode() not in file.read_bytes()


async def test_a_key_made_while_the_service_runs_works_at_once(serve: Serve, tmp_path: Path) -> None:
    async with serve(data_dir=tmp_path, require_keys=True) as client:
        before = await client.get("/models", headers={"X-API-Key": make_secret()})
        made = await keys(tmp_path, "add", "web", "--json")
        after = await client.get("/models", headers={"X-API-Key": made.json()["secret"]})

    assert (before.status_code, after.status_code) == (401, 200)


async def test_set_keeps_what_it_does_not_name(tmp_path: Path) -> None:
    made = await keys(tmp_path, "add", "web", "--rate", "60/min", "--max-size", "2k", "--models", "a,b", "--json")
    changed = await keys(tmp_path, "set", "web", "--rate", "none", "--concurrent", "4", "--json")

    expected = made.json() | {"rate": None, "concurrent": 4}
    assert expected.pop("secret")
    assert changed.json() == expected
    assert (expected["maxSize"], expected["models"]) == ("2K", ["a", "b"])


@pytest.mark.slow
async def test_keys_are_listed_rotated_and_revoked_without_their_secrets(tmp_path: Path) -> None:
    made = await keys(tmp_path, "add", "web", "--budget", "0.30/day", "--expires", "90d")
    rotated = await keys(tmp_path, "rotate", "web", "--overlap", "1h")
    listed = await keys(tmp_path, "list", "--json")
    table = await keys(tmp_path, "list")
    shown = await keys(tmp_path, "show", "web")
    revoked = await keys(tmp_path, "revoke", "web", "--json")

    (key,) = listed.json()["keys"]
    first, second = key["secrets"]
    assert (first["hint"], second["hint"]) == (rotated.secret[:10], made.secret[:10])
    assert first["expiresAt"] > second["expiresAt"]
    header, row = table.output.splitlines()
    assert header.split()[:6] == ["NAME", "STATE", "RATE", "CONCURRENT", "BUDGET", "SPENT"]
    assert row.split()[:6] == ["web", "valid", "-", "-", "0.30/day", "0.00"]
    assert revoked.json()["state"] == "revoked"
    for output in (listed.output, table.output, shown.output, revoked.output):
        assert not SECRET.search(output)


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["add", "other", "--rate", "60"], {}, "--rate must be"),
        (["list"], {"DATABASE_URL": "postgresql://me:very-secret@127.0.0.1:1/keys"}, "refused"),
        *(
            pytest.param(arguments, environment, words, marks=pytest.mark.slow)
            for arguments, environment, words in [
                (["set", "nobody", "--rate", "none"], {}, "nobody"),
                (["rotate", "nobody"], {}, "nobody"),
                (["usage", "nobody"], {}, "nobody"),
                (["set", "web"], {}, "--rate none"),
                (["add", "other", "--models", "a/b"], {}, "a/b"),
                (["add"], {}, "NAME"),
                (["rename", "web"], {}, "rename"),
                (["usage", "--from", "2026-02-30"], {}, "--from"),
                (["usage", "--from", "2026-02-02", "--to", "2026-02-01"], {}, "--from"),
                (["list"], {"AUTO_MIGRATE": "false"}, "migrate"),
                (["list"], {"PORT": "eighty"}, "PORT"),
            ]
        ),
    ],
)
async def test_what_cannot_be_done_is_a_sentence(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], words: str
) -> None:
    ran = await keys(tmp_path, *arguments, **environment)

    assert ran.code not in (0, None)
    assert words in ran.error
    assert len(ran.error.splitlines()) == 1
    assert ran.output == ""
    assert "very-secret" not in ran.error


@pytest.mark.slow
async def test_a_name_with_a_valid_key_is_not_given_out_again(tmp_path: Path) -> None:
    await keys(tmp_path, "add", "web")
    taken = await keys(tmp_path, "add", "web")
    await keys(tmp_path, "revoke", "web")
    rotated = await keys(tmp_path, "rotate", "web")
    again = await keys(tmp_path, "add", "web", "--track-users")

    assert (taken.code, rotated.code, again.code) == (1, 1, 0)
    assert "web" in taken.error
    assert "no longer valid" in rotated.error


@pytest.mark.parametrize(
    "option",
    [
        {"name": ""}, {"name": "a" * 65}, {"name": "a:b"}, {"name": "a,b"}, {"name": "a/b"}, {"name": " a"},
        {"name": "a\n"}, {"name": ".."},
        {"rate": "0/min"}, {"rate": "60/year"}, {"rate": "-1/s"}, {"rate": 60},
        {"concurrent": 0}, {"concurrent": -1}, {"concurrent": "many"}, {"concurrent": True}, {"concurrent": 1.5},
        {"budget": "20"}, {"budget": "-1/day"}, {"budget": "1e3/day"}, {"budget": "0.0000001/day"},
        {"max_size": "8K"}, {"max_size": "1024"}, {"models": ["a/b"]}, {"models": [""]}, {"models": "a"},
        {"expires": 0}, {"expires": "0s"}, {"expires": -5}, {"expires": "soon"}, {"expires": "99999999d"},
        {"expires": float("nan")}, {"nope": 1},
    ],
)  # fmt: skip
def test_nonsense_is_refused(option: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        KeyCreate.model_validate({"name": "web", **option})


def test_small_values_are_allowed() -> None:
    key = KeyCreate(name="Büro 2", budget="0.30/day", expires="0.5s", concurrent=1)

    assert key.limits.budget is not None
    assert key.limits.budget.micro_usd == 300_000
    assert key.expires == 0.5
    assert KeyRotation.model_validate({"overlap": "0"}).overlap == 0


def test_a_secret_with_a_typing_error_is_not_well_formed() -> None:
    """
    CRC32 finds every error in one character, and every two characters that are swapped.
    """
    secret = make_secret()

    assert is_well_formed(secret)
    for place, character in enumerate(secret):
        other = "x" if character != "x" else "y"
        assert not is_well_formed(secret[:place] + other + secret[place + 1 :])
        assert not is_well_formed(secret[:place] + secret[place + 1 :])
        swapped = secret[:place] + secret[place : place + 2][::-1] + secret[place + 2 :]
        assert swapped == secret or not is_well_formed(swapped)
    assert not is_well_formed(secret + "\n")
    assert not is_well_formed("")

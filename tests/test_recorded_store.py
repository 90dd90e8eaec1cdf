"""The store of recorded generations: keys, the claim chain, the queue, outcomes, and processes that died."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.api.http.problems import problem_document
from app.domain import errors
from app.domain.chat import ChatDefaults, Turn, TurnState
from app.domain.errors import (
    AlreadyAsked,
    ContentBlocked,
    FieldError,
    GenerationNotFound,
    IdempotencyKeyReused,
    LeaseLost,
    OutcomeUnknown,
    Overloaded,
    ServiceError,
    UpstreamBusy,
)
from app.domain.generation import (
    Generation,
    GenerationRequest,
    Grounding,
    Output,
    Part,
    SafetySetting,
    Usage,
    WebSource,
)
from app.domain.limits import Allowance, Budget, Limits, Period, Rate
from app.domain.recorded import GenerationStatus, NewGeneration, Order, TurnOrder, TurnToSave
from app.store.generations import GenerationStore
from tests.held_storage import HeldDatabase
from tests.recorded import ANNA, BOB, answer, bytes_of, image, new, new_id, open_generations, reference
from tests.storages import Overrides
from tests.stored_chats import blob_files, execute, fetched, open_storage


async def finish(store: GenerationStore, one: NewGeneration, generation: Generation | None = None) -> None:
    kept = await store.keep_answer(one.id, 0, generation or answer(), None)
    await store.settle(one.id, "here", [kept], attempts=1, is_converted=False)


async def end_leases(storage: Overrides) -> None:
    """Let all leases end, as after a crash."""
    await execute(storage, "UPDATE generations SET lease_until = 0 WHERE lease_until IS NOT NULL")


async def test_a_key_gives_the_same_generation_again(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        first = await store.submit(new(idempotency_key="k", asked=True))
        again = await store.submit(new(idempotency_key="k", asked=True))
        await finish(store, replace(new(), id=first.generation.id))
        replayed = await store.submit(new(idempotency_key="k", asked=True))
        with pytest.raises(IdempotencyKeyReused):
            await store.submit(new("A dog", idempotency_key="k"))
        others = await store.submit(new(caller=BOB, idempotency_key="k"))

    assert (first.is_new, again.is_new, replayed.is_new, others.is_new) == (True, False, False, True)
    assert first.generation.status is GenerationStatus.RUNNING
    assert first.generation.asked_at is not None
    assert again.generation.id == replayed.generation.id == first.generation.id
    assert replayed.generation.status is GenerationStatus.SUCCEEDED
    assert isinstance(replayed.generation.outcomes[0], Generation)


async def test_simultaneous_requests_with_one_key_make_one_generation(storage: Overrides) -> None:
    async with open_generations(storage) as store, open_generations(storage) as other_replica:
        stores = [store, other_replica] * 10
        found = await asyncio.gather(*(one.submit(new(idempotency_key="k")) for one in stores))

    assert sum(one.is_new for one in found) == 1
    assert len({one.generation.id for one in found}) == 1


async def test_a_key_is_free_again_after_a_failure_without_cost_and_after_its_time(storage: Overrides) -> None:
    async with open_generations(storage, idempotency_ttl="1s", generation_ttl="1h") as store:
        first = new(idempotency_key="k")
        await store.submit(first)
        await store.settle(first.id, "here", [UpstreamBusy("busy")], attempts=1, is_converted=False)
        second = new(idempotency_key="k", asked=True)
        assert (await store.submit(second)).is_new
        with pytest.raises(GenerationNotFound):
            await store.get(first.id, None)

        await store.settle(second.id, "here", [ContentBlocked("no")], attempts=1, is_converted=False)
        assert not (await store.submit(new(idempotency_key="k"))).is_new
        await asyncio.sleep(1.1)
        assert (await store.submit(new(idempotency_key="k"))).is_new
        assert (await store.get(second.id, None)).status is GenerationStatus.FAILED


async def test_an_asynchronous_failure_without_cost_is_kept_without_its_key(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        one = new(is_async=True, idempotency_key="k")
        await store.submit(one)
        [(holder, _)] = await store.claim(["here"])
        await store.settle(one.id, holder, [UpstreamBusy("busy", retry_after=5)], attempts=2, is_converted=False)
        found = await store.get(one.id, ANNA.owner)

        assert (await store.submit(new(is_async=True, idempotency_key="k"))).is_new

    assert (found.status, found.attempts, found.may_have_cost) == (GenerationStatus.FAILED, 2, False)


async def test_repetitions_with_counts_take_over_one_generation_each(storage: Overrides) -> None:
    """Three rounds of 40 identical requests at once; half of their callers leave and try again."""
    async with open_generations(storage) as store, open_generations(storage) as other_replica:
        stores = [store, other_replica] * 20
        for _ in range(3):
            first = await asyncio.gather(*(one.submit(new(retry_count=0, asked=True)) for one in stores))
            left = [one.generation.id for one in first[::2]]
            await asyncio.gather(*(store.mark_caller_left(one, 1) for one in left))
            again = await asyncio.gather(*(one.submit(new(retry_count=1)) for one in stores[::2]))
            assert all(one.is_new for one in first)
            assert all(one.taken_over for one in again)
            assert {one.generation.id for one in again} == {*left}
            last = await asyncio.gather(*(one.submit(new(retry_count=2)) for one in stores[::2]))
            assert {one.generation.id for one in last} == {*left}
            for one in first:
                await finish(store, replace(new(), id=one.generation.id))


async def test_a_repetition_prefers_who_left_then_what_runs_then_the_oldest(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        done, running, left = [new(retry_count=0, asked=True) for _ in range(3)]
        for one in (done, running, left):
            await store.submit(one)
        await finish(store, done)
        await store.mark_caller_left(left.id, 1)
        taken = [(await store.submit(new(retry_count=1))).generation.id for _ in range(3)]
        nothing_left = await store.submit(new(retry_count=1))
        never = await store.submit(new(retry_count=0))
        other = await store.submit(new(caller=BOB, retry_count=1))

    assert taken == [left.id, running.id, done.id]
    assert [one.is_new for one in (nothing_left, never, other)] == [True] * 3


async def test_a_failure_without_cost_leaves_its_place_to_the_repetition(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        first, kept = new(retry_count=0), new(retry_count=0, asked=True)
        await store.submit(kept)
        await store.submit(first)
        await store.settle(first.id, "here", [UpstreamBusy("busy")], attempts=1, is_converted=False)
        assert (await store.get(first.id, None)).status is GenerationStatus.FAILED
        second = await store.submit(new(retry_count=1))
        third = await store.submit(new(retry_count=2))

    assert (second.is_new, second.taken_over) == (True, False)
    assert third.generation.id == second.generation.id


async def test_what_only_a_retry_header_names_is_kept_for_ten_minutes(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        short, link, keyed = new(retry_count=0), new(retry_count=0, view={"url": True}), new(idempotency_key="k")
        for one in (short, link, keyed):
            await store.submit(one)
            await finish(store, one)
        kept = [await store.get(one.id, None) for one in (short, link, keyed)]

    seconds = [round((one.expires_at or 0) - (one.finished_at or 0)) for one in kept]
    assert seconds == [600, 7 * 24 * 3600, 7 * 24 * 3600]


async def test_grounded_results_are_kept_for_a_day(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        one = new(idempotency_key="k")
        await store.submit(one)
        await finish(store, one, answer(grounding=Grounding(sources=(WebSource("a", "https://a.example"),))))
        found = await store.get(one.id, None)

    assert round((found.expires_at or 0) - (found.finished_at or 0)) == 24 * 3600


async def test_an_order_is_read_as_it_was_written(storage: Overrides) -> None:
    request = GenerationRequest(
        "A \ud800 cat\x00",
        model="a-model",
        google_search=True,
        safety_settings=(SafetySetting("HARM_CATEGORY_HARASSMENT", "BLOCK_NONE"),),
        output=Output("image/png"),
        accepted_types=("image/png",),
        seed=7,
        references=(replace(reference(), warning="a warning"),),
    )
    turn = TurnOrder("chat_1", frozenset({"seed", "prompt"}), ChatDefaults("a-model"), frozenset({1, 2}), 3)
    order = Order(ANNA, request, 2, turn, view={"api": "images", "url": True})
    async with open_generations(storage) as store:
        one = NewGeneration(new_id(), order, "f", is_async=True, base_url="https://images.example")
        await store.submit(one)
        found = await store.get(one.id, ANNA.owner)
        assert found.order is not None
        stored = found.order.request.references[0].image
        content = await bytes_of(stored.content)

    assert content == await bytes_of(request.references[0].image.content)
    assert replace(found.order.request, references=()) == replace(request, references=())
    assert found.order.request.references[0].warning == "a warning"
    assert replace(found.order, request=request) == order
    assert found.base_url == "https://images.example"


async def test_an_outcome_is_read_as_it_was_written(storage: Overrides) -> None:
    made = answer(
        text="here \udc00",
        warnings=("w",),
        drafts=(image(2),),
        grounding=Grounding(("q",)),
        finish_reason="STOP",
        attempts=2,
    )
    async with open_generations(storage) as store:
        one = new(idempotency_key="k", asked=True, count=2)
        await store.submit(one)
        kept = await store.keep_answer(one.id, 0, made, None)
        refused = ContentBlocked("no", finish_reason="IMAGE_SAFETY", usage=Usage(1, 2))
        settled = await store.settle(one.id, "here", [kept, refused], attempts=3, is_converted=True)
        again = await store.settle(one.id, "here", [kept, refused], attempts=3, is_converted=True)
        found = await store.get(one.id, ANNA.owner)
        first = found.outcomes[0]
        assert isinstance(first, Generation)
        contents = [await bytes_of(one.content) for one in (first.image, *first.drafts)]
        with pytest.raises(LeaseLost):
            await store.settle(one.id, "here", [refused, refused], attempts=3, is_converted=False)

    assert settled.outcomes[0] == again.outcomes[0] == first == kept
    assert replace(first, image=made.image, drafts=made.drafts) == made
    assert contents == [await bytes_of(one.content) for one in (made.image, *made.drafts)]
    assert (found.status, found.attempts, found.is_converted) == (GenerationStatus.SUCCEEDED, 3, True)
    assert found.may_have_cost


def example(class_: type[ServiceError]) -> ServiceError:
    special: dict[type[ServiceError], dict[str, Any]] = {
        errors.GenerationInProgress: {"location": "/generations/1", "retry_after": 3},
        errors.ChatLimitReached: {"limit": "chats", "most": 3},
        errors.StaleTurn: {"last_turn": 4},
        errors.MethodNotAllowed: {"allow": "GET, POST"},
        errors.NotAcceptable: {
            "possible": ("image/png",),
            "extra_members": {"chatId": "chat_1", "turns": [1, {"a": 2}]},
        },
        errors.RangeNotSatisfiable: {"size": 5},
        errors.QuotaExhausted: {"scope": "day", "retry_after": 60},
        errors.UpstreamTimeout: {"waited_for": "queue", "may_have_cost": True},
    }
    if class_ is errors.InvalidRequest:
        return errors.InvalidRequest([FieldError("prompt", "is missing", "missing")], cause="a cause")
    if class_ is errors.InvalidForm:
        return errors.InvalidForm("bad", [FieldError("prompt", "is missing")])
    if class_ is errors.Internal:
        return errors.Internal(cause="KeyError")
    if issubclass(class_, errors.LimitReached):
        limits = Limits(Rate(6, "min"), 2, Budget(300_000, Period.DAY), "2K", ("a-model",))
        return class_(
            "too many", retry_after=5, allowance=Allowance(limits, 3, 2.5, 1, -4, datetime(2026, 12, 1, tzinfo=UTC))
        )
    if issubclass(class_, errors.StorageError):
        return class_("full", part="blobs", cause="ENOSPC")
    if issubclass(class_, errors.GenerationRefused):
        return class_(
            "no", finish_reason="NO_IMAGE", block_reason="OTHER", text="I \ud800", model="m", usage=Usage(1, 2)
        )
    error = class_("a sentence", **special.get(class_, {}))
    if isinstance(error, errors.UpstreamError):
        error.with_retry(errors.RetrySafety.SAFE, 7)
    return error


CLASSES = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, ServiceError)]


async def test_errors_of_every_class_are_read_as_they_were_written(tmp_path: Path) -> None:
    examples = [example(one) for one in CLASSES]
    for number, error in enumerate(examples):
        error.attempts, error.upstream_message = number, "Gemini's words"
        error.extra_members = {"chatId": "chat_1", **error.extra_members}
    async with open_generations({"data_dir": tmp_path}) as store:
        one = new(is_async=True, count=len(examples))
        await store.submit(one)
        await store.claim(["here"])
        await store.settle(one.id, "here", examples, attempts=1, is_converted=False)
        found = await store.get(one.id, None)

    assert len(CLASSES) > 50
    for before, after in zip(examples, found.outcomes, strict=True):
        assert type(after) is type(before)
        assert str(after) == str(before)
        assert {**vars(after), "errors": None} == {**vars(before), "errors": None}
        assert problem_document(after, "r") == problem_document(before, "r")
        assert after.discourages_retry == before.discourages_retry
        assert [*getattr(after, "errors", [])] == [*getattr(before, "errors", [])]


async def test_gemini_is_asked_only_by_the_holder_of_the_lease(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        one, gone = new(is_async=True), new(is_async=True)
        await store.submit(one)
        await store.submit(gone)
        await store.claim(["here", "there"])
        await store.mark_asked(one.id, "here")
        await store.mark_asked(one.id, "here")
        with pytest.raises(LeaseLost):
            await store.mark_asked(one.id, "elsewhere")
        await store.delete(gone.id, ANNA.owner)
        with pytest.raises(LeaseLost):
            await store.mark_asked(gone.id, "there")
        with pytest.raises(AlreadyAsked):
            await store.delete(one.id, ANNA.owner)
        with pytest.raises(GenerationNotFound):
            await store.delete(one.id, BOB.owner)
        cancelled = await store.get(gone.id, ANNA.owner)
        statuses = await store.statuses([one.id, gone.id, "gen_none"])

    assert cancelled.status is GenerationStatus.CANCELLED
    assert statuses == {one.id: "running", gone.id: "cancelled"}


async def test_claims_never_exceed_the_free_places(storage: Overrides) -> None:
    async with open_generations(storage) as store, open_generations(storage) as other_replica:
        await asyncio.gather(*(store.submit(new(f"cat {number}", is_async=True)) for number in range(60)))
        claims = await asyncio.gather(
            *(
                one.claim([f"{place}.{number}" for number in range(10)])
                for place, one in enumerate([store, other_replica])
            )
        )
        rows = await fetched(storage, "SELECT count(*) FROM generations WHERE status = 'running'")
        counts = await store.counts()
        nothing = await store.claim([])

    assert all(len(one) <= 10 for one in claims)
    ids = [generation.id for one in claims for _, generation in one]
    assert len(ids) == len({*ids}) == rows[0][0] == counts.running
    assert counts.queued == 60 - counts.running
    assert counts.oldest_queued_seconds > 0
    assert nothing == []


async def fill_queue(storage: Overrides, store: GenerationStore, owners: dict[str, int]) -> None:
    """Copy one queued generation many times."""
    one = new(is_async=True)
    await store.submit(one)
    columns = "fingerprint, status, is_async, created_at, due_at, document"
    for owner, count in owners.items():
        numbers = (
            f"generate_series(1, {count})"
            if "database_url" in storage
            else f"(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n)"
        )
        await execute(
            storage,
            f"INSERT INTO generations (id, owner, {columns}) SELECT '{owner}' || i, '{owner}', {columns} "
            f"FROM generations, {numbers} AS numbers(i) WHERE id = '{one.id}'"
            if "database_url" in storage
            else f"INSERT INTO generations (id, owner, {columns}) SELECT '{owner}' || i, '{owner}', {columns} "
            f"FROM generations, {numbers} WHERE id = '{one.id}'",
        )
    await execute(storage, f"DELETE FROM generations WHERE id = '{one.id}'")


async def test_the_queue_is_fair_between_callers(storage: Overrides) -> None:
    """One caller has 9,900 generations in the queue, another one 100. Both get as many places."""
    async with open_generations(storage) as store:
        await fill_queue(storage, store, {"big": 9_900, "small": 100})
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = await store.claim([f"a{number}" for number in range(11)])
        second = await store.claim([f"b{number}" for number in range(9)])
        seconds = loop.time() - began
        for holder, generation in first:
            await store.settle(generation.id, holder, [ContentBlocked("no")], attempts=1, is_converted=False)
        third = await store.claim([f"c{number}" for number in range(400)])

    owners = [generation.owner for _, generation in first + second]
    assert (owners.count("big"), owners.count("small")) == (10, 10)
    assert len(third) == 400
    assert [generation.owner for _, generation in third].count("small") == 90
    assert seconds < 1


async def test_a_full_queue_refuses_new_generations_but_not_repetitions(storage: Overrides) -> None:
    async with open_generations(storage, max_queued_async=2) as store:
        for key in ("a", "b"):
            await store.submit(new(is_async=True, idempotency_key=key))
        with pytest.raises(Overloaded):
            await store.submit(new(is_async=True, idempotency_key="c"))
        again = await store.submit(new(is_async=True, idempotency_key="b"))
        await store.claim(["here"])
        third = await store.submit(new(is_async=True, idempotency_key="c"))

    assert (again.is_new, third.is_new) == (False, True)


async def test_what_was_not_asked_goes_back_to_the_queue_or_is_forgotten(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        queued = new(is_async=True, references=(reference(),))
        await store.submit(queued)
        [(_, claimed)] = await store.claim(["here"])
        await store.requeue(queued.id, "here", 0)
        [(_, again)] = await store.claim(["there"])
        await store.requeue(queued.id, "there", 60)
        assert await store.claim(["here"]) == []
        assert claimed.order is not None
        content = await bytes_of(claimed.order.request.references[0].image.content)

    assert claimed.id == again.id == queued.id
    assert content == await bytes_of(image().content)


async def test_generations_of_a_dead_process_that_were_not_asked_start_again(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        queued, plain = new(is_async=True), new(idempotency_key="k")
        await store.submit(queued)
        await store.submit(plain)
        await store.claim(["there"])
        untouched = await store.reap()
        await end_leases(storage)
        reaped = await store.reap()
        assert (await store.get(queued.id, None)).status is GenerationStatus.QUEUED
        with pytest.raises(LeaseLost):
            await store.mark_asked(queued.id, "there")
        assert (await store.submit(new(idempotency_key="k"))).is_new

    assert not untouched
    assert (reaped.requeued, reaped.removed, reaped.recovered, reaped.interrupted) == (1, 1, 0, 0)


async def test_generations_of_a_dead_process_that_were_asked_are_interrupted(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        one = new(is_async=True, idempotency_key="k", webhook_url="https://hooks.example")
        await store.submit(one)
        await store.claim(["here"])
        await store.mark_asked(one.id, "here")
        await end_leases(storage)
        reaped = await store.reap()
        again = await store.submit(new(is_async=True, idempotency_key="k"))
        with pytest.raises(LeaseLost):
            await store.settle(one.id, "here", [UpstreamBusy("busy")], attempts=1, is_converted=False)
        deliveries = await fetched(storage, "SELECT url, status FROM deliveries")

    assert reaped.interrupted == 1
    assert (again.is_new, again.generation.status) == (False, GenerationStatus.INTERRUPTED)
    assert again.generation.may_have_cost
    assert isinstance(again.generation.outcomes[0], OutcomeUnknown)
    assert deliveries == [("https://hooks.example", "pending")]


async def test_an_answer_that_comes_after_the_generation_was_given_up_replaces_that(storage: Overrides) -> None:
    """The process was only paused."""
    async with open_generations(storage) as store:
        one = new(asked=True, idempotency_key="k", holder="here")
        await store.submit(one)
        await end_leases(storage)
        assert (await store.reap()).interrupted == 1
        kept = await store.keep_answer(one.id, 0, answer(), None)
        await store.settle(one.id, "here", [kept], attempts=1, is_converted=True)
        again = await store.submit(new(idempotency_key="k"))

    assert again.generation.status is GenerationStatus.SUCCEEDED


async def test_stored_answers_are_found_before_the_lease_of_their_process_ends(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        one = new(asked=True, idempotency_key="k", holder="here")
        await store.submit(one)
        too_early = await store.recover(one.id)
        kept = await store.keep_answer(one.id, 0, answer(), None)
        recovered = await store.recover(one.id)
        with pytest.raises(LeaseLost):  # the process lives
            await store.settle(one.id, "here", [kept], attempts=1, is_converted=True)
        found = await store.get(one.id, None)

    assert (too_early, recovered) == (False, True)
    assert found.status is GenerationStatus.SUCCEEDED


async def test_a_retry_finds_the_first_try_although_the_retries_between_were_lost(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        first = await store.submit(new(retry_count=0, asked=True))
        third = await store.submit(new(retry_count=2))

    assert third.taken_over
    assert third.generation.id == first.generation.id


async def test_answers_that_reached_the_store_survive_the_death_of_their_process(storage: Overrides) -> None:
    """Two replicas reap at the same time. One of two images was stored."""
    async with open_generations(storage) as store, open_generations(storage) as other_replica:
        one = new(idempotency_key="k", asked=True, count=2)
        await store.submit(one)
        await store.keep_answer(one.id, 1, answer(3, text="there"), None)
        await execute(storage, "UPDATE blobs SET touched_at = 0")
        async with open_storage(storage) as opened:
            await (await opened.chats()).cleanup()
        await end_leases(storage)
        reaped = await asyncio.gather(store.reap(), other_replica.reap())
        found = await store.get(one.id, None)
        made = found.outcomes[1]
        assert isinstance(made, Generation)
        content = await bytes_of(made.image.content)

    assert sorted(one.recovered for one in reaped) == [0, 1]
    assert found.status is GenerationStatus.SUCCEEDED
    assert isinstance(found.outcomes[0], OutcomeUnknown)
    assert made.text == "there"
    assert content == await bytes_of(image(3).content)


@pytest.mark.parametrize("is_lost", [False, True])
async def test_the_turn_of_a_dead_process_is_saved(storage: Overrides, *, is_lost: bool) -> None:
    made = answer(
        request_parts=(Part.from_text("A cat"),),
        response_parts=(Part({"inlineData": {"mimeType": "image/jpeg"}}, image().content, image(9, 900).content),),
    )
    async with open_storage(storage) as opened:
        store, chats = await opened.generations(), await opened.chats()
        chat = await chats.add(ANNA.owner, ChatDefaults())
        await chats.turns.lease(chat.id, ANNA.owner, "here")
        one = new(asked=True, idempotency_key="k")
        await store.submit(one)
        turn = Turn(
            1,
            TurnState.SUCCEEDED,
            "A cat",
            "a-model",
            user=made.request_parts,
            answer=made.response_parts,
            generation_id=made.id,
            image=made.image,
            references=(reference(5),),
        )
        await store.keep_answer(one.id, 0, made, TurnToSave(chat.id, ANNA.owner, "here", turn))
        await end_leases(storage)
        if is_lost:
            await execute(storage, "UPDATE chats SET lease_holder = 'other'")
        reaped = await store.reap()
        found = (await store.get(one.id, None)).outcomes[0]
        assert isinstance(found, Generation)
        saved = (await chats.get(chat.id, ANNA.owner)).turns
        contents = [await bytes_of(content) for turn in saved for part in turn.answer for content in part.contents]

    assert reaped.recovered == 1
    assert found.chat_id == chat.id
    if is_lost:
        assert (found.turn, len(found.warnings), saved) == (None, 1, ())
    else:
        assert (found.turn, found.warnings, [turn.prompt for turn in saved]) == (1, (), ["A cat"])
        assert contents == [await bytes_of(image().content), await bytes_of(image(9, 900).content)]


@pytest.mark.parametrize("damage", [None, "cut off", "zeros"])
async def test_an_answer_in_a_folder_is_kept_before_the_database_takes_its_row(
    tmp_path: Path, damage: str | None
) -> None:
    """The process dies while the database is locked. A power cut may also leave a part of a file, or zeros in it."""
    storage = {"data_dir": tmp_path}
    database, made = HeldDatabase(storage), replace(answer(1, text="two lines\n"), drafts=(image(2), image(3)))
    async with open_generations(storage) as store:
        one, is_kept = new(asked=True, idempotency_key="k"), asyncio.Event()
        await store.submit(one)
        await database.hold()
        keeping = asyncio.create_task(store.keep_answer(one.id, 0, made, None, is_kept.set))
        async with asyncio.timeout(10):
            await is_kept.wait()
        keeping.cancel()
        await asyncio.wait({keeping})
        await database.release()
    [whole] = (tmp_path / "blobs/answers").iterdir()
    data = whole.read_bytes()
    if damage == "cut off":
        whole.write_bytes(data[:-1])
    if damage == "zeros":
        whole.write_bytes(data[:-9] + bytes(9))
    await end_leases(storage)
    async with open_generations(storage) as store:
        reaped = await store.reap()
        found = (await store.get(one.id, None)).outcomes[0]
        images = [found.image, *found.drafts] if isinstance(found, Generation) else []
        contents = [await bytes_of(each.content) for each in images]
        text = found.text if isinstance(found, Generation) else None
    left = list((tmp_path / "blobs/answers").iterdir())

    if damage:
        assert (reaped.interrupted, contents) == (1, [])
    else:
        assert (reaped.recovered, text, left) == (1, "two lines\n", [])
        assert contents == [await bytes_of(image(seed).content) for seed in (1, 2, 3)]


async def test_an_answer_without_its_file_is_interrupted(tmp_path: Path) -> None:
    async with open_generations({"data_dir": tmp_path}) as store:
        one = new(asked=True, idempotency_key="k")
        await store.submit(one)
        kept = await store.keep_answer(one.id, 0, answer(), None)
        [path] = (tmp_path / "blobs").glob(f"??/{kept.image.content.name}")  # type: ignore[attr-defined]
        path.unlink()
        await end_leases({"data_dir": tmp_path})

        assert (await store.reap()).interrupted == 1


async def test_answers_wait_for_a_blob_store_that_is_away(tmp_path: Path) -> None:
    async with open_generations({"data_dir": tmp_path}) as store:
        one = new(asked=True, idempotency_key="k")
        await store.submit(one)
        await store.keep_answer(one.id, 0, answer(), None)
        await end_leases({"data_dir": tmp_path})
        (tmp_path / "blobs").rename(tmp_path / "away")
        assert not await store.reap()
        assert (await store.get(one.id, None)).status is GenerationStatus.RUNNING
        (tmp_path / "away").rename(tmp_path / "blobs")

        assert (await store.reap()).recovered == 1


async def test_a_row_that_cannot_be_read_stops_no_other(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        bad, good = (new(is_async=True) for _ in range(2))
        for one in (bad, good):
            await store.submit(one)
        await execute(storage, f"UPDATE generations SET document = '{{\"count\": 1}}' WHERE id = '{bad.id}'")
        claimed = await store.claim(["here", "there"])
        await execute(storage, "UPDATE generations SET asked_at = 1")
        await end_leases(storage)
        reaped = await store.reap()

    assert [generation.id for _, generation in claimed] == [good.id]
    assert reaped.interrupted == 1


async def test_a_submission_that_is_repeated_after_a_broken_connection_is_still_new(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        one = new(idempotency_key="k")
        await store.submit(one)

        assert (await store.submit(one)).is_new


async def test_an_answer_is_kept_while_the_database_fails(tmp_path: Path) -> None:
    storage = {"data_dir": tmp_path}
    async with open_generations(storage) as store:
        one, same = new(asked=True, idempotency_key="k"), new(asked=True, idempotency_key="same")
        await store.submit(one)
        await store.submit(same)
        await finish(store, same)
        await execute(storage, "ALTER TABLE blobs RENAME TO away")
        kept = await store.keep_answer(one.id, 0, answer(), None)
        lost = new(asked=True, idempotency_key="l")
        await store.submit(lost)
        await store.keep_answer(lost.id, 0, answer(2), None)
        await execute(storage, "ALTER TABLE away RENAME TO blobs")
        await store.settle(one.id, "here", [kept], attempts=1, is_converted=False)
        await end_leases(storage)
        assert (await store.reap()).recovered == 1
        found = [(await store.get(id_, None)).outcomes[0] for id_ in (one.id, lost.id)]
        contents = [await bytes_of(made.image.content) for made in found if isinstance(made, Generation)]
        rows = await fetched(storage, "SELECT generation_id FROM generation_blobs")

    assert contents == [await bytes_of(image(1).content), await bytes_of(image(2).content)]
    assert {id_ for (id_,) in rows} == {one.id, same.id, lost.id}


async def test_expired_generations_and_their_files_are_deleted(tmp_path: Path) -> None:
    storage = {"data_dir": tmp_path}
    async with open_storage(storage, generation_ttl="2s", idempotency_ttl="2s") as opened:
        store, chats = await opened.generations(), await opened.chats()
        one = new(is_async=True, references=(reference(4),), count=2, idempotency_key="k")
        await store.submit(one)
        await store.claim(["here"])
        await store.mark_asked(one.id, "here")
        kept = [await store.keep_answer(one.id, place, answer(place), None) for place in range(2)]
        await store.settle(one.id, "here", kept, attempts=2, is_converted=False)
        await opened.aclose()
        assert not [name for name in blob_files(storage) if "." in name]
        assert await store.sweep() == 0
        await asyncio.sleep(2.1)
        with pytest.raises(GenerationNotFound):
            await store.get(one.id, None)
        assert await store.sweep() == 1
        assert len(blob_files(storage)) == 3
        await execute(storage, "UPDATE blobs SET touched_at = 0")
        await chats.cleanup()

    assert blob_files(storage) == {}


async def test_a_caller_lists_and_deletes_its_own_generations(storage: Overrides) -> None:
    async with open_generations(storage) as store:
        mine = [new(f"cat {number}", idempotency_key=str(number)) for number in range(5)]
        for one in [*mine, new(caller=BOB)]:
            await store.submit(one)
        first = await store.page(ANNA.owner, 3, None)
        rest = await store.page(ANNA.owner, 3, (first[-1].created_at, first[-1].id))
        await finish(store, mine[0])
        await store.delete(mine[0].id, ANNA.owner)
        with pytest.raises(GenerationNotFound):
            await store.get(mine[0].id, ANNA.owner)
        with pytest.raises(GenerationNotFound):
            await store.get(mine[1].id, BOB.owner)

    found = [(one.created_at, one.id) for one in first + rest]
    assert {id_ for _, id_ in found} == {one.id for one in mine}
    assert found == sorted(found, reverse=True)


async def test_replicas_share_the_key_that_signs_links(storage: Overrides) -> None:
    async with open_generations(storage) as store, open_generations(storage) as other_replica:
        keys = await asyncio.gather(store.signing_key(), other_replica.signing_key())

    assert keys[0] == keys[1]
    assert len(keys[0]) == 32

"""When is the key set fetched, how long does it count, and what if the issuer fails?"""

import asyncio
import logging
from collections.abc import Callable, Coroutine

import pytest
from issuer import Clock, Signer, key_set

from backend.auth.jwks import FetchError, PublicKey
from backend.auth.key_set import KeySet, NeverReachedError
from backend.errors import IssuerUnavailable

OLD, NEW = Signer("EdDSA", "old"), Signer("EdDSA", "new")
REPLACED = Signer("EdDSA", "old", "after a reset of the database")
HOUR, DAY = 3_600, 86_400
EMPTY = b'{"keys": []}'


class Source:
    """A fetch that answers `answer`, None being a 404, or fails where that is an error; it can be held up."""

    def __init__(self, *signers: Signer) -> None:
        self.answer: bytes | FetchError | None = key_set(*signers)
        self.fetches = 0
        self.cancelled = False
        self.open = asyncio.Event()
        self.open.set()

    def publish(self, *signers: Signer) -> None:
        self.answer = key_set(*signers)

    def fail(self) -> None:
        self.answer = FetchError("no answer")

    async def __call__(self) -> bytes | None:
        self.fetches += 1
        answer = self.answer
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if isinstance(answer, FetchError):
            raise answer
        return answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def source() -> Source:
    return Source(OLD)


@pytest.fixture
async def keys(source: Source, clock: Clock) -> KeySet:
    return KeySet(source, clock)


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def known(keys: KeySet, kid: str = "old") -> PublicKey:
    key = await keys.find(kid)
    assert key
    return key


async def outcome(keys: KeySet, kid: str) -> str:
    """Return what a request with this kid meets, in a word."""
    try:
        return "found" if await keys.find(kid) else "unknown"
    except NeverReachedError:
        return "never reached"
    except IssuerUnavailable:
        return "unavailable"


async def test_nothing_is_fetched_before_a_token_needs_it(keys: KeySet, source: Source) -> None:
    await settled()
    published = keys.published("old")

    assert published is None
    assert source.fetches == 0


async def test_fifty_requests_at_once_make_one_fetch(keys: KeySet, source: Source) -> None:
    source.open.clear()
    requests = [asyncio.create_task(keys.find("old")) for _ in range(50)]
    await settled()

    source.open.set()
    found = await asyncio.gather(*requests)

    assert {key.kid for key in found if key} == {"old"}
    assert None not in found
    assert source.fetches == 1


@pytest.mark.parametrize(("age", "fetches"), [(0, 1), (299.9, 1), (300, 2)])
async def test_a_set_is_fresh_for_five_minutes(
    keys: KeySet, source: Source, clock: Clock, age: float, fetches: int
) -> None:
    await known(keys)
    clock.now += age

    await known(keys)
    await settled()

    assert source.fetches == fetches


async def test_a_refresh_lets_no_request_wait(keys: KeySet, source: Source, clock: Clock) -> None:
    await known(keys)
    clock.now += 300
    source.publish(NEW)
    source.open.clear()

    during = await asyncio.wait_for(asyncio.gather(*(keys.find("old") for _ in range(50))), 0.1)
    source.open.set()
    await settled()
    after = keys.published("old"), keys.published("new")

    assert None not in during
    assert source.fetches == 2
    assert after[0] is None
    assert after[1]


async def test_a_failing_issuer_does_not_hurt_a_known_key_for_a_day(keys: KeySet, source: Source, clock: Clock) -> None:
    await known(keys)
    fetched = clock.now
    source.fail()

    met = {}
    for hours in (1, 12, 23.999, 24):
        clock.now = fetched + hours * HOUR
        met[hours] = await outcome(keys, "old")
        await settled()

    assert met == {1: "found", 12: "found", 23.999: "found", 24: "unavailable"}


async def test_a_set_of_a_day_ago_is_fetched_while_the_request_waits(
    keys: KeySet, source: Source, clock: Clock
) -> None:
    await known(keys)
    clock.now += DAY
    assert keys.published("old") is None

    key = await known(keys)

    assert keys.published("old") == key
    assert source.fetches == 2


async def test_a_404_means_no_keys_for_a_minute(keys: KeySet, source: Source, clock: Clock) -> None:
    source.answer = None
    first = await outcome(keys, "old")
    source.publish(OLD)

    met = {}
    for passed in (30.0, 29.9, 0.1):
        clock.now += passed
        met[clock.now] = await outcome(keys, "old")

    assert first == "unknown"
    assert list(met.values()) == ["unknown", "unknown", "found"]
    assert source.fetches == 2


async def test_an_empty_set_is_no_404(keys: KeySet, source: Source, clock: Clock) -> None:
    source.answer = EMPTY
    before = await outcome(keys, "old")
    source.publish(OLD)
    clock.now += 2

    after = await outcome(keys, "old")

    assert (before, after) == ("unknown", "found")


async def test_a_rotation_is_seen_at_the_first_unknown_key(keys: KeySet, source: Source, clock: Clock) -> None:
    await known(keys)
    source.publish(NEW, OLD)
    clock.now += 2

    met = [await outcome(keys, kid) for kid in ("new", "old")]

    assert met == ["found", "found"]
    assert source.fetches == 2


async def test_a_flood_of_unknown_keys_makes_a_fetch_in_two_seconds(keys: KeySet, source: Source, clock: Clock) -> None:
    await known(keys)

    for each in range(600):
        clock.now += 0.125
        await asyncio.gather(*(outcome(keys, f"{each} {other}") for other in range(3)))

    # 75 s: one now, then one at the end of each two seconds, the fetch that found "old" being the first.
    assert source.fetches == 1 + 37


async def test_a_key_that_came_in_a_flood_is_found_within_two_seconds(
    keys: KeySet, source: Source, clock: Clock
) -> None:
    await known(keys)
    clock.now += 10
    await outcome(keys, "made up")
    source.publish(NEW)

    met = []
    for passed in (0.0, 1.9, 0.1):
        clock.now += passed
        met.append(await outcome(keys, "new"))

    assert met == ["unknown", "unknown", "found"]


async def test_a_bad_signature_is_a_reason_to_fetch_once_in_half_a_minute(
    keys: KeySet, source: Source, clock: Clock
) -> None:
    key = await known(keys)

    for _ in range(600):
        clock.now += 0.125
        assert await asyncio.gather(*(keys.replacement(key) for _ in range(3))) == [None, None, None]

    assert source.fetches == 1 + 3


async def test_the_two_budgets_do_not_eat_each_other(keys: KeySet, source: Source, clock: Clock) -> None:
    key = await known(keys)
    clock.now += 10
    await keys.replacement(key)
    source.publish(NEW, OLD)

    found = await outcome(keys, "new")
    source.publish(NEW, REPLACED)
    clock.now += 30
    await outcome(keys, "made up")
    replaced = await keys.replacement(key)

    assert found == "found"
    assert replaced


async def test_a_reset_database_may_give_an_old_name_to_a_new_key(keys: KeySet, source: Source) -> None:
    key = await known(keys)
    source.publish(REPLACED)

    replacement = await keys.replacement(key)

    assert replacement
    assert replacement != key
    assert keys.published("old") == replacement


async def test_a_key_that_is_gone_has_no_replacement(keys: KeySet, source: Source) -> None:
    key = await known(keys)
    source.publish(NEW)

    assert await keys.replacement(key) is None


async def test_failures_back_off_from_two_seconds_to_a_minute(
    keys: KeySet, source: Source, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source.fail()
    started = clock.now

    tried = []
    while clock.now < started + 260:
        before = source.fetches
        await outcome(keys, "old")
        if source.fetches > before:
            tried.append(clock.now - started)
        clock.now += 0.5

    assert tried == [0, 2, 6, 14, 30, 62, 122, 182, 242]
    assert [record.getMessage().partition("try in ")[2] for record in caplog.records] == [
        f"{pause} s at the earliest." for pause in (2, 4, 8, 16, 32, 60, 60, 60, 60)
    ]


async def test_a_success_ends_the_back_off(keys: KeySet, source: Source, clock: Clock) -> None:
    source.fail()
    for passed in (0, 2, 4):
        clock.now += passed
        await outcome(keys, "old")
    source.publish(OLD)
    clock.now += 8
    await known(keys)
    source.fail()

    clock.now += 10
    await outcome(keys, "new")
    clock.now += 2
    await outcome(keys, "new")

    assert source.fetches == 3 + 1 + 2


@pytest.mark.parametrize("reason", ["refresh", "bad signature", "unknown key"])
async def test_no_reason_is_above_the_back_off(keys: KeySet, source: Source, clock: Clock, reason: str) -> None:
    key = await known(keys)
    source.fail()
    clock.now += 400
    await outcome(keys, "new")
    await settled()
    clock.now += 1.9

    match reason:
        case "refresh":
            await keys.find("old")
        case "bad signature":
            await keys.replacement(key)
        case _:
            await outcome(keys, "new")
    await settled()

    assert source.fetches == 2


@pytest.mark.parametrize("answer", [None, EMPTY, b'{"keys": [{"kty": "oct", "kid": "old", "k": "c2VjcmV0"}]}'])
async def test_an_empty_answer_never_replaces_a_good_set(
    keys: KeySet, source: Source, clock: Clock, answer: bytes | None
) -> None:
    await known(keys)
    source.answer = answer

    clock.now += 301
    met = [await outcome(keys, "old"), await outcome(keys, "new")]
    clock.now += DAY - 400
    met.append(await outcome(keys, "old"))

    assert met == ["found", "unavailable", "found"]


@pytest.mark.parametrize("answer", [None, EMPTY])
async def test_an_empty_answer_does_replace_a_set_of_a_day_ago(
    keys: KeySet, source: Source, clock: Clock, answer: bytes | None
) -> None:
    await known(keys)
    source.answer = answer
    clock.now += DAY

    met = await outcome(keys, "old")

    assert met == "unknown"


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"keys": {}}', b'{"keys": ["old"]}', b"", b"\xff"])
async def test_rubbish_is_a_failure(keys: KeySet, source: Source, clock: Clock, answer: bytes) -> None:
    source.answer = answer
    never = await outcome(keys, "old")
    source.publish(OLD)
    clock.now += 2
    await known(keys)
    source.answer = answer
    clock.now += 400

    met = [await outcome(keys, "old"), await outcome(keys, "new")]

    assert never == "never reached"
    assert met == ["found", "unavailable"]


async def test_an_issuer_that_never_answered_is_told_apart(keys: KeySet, source: Source, clock: Clock) -> None:
    source.fail()

    met = []
    for passed in (0, 1, 10 * DAY):
        clock.now += passed
        met.append(await outcome(keys, "old"))

    assert met == ["never reached"] * 3


async def test_an_unknown_key_is_not_refused_while_the_issuer_fails(keys: KeySet, source: Source, clock: Clock) -> None:
    await known(keys)
    source.fail()
    clock.now += 10

    met = []
    for passed in (0, 1, 100):
        clock.now += passed
        met.append(await outcome(keys, "new"))
    source.publish(NEW)
    clock.now += 8
    met.append(await outcome(keys, "new"))

    assert met == ["unavailable", "unavailable", "unavailable", "found"]


async def test_a_failure_is_logged_with_its_reason(
    keys: KeySet, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    source.fail()

    await outcome(keys, "old")

    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "The key set cannot be used: no answer. Next try in 2 s at the earliest.")
    ]


async def test_a_request_that_is_cancelled_leaves_the_fetch_to_the_others(keys: KeySet, source: Source) -> None:
    source.open.clear()
    impatient, patient = (asyncio.create_task(keys.find("old")) for _ in range(2))
    await settled()

    impatient.cancel()
    await settled()
    source.open.set()
    found = await patient

    assert impatient.cancelled()
    assert found
    assert (source.fetches, source.cancelled) == (1, False)


async def test_closing_ends_a_fetch_that_is_under_way(keys: KeySet, source: Source) -> None:
    source.open.clear()
    request = asyncio.create_task(keys.find("old"))
    await settled()

    await keys.close()
    await settled()

    assert source.cancelled
    assert request.cancelled()


async def test_closing_without_a_fetch_does_nothing(keys: KeySet, source: Source) -> None:
    await keys.close()
    await known(keys)
    await keys.close()

    assert source.fetches == 1


async def _found(keys: KeySet, key: PublicKey) -> PublicKey | None:
    del key
    return await keys.find("new")


async def _replaced(keys: KeySet, key: PublicKey) -> PublicKey | None:
    return await keys.replacement(key)


@pytest.mark.parametrize(("request_", "published"), [(_found, NEW), (_replaced, REPLACED)])
async def test_a_fetch_from_before_the_rotation_does_not_answer_for_it(
    keys: KeySet,
    source: Source,
    clock: Clock,
    request_: Callable[[KeySet, PublicKey], Coroutine[None, None, PublicKey | None]],
    published: Signer,
) -> None:
    key = await known(keys)
    clock.now += 300
    source.open.clear()
    await known(keys)
    await settled()
    source.publish(published)
    clock.now += 4

    requests = [asyncio.ensure_future(request_(keys, key)) for _ in range(50)]
    await settled()
    source.open.set()
    found = await asyncio.gather(*requests)

    assert {each.kid for each in found if each} == {published.kid}
    assert None not in found
    assert source.fetches == 3

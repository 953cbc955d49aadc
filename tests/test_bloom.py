"""The filter: never forgets, is wrong of fewer than 1 % of the unseen at any size, and comes back from the disk."""

from __future__ import annotations

import io
import sys

import mmh3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanuki_async._bloom import Bloom, BloomError

SIZES = [10, 100, 1_000, 9_999, 10_000, 10_400, 50_000, 200_000]


def keys(count: int, *, start: int = 0) -> list[bytes]:
    return [mmh3.mmh3_x64_128_digest(b"record %d" % n) for n in range(start, start + count)]


def filled(count: int) -> Bloom:
    bloom = Bloom()
    bloom.update(keys(count))
    return bloom


def saved(bloom: Bloom) -> bytes:
    return b"".join(bloom.dump())


def loaded(blob: bytes) -> Bloom:
    return Bloom.load(io.BytesIO(blob))


@pytest.fixture(params=["plain", "numpy"])
def arrays(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run once as a program without numpy, once as one that has loaded it."""
    if request.param == "numpy":
        pytest.importorskip("numpy")
    else:
        monkeypatch.delitem(sys.modules, "numpy", raising=False)


@pytest.mark.usefixtures("arrays")
@pytest.mark.parametrize("count", SIZES)
def test_fewer_than_one_in_a_hundred_is_taken_for_another(count: int) -> None:
    bloom = Bloom()
    new = bloom.update(keys(count))
    assert count - sum(new) <= 0.005 * count
    strangers = keys(40_000, start=10_000_000)
    assert sum(key in bloom for key in strangers) / len(strangers) < 0.007
    assert len(bloom) == sum(new)


@pytest.mark.usefixtures("arrays")
def test_what_was_added_is_never_forgotten_while_it_grows() -> None:
    bloom, all_keys = Bloom(), keys(25_000)
    for start in range(0, 25_000, 1000):
        bloom.update(all_keys[start : start + 1000])
        assert all(key in bloom for key in all_keys[: start + 1000 : 7])
    assert not any(bloom.update(all_keys))


@pytest.mark.usefixtures("arrays")
@given(st.lists(st.integers(0, 300), max_size=300))
def test_many_at_once_are_told_apart_as_one_by_one(numbers: list[int]) -> None:
    many, one = Bloom(), Bloom()
    records = [b"%d" % number for number in numbers]
    assert many.update_records(records) == [one.add_record(each) for each in records]
    assert len(many) == len(one)
    assert saved(many) == saved(one)


def test_ways_of_adding_lead_to_the_same_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numpy")
    fast = filled(30_000)
    monkeypatch.delitem(sys.modules, "numpy")
    plain, single = filled(30_000), Bloom()
    for n in range(30_000):
        single.add_record(b"record %d" % n)
    assert saved(plain) == saved(single)
    assert abs(len(fast) - len(plain)) < 30  # within one batch, arrays do not see each other's false alarms


def test_records_are_recognised_by_their_content() -> None:
    bloom = Bloom()
    assert bloom.add_record(b"one") is True
    assert bloom.add_record(b"one") is False
    assert bloom.update_records([b"one", b"two", b"two"]) == [False, True, False]


def test_the_first_ten_thousand_are_never_taken_for_one_another() -> None:
    bloom = Bloom()
    assert bloom.capacity == 10_000
    assert all(bloom.update(keys(9_999)))
    assert not any(key in bloom for key in keys(40_000, start=10_000_000))


def test_a_full_layer_has_at_most_12_5_bits_per_key() -> None:
    bloom = filled(10_000)
    assert 300_000 < bloom.capacity < 400_000
    assert bloom.bits / bloom.capacity <= 12.5
    bloom._grow()
    assert bloom.capacity > 10_000_000
    assert bloom.bits / bloom.capacity <= 12.5


@pytest.mark.parametrize("count", [0, 1, 5_000, 12_000])
def test_a_saved_filter_goes_on_where_it_was(count: int) -> None:
    bloom = filled(count)
    again = loaded(saved(bloom))
    assert (len(again), again.capacity, again.bits) == (len(bloom), bloom.capacity, bloom.bits)
    more = keys(12_000, start=count)
    assert again.update(more) == bloom.update(more)
    assert saved(again) == saved(bloom)


@given(st.data())
def test_any_damage_to_a_saved_filter_is_noticed(data: st.DataObject) -> None:
    blob = saved(filled(20))
    at = data.draw(st.integers(0, len(blob) - 1))
    changed = blob[:at] + bytes([blob[at] ^ data.draw(st.integers(1, 255))]) + blob[at + 1 :]
    for damaged in (blob[:at], changed, blob + b"more"):
        with pytest.raises(BloomError, match="data"):
            loaded(damaged)


def test_a_filter_from_a_newer_release_says_so() -> None:
    blob = saved(filled(20))
    with pytest.raises(BloomError, match=r"version 9, this release reads 2.*rebuild"):
        loaded(blob[:11] + b"\x09" + blob[12:])


@pytest.mark.parametrize(
    ("count", "digest"),
    [(100, "5b5e385f7fe464ce6ff7085d9c6a2bbd"), (10_001, "82bb04b088ec10a28366f41b2a4b5aca")],
)
def test_the_saved_form_is_the_same_on_every_machine_and_release(count: int, digest: str) -> None:
    assert mmh3.mmh3_x64_128_digest(saved(filled(count))).hex() == digest


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [330_000, 350_000, 1_000_000, 10_000_000])
def test_the_promise_holds_up_to_ten_million(count: int) -> None:
    bloom, lost = Bloom(), 0
    for start in range(0, count, 50_000):
        new = bloom.update(keys(min(50_000, count - start), start=start))
        lost += len(new) - sum(new)
    strangers = keys(200_000, start=1 << 40)
    assert lost / count < 0.01
    assert sum(key in bloom for key in strangers) / len(strangers) < 0.01

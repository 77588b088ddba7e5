"""Journals: what is kept for clients, how much of it, and what goes first."""

from __future__ import annotations

import random

import pytest

from kernelgate.kernel.journal import OVERHEAD_BYTES, Budget, Journal

KB = 1 << 10
MB = 1 << 20
PLENTY = 1 << 30


def journal(max_bytes: int = MB, budget: Budget | None = None) -> Journal:
    return Journal(max_bytes, budget or Budget(PLENTY))


def numbers(journal: Journal) -> list[int]:
    return [journal[number].number for number in range(journal.first, journal.next)]


def fill(journal: Journal, count: int, size: int = 400) -> None:
    for _ in range(count):
        journal.append("iopub", [b"x" * size])


# ---- one journal


def test_messages_are_kept_in_order_with_all_that_belongs_to_them() -> None:
    kept = journal()
    kept.append("iopub", [b"a", b"bb"])
    kept.append("shell", [b"ccc"], "client")
    first, second = kept[0], kept[1]
    assert (first.number, first.start, first.channel, first.parts, first.to) == (0, 0, "iopub", [b"a", b"bb"], "")
    assert (second.number, second.channel, second.to) == (1, "shell", "client")
    assert (first.size, second.size) == (OVERHEAD_BYTES + 3, OVERHEAD_BYTES + 3)
    assert second.start == first.size
    assert (kept.first, kept.next, kept.size, kept.end) == (0, 2, 2 * first.size, 2 * first.size)


def test_the_oldest_go_when_there_is_too_much() -> None:
    kept = journal(10_000)
    fill(kept, 15)
    assert numbers(kept) == list(range(5, 15))
    assert kept.size == 10_000
    assert kept.end == 15_000


def test_a_message_larger_than_the_bound_is_kept_alone() -> None:
    kept = journal(10_000)
    fill(kept, 5)
    kept.append("iopub", [b"x" * 50_000])
    assert numbers(kept) == [5]
    fill(kept, 1)
    assert numbers(kept) == [6]
    assert kept.size == 1000


def test_empty_messages_are_bounded_too() -> None:
    kept = journal(10 * KB)
    fill(kept, 100_000, 0)
    assert kept.next - kept.first <= 10 * KB // OVERHEAD_BYTES
    assert kept.next == 100_000


def test_what_is_forgotten_is_gone_and_the_rest_is_not() -> None:
    kept = journal()
    fill(kept, 10)
    kept.forget(4)
    assert (numbers(kept), kept.size) == (list(range(4, 10)), 6000)
    kept.forget(2)
    assert numbers(kept) == list(range(4, 10))
    kept.forget(10_000)
    assert (numbers(kept), kept.size, kept.first) == ([], 0, 10)
    fill(kept, 1)
    assert numbers(kept) == [10]


def test_the_start_of_a_message_is_what_all_before_it_had() -> None:
    kept = journal()
    assert kept.start_of(0) == 0
    fill(kept, 5)
    assert [kept.start_of(number) for number in range(5)] == [0, 1000, 2000, 3000, 4000]
    assert kept.start_of(5) == kept.end == 5000
    kept.forget(3)
    assert kept.start_of(3) == 3000
    assert kept.end == 5000


@pytest.mark.parametrize("number", [-1, 2, 5, 100])
def test_what_is_not_there_cannot_be_had(number: int) -> None:
    kept = journal()
    fill(kept, 5)
    kept.forget(3)
    with pytest.raises(IndexError):
        _ = kept[number]


# ---- all journals of a server


def test_the_largest_journal_gives_way() -> None:
    budget = Budget(10_000)
    small, large = journal(MB, budget), journal(MB, budget)
    fill(small, 3)
    fill(large, 7)
    fill(small, 1)
    assert (numbers(small), numbers(large)) == ([0, 1, 2, 3], [1, 2, 3, 4, 5, 6])
    assert budget.used == 10_000
    fill(large, 4)
    assert len(numbers(small)) == 4
    assert len(numbers(large)) == 6
    assert budget.used == 10_000


def test_a_large_message_makes_many_small_ones_give_way() -> None:
    """One message of 900 kB displaces 1,500 small ones of its own journal and of another."""
    budget = Budget(MB)
    own, other = journal(MB, budget), journal(MB, budget)
    fill(own, 800, 10)
    fill(other, 850, 10)
    own.append("iopub", [b"x" * 900_000])
    assert budget.used <= MB
    assert budget.used == own.size + other.size
    fill(other, 10, 10)
    assert other[other.next - 1].number == 859


def test_a_message_larger_than_the_budget_costs_others_nothing_for_long() -> None:
    budget = Budget(100_000)
    own, other = journal(MB, budget), journal(MB, budget)
    fill(other, 20)
    own.append("iopub", [b"x" * 500_000])
    assert budget.used <= 100_000
    assert len(numbers(other)) == 20
    fill(own, 1)
    assert numbers(own) == [1]


def test_a_closed_journal_takes_nothing_from_others() -> None:
    budget = Budget(10_000)
    own, other = journal(MB, budget), journal(MB, budget)
    fill(own, 9)
    own.close()
    assert (budget.used, numbers(own), own.size) == (0, [], 0)
    fill(other, 10)
    assert len(numbers(other)) == 10


def test_the_sums_are_right_whatever_happens() -> None:
    """Ten journals, 20,000 random steps: sizes, order and the budget's sum hold at each of them."""
    rng = random.Random(3)
    budget = Budget(200_000)
    journals = [journal(50_000, budget) for _ in range(10)]
    for _ in range(20_000):
        one = rng.choice(journals)
        step = rng.random()
        if step < 0.9:
            one.append("iopub", [b"x" * rng.choice([0, 10, 1000, 20_000])])
        elif step < 0.98:
            one.forget(rng.randrange(one.next + 2))
        else:
            one.close()
            journals.remove(one)
            journals.append(journal(50_000, budget))
        assert budget.used == sum(each.size for each in journals) <= 200_000
        assert one.size <= 50_000
    for each in journals:
        assert numbers(each) == list(range(each.first, each.next))
        assert each.size == sum(each[number].size for number in range(each.first, each.next))

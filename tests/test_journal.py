"""Journals: what is kept for clients, how much of it, and what goes first."""

from __future__ import annotations

import random

import pytest

from kernelgate.kernel.journal import KEPT_SHARE, OVERHEAD_BYTES, Budget, Item, Journal

KB = 1 << 10
MB = 1 << 20
PLENTY = 1 << 30


def journal(max_bytes: int = MB, budget: Budget | None = None) -> Journal:
    return Journal(max_bytes, budget or Budget(PLENTY))


def items(journal: Journal) -> list[Item]:
    """Return what there is as a client goes through it."""
    found, number = [], 0
    while (item := journal.from_number(number)) is not None:
        found.append(item)
        number = item.number + 1
    return found


def numbers(journal: Journal) -> list[int]:
    return [item.number for item in items(journal)]


def fill(journal: Journal, count: int, size: int = 400, is_output: bool = True) -> None:
    for _ in range(count):
        journal.append("iopub", [b"x" * size], is_output=is_output)


# ---- one journal


def test_messages_are_kept_in_order_with_all_that_belongs_to_them() -> None:
    kept = journal()
    kept.append("iopub", [b"a", b"bb"])
    kept.append("shell", [b"ccc"], "client")
    first, second = items(kept)
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
    kept.append("iopub", [b"x" * 50_000], is_output=True)
    assert numbers(kept) == [5]
    fill(kept, 1)
    assert numbers(kept) == [6]
    assert kept.size == 1000


def test_empty_messages_are_bounded_too() -> None:
    kept = journal(10 * KB)
    fill(kept, 100_000, 0)
    assert len(kept) <= 10 * KB // OVERHEAD_BYTES
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


@pytest.mark.parametrize(("number", "found"), [(-1, 3), (0, 3), (2, 3), (3, 3), (4, 4), (5, None), (100, None)])
def test_what_is_not_there_any_more_is_passed_over(number: int, found: int | None) -> None:
    kept = journal()
    fill(kept, 5)
    kept.forget(3)
    item = kept.from_number(number)
    assert (item.number if item is not None else None) == found


# ---- what is no output


def cell(journal: Journal, outputs: int, size: int = 400) -> None:
    """Add what one execution brings: a status, outputs, another status and the reply."""
    fill(journal, 1, is_output=False)
    fill(journal, outputs, size)
    fill(journal, 1, is_output=False)
    journal.append("shell", [b"x" * 400], "client")


def test_outputs_go_before_what_is_none() -> None:
    """Three cells, the second of which has 100 outputs of the 20 messages that there is room for."""
    kept = journal(20_000)
    for outputs in (2, 100, 2):
        cell(kept, outputs)
    others = [0, 3, 4, 5, 106, 107, 108, 111, 112]
    assert numbers(kept) == sorted([*others, *range(97, 106), 109, 110])
    assert (len(kept), kept.size, kept.first, kept.next, kept.end) == (20, 20_000, 0, 113, 113_000)


def test_a_flood_of_what_is_no_output_has_half_the_room_when_outputs_need_it() -> None:
    kept = journal(20_000)
    fill(kept, 30, is_output=False)
    assert numbers(kept) == list(range(10, 30))
    fill(kept, 30)
    assert numbers(kept) == [*range(20, 30), *range(50, 60)]
    fill(kept, 30, is_output=False)
    assert numbers(kept) == [*range(50, 60), *range(80, 90)]


def test_a_large_reply_stays_as_long_as_there_is_room() -> None:
    kept = journal(20_000)
    kept.append("shell", [b"x" * 15_000], "client")
    fill(kept, 4)
    assert numbers(kept) == [0, 1, 2, 3, 4]
    fill(kept, 1)
    assert numbers(kept) == [1, 2, 3, 4, 5]


def test_a_large_output_does_not_drive_away_what_is_none() -> None:
    kept = journal(20_000)
    cell(kept, 5)
    kept.append("iopub", [b"x" * 50_000], is_output=True)
    assert numbers(kept) == [0, 6, 7, 8]
    fill(kept, 1)
    assert numbers(kept) == [0, 6, 7, 9]


def test_a_large_reply_drives_outputs_away_before_others() -> None:
    kept = journal(20_000)
    cell(kept, 5)
    kept.append("shell", [b"x" * 18_000], "client")
    assert numbers(kept)[-1] == 8
    assert kept.size <= 20_000


def test_what_is_missing_in_between_can_be_forgotten() -> None:
    kept = journal(20_000)
    cell(kept, 100)
    cell(kept, 1)
    assert numbers(kept) == [0, *range(88, 107)]
    kept.forget(50)
    assert numbers(kept) == [*range(88, 107)]
    kept.forget(102)
    assert numbers(kept) == [102, 103, 104, 105, 106]
    assert (kept.first, kept.size) == (102, 5000)


def test_the_start_of_what_is_missing_is_that_of_what_comes_next() -> None:
    kept = journal(6_000)
    cell(kept, 100)
    assert numbers(kept) == [0, 98, 99, 100, 101, 102]
    assert [kept.start_of(number) for number in (0, 1, 50, 98, 99)] == [0, 98_000, 98_000, 98_000, 99_000]


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
    own.append("iopub", [b"x" * 900_000], is_output=True)
    assert budget.used <= MB
    assert budget.used == own.size + other.size
    fill(other, 10, 10)
    assert numbers(other)[-1] == 859


def test_a_message_larger_than_the_budget_costs_others_nothing_for_long() -> None:
    budget = Budget(100_000)
    own, other = journal(MB, budget), journal(MB, budget)
    fill(other, 20)
    own.append("iopub", [b"x" * 500_000])
    assert budget.used <= 100_000
    assert len(numbers(other)) == 20
    fill(own, 1)
    assert numbers(own) == [1]


def test_outputs_of_the_largest_journal_go_before_what_is_none() -> None:
    budget = Budget(10_000)
    small, large = journal(MB, budget), journal(MB, budget)
    fill(small, 3)
    cell(large, 4)
    fill(large, 4)
    assert (numbers(small), numbers(large)) == ([0, 1, 2], [0, 5, 6, 7, 8, 9, 10])
    fill(large, 9, is_output=False)
    assert len(numbers(large)) == 7
    assert numbers(small) == [0, 1, 2]
    assert budget.used == 10_000


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
            size = rng.choice([0, 10, 1000, 20_000])
            one.append("iopub", [b"x" * size], is_output=rng.random() < 0.5)
        elif step < 0.98:
            one.forget(rng.randrange(one.next + 2))
        else:
            one.close()
            journals.remove(one)
            journals.append(journal(50_000, budget))
        assert budget.used == sum(each.size for each in journals) <= 200_000
        assert one.size <= 50_000
    for each in journals:
        there = items(each)
        assert each.size == sum(item.size for item in there)
        assert len(each) == len(there)
        assert each.first == (there[0].number if there else each.next)
        assert [item.number for item in there] == sorted({item.number for item in there})


def test_what_goes_is_the_oldest_of_its_sort() -> None:
    """Random messages, compared with a list of all: of each sort the newest are there."""
    rng = random.Random(4)
    for _ in range(50):
        kept, sorts = journal(20_000), list[bool]()
        for _ in range(rng.randrange(200)):
            sorts.append(rng.random() < rng.choice([0.1, 0.9]))
            fill(kept, 1, rng.choice([0, 400, 5_000]), sorts[-1])
        there = numbers(kept)
        for sort in (True, False):
            all_of_it = [number for number, each in enumerate(sorts) if each is sort]
            left = [number for number in there if sorts[number] is sort]
            assert left == all_of_it[len(all_of_it) - len(left) :]
        if there and there[0] > 0 and sorts[0]:
            assert kept.size > 20_000 // KEPT_SHARE


def test_thousands_of_messages_come_and_go() -> None:
    """What was taken off leaves nothing behind, however many there were."""
    kept = journal(MB)
    for _ in range(20):
        fill(kept, 5_000, 10)
        fill(kept, 10, 10, is_output=False)
    there = numbers(kept)
    others = [number for number in there if number % 5_010 >= 5_000]
    assert others == [5_010 * turn + 5_000 + each for turn in range(20) for each in range(10)]
    assert len(there) == len(kept) == MB // (OVERHEAD_BYTES + 10)
    kept.forget(kept.next)
    assert (len(kept), kept.size, kept.first) == (0, 0, kept.next)

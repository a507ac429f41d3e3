import numpy as np
import pytest

from canary.evidence.strands import Rows, Strand


def _rows(blocks: list[int], first: int = 0) -> Rows:
    """Rows with numbers, texts and columns side by side, each told from the others."""
    number = np.arange(first, first + len(blocks))
    return {
        "block": np.array(blocks, np.int64),
        "number": number,
        "name": np.array([f"row {n}" for n in number], object),
        "sides": np.column_stack([number % 3, number]).astype(np.int32),
    }


def _plain(rows: Rows | None) -> dict[str, list] | None:
    return rows and {name: column.tolist() for name, column in rows.items()}


def _filled(parts: list[Rows]) -> Strand:
    strand = Strand()
    for part in parts:
        strand.add(part)
    return strand


def _shuffled(seed: int, parts: int = 3) -> list[Rows]:
    """The same 60 rows in some order and in some pieces."""
    whole = _rows((np.arange(60) // 5).tolist())
    order = np.random.default_rng(seed).permutation(60)
    return [
        {name: column[piece] for name, column in whole.items()}
        for piece in np.array_split(order, parts)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_taken_in_the_order_of_their_blocks(seed: int) -> None:
    """Whatever the order in which they came, blocks come out in theirs."""
    taken = _filled(_shuffled(seed)).take(None)

    assert (np.arange(60) // 5).tolist() == taken["block"].tolist()


def test_rows_of_one_block_stay_in_their_order() -> None:
    """Within a block rows are taken as they came."""
    taken = _filled([_rows([1, 0, 1]), _rows([0, 1], 3)]).take(None)

    assert [1, 3, 0, 2, 4] == taken["number"].tolist()


def test_columns_are_taken_together() -> None:
    """A row keeps its number, its name and what stands side by side."""
    taken = _filled(_shuffled(1)).take(None)

    assert [f"row {n}" for n in taken["number"]] == taken["name"].tolist()
    assert taken["number"].tolist() == taken["sides"][:, 1].tolist()


def test_only_blocks_before_the_given_one_are_taken() -> None:
    """The given block stays for later."""
    strand = _filled([_rows([2, 0, 1, 3])])

    assert [0, 1] == strand.take(2)["block"].tolist()
    assert [2, 3] == strand.take(None)["block"].tolist()


def test_no_row_is_taken_twice() -> None:
    """What has been taken doesn't come again."""
    strand = _filled([_rows([0, 1])])
    strand.take(None)

    assert strand.take(None) is None


def test_nothing_is_taken_where_all_rows_are_later() -> None:
    """Without rows before the given block there are none, and none is lost."""
    strand = _filled([_rows([4, 5])])

    assert strand.take(4) is None
    assert [4, 5] == strand.waiting().tolist()


def test_waiting_are_the_blocks_that_have_not_been_taken() -> None:
    """In order, also of rows that came after others were taken."""
    strand = _filled([_rows([2, 0])])
    strand.take(1)
    strand.add(_rows([3, 1], 2))

    assert [1, 2, 3] == strand.waiting().tolist()


def test_taken_are_all_rows_in_the_order_of_taking() -> None:
    """Several takes are put together; what waits isn't among them."""
    strand = _filled([_rows([2, 0, 1, 3])])
    strand.take(1)
    strand.take(3)

    assert [0, 1, 2] == strand.taken()["block"].tolist()
    assert [1, 2, 0] == strand.taken()["number"].tolist()


def test_nothing_is_taken_before_the_first_take() -> None:
    """Rows that wait haven't been taken."""
    assert _filled([_rows([0])]).taken() is None


@pytest.mark.parametrize("seed", range(5))
def test_the_canonical_order_depends_on_the_rows_alone(seed: int) -> None:
    """Any order and any pieces give the same rows in the same order."""
    expected = _plain(_filled([_rows((np.arange(60) // 5).tolist())]).canonical())

    assert expected == _plain(_filled(_shuffled(seed, seed + 1)).canonical())


@pytest.mark.parametrize("before", [0, 3, 7, None])
def test_taking_changes_no_canonical_order(before: int | None) -> None:
    """Rows count whether they have been taken or wait."""
    strand = _filled(_shuffled(1))
    expected = _plain(strand.canonical())
    strand.take(before)

    assert expected == _plain(strand.canonical())


@pytest.mark.parametrize("column", ["number", "name", "sides"])
def test_each_column_orders_rows_of_one_block(column: str) -> None:
    """Rows that differ in one column only have one order."""
    whole = {name: _rows([0] * 9)[name] for name in ("block", column)}
    turned = {name: values[::-1] for name, values in whole.items()}

    assert _plain(_filled([whole]).canonical()) == _plain(_filled([turned]).canonical())


def test_a_strand_takes_all_rows_of_another() -> None:
    """Also those already taken from it."""
    one, other = _filled([_rows([0, 2])]), _filled([_rows([1, 3], 2)])
    other.take(2)
    one.extend(other)

    assert [0, 1, 2, 3] == one.take(None)["block"].tolist()


def test_an_empty_strand_has_no_rows() -> None:
    """Neither to take, nor taken, nor in any order; rows without any add none."""
    strand = _filled([_rows([])])
    strand.extend(Strand())

    assert [None] * 3 == [strand.take(None), strand.taken(), strand.canonical()]
    assert [] == strand.waiting().tolist()


def _repeating(blocks: list[int]) -> Rows:
    """Rows of which many are equal: counts of 0 or 1, alone and side by side."""
    block = np.array(blocks, np.int64)
    number = np.arange(len(block))
    return {
        "block": block,
        "a": (number % 2).astype(np.int32),
        "sides": np.column_stack([number % 3 == 0, number % 2 == 1]).astype(np.int32),
    }


@pytest.mark.parametrize("before", [0, 3, 7, None])
def test_packing_loses_no_row(before: int | None) -> None:
    """All rows are still there, each as often as before, in the order of blocks."""
    parts = [_repeating((np.arange(300) // 25).tolist()) for _ in range(2)]
    strand, packed = _filled(parts), _filled(parts)
    for each in (strand, packed):
        each.take(2)
        each.take(before)
    packed.pack()

    assert (len(strand), _plain(strand.canonical())) == (
        len(packed),
        _plain(packed.canonical()),
    )
    assert strand.taken()["block"].tolist() == packed.taken()["block"].tolist()
    assert packed.kept < strand.kept == 600


def test_what_hardly_repeats_is_kept_as_it_is() -> None:
    """Neither texts nor rows that differ are put in another order."""
    for rows in (_rows([0, 0, 0]), {"block": np.zeros(3), "a": np.array([3, 1, 2])}):
        strand = _filled([rows])
        expected = _plain(strand.take(None))
        strand.pack()

        assert expected == _plain(strand.taken())
        assert 3 == strand.kept


@pytest.mark.parametrize("per_block", [10, 1000])
def test_rows_in_memory_grow_with_blocks_and_not_with_requests(per_block: int) -> None:
    """A run that packs after every look keeps of each block what is different."""
    strand = Strand()
    for hour in range(20):
        strand.add(_repeating(np.repeat(np.arange(5) + 5 * hour, per_block).tolist()))
        strand.take(5 * hour + 5)
        strand.pack()

    assert 100 * per_block == len(strand)
    assert strand.kept <= 6 * 100

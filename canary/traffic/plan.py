"""From a trace and validation sets to every request of a run, before the first is sent.

Nothing here depends on a clock or on a library's random generator: the same files,
limits and seed give the same plan, byte for byte, on every machine. A plan of a week
has millions of requests, so each is made when it is asked for, from a few numbers.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from canary.errors import TrafficError
from canary.traffic.formats import Trace, TraceRow
from canary.traffic.questions import mixed, quality_request
from canary.traffic.request import Plan, Request, TokenBlocks
from canary.traffic.seeds import stable_seed, stable_uniform
from canary.traffic.selection import Selected, Selection, select
from canary.traffic.shard import Shard, items_asked, rows_sent
from canary.traffic.validation import ValidationItem

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recipe:
    """All of a plan but its speed. `items` stand in the order in which they are sent,
    at the shares `item_at` of the time that they are mixed into; `cut` says how many
    outputs are longer than what is sent, if anything is cut. `sends` are the positions
    in `selected`, and `asks` those in `items`, of what a shard sends: a shard's
    requests are those of the whole, at the same times."""

    trace: Trace
    selection: Selection
    selected: Selected
    items: tuple[ValidationItem, ...]
    item_at: tuple[float, ...]
    seed: int
    sha256: str
    cut: str | None
    shard: Shard | None
    sends: npt.NDArray[np.int64]
    asks: npt.NDArray[np.int64]


def make_plan(
    trace: Trace,
    items: Sequence[ValidationItem],
    selection: Selection = Selection(),  # noqa: B008 - immutable
    *,
    speed: float = 1.0,
    seed: int,
    shard: Shard | None = None,
) -> Plan:
    """Plan every request of a run, in order of arrival.

    The trace's rows that `selection` leaves become requests at their recorded
    distances, the first at 0 seconds: of kind ``latency`` where lengths were recorded,
    ``live`` where the text was. The items become requests of kind ``quality`` at
    uniformly random times over the same span. Their order keeps each task's share the
    same in any beginning of the run, and keeps the items of a group together, so that
    groups complete all along.

    Args:
        trace: Lengths and times.
        items: Questions with known answers; may be empty.
        selection: Which rows are used, and how often.
        speed: Recorded time over replayed time; 4 is four times faster.
        seed: Decides times and order of the items, the order of arms, and tokens.
        shard: Which part of it is sent from here; None sends it all.

    Raises:
        TrafficError: No row is left, or none for the shard, an output's length is not
            known, or a request id is used twice.
    """
    _refuse_impossible(speed)
    selected = select(trace, selection, speed=speed, seed=seed)
    ordered = mixed(items, seed)
    recipe = Recipe(
        trace=trace,
        selection=selection,
        selected=selected,
        items=tuple(ordered),
        item_at=tuple(sorted(stable_uniform("time", seed, item.id) for item in items)),
        seed=seed,
        sha256=_content_sha256(trace, selected, ordered, selection, seed),
        cut=_cut(trace, selected, selection.max_output_tokens),
        shard=shard,
        sends=rows_sent(trace, selected, shard, seed),
        asks=items_asked(ordered, shard, seed),
    )
    return _laid_out(recipe, speed)


def with_speed(plan: Plan, speed: float) -> Plan:
    """Return the plan at another speed: arrivals scale, order and all else stay.

    The result equals the one that `make_plan` gives for that speed, unless sessions
    were thinned to a rate.
    """
    if not isinstance(plan.recipe, Recipe):
        raise TypeError("only a plan that make_plan made can change its speed")
    _refuse_impossible(speed)
    return _laid_out(plan.recipe, speed)


def _refuse_impossible(speed: float) -> None:
    if not 0 < speed < float("inf"):
        raise TrafficError(f"a speed must be above 0, got {speed:g}; write 1x or 4x")


def _laid_out(recipe: Recipe, speed: float) -> Plan:
    """Put rows, in as many rounds as are asked for, and items on one line of time."""
    at_s = recipe.selected.at_s / speed
    rounds, period_s = _rounds(recipe, float(at_s[-1]))
    mixed_into_s = float(recipe.selected.at_s[-1])
    if rounds > 1:
        whole_s = (rounds - 1) * period_s + float(at_s[-1])
        mixed_into_s = min(recipe.selection.items_for_s or whole_s, whole_s) * speed
    count = len(recipe.sends)
    begin_s = np.repeat(np.arange(rounds) * period_s, count)
    item_s = mixed_into_s * np.array(recipe.item_at, np.float64)[recipe.asks]
    laid = _Laid(
        recipe,
        speed,
        np.concatenate([np.tile(at_s[recipe.sends], rounds) + begin_s, item_s / speed]),
        np.concatenate([np.tile(recipe.sends, rounds), -1 - recipe.asks]),
        np.repeat(np.arange(rounds + 1), [count] * rounds + [len(item_s)]),
    )
    laid.sort()
    if recipe.selection.loop_for_s is not None:
        laid.keep(laid.arrival_s <= recipe.selection.loop_for_s)
    return Plan(
        requests=_Made(len(laid.arrival_s), laid.request),
        arm_orders=_Made(len(laid.arrival_s), laid.order),
        seed=recipe.seed,
        sha256=_sealed(recipe.sha256, speed),
        speed=float(speed),
        notes=_notes(recipe, rounds),
        recipe=recipe,
        asked=laid.questions(),
        shard=recipe.shard,
    )


def _rounds(recipe: Recipe, span_s: float) -> tuple[int, float]:
    """Return how often the trace is played, and how long after one begins the next.

    Between two rounds lies a gap of the mean length: the trace doesn't tell another.
    """
    until_s, count = recipe.selection.loop_for_s, len(recipe.selected.at_s)
    period_s = span_s * count / (count - 1) if count > 1 else 0.0
    if until_s is None:
        return 1, period_s
    if not period_s:
        raise TrafficError(
            f"{recipe.trace.path}: all that is used of it arrives at the same moment, "
            "so it can't loop; write loop: false"
        )
    return 1 + math.floor(until_s / period_s), period_s


class _Laid:
    """The numbers of each request, and how to make it of them.

    `source` counts the selected rows from 0 and the items down from -1.
    """

    def __init__(
        self,
        recipe: Recipe,
        speed: float,
        arrival_s: npt.NDArray[np.float64],
        source: npt.NDArray[np.int64],
        again: npt.NDArray[np.int64],
    ) -> None:
        self._recipe, self._speed = recipe, speed
        self.arrival_s, self._source, self._again = arrival_s, source, again

    def keep(self, which: npt.NDArray[np.bool_] | list[int]) -> None:
        """Keep these, in this order."""
        self.arrival_s = self.arrival_s[which]
        self._source, self._again = self._source[which], self._again[which]

    def sort(self) -> None:
        """Sort into the canonical order of evidence: by arrival, then by id."""
        names = self._names()
        counts = Counter(names)
        name, count = counts.most_common(1)[0]
        if count > 1:
            raise TrafficError(
                f"request id {name!r} stands for {count} requests; validation items "
                "need ids of their own"
            )
        at_s = self.arrival_s.tolist()
        self.keep(sorted(range(len(names)), key=lambda i: (at_s[i], names[i])))

    def request(self, index: int) -> Request:
        recipe, source = self._recipe, int(self._source[index])
        arrival_s = float(self.arrival_s[index])
        if source < 0:
            item = recipe.items[-1 - source]
            return quality_request(item, arrival_s, recipe.seed)
        row = recipe.trace.rows[int(recipe.selected.rows[source])]
        return traffic_request(
            recipe.trace,
            row,
            arrival_s=arrival_s,
            weight=float(recipe.selected.weight[source]),
            max_output_tokens=recipe.selection.max_output_tokens,
            speed=self._speed,
            seed=recipe.seed,
            again=int(self._again[index]),
        )

    def questions(self) -> tuple[int, ...]:
        """Return which requests are questions."""
        return tuple(np.flatnonzero(self._source < 0).tolist())

    def order(self, index: int) -> int:
        return stable_seed("order", self._recipe.seed, self._name(index))

    def _names(self) -> list[str]:
        return [self._name(index) for index in range(len(self._source))]

    def _name(self, index: int) -> str:
        source = int(self._source[index])
        if source < 0:
            return self._recipe.items[-1 - source].id
        number = int(self._recipe.selected.index[source])
        return _row_id(self._recipe.trace, number, int(self._again[index]))


def traffic_request(
    trace: Trace,
    row: TraceRow,
    *,
    arrival_s: float,
    weight: float,
    max_output_tokens: int | None,
    speed: float,
    seed: int,
    again: int = 0,
) -> Request:
    """Return the request that a row of a trace becomes.

    Args:
        trace: Where it stands.
        row: The row.
        arrival_s: When it is due.
        weight: For how many recorded sessions its session stands.
        max_output_tokens: The longest answer.
        speed: The plan's, at which people think faster, too.
        seed: The run's.
        again: In which round of a trace that loops, from 0. Each has prompts and
            sessions of its own, or caches would know them all from the second on.
    """
    name = _row_id(trace, row.index, again)
    known = [n for n in (_output_tokens(row), max_output_tokens) if n is not None]
    session = row.session_id
    if session is not None and again:
        session = f"{session}~{again}"
    written = row.text is not None or row.messages is not None
    return Request(
        request_id=name,
        kind="live" if written else "latency",
        arrival_s=arrival_s,
        max_output_tokens=min(known),
        text=row.text,
        messages=row.messages,
        blocks=None if written else _blocks(trace, row, seed, again),
        session_id=session,
        turn=row.turn,
        think_s=row.think_s / speed,
        weight=weight,
        seed=stable_seed("request", seed, name),
    )


def _output_tokens(row: TraceRow) -> int | None:
    """Return how long the answer was or, where nobody recorded it, might have been."""
    return row.max_tokens if row.output_tokens is None else row.output_tokens


def _blocks(trace: Trace, row: TraceRow, seed: int, again: int) -> TokenBlocks:
    drawn = stable_seed("round", seed, again) if again else seed
    blocks = TokenBlocks(length_tokens=row.prompt_tokens, seed=drawn)
    if trace.block_tokens is None:
        return blocks
    return replace(blocks, block_ids=row.block_ids, block_tokens=trace.block_tokens)


def _row_id(trace: Trace, index: int, again: int) -> str:
    name = f"{trace.format}-{index:06d}"
    return f"{name}~{again}" if again else name


def _cut(trace: Trace, selected: Selected, most: int | None) -> str | None:
    if most is None:
        return None
    outputs = [_output_tokens(trace.rows[int(at)]) for at in selected.rows]
    longer = sum(output is not None and output > most for output in outputs)
    return f"{longer:,} longer outputs are cut to {most:,} tokens"


def _notes(recipe: Recipe, rounds: int) -> tuple[str, ...]:
    notes = [*recipe.selected.notes]
    if recipe.cut is not None:
        notes.append(recipe.cut)
    if rounds > 1:
        notes.append(f"begins again at its end, {rounds:,} rounds in all")
        first = recipe.trace.rows[int(recipe.selected.rows[0])]
        if first.text is not None or first.messages is not None:
            known = "caches know it from the second round on"
            notes.append(f"recorded text is the same in every round: {known}")
    if recipe.items:
        counts = Counter(item.task for item in recipe.items)
        tasks = ", ".join(f"{count:,} {task}" for task, count in counts.most_common())
        notes.append(f"{len(recipe.items):,} validation items are mixed in: {tasks}")
    if recipe.shard is not None:
        notes.append(
            f"shard {recipe.shard} of this: {len(recipe.sends):,} rows and "
            f"{len(recipe.asks):,} items"
        )
    return tuple(notes)


def _content_sha256(
    trace: Trace,
    selected: Selected,
    items: Sequence[ValidationItem],
    selection: Selection,
    seed: int,
) -> str:
    """Hash everything that an arm will see, at whatever speed.

    Raises:
        TrafficError: The length of an output isn't known.
    """
    digest = hashlib.sha256()
    for position in selected.rows:
        row = trace.rows[int(position)]
        if _output_tokens(row) is None and selection.max_output_tokens is None:
            raise TrafficError(
                f"{trace.path}: row {row.index + 1:,} doesn't say how long its answer "
                "was; write traffic.max_output_tokens: 256, or another length"
            )
        digest.update(repr(row).encode())
    digest.update(selected.at_s.astype("<f8").tobytes())
    digest.update(selected.weight.astype("<f8").tobytes())
    for item in items:
        digest.update(json.dumps(asdict(item), sort_keys=True).encode() + b"\n")
    rest: list[object] = [trace.format, trace.block_tokens, selection.max_output_tokens]
    rest += [selection.loop_for_s, selection.items_for_s, seed]
    digest.update(json.dumps(rest).encode())
    return digest.hexdigest()


def _sealed(content: str, speed: float) -> str:
    return hashlib.sha256(f"{content} {float(speed)!r}".encode()).hexdigest()


class _Made(Sequence[Value], Generic[Value]):
    """Values that are made when they are asked for."""

    def __init__(self, count: int, make: Callable[[int], Value]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Value: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Value, ...]: ...

    def __getitem__(self, index: int | slice) -> Value | tuple[Value, ...]:
        if isinstance(index, slice):
            return tuple(self._make(i) for i in range(*index.indices(self._count)))
        return self._make(range(self._count)[index])

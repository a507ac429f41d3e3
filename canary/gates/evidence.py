"""What observations are folded into: whole numbers per gate and base block.

Folding commutes: whatever the order, and on whatever machine, the rows are the same,
and shards of one run add up to what the whole run would have given.
"""

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile, LargeZipFile

import numpy as np
from pydantic import TypeAdapter

from canary.errors import ObservationError
from canary.evidence.blocks import Ints, SessionBlocks, block_of
from canary.evidence.pairs import Pairs
from canary.evidence.strands import BLOCK, Rows, Strand
from canary.gates.books import book_rows, summed
from canary.gates.control import control_rows, sent_columns
from canary.gates.rows import fair_share
from canary.gates.scales import rows_of
from canary.policy.model import Policy
from canary.policy.units import BASE_BLOCK_S

BOOKS = "books"
CONTROL = "control"
SCHEMA = "canary.evidence/2"

_DAMAGE = (
    *(ValueError, OSError, EOFError, KeyError, MemoryError, RecursionError),
    *(NotImplementedError, RuntimeError, SyntaxError, TokenError),
    *(BadZipFile, LargeZipFile, zlib.error),
)
"""What unpacking bytes that are cut, changed or something else may raise."""

_FACTS = ("kernels", "devices", "control_kernels", "control_columns")


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What is written beside the rows."""

    schema: str
    policy_sha256: str
    weights: tuple[float, float]
    questions: dict[str, int]
    kernels: dict[str, list[str]]
    devices: dict[str, list[str]]
    control_kernels: dict[str, list[str]]
    control_columns: dict[str, list[str]]


_FACTS_OF = TypeAdapter(_Facts)


class Evidence:
    """The evidence about one policy, as far as it has been folded.

    Args:
        policy: Says what its gates count.
        weights: The least and the largest weight that any request is stored with.
        questions: How many groups the questions of each task are, where that is known.

    Attributes:
        doubts: Why the traffic is no fair sample, in sentences: nothing that rows tell.
        queues: How many copies of each arm share the traffic.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        weights: tuple[float, float] = (1.0, 1.0),
        questions: Mapping[str, int] | None = None,
    ) -> None:
        self._policy = policy
        self.weights = weights
        self.questions = dict(questions or {})
        self.doubts: tuple[str, ...] = ()
        self.queues = policy.placement.replicas
        rules = policy.decision
        self.length_s = rules.look_every_s if rules.by_request else BASE_BLOCK_S
        self._sessions = SessionBlocks(self.length_s, policy.traffic.timeout_s)
        self._control_sessions = SessionBlocks(self.length_s, policy.traffic.timeout_s)
        self.strands: dict[str, Strand] = {BOOKS: Strand()}
        self.kernels: dict[str, list[str]] = {}
        self.devices: dict[str, list[str]] = {}
        self.control_kernels: dict[str, list[str]] = {}
        self.control_columns: dict[str, list[str]] = {}

    def strand(self, name: str) -> Strand:
        """Return the rows of one question; empty until some are folded."""
        return self.strands.setdefault(name, Strand())

    def fold(self, pairs: Pairs) -> None:
        """Take up pairs, which must come in order of arrival."""
        policy = self._policy
        self.strands[BOOKS].add(book_rows(policy, pairs, self.length_s))
        _add(self.kernels, pairs.kernels)
        _add(self.devices, pairs.devices)
        own = block_of(pairs.arrived_s, self.length_s)
        unit = own
        if not policy.decision.by_request:
            unit = self._sessions.blocks(pairs.arrived_s, pairs.session)
        self._fold_gates(pairs, own, unit)
        if pairs.control is not None and policy.aa_control:
            self._fold_control(pairs.control)

    def _fold_gates(self, pairs: Pairs, own: Ints, unit: Ints) -> None:
        """Gates on all traffic count a fair share of what was sampled unequally; all of
        it, with its weights, goes into an estimate beside."""
        lightest, heaviest = self.weights
        fair = fair_share(pairs, heaviest) if lightest < heaviest else None
        for gate in self._policy.gates:
            known, at = pairs, (own, unit)
            if fair is not None and gate.regime is None and gate.metric != "accuracy":
                rows = rows_of(gate, self._policy, pairs, *at, weighed=True)
                self.strand(weighted(gate.name)).add(rows)
                known, at = pairs.where(fair), (own[fair], unit[fair])
            self.strand(gate.name).add(rows_of(gate, self._policy, known, *at))

    def _fold_control(self, control: Pairs) -> None:
        own = unit = block_of(control.arrived_s, self.length_s)
        self.strand(CONTROL).add({"block": own, "pairs": np.ones(len(own), np.int64)})
        if not self._policy.decision.by_request:
            unit = self._control_sessions.blocks(control.arrived_s, control.session)
        for name, rows in control_rows(self._policy, control, own, unit):
            self.strand(name).add(rows)
        _add(self.control_columns, sent_columns(control))
        _add(self.control_kernels, control.kernels)
        _add(self.devices, control.devices)

    def closed(self, now_s: float) -> int:
        """Return how many base blocks nothing more can come to at a time of the run."""
        if self._policy.decision.by_request:
            return self.arrived(now_s)
        return self._sessions.closed(now_s)

    def arrived(self, now_s: float) -> int:
        """Return how many base blocks have ended at a time of the run."""
        return int(block_of(np.array([now_s]), self.length_s)[0])

    def to_bytes(self) -> bytes:
        """Return everything that was folded, the same bytes for the same evidence."""
        columns = {}
        for name, strand in sorted(self.strands.items()):
            rows = strand.canonical() or {}
            if name == BOOKS and rows:
                rows = summed(rows)
            for column, values in rows.items():
                plain = values.astype(str) if values.dtype == object else values
                columns[f"{name}|{column}"] = plain
        facts = _Facts(
            schema=SCHEMA,
            policy_sha256=self._policy.sha256,
            weights=self.weights,
            questions=self.questions,
            **{kind: getattr(self, kind) for kind in _FACTS},
        )
        columns["facts"] = np.array(json.dumps(asdict(facts), sort_keys=True))
        sink = io.BytesIO()
        np.savez_compressed(sink, allow_pickle=False, **columns)
        return sink.getvalue()


def read_evidence(
    policy: Policy, content: bytes, *, into: Evidence | None = None
) -> Evidence:
    """Return what `Evidence.to_bytes` has written, added to what `into` holds already,
    of other shards folded with the same weights.

    Raises:
        ObservationError: It is something else, or another policy's.
    """
    try:
        columns, facts = _unpacked(content)
    except _DAMAGE as error:
        raise ObservationError(
            "not evidence that was folded, or damaged: fold the observations again "
            f"({type(error).__name__})"
        ) from error
    found = (facts.get("schema"), facts.get("policy_sha256"))
    if found != (SCHEMA, policy.sha256):
        raise ObservationError(
            f"this evidence was folded for another policy than {policy.name}, or by "
            "another version; fold the observations again"
        )
    try:
        return _rebuilt(policy, columns, _FACTS_OF.validate_python(facts), into)
    except ValueError as error:
        raise ObservationError(
            "evidence that was folded for this policy, but is damaged: fold the "
            "observations again"
        ) from error


def _unpacked(content: bytes) -> tuple[Rows, dict[str, Any]]:
    """Return columns by name, and what else was written.

    Raises:
        ValueError: Or another of `_DAMAGE`: they can't be told from each other.
    """
    columns = np.load(io.BytesIO(content), allow_pickle=False)
    if not isinstance(columns, np.lib.npyio.NpzFile):
        raise ValueError("a single array")  # noqa: TRY004 - of a file's content
    with columns:
        read = dict(columns)
    facts = json.loads(str(read.pop("facts")))
    if not isinstance(facts, dict):
        raise ValueError("facts without names")  # noqa: TRY004 - of a file's content
    return read, facts


def _rebuilt(
    policy: Policy, columns: Rows, facts: "_Facts", into: Evidence | None
) -> Evidence:
    """Return evidence of these columns, and of what `into` holds.

    Raises:
        ValueError: They aren't columns of rows that stand in blocks.
    """
    evidence = into or Evidence(policy, weights=facts.weights)
    evidence.questions |= facts.questions
    strands: dict[str, Rows] = {}
    for key, values in columns.items():
        name, _, column = key.rpartition("|")
        text = values.dtype.kind == "U"
        strands.setdefault(name, {})[column] = values.astype(object) if text else values
    for name, rows in strands.items():
        lengths = {values.shape[:1] for values in rows.values()}
        if BLOCK not in rows or len(lengths) > 1 or () in lengths:
            raise ValueError(f"strand {name!r} isn't made of rows")
        evidence.strand(name).add(rows)
    for kind in _FACTS:
        _add(getattr(evidence, kind), getattr(facts, kind))
    return evidence


def merged(policy: Policy, shards: Sequence[Evidence]) -> Evidence:
    """Return what all shards hold together; sessions may not span several.

    Raises:
        ValueError: They were folded with different weights.
    """
    weights = {shard.weights for shard in shards}
    if len(weights) > 1:
        raise ValueError(f"shards differ in the weights they know: {sorted(weights)}")
    whole = Evidence(policy, weights=weights.pop() if weights else (1.0, 1.0))
    for shard in shards:
        whole.questions |= shard.questions
        for name, strand in shard.strands.items():
            whole.strand(name).extend(strand)
        for kind in _FACTS:
            _add(getattr(whole, kind), getattr(shard, kind))
    return whole


def weighted(name: str) -> str:
    """Return under which name all of a gate's rows are kept, with their weights."""
    return f"weighted {name}"


def _add(known: dict[str, list[str]], more: Mapping[str, Sequence[str]]) -> None:
    for arm, names in more.items():
        known[arm] = sorted({*known.get(arm, ()), *names})

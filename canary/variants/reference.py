"""The reference model behind an attention pattern: one request in, one answer out."""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from canary.attention import (
    Density,
    KernelEvidence,
    Memory,
    attend,
    compiles,
    pattern,
    warm_lengths,
)
from canary.clock import Clock
from canary.errors import ArmError
from canary.policy.model import VariantSpec
from canary.traffic.request import Request
from canary.traffic.seeds import token_blocks
from canary.variants.base import Generation
from canary.variants.checkpoint import SHIPPED_SHA256, load_shipped
from canary.variants.cuda import CudaReader
from canary.variants.model import Attend
from canary.variants.vocabulary import BOS, PAD, WORDS, decode, encode

_WARM_TOKENS = 32_768


class ReferenceVariant:
    """The trained model that ships, answering greedily, one request at a time.

    float32 on the CPU, bfloat16 on CUDA. A request's text is read after ``<bos>``;
    token blocks are read as they are. One of kind ``quality`` is answered until a stop
    string or `max_output_tokens`, and the answer is what stands before the stop string;
    one of kind ``latency`` gets exactly `max_output_tokens`, whatever they are.

    On CUDA all that is compiled, planned or recorded for prompts of up to 32,768 tokens
    is so when this is built. A longer one waits 0.1 s where it is the first of its
    padded length (`canary.attention.padded_length`).

    Args:
        spec: The attention pattern; the model's name is not looked at.
        device: Where it runs, as torch names it; CUDA if there is one, else the CPU.
        clock: What it times itself with.

    Raises:
        ArmError: There is no such device, or the weights are not those that shipped.
        AttentionError: The pattern can't be read or doesn't cover the model's layers.
    """

    def __init__(
        self,
        spec: VariantSpec,
        *,
        device: str | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._device = _usable(device)
        dtype = torch.float32 if self._device.type == "cpu" else torch.bfloat16
        self._model = load_shipped(dtype=dtype, device=self._device)
        self._pattern = pattern(spec.attention)
        self._layers = range(self._model.architecture.layers)
        self._bands = [self._pattern.at(layer).kept() for layer in self._layers]
        self._try_layers()
        self._clock = clock
        self._cuda: CudaReader | None = None
        if self._device.type == "cuda":
            self._warm_up()

    @torch.inference_mode()
    def generate(self, request: Request) -> Generation:
        """Answer one request.

        Raises:
            UnknownWordError: The text holds a word that the model doesn't know.
        """
        began_s = self._clock()
        prompt = _prompt(request)
        limit = request.max_output_tokens
        stops = request.stop if request.kind == "quality" else ()
        ran = _Ran()
        before = compiles()
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._device)
        step = self._reader(len(prompt), len(prompt) + limit, ran)
        written = [step(prompt)]
        first_token_s = self._clock() - began_s
        with _one_thread(self._device):
            while len(written) < limit and not _stopped(decode(written), stops):
                written.append(step(written[-1:]))
        end_s = self._clock() - began_s
        densities = ran.densities(len(prompt))
        return Generation(
            prompt_tokens=len(prompt),
            output_tokens=len(written),
            first_token_s=first_token_s,
            end_s=end_s,
            answer=_before(decode(written), stops)
            if request.kind == "quality"
            else None,
            kernels=tuple(ran.kernels),
            density=sum(each.overall for each in densities) / len(densities),
            density_min=min(each.least for each in densities),
            density_max=max(each.most for each in densities),
            compiles=compiles() - before,
            device_peak_bytes=torch.cuda.max_memory_allocated(self._device)
            if self._cuda is not None
            else None,
        )

    def describe(self) -> dict[str, str]:
        """Return what this really is, all of it as text."""
        device = str(self._device)
        if self._device.type == "cuda":
            device += f" ({torch.cuda.get_device_name(self._device)})"
        return {
            "model": "reference",
            "attention": str(self._pattern),
            "device": device,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "threads": str(torch.get_num_threads()),
            "processor": platform.processor() or platform.machine(),
            "parameters": str(sum(p.numel() for p in self._model.parameters())),
            "weights_sha256": SHIPPED_SHA256,
        }

    def _reader(
        self, prompt_tokens: int, capacity_tokens: int, ran: "_Ran"
    ) -> Callable[[list[int]], int]:
        """Return a function that reads words and says the likeliest next one.

        Taking the number off the device waits for it, so whoever reads a clock after a
        step has waited too, on CUDA as on the CPU.
        """
        seen = self._attend(Memory(prompt_tokens=prompt_tokens), ran)
        if self._cuda is not None:
            return self._cuda.reader(
                seen,
                capacity_tokens=capacity_tokens,
                prompt_tokens=prompt_tokens,
                bands=self._bands,
            )
        cache = self._model.cache(capacity_tokens=capacity_tokens, bands=self._bands)

        def step(ids: list[int]) -> int:
            tokens = torch.tensor([ids], device=self._device)
            x = self._model(tokens, seen, cache)
            return int(self._model.logits(x[0, -1])[: len(WORDS)].argmax())

        return step

    @torch.inference_mode()
    def _try_layers(self) -> None:
        """Let a table for other layers or heads fail now, not at the first request."""
        a = self._model.architecture
        x = torch.zeros(
            1, a.heads, 2, a.head_width, dtype=self._model.dtype, device=self._device
        )
        for layer in self._layers:
            attend(x, x, x, self._pattern, layer=layer)

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Compile, plan and record before the first request what it would wait for."""
        self._cuda = CudaReader(self._model, words=len(WORDS))
        for length in warm_lengths(_WARM_TOKENS):
            step = self._reader(length, length + 2, _Ran())
            step([PAD] * length)
            step([PAD])
        torch.cuda.reset_peak_memory_stats(self._device)

    def _attend(self, memory: Memory, ran: "_Ran") -> Attend:
        def seen(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            out, evidence = attend(q, k, v, self._pattern, layer=layer, memory=memory)
            ran.kernels.setdefault(str(evidence))
            ran.prefill.setdefault(layer, evidence)
            return out

        return seen


@dataclass(slots=True)
class _Ran:
    """What attention ran for one request."""

    kernels: dict[str, None] = field(default_factory=dict)
    """Each by name, in order of first use."""
    prefill: dict[int, KernelEvidence] = field(default_factory=dict)
    """By layer, of the prompt."""

    def densities(self, prompt_tokens: int) -> list[Density]:
        """Return that of each layer, in the prompt."""
        return [each.density(prompt_tokens) for each in self.prefill.values()]


def _usable(device: str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ArmError(
            f"device {device!r} can't be used here ({reason}); write cpu or cuda"
        ) from error
    return chosen


def _prompt(request: Request) -> list[int]:
    if request.text is not None:
        return [BOS, *encode(request.text)]
    if request.blocks is None:
        raise ValueError(f"request {request.request_id} has neither text nor blocks")
    ids: list[int] = token_blocks(
        request.blocks, request_id=request.request_id, low=BOS + 1, high=len(WORDS)
    ).tolist()
    return ids


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Decode on one thread: threads gain nothing on one token, but wait for each other.

    Measured on 2 cores: with any other work on one of them, each small product of two
    threads takes 3 to 6 ms instead of 0.01.
    """
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _stopped(text: str, stops: tuple[str, ...]) -> bool:
    return any(stop in text for stop in stops)


def _before(text: str, stops: tuple[str, ...]) -> str:
    """Return what stands before the first stop string, without white space around."""
    return text[: min((text.find(s) for s in stops if s in text), default=None)].strip()

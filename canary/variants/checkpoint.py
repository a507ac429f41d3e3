"""Weights in files: safetensors in float16, tensors named as transformers does Qwen3.

What `save` writes, transformers' Qwen3ForCausalLM loads as it is.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from canary.errors import ArmError
from canary.variants.model import REFERENCE, ReferenceModel

SHIPPED = Path(__file__).parent / "weights" / "reference.safetensors"
"""The trained weights of the model `reference`."""

SHIPPED_SHA256 = "174ddaa82e9accf22e6873804482302189f2856666fa9c807ca66c417b1f3bab"


def load_shipped(*, dtype: torch.dtype, device: torch.device) -> ReferenceModel:
    """Return the trained model that ships, ready to answer.

    Raises:
        ArmError: The file is missing, or is not the one that shipped.
        CanaryError: As `ReferenceModel`.
    """
    model = ReferenceModel(REFERENCE, dtype=dtype)
    load_weights(model, SHIPPED, sha256=SHIPPED_SHA256)
    return model.to(device).serve()


def load_weights(
    model: ReferenceModel, path: Path, *, sha256: str | None = None
) -> None:
    """Fill the model from a file.

    Raises:
        ArmError: The file can't be read, its hash is not `sha256`, or it holds other
            tensors than the model.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArmError(
            f"{path}: the weights can't be read: {error.strerror}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise ArmError(
            f"{path}: these are not the weights that shipped (sha256 {found[:12]}, "
            f"expected {sha256[:12]}); restore the file, for example by git checkout"
        )
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ArmError(f"{path}: not a safetensors file: {error}") from error
    wanted = {name: tuple(part.shape) for name, part in _named_parts(model)}
    held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != held:
        odd = min(set(wanted.items()) ^ set(held.items()))
        raise ArmError(
            f"{path}: other tensors than this model's, for example {odd[0]} {odd[1]}; "
            "give weights of the same architecture"
        )
    with torch.no_grad():
        for name, part in _named_parts(model):
            part.copy_(tensors[name])


def save_weights(model: ReferenceModel, path: Path) -> None:
    """Write the model to a file, in float16."""
    half = {
        name: part.detach().to("cpu", torch.float16).contiguous()
        for name, part in _named_parts(model)
    }
    save_file(half, path)


def _named_parts(model: ReferenceModel) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of a file by name, as a view of its place in the stacks."""
    yield "model.embed_tokens.weight", model.embedding
    yield "model.norm.weight", model.final_gain
    for layer in range(model.architecture.layers):
        at = f"model.layers.{layer}"
        q, k, v, o = model.attention[layer]
        gate, up, down = model.mlp[layer]
        yield f"{at}.self_attn.q_proj.weight", q
        yield f"{at}.self_attn.k_proj.weight", k
        yield f"{at}.self_attn.v_proj.weight", v
        yield f"{at}.self_attn.o_proj.weight", o.T
        yield f"{at}.self_attn.q_norm.weight", model.query_gain[layer]
        yield f"{at}.self_attn.k_norm.weight", model.key_gain[layer]
        yield f"{at}.mlp.gate_proj.weight", gate
        yield f"{at}.mlp.up_proj.weight", up
        yield f"{at}.mlp.down_proj.weight", down.T
        yield f"{at}.input_layernorm.weight", model.input_gain[layer]
        yield f"{at}.post_attention_layernorm.weight", model.mlp_gain[layer]

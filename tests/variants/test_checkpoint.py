import hashlib

import pytest
import torch
from safetensors import safe_open

from canary.errors import ArmError
from canary.variants import checkpoint
from canary.variants.checkpoint import (
    SHIPPED,
    SHIPPED_SHA256,
    load_shipped,
    load_weights,
    save_weights,
)
from canary.variants.model import Architecture, ReferenceModel

TINY = Architecture(layers=2, width=32, heads=2, head_width=24, hidden=48)


def test_the_shipped_file_is_the_one_that_was_measured():
    """The file's hash is the constant that stands beside its path."""
    assert SHIPPED_SHA256 == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()


def test_the_shipped_model_is_ready_to_answer():
    """The shipped weights fill the whole model, which then needs no gradients."""
    model = load_shipped(dtype=torch.float32, device=torch.device("cpu"))

    assert 2_722_560 == sum(p.numel() for p in model.parameters())
    assert not any(p.requires_grad for p in model.parameters())
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_other_weights_under_the_shipped_name_are_refused(tmp_path, monkeypatch):
    """A shipped file with one changed byte isn't loaded, and the error names it."""
    forged = tmp_path / "reference.safetensors"
    content = bytearray(SHIPPED.read_bytes())
    content[-1] ^= 1
    forged.write_bytes(content)
    monkeypatch.setattr(checkpoint, "SHIPPED", forged)

    with pytest.raises(ArmError, match=r"reference\.safetensors: these are not the"):
        load_shipped(dtype=torch.float32, device=torch.device("cpu"))


def test_weights_survive_a_file(tmp_path):
    """Saving and loading gives every parameter back, rounded to float16."""
    saved, loaded = ReferenceModel(TINY), ReferenceModel(TINY)
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(3))
    save_weights(saved, tmp_path / "w.safetensors")

    load_weights(loaded, tmp_path / "w.safetensors")

    for one, other in zip(saved.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one.half().float(), other)


def test_a_file_has_the_names_and_shapes_of_qwen3(tmp_path):
    """Transformers' Qwen3ForCausalLM expects these tensors, tied embeddings aside."""
    save_weights(ReferenceModel(TINY), tmp_path / "w.safetensors")

    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping

    layer = {
        "self_attn.q_proj": [48, 32],
        "self_attn.k_proj": [48, 32],
        "self_attn.v_proj": [48, 32],
        "self_attn.o_proj": [32, 48],
        "self_attn.q_norm": [24],
        "self_attn.k_norm": [24],
        "mlp.gate_proj": [48, 32],
        "mlp.up_proj": [48, 32],
        "mlp.down_proj": [32, 48],
        "input_layernorm": [32],
        "post_attention_layernorm": [32],
    }
    expected = {"model.embed_tokens.weight": [384, 32], "model.norm.weight": [32]}
    for index in range(2):
        for name, shape in layer.items():
            expected[f"model.layers.{index}.{name}.weight"] = shape
    assert expected == shapes


def test_files_that_are_no_weights_of_this_model_are_refused(tmp_path):
    """Missing, not safetensors, or of other sizes: one sentence that names the file."""
    model = ReferenceModel(TINY)
    (tmp_path / "text.safetensors").write_text("hello")

    with pytest.raises(ArmError, match=r"none\.safetensors: the weights can't be read"):
        load_weights(model, tmp_path / "none.safetensors")
    with pytest.raises(ArmError, match=r"text\.safetensors: not a safetensors file"):
        load_weights(model, tmp_path / "text.safetensors")
    with pytest.raises(ArmError, match=r"reference\.safetensors: other tensors than"):
        load_weights(model, SHIPPED)

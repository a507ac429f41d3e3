"""What an actor says of its card: what the driver says, or that nobody knows."""

from canary.arms.ray.actor import _card

DRIVER = """\
#!/bin/sh
asked=name,uuid,driver_version,clocks.sm,clocks.max.sm,power.limit
test "$*" = "--query-gpu=$asked --format=csv,noheader -i 3" || exit 9
echo "NVIDIA H200, GPU-5b8c5f0e, 570.86.15, 345 MHz, 1980 MHz, 700.00 W"
"""


def test_a_card_is_described_by_its_driver(tmp_path, monkeypatch):
    """Name, UUID, driver and clocks of the card that Ray gave, not of the first."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(DRIVER)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    found = _card("3")

    assert {
        "gpu": "NVIDIA H200",
        "gpu_uuid": "GPU-5b8c5f0e",
        "driver": "570.86.15",
        "gpu_clock": "345 MHz",
        "gpu_clock_max": "1980 MHz",
        "gpu_power_limit": "700.00 W",
    } == found


def test_a_card_that_only_ray_believes_in_is_unknown(tmp_path, monkeypatch):
    """A resource that somebody has declared is no evidence of a device."""
    monkeypatch.setenv("PATH", str(tmp_path))

    assert all(told.startswith("unknown") for told in _card("0").values())

"""The device and the number format that inference and training use on this machine."""

from __future__ import annotations

from pathlib import Path

from meteor_agents.errors import MissingExtraError, SettingsError

try:
    import torch
except ImportError as absent:
    raise MissingExtraError("torch on this machine", "local") from absent

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats by their names in settings."""


def pick_device(device: str = "auto") -> torch.device:
    """The device of this name. `auto` is the first CUDA device, else the CPU. Raises `SettingsError` for any other
    device that cannot be used here."""
    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as unusable:
        raise SettingsError(f"device {device!r} cannot be used here; name cpu, cuda, cuda:1 … or auto") from unusable
    return picked


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The number format of this name. `auto` is `native_dtype`. Raises `SettingsError` for an unknown name."""
    if dtype == "auto":
        return native_dtype(device)
    if dtype not in DTYPES:
        raise SettingsError(f"dtype {dtype!r} is not one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def native_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the hardware itself multiplies it, else float32: an emulated bfloat16 is slower than float32."""
    device = torch.device(device)
    if device.type == "cuda":
        native = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = device.type == "cpu" and _cpu_multiplies_bfloat16()
    return torch.bfloat16 if native else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):  # private, absent from some versions of torch
        supported = getattr(torch.cpu, probe, None)
        if supported is not None and supported():
            return True
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags

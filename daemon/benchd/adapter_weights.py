"""How many parameters each module of a saved adapter has, from the header of its weights."""

from __future__ import annotations

import math
import os
from typing import Final

import msgspec

from benchd.naming import modules_of

__all__ = ["ADAPTER_WEIGHTS", "read_parameters"]

ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"

#: safetensors itself takes no longer header.
_MAX_HEADER: Final = 100_000_000
_LENGTH_BYTES: Final = 8

#: The parts of a LoRA tensor's name that follow its module's.
_TENSORS: Final = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B")


class _Tensor(msgspec.Struct):
    shape: list[int] = []


_decode = msgspec.json.Decoder(dict[str, _Tensor]).decode


def read_parameters(folder: str) -> dict[str, int]:
    """Return the number of LoRA parameters of each module, as PEFT names it, in the adapter that `folder` holds.

    Only the header of `adapter_model.safetensors` is read. Empty where there is none, or it can't be read.
    """
    path = os.path.join(folder, ADAPTER_WEIGHTS)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(_MAX_HEADER, os.fstat(file.fileno()).st_size):
                return {}
            tensors = _decode(file.read(length))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
    counts: dict[str, int] = {}
    for name, tensor in tensors.items():
        for part in _TENSORS:
            module, found, _ = name.partition(part)
            if found and not name.endswith(".bias"):  # it has the size of the module's output, at any rank
                counts[module] = counts.get(module, 0) + math.prod(tensor.shape)
    return dict(zip(modules_of(list(counts)).names, counts.values(), strict=True))

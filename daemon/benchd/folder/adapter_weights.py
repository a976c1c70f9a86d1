"""Read the modules of a saved adapter, with their ranks and sizes, from the header of its weights."""

from __future__ import annotations

import math
import os
from typing import Final

import msgspec

from benchd.audit.adapter import Weights
from benchd.audit.naming import modules_of
from benchd.audit.values import whole

__all__ = ["ADAPTER_WEIGHTS", "read_weights"]

ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"

#: Maximum bytes of the header. safetensors has the same limit.
_MAX_HEADER: Final = 100_000_000
_LENGTH_BYTES: Final = 8

#: The matrices of a LoRA layer and of a LoRA embedding, by the part that follows the module in a tensor's name.
_DOWN: Final = (".lora_A.", ".lora_embedding_A")
_UP: Final = (".lora_B.", ".lora_embedding_B")


class _Tensor(msgspec.Struct):
    shape: list[int] = []


_decode = msgspec.json.Decoder(dict[str, _Tensor]).decode


def read_weights(folder: str) -> dict[str, Weights]:
    """Return rank and number of parameters of each module of the adapter in `folder`, by PEFT's module name.

    Read only the header of `adapter_model.safetensors`. Return nothing if the file is absent or can't be read.
    """
    try:
        tensors = _header(os.path.join(folder, ADAPTER_WEIGHTS))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    ranks: dict[str, int] = {}
    parameters: dict[str, int] = {}
    for name, tensor in tensors.items():
        if name.endswith(".bias") or not tensor.shape or min(tensor.shape) <= 0:
            continue  # a bias has the size of the module's output, at any rank
        for part in (*_DOWN, *_UP):
            module, found, _ = name.partition(part)
            if found:
                parameters[module] = parameters.get(module, 0) + math.prod(tensor.shape)
                if part in _DOWN:
                    ranks[module] = tensor.shape[0]
    known = [module for module, rank in ranks.items() if whole(rank)]
    return {
        module: Weights(ranks[name], parameters[name])
        for module, name in zip(modules_of(known).names, known, strict=True)
    }


def _header(path: str) -> dict[str, _Tensor]:
    if not os.path.isfile(path):
        return {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        return _decode(file.read(length)) if 0 < length <= min(_MAX_HEADER, os.fstat(file.fileno()).st_size) else {}

"""Make PEFT adapters with chosen singular values, saved by PEFT."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

#: Takes a rank and returns that number of singular values in falling order; the first is 1.
Spectrum = Callable[[int], list[float]]


def tailed(heads: int, tail: float) -> Spectrum:
    """Return `heads` values of 1, then equal values whose squares sum to `tail` squared."""

    def spectrum(rank: int) -> list[float]:
        if rank <= heads:
            return [1.0] * rank
        return [1.0] * heads + [tail / math.sqrt(rank - heads)] * (rank - heads)

    return spectrum


def falling(ratio: float) -> Spectrum:
    """Return a geometric series."""
    return lambda rank: [ratio**place for place in range(rank)]


#: 90 % of the energy is in the first value, but the effective rank counts the tail: the policies disagree.
LONG_TAIL = tailed(1, 0.31)
#: All values are equal: every policy suggests almost the whole rank.
EVEN = tailed(1 << 30, 0.0)
#: Only one value is large: every policy suggests rank 1 or 2.
LONE = tailed(1, 0.001)


@dataclass(frozen=True)
class Adapter:
    """The recipe of one adapter.

    `loud` modules, evenly spaced, have a `size` (largest singular value) of 8 to 12. The others have a size within
    `quiet`. Gradience flags a module if its policies disagree and its energy (the sum of squares) is high. So with
    the default sizes and at most a quarter of the modules loud, exactly the loud ones with a long tail are flagged.
    """

    model: Callable[[], nn.Module]
    rank: int
    targets: Sequence[str]
    alpha: float = 16.0
    loud: int = 0
    loud_spectrum: Spectrum = LONG_TAIL
    quiet: tuple[float, float] = (0.3, 1.2)
    quiet_spectra: Sequence[Spectrum] = (LONG_TAIL, EVEN, LONE, falling(0.7))
    #: Modules, by position, whose weights all have this value: zero or NaN.
    fill: Mapping[int, float] = field(default_factory=dict)
    #: More arguments of `LoraConfig`.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Use columns of the identity instead of random directions, so that equal sizes give equal energies to the bit.
    identity: bool = False
    #: Steps of real training, instead of chosen values.
    steps: int = 0
    #: Save the raw state dict of two adapters, "default" and "second"; the second one has the loud modules.
    second: bool = False
    seed: int = 0

    def save(self, folder: Path) -> None:
        """Make the adapter and write it into `folder`."""
        torch.manual_seed(self.seed)
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=list(self.targets), **self.options)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set")  # PEFT corrects it for GPT-2
            model = get_peft_model(self.model(), config)
            if self.second:
                model.add_adapter("second", config)
        assert isinstance(model, PeftModel)
        if self.steps:
            _train(model, self.steps)
        else:
            self._shape(model)
        model.save_pretrained(folder, selected_adapters=["default"])
        if self.second:
            (folder / "adapter_model.safetensors").unlink()
            both = {name: value for name, value in model.state_dict().items() if ".lora_" in name}
            torch.save(both, folder / "adapter_model.bin")

    def _shape(self, model: PeftModel) -> None:
        """Give every module of every adapter its singular values."""
        generator = torch.Generator().manual_seed(self.seed)
        layers = [module for module in model.modules() if isinstance(module, LoraLayer) and module.lora_A]
        every = len(layers) // self.loud if self.loud else 0
        loud = {place * every for place in range(self.loud)}
        with torch.no_grad():
            for adapter in ("default", "second") if self.second else ("default",):
                for place, layer in enumerate(layers):
                    if place in loud and (adapter == "second" or not self.second):
                        spectrum, sizes = self.loud_spectrum, (8.0, 12.0)
                    else:
                        spectrum = self.quiet_spectra[place % len(self.quiet_spectra)]
                        sizes = self.quiet
                    size = torch.empty(1, dtype=torch.float64).uniform_(*sizes, generator=generator)
                    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                    root = torch.sqrt(size * torch.tensor(spectrum(len(down)), dtype=torch.float64))
                    down.copy_(root[:, None] * self._directions(down.shape[1], len(down), generator).T)
                    up.copy_(self._directions(len(up), len(down), generator) * root)
                    if place in self.fill:
                        down.fill_(self.fill[place])
                        up.fill_(self.fill[place])

    def _directions(self, size: int, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` orthonormal columns of length `size`."""
        assert count <= size, "a module must be at least as wide as its rank"
        if self.identity:
            return torch.eye(size, count, dtype=torch.float64)
        return torch.linalg.qr(torch.randn(size, count, generator=generator, dtype=torch.float64)).Q


def _train(model: PeftModel, steps: int) -> None:
    """Teach the model to count in steps of 1 to 3, modulo 16."""
    optimizer = torch.optim.AdamW((value for value in model.parameters() if value.requires_grad), lr=1e-2)
    for _ in range(steps):
        start, step = torch.randint(16, (32, 1)), torch.randint(1, 4, (32, 1))
        counting = (start + step * torch.arange(12)) % 16
        model(input_ids=counting, labels=counting).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

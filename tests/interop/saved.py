"""An `adapter_config.json` in a folder, as TRL and unsloth read it, and an adapter that LLaMA-Factory resumes.

The tests run this as a program under an old PEFT, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import peft
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn

import ranks
from benchd import select
from benchd.bench.training import plan_training
from corpus import USABLE, Sample
from families import Adapted, build

#: Audits of several families, with custom ranks for some layers.
FILES = (
    "bert_seqcls__default.json",
    "distilbert_seqcls__default.json",
    "llama4_many__full.json",
    "r64_rslora__default.json",
    "rank_pattern__default.json",
    "trained_gpt2__default.json",
)
SAMPLES = [sample for sample in USABLE if sample.file in FILES]


def write_adapter_config(sample: Sample, folder: Path, **rest: Any) -> None:
    """Write the file as `benchd export --adapter-config DIR` does, with the fields of `rest` added."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / f"{folder.name}.json").write_bytes(sample.content)
    arguments = ["export", str(folder.parent / f"{folder.name}.json"), "--adapter-config", str(folder)]
    subprocess.run([sys.executable, "-m", "benchd", *arguments], check=True, capture_output=True)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **rest}), encoding="utf-8")


def arguments_of(sample: Sample) -> dict[str, Any]:
    """Return the arguments that benchd gives for `peft.LoraConfig` for a sample."""
    audit = ranks.read(sample)
    return plan_training(audit, select(audit)).arguments


def model_of(sample: Sample) -> nn.Module:
    """Return a new model that has the modules of the sample's audit, always with the same weights."""
    model = build(sample.file, ranks.read(sample).modules.names)
    assert model is not None
    return model


def found(model: nn.Module) -> dict[str, Adapted]:
    """Return the rank and the scaling of each module that PEFT adapts in `model`, by the module's name."""
    return {
        name.removeprefix("base_model.model."): Adapted(module.r["default"], module.scaling["default"])
        for name, module in model.named_modules()
        if isinstance(getattr(module, "r", None), dict)
    }


def trained_anew(sample: Sample, folder: Path) -> PeftModel:
    """Return a new adapter from the file in `folder`, as TRL makes it. Warnings are errors."""
    with _strict():
        assert isinstance(PeftConfig.from_pretrained(folder), LoraConfig)
        return get_peft_model(model_of(sample), LoraConfig.from_pretrained(folder))


def resumed(sample: Sample, folder: Path) -> PeftModel:
    """Return the adapter saved in `folder`, as LLaMA-Factory resumes it. Warnings are errors."""
    with _strict():
        return PeftModel.from_pretrained(model_of(sample), folder, is_trainable=True)


class _strict(warnings.catch_warnings):  # noqa: N801 (used like a function)
    """Make warnings errors, except for one: PEFT warns that GPT-2 stores its weights transposed."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    everything: dict[str, Any] = {"peft": peft.__version__, "new": {}, "resumed": {}}
    for one in SAMPLES:
        anew = trained_anew(one, place / one.file)
        everything["new"][one.file] = found(anew)
        anew.save_pretrained(place / one.file / "empty")
        everything["resumed"][one.file] = found(resumed(one, place / one.file / "empty"))
    json.dump(everything, sys.stdout)

"""Every kind of adapter: its export makes the same adapter again, except for the ranks, and keeps all scalings."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn

import kinds
from benchd import Audit, BenchSettings, Selection, bench_config, read_adapter_config, read_audit, select
from benchd.bench.training import Training, plan_training
from benchd.folder.adapter_weights import read_weights


class Case(NamedTuple):
    """A saved adapter with its audit."""

    kind: kinds.Kind
    folder: Path
    model: nn.Module
    audit: Audit

    def planned(self, uniform: int, *, with_weights: bool = True) -> Training:
        """The training at a uniform rank, without any selected layer."""
        weights = read_weights(str(self.folder)) if with_weights else {}
        settings = BenchSettings(uniform_rank=uniform)
        return plan_training(self.audit, without_selected(self.audit), settings, weights=weights)


@pytest.fixture(scope="module", params=kinds.KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind, folder = kinds.KINDS[request.param], tmp_path_factory.mktemp("adapter")
    model = kinds.save(kind, folder)
    beside = read_adapter_config((folder / "adapter_config.json").read_bytes())
    audit = read_audit(kinds.audit(folder), adapter=beside)
    assert audit.modules.adapter_problem is None
    return Case(kind, folder, model, audit)


def adapted(case: Case, arguments: dict[str, Any]) -> nn.Module:
    """Return a new model with an adapter made with these arguments. PEFT's warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return get_peft_model(case.kind.model(), LoraConfig(**arguments))


def scalings(model: nn.Module) -> dict[str, float]:
    """Return the factor by which PEFT scales each module."""
    return {
        name: module.scaling["default"]
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", None), dict) and module.scaling
    }


def ranks(model: nn.Module) -> dict[str, int]:
    """Return the rank that PEFT gave each module, by the module's name."""
    return {
        name.removeprefix("base_model.model."): module.r["default"]
        for name, module in model.named_modules()
        if isinstance(getattr(module, "r", None), dict) and module.r
    }


def trained(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the trained parameters with their shapes."""
    return {name: tuple(weights.shape) for name, weights in model.named_parameters() if weights.requires_grad}


def without_selected(audit: Audit) -> Selection:
    """Return a selection that gives no layer a rank: every module gets the uniform rank or its own."""
    return msgspec.structs.replace(select(audit), layers=())


@pytest.mark.parametrize("with_weights", [True, False], ids=["weights", "file"])
def test_same_adapter_at_its_own_ranks(case: Case, with_weights: bool) -> None:
    """At the adapter's own ranks the export is that adapter: the same parameters are trained, at the same scaling."""
    training = case.planned(64, with_weights=with_weights)
    again = adapted(case, training.arguments)
    assert trained(again) == trained(case.model)
    assert scalings(again) == pytest.approx(scalings(case.model))
    assert training.change is not None
    assert training.change.shrink == training.change.grow == 0


@pytest.mark.parametrize("with_weights", [True, False], ids=["weights", "file"])
def test_smaller(case: Case, with_weights: bool) -> None:
    """At a lower uniform rank no module's rank grows, all keep their scaling, and the same modules are trained."""
    training = case.planned(3, with_weights=with_weights)
    again = adapted(case, training.arguments)
    assert trained(again).keys() == trained(case.model).keys()
    assert scalings(again) == pytest.approx(scalings(case.model))
    own = ranks(case.model)
    assert ranks(again) == {name: min(3, rank) for name, rank in own.items()}
    assert training.change is not None
    assert training.change.grow == 0


def test_selected(case: Case) -> None:
    """With the real answer, the selected modules have their ranks, and all modules keep their scaling."""
    weights = read_weights(str(case.folder))
    training = plan_training(case.audit, select(case.audit), BenchSettings(uniform_rank=3), weights=weights)
    again = adapted(case, training.arguments)
    assert scalings(again) == pytest.approx(scalings(case.model))
    own = {layer.module: layer.rank for layer in select(case.audit).layers if layer.rank}
    found = ranks(again)
    assert {name: found[name] for name in own} == own
    config = json.loads(bench_config(case.audit, select(case.audit)))
    per_layer = config["compression_strategies"][1:]
    assert [len(strategy["rank_pattern"]) for strategy in per_layer] == ([len(own)] if own else [])


def test_parameters(case: Case) -> None:
    """The number of parameters is what the header of the adapter's weights tells, and what PEFT then trains."""
    training = case.planned(3)
    assert training.change is not None
    assert training.change.parameters is not None
    before, after = training.change.parameters
    out_of_reach = case.audit.modules.out_of_reach

    def lora(model: nn.Module) -> int:
        """Return the number of parameters in the matrices of all modules that have a rank."""
        return sum(
            weights.numel()
            for name, weights in model.named_parameters()
            if re.search(r"\.lora_([AB]\.default\.weight|embedding_[AB]\.default)$", name)
            and name.removeprefix("base_model.model.").partition(".lora_")[0] not in out_of_reach
        )

    assert before == lora(case.model)
    assert after == lora(adapted(case, training.arguments))


def test_read_by_peft(case: Case, tmp_path: Path) -> None:
    """The output of `--peft` is also a file from which PEFT makes its config."""
    arguments = plan_training(case.audit, select(case.audit)).arguments
    (tmp_path / "adapter_config.json").write_text(json.dumps(arguments), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = PeftConfig.from_pretrained(tmp_path)
        assert isinstance(config, LoraConfig)
        assert scalings(get_peft_model(case.kind.model(), config)) == pytest.approx(scalings(case.model))


@pytest.mark.parametrize("name", kinds.OTHERS)
def test_not_lora(name: str, tmp_path: Path) -> None:
    """An adapter of another kind has no layers in its audit; the reason names the kind, from the file beside it."""
    kinds.save_other(name, tmp_path)
    beside = read_adapter_config((tmp_path / "adapter_config.json").read_bytes())
    audit = read_audit(kinds.audit(tmp_path), adapter=beside)
    assert audit.is_of_nothing
    assert f"the adapter is {name} (adapter_config.json), not LoRA" in select(audit).reason


@pytest.mark.timeout(300)
def test_exact_keys_survive_the_loop(tmp_path: Path) -> None:
    """Audit, config, training, next audit: keys that match one module only keep ranks and scaling in each round."""
    kind = kinds.KINDS["alike"]
    before = kinds.save(kind, tmp_path / "0")
    for number in range(2):
        folder = tmp_path / str(number)
        beside = read_adapter_config((folder / "adapter_config.json").read_bytes())
        audit = read_audit(kinds.audit(folder), adapter=beside)
        assert audit.modules.adapter_problem is None
        training = plan_training(audit, select(audit), BenchSettings())
        assert r"$|^fc\.a" in training.arguments["rank_pattern"]
        assert r"$|^fc\.a" in training.arguments["alpha_pattern"]
        again = kinds.save(kinds.Kind(kind.model, training.arguments), tmp_path / str(number + 1))
        assert scalings(again) == pytest.approx(scalings(before))
        assert ranks(again) == training.ranks

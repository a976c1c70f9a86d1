"""The answer in the forms that trainers take: PEFT, Axolotl, Bench. Pure.

A training at the answer's ranks gives each selected layer its own rank, every other module the uniform rank or its
own if that is smaller, and all modules the scaling that they have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from benchd.adapter import ADAPTER_CONFIG
from benchd.audit import Audit, Module
from benchd.bench import uniform_rank
from benchd.document import listed
from benchd.matching import endings
from benchd.naming import usable
from benchd.patterns import pattern_keys
from benchd.runnable import targets
from benchd.selection import Selection
from benchd.settings import BenchSettings

__all__ = ["Change", "Training", "axolotl", "bench_audit", "bench_audit_notes", "lora_config", "plan_training"]

#: The names that Axolotl has for PEFT's fields.
_AXOLOTL: Final = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "rank_pattern": "lora_rank_pattern",
    "alpha_pattern": "lora_alpha_pattern",
    "fan_in_fan_out": "lora_fan_in_fan_out",
    "modules_to_save": "lora_modules_to_save",
    "use_dora": "peft_use_dora",
    "use_rslora": "peft_use_rslora",
    "layer_replication": "peft_layer_replication",
    "init_lora_weights": "peft_init_lora_weights",
    "trainable_token_indices": "peft_trainable_token_indices",
}

#: What is said without the file of the adapter.
_UNKNOWN: Final = (
    f"without the adapter's {ADAPTER_CONFIG} (--adapter DIR) the output lacks task_type, use_dora, use_rslora, bias, "
    "modules_to_save, fan_in_fan_out, target_parameters and adapted embeddings, if the adapter has any"
)


class Change(NamedTuple):
    """What becomes of the adapter's size: sums before and after; None for what is not told."""

    ranks: tuple[int, int]
    parameters: tuple[int, int] | None
    shrink: int
    grow: int

    def __str__(self) -> str:
        """One line for people."""
        text = f"ranks {self.ranks[0]:,} → {self.ranks[1]:,}"
        if self.parameters is not None:
            text += f", parameters {self.parameters[0]:,} → {self.parameters[1]:,}"
        return f"{text}; {_modules(self.shrink, 'shrink')}, {self.grow} {'grows' if self.grow == 1 else 'grow'}"


class Training(NamedTuple):
    """A training at the answer's ranks.

    `arguments` are those of `peft.LoraConfig`, `ranks` has the rank of each trained module by PEFT's name for it.
    `change` is None where the audit tells no module's own rank.
    """

    arguments: dict[str, Any]
    ranks: dict[str, int]
    change: Change | None
    notes: tuple[str, ...]


def lora_config(audit: Audit, selection: Selection, settings: BenchSettings | None = None) -> dict[str, Any]:
    """Return what `peft.LoraConfig(**…)` takes to train the adapter anew at the ranks of this answer.

    `lora_alpha` is left out where the audit doesn't tell any scaling, `target_modules` where it names no module. With
    the file of the adapter (`read_audit(…, adapter=…)`) it also has what that says of the training.
    """
    return plan_training(audit, selection, settings or BenchSettings()).arguments


def plan_training(
    audit: Audit,
    selection: Selection,
    settings: BenchSettings,
    *,
    parameters: Mapping[str, int] | None = None,
    may_use_rslora: bool = True,
) -> Training:
    """Return the training at the ranks of this answer.

    `parameters` are the numbers of LoRA parameters of the adapter's modules, where the caller knows them. Unless
    `may_use_rslora` every alpha is for a training without `use_rslora`, at the same scaling.
    """
    carried = audit.adapter.carried() if audit.adapter else {}
    if not may_use_rslora:
        carried.pop("use_rslora", None)
    uniform = uniform_rank(audit, settings)
    modules = dict(audit.modules)
    ranks = _ranks(audit, selection, settings, uniform)
    wanted = targets(audit, selection, settings)
    notes = _adapter_notes(audit)
    if isinstance(wanted, list) and wanted == list(audit.names):
        unaudited = _unaudited(audit)
        modules.update(unaudited)
        ranks.update({name: min(uniform, module.rank or uniform) for name, module in unaudited.items()})
        wanted = [*wanted, *unaudited]
        if unaudited:
            notes.append(f"adapted, but not audited by Gradience; at rank {uniform} or their own: {listed(unaudited)}")
    selected = {layer.module for layer in selection.layers if layer.rank}
    default = _default(audit, selected, ranks, uniform, carried)
    use_rslora = bool(carried.get("use_rslora"))
    arguments = _arguments(audit, selected, modules, ranks, default, use_rslora=use_rslora)
    if wanted:
        arguments["target_modules"] = wanted
    if "lora_alpha" not in arguments:
        notes.append("the audit doesn't tell the adapter's scaling; set lora_alpha yourself")
    smaller = [name for name, rank in ranks.items() if rank < uniform and rank == (_rank_of(modules, name) or 0)]
    if smaller:
        notes.append(f"{_modules(len(smaller), 'keep')} a rank below the uniform rank {uniform}, as in the adapter")
    change = _change(modules, ranks, _counted(audit, ranks, parameters or audit.parameters()))
    return Training({"peft_type": "LORA", **arguments, **carried}, ranks, change, tuple(notes))


def _ranks(audit: Audit, selection: Selection, settings: BenchSettings, uniform: int) -> dict[str, int]:
    """The rank of each module that is trained: the selected ones first, each at most its own."""
    ranks = {layer.module: layer.rank for layer in selection.layers if layer.rank}
    names: Iterable[str] = audit.names
    if settings.focus and selection.layers:
        names = [layer.module for layer in selection.layers if layer.module not in audit.out_of_reach]
    for name in names:
        ranks.setdefault(name, min(uniform, _rank_of(audit.modules, name) or uniform))
    return ranks


def _rank_of(modules: Mapping[str, Module], name: str) -> int | None:
    module = modules.get(name)
    return module.rank if module else None


def _unaudited(audit: Audit) -> dict[str, Module]:
    """What the adapter's file targets and the audit does not name: embeddings, which Gradience passes over."""
    adapter = audit.adapter
    asked = adapter.fields.get("target_modules") if adapter else None
    if adapter is None or not isinstance(asked, list):
        return {}
    audited = {ending for module in audit.adapted for ending in endings(module)}
    missed = sorted(usable([name for name in asked if isinstance(name, str) and name not in audited]))
    return {name: Module(of.rank, adapter.scaling(of.alpha, of.rank)) for name, of in adapter.applied(missed).items()}


def _default(
    audit: Audit, selected: Collection[str], ranks: Mapping[str, int], uniform: int, carried: Mapping[str, Any]
) -> int:
    """The `r` of modules without a pattern: what most that are not selected have. Fused experts can have no other."""
    own = audit.adapter.rank if audit.adapter else None
    if carried.get("target_parameters") and own:
        return min(uniform, own)
    counts = Counter(rank for name, rank in ranks.items() if name not in selected)
    return max(counts, key=lambda rank: (counts[rank], rank == uniform, rank), default=uniform)


def _arguments(
    audit: Audit,
    selected: Collection[str],
    modules: Mapping[str, Module],
    ranks: Mapping[str, int],
    default: int,
    *,
    use_rslora: bool,
) -> dict[str, Any]:
    alphas = {
        name: alpha
        for name, rank in ranks.items()
        if name in modules and (alpha := modules[name].alpha_at(rank, use_rslora=use_rslora)) is not None
    }
    arguments: dict[str, Any] = {"r": default}
    usual = _usual_alpha(audit, ranks, alphas, default, use_rslora=use_rslora)
    if usual is not None:
        arguments["lora_alpha"] = usual
    ranked = [name for name, rank in ranks.items() if name in selected or rank != default]
    scaled = [name for name, alpha in alphas.items() if name in selected or alpha != usual]
    keys = pattern_keys(list(dict.fromkeys([*ranked, *scaled])), dict.fromkeys([*audit.adapted, *ranks]))
    arguments["rank_pattern"] = {keys[name]: ranks[name] for name in ranked}
    arguments["alpha_pattern"] = {keys[name]: alphas[name] for name in scaled}
    return arguments


def _usual_alpha(
    audit: Audit, ranks: Mapping[str, int], alphas: Mapping[str, float], default: int, *, use_rslora: bool
) -> float | None:
    """The alpha of most modules without a rank of their own, else of most at all."""
    adapter = audit.adapter
    if adapter is not None and adapter.target_parameters and adapter.rank:
        # Fused experts have no alpha of their own.
        expert = Module(adapter.rank, adapter.scaling(adapter.alpha, adapter.rank))
        return expert.alpha_at(default, use_rslora=use_rslora)
    usual = [alpha for name, alpha in alphas.items() if ranks[name] == default] or list(alphas.values())
    return Counter(usual).most_common(1)[0][0] if usual else None


def _adapter_notes(audit: Audit) -> list[str]:
    adapter = audit.adapter
    if adapter is None:
        return [_UNKNOWN]
    notes = []
    left = adapter.left_behind()
    if left:
        notes.append(f"in {ADAPTER_CONFIG} and not carried over: {listed(left, 10)}")
    if isinstance(adapter.fields.get("target_modules"), str):
        notes.append("the adapter's target_modules are one pattern; embeddings that it hits are left out")
    return notes


def _counted(audit: Audit, ranks: Mapping[str, int], parameters: Mapping[str, int]) -> dict[str, int]:
    """The parameters of each module that is trained; of one that the audit does not name, of all that it stands for."""
    adapted = set(audit.adapted)
    counts = {name: parameters[name] for name in ranks if name in parameters}
    for name in ranks.keys() - adapted - counts.keys():
        found = [count for module, count in parameters.items() if module.endswith(f".{name}") and module not in adapted]
        if found:
            counts[name] = sum(found)
    return counts


def _change(modules: Mapping[str, Module], ranks: Mapping[str, int], parameters: Mapping[str, int]) -> Change | None:
    pairs = {name: (own, rank) for name, rank in ranks.items() if (own := _rank_of(modules, name))}
    if not pairs:
        return None
    counted = None
    if pairs.keys() <= parameters.keys():
        after = sum(parameters[name] // own * rank for name, (own, rank) in pairs.items())
        counted = (sum(parameters[name] for name in pairs), after)
    return Change(
        ranks=(sum(own for own, _ in pairs.values()), sum(rank for _, rank in pairs.values())),
        parameters=counted,
        shrink=sum(rank < own for own, rank in pairs.values()),
        grow=sum(rank > own for own, rank in pairs.values()),
    )


def _modules(count: int, verb: str) -> str:
    return f"1 module {verb}s" if count == 1 else f"{count} modules {verb}"


# --- other trainers -------------------------------------------------------------------------------------------


def axolotl(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the arguments of `peft.LoraConfig` in Axolotl's names, and notes about what has no name there.

    Raises ValueError for an alpha that is no whole number, which Axolotl refuses.
    """
    alphas = {"lora_alpha": arguments.get("lora_alpha"), **arguments["alpha_pattern"]}
    broken = [f"{name}: {alpha:g}" for name, alpha in alphas.items() if isinstance(alpha, float)]
    if broken:
        raise ValueError(
            f"Axolotl takes only whole alphas ({listed(broken)}): set bench.uniform_rank so that scaling x rank is "
            "whole, or train with PEFT (--peft)"
        )
    options = {_AXOLOTL[key]: value for key, value in arguments.items() if key in _AXOLOTL}
    left = [key for key in arguments if key not in _AXOLOTL and key not in {"peft_type", "task_type"}]
    notes = (f"Axolotl has no key for {listed(left, 10)}",) if left else ()
    return {"adapter": "lora", **options}, notes


def bench_audit(audit: Audit, training: Training) -> dict[str, Any]:
    """Return the probe audit from which `gradience-bench --resume` takes the ranks of its per-layer variant.

    It lists every module that is trained, as Bench gives the others the smallest rank of the pattern. It has none of
    the audit's global suggestions: from these Bench makes uniform variants, for which it may drop the per-layer one
    (field-notes, section 4). By the means Bench decides on further uniform variants.
    """
    keys = pattern_keys(list(training.ranks), audit.adapted)
    means = audit.means
    return {
        **({"probe_rank": audit.largest_rank} if audit.largest_rank else {}),
        **({"summary": means} if means else {}),
        "per_layer_suggestions": {"rank_pattern": {keys[name]: rank for name, rank in training.ranks.items()}},
    }


def bench_audit_notes(audit: Audit, training: Training, settings: BenchSettings) -> list[str]:
    """Return what Bench will not do as the audit says, under its rules for ranks (field-notes, section 4)."""
    lora, compression = settings.base.get("lora", {}), settings.base.get("compression", {})
    probe = lora.get("probe_r") or audit.largest_rank
    ranks = list(training.ranks.values())
    if not ranks or not probe:
        return ["the audit tells no module and no rank: Bench has nothing to compress"]
    notes = []
    allowed = compression.get("allowed_ranks") or sorted({*ranks, probe})
    lowered = [max([each for each in allowed if each <= min(rank, probe)], default=min(allowed)) for rank in ranks]
    changed = sorted({rank for rank, other in zip(ranks, lowered, strict=True) if rank != other})
    if changed:
        notes.append(
            f"Bench lowers ranks to lora.probe_r ({probe}) and then to compression.allowed_ranks: "
            f"it changes {', '.join(map(str, changed))}"
        )
    mean = sum(lowered) / len(lowered)
    if min(allowed, key=lambda rank: abs(rank - mean)) >= probe:
        notes.append(
            f"Bench leaves its per-layer variant out: the mean rank {mean:.3g} is nearest to lora.probe_r ({probe}); "
            f"set probe_r = {2 * probe} in [bench.base.lora]"
        )
    return notes

"""Plan a training at the ranks of an answer, as arguments of `peft.LoraConfig`. Pure.

Each selected layer gets the rank of the selection. Every other module gets the uniform rank, or the rank that it has if
that is smaller. Every module keeps its scaling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from benchd.audit.adapter import ADAPTER_CONFIG, AdapterConfig, Weights
from benchd.audit.audit import Audit
from benchd.audit.matching import endings, plain_ending
from benchd.audit.modules import Module
from benchd.audit.naming import unaddressable, usable
from benchd.audit.values import listed, whole
from benchd.bench.patterns import pattern_keys
from benchd.bench.plan import uniform_baseline
from benchd.bench.tables import focused
from benchd.selection.notes import name_notes
from benchd.selection.selection import Selection
from benchd.settings.keys import BenchSettings

__all__ = ["Change", "Training", "plan_training"]

#: The note for an audit without the adapter's own file.
_UNKNOWN: Final = (
    f"without the adapter's {ADAPTER_CONFIG} (--adapter DIR) each alpha assumes a scaling of alpha / rank, and the "
    "output lacks what the adapter may have of task_type, use_rslora, use_dora, bias, modules_to_save, "
    "fan_in_fan_out, target_parameters and adapted embeddings"
)


class Change(NamedTuple):
    """How the adapter's size changes: sums before and after, None where unknown; how many modules shrink and grow."""

    ranks: tuple[int, int]
    parameters: tuple[int, int] | None
    shrink: int
    grow: int

    def __str__(self) -> str:
        """Return one line for people."""
        text = f"ranks {self.ranks[0]:,} → {self.ranks[1]:,}"
        if self.parameters is not None:
            text += f", parameters {self.parameters[0]:,} → {self.parameters[1]:,}"
        return f"{text}; {_modules(self.shrink, 'shrink')}, {self.grow} {'grows' if self.grow == 1 else 'grow'}"


class Training(NamedTuple):
    """A training at the answer's ranks.

    `arguments` are those of `peft.LoraConfig`, and the fields of `AdapterConfig.carried` if the audit has the adapter's
    own file. They lack `lora_alpha` if the audit has no scaling, and `target_modules` if it names no module. `ranks`
    has the rank of each trained module by PEFT's name for it. `change` is None where the audit tells no module's own
    rank. `notes` are for every form, `peft_notes` for those from which PEFT makes an adapter.
    """

    arguments: dict[str, Any]
    ranks: dict[str, int]
    change: Change | None
    notes: tuple[str, ...]
    peft_notes: tuple[str, ...]


def plan_training(
    audit: Audit,
    selection: Selection,
    settings: BenchSettings | None = None,
    *,
    weights: Mapping[str, Weights] | None = None,
    may_use_rslora: bool = True,
) -> Training:
    """Return the training at the ranks of this answer.

    `weights` are the modules of the saved adapter, where the caller knows them. Unless `may_use_rslora` every alpha is
    for a training without `use_rslora`, at the same scaling.
    """
    settings = settings or BenchSettings()
    adapter = audit.modules.adapter
    carried = adapter.carried() if adapter else {}
    if not may_use_rslora:
        carried.pop("use_rslora", None)
    uniform, _, notes = uniform_baseline(audit, settings)
    focus = focused(audit, selection, settings)
    own = dict(audit.modules.known)
    selected = {layer.module: layer.rank for layer in selection.layers if layer.rank}
    ranks = _ranks(own, selected, focus or audit.modules.names, uniform)
    saved = _own_weights(audit, weights or {})
    extra = _Extra({}, known=False) if focus else _unaudited(audit, saved)
    own.update(extra.modules)
    every = {**ranks, **{name: min(uniform, module.rank or uniform) for name, module in extra.modules.items()}}
    if extra.known:
        ranks = every
    default = _default(audit, {name: rank for name, rank in ranks.items() if name not in selected}, uniform, carried)
    arguments = _arguments(audit, selected, own, every, default, use_rslora=bool(carried.get("use_rslora")))
    targets = [*(focus or audit.modules.names), *extra.modules]
    if targets:
        arguments["target_modules"] = targets
    counts = {**{name: module.parameters for name, module in saved.items()}, **audit.modules.parameters()}
    return Training(
        {"peft_type": "LORA", **arguments, **carried},
        ranks,
        _change(own, ranks, counts),
        (*notes, *_rank_notes(audit, selection, own, ranks, uniform)),
        (*_adapter_notes(audit, carried, extra), *_argument_notes(audit, arguments, carried)),
    )


class _Extra(NamedTuple):
    """Modules of the adapter that the audit does not name; `known` from its weights, else from its targets."""

    modules: Mapping[str, Module]
    known: bool


def _ranks(
    own: Mapping[str, Module], selected: Mapping[str, int], names: Iterable[str], uniform: int
) -> dict[str, int]:
    """Return the rank of each of `names`, the selected ones first; others get at most their own."""
    trained = set(names)
    ranks = {name: rank for name, rank in selected.items() if name in trained}
    for name in names:
        ranks.setdefault(name, min(uniform, _rank_of(own, name) or uniform))
    return ranks


def _rank_of(modules: Mapping[str, Module], name: str) -> int | None:
    module = modules.get(name)
    return module.rank if module else None


def _own_weights(audit: Audit, weights: Mapping[str, Weights]) -> Mapping[str, Weights]:
    """Return `weights` if they can be the audited adapter's: modules in both must have the same rank."""
    ranks = [(module.rank, weights[name].rank) for name, module in audit.modules.known.items() if name in weights]
    return weights if ranks and all(told in {None, saved} for told, saved in ranks) else {}


def _unaudited(audit: Audit, weights: Mapping[str, Weights]) -> _Extra:
    """Return adapted modules that Gradience does not audit, such as embeddings.

    The weights name these modules. Without them the targets in the adapter's file do, by the ends of their names.
    """
    adapter, adapted = audit.modules.adapter, audit.modules.adapted
    if weights:
        audited = set(adapted)
        missed = [name for name in weights if name not in audited]
        unreachable = unaddressable([*adapted, *missed])
        names = [name for name in missed if name not in unreachable]
        applied = adapter.applied(names) if adapter else {}
        scalings = {module.scaling for module in audit.modules.known.values()}
        usual = scalings.pop() if len(scalings) == 1 else None
        return _Extra(
            {
                name: Module(
                    weights[name].rank,
                    adapter.scaling(applied[name].alpha, weights[name].rank) if adapter else usual,
                )
                for name in names
            },
            known=True,
        )
    asked = adapter.fields.get("target_modules") if adapter else None
    if adapter is None or not isinstance(asked, list) or not adapted or adapter.fields.get("layers_to_transform"):
        return _Extra({}, known=False)
    reached = {ending for module in adapted for ending in endings(module)}
    excluded = adapter.fields.get("exclude_modules") or ()
    names = sorted(usable([n for n in asked if isinstance(n, str) and n not in reached and n not in excluded]))
    return _Extra({name: _by_ending(adapter, name) for name in names}, known=False)


def _by_ending(adapter: AdapterConfig, name: str) -> Module:
    """Return rank and scaling of a module of which only the end of the name is known; of several ranks the least."""
    pattern = {key: rank for key, rank in adapter.rank_pattern.items() if plain_ending(key, name)}
    alphas = [alpha for key, alpha in adapter.alpha_pattern.items() if plain_ending(key, name)]
    rank = min([whole(rank) or 0 for rank in pattern.values()], default=adapter.rank) or None
    return Module(rank, adapter.scaling(alphas[0] if alphas else adapter.alpha, rank))


def _default(audit: Audit, others: Mapping[str, int], uniform: int, carried: Mapping[str, Any]) -> int:
    """Return `r`, the rank that most unselected modules have. Fused experts can have no other rank."""
    own = audit.modules.adapter.rank if audit.modules.adapter else None
    if carried.get("target_parameters") and own:
        return min(uniform, own)
    counts = Counter(others.values())
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
    keys = pattern_keys(list(dict.fromkeys([*ranked, *scaled])), dict.fromkeys([*audit.modules.adapted, *ranks]))
    arguments["rank_pattern"] = {keys[name]: ranks[name] for name in ranked}
    arguments["alpha_pattern"] = {keys[name]: alphas[name] for name in scaled}
    return arguments


def _usual_alpha(
    audit: Audit, ranks: Mapping[str, int], alphas: Mapping[str, float], default: int, *, use_rslora: bool
) -> float | None:
    """Return the most frequent alpha of the modules with the default rank; if none has it, of all modules."""
    adapter = audit.modules.adapter
    if adapter is not None and adapter.target_parameters and adapter.rank:
        # Fused experts can't have another alpha.
        expert = Module(adapter.rank, adapter.scaling(adapter.alpha, adapter.rank))
        return expert.alpha_at(default, use_rslora=use_rslora)
    usual = [alpha for name, alpha in alphas.items() if ranks[name] == default] or list(alphas.values())
    return Counter(usual).most_common(1)[0][0] if usual else None


# --- notes ----------------------------------------------------------------------------------------------------


def _rank_notes(
    audit: Audit, selection: Selection, own: Mapping[str, Module], ranks: Mapping[str, int], uniform: int
) -> list[str]:
    notes = []
    if audit.no_analysis is not None:  # then the selection's notes say nothing about the names
        notes.extend(name_notes(audit))
    if not any(layer.rank for layer in selection.layers):
        notes.append(f"no module gets a custom rank: {selection.reason}")
    smaller = sum(rank < uniform and rank == _rank_of(own, name) for name, rank in ranks.items())
    if smaller:
        notes.append(f"{_modules(smaller, 'keep')} a rank below the uniform rank {uniform}, as in the adapter")
    return notes


def _adapter_notes(audit: Audit, carried: Mapping[str, Any], extra: _Extra) -> list[str]:
    adapter = audit.modules.adapter
    if adapter is None:
        problem = audit.modules.adapter_problem
        return [f"{ADAPTER_CONFIG} is not used: {problem}"] if problem else [_UNKNOWN]
    notes = []
    if adapter.use_rslora:
        how = "use_rslora is carried over, with alphas for it"
        if not carried.get("use_rslora"):
            how = "each alpha gives its scaling without use_rslora"
        notes.append(f"the adapter uses rsLoRA: {how}")
    left = adapter.left_behind()
    if left:
        notes.append(f"in {ADAPTER_CONFIG} and not carried over: {listed(left, 10)}")
    if extra.modules:
        notes.append(
            f"adapted, but not audited by Gradience; at the uniform rank or their own: {listed(extra.modules)}"
        )
    elif isinstance(adapter.fields.get("target_modules"), str):
        notes.append("the adapter's target_modules are one pattern; embeddings that it hits are left out")
    return notes


def _argument_notes(audit: Audit, arguments: Mapping[str, Any], carried: Mapping[str, Any]) -> list[str]:
    notes = []
    if "lora_alpha" not in arguments:
        notes.append("the audit doesn't tell the adapter's scaling; set lora_alpha yourself")
    own = audit.modules.adapter.rank if audit.modules.adapter else None
    if carried.get("target_parameters") and own and arguments["r"] < own:
        notes.append(f"fused experts (target_parameters) shrink, too: r {own} → {arguments['r']}")
    return notes


# --- what becomes of the size ---------------------------------------------------------------------------------


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

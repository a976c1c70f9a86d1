"""`adapter_config.json` beside an audit -> `AdapterConfig` (people audit where the adapter is). Pure.

PEFT writes the file next to an adapter's weights. It tells what no audit does: the base model, the dropout, and
whether PEFT scales by alpha / sqrt(rank) (`use_rslora`), where Gradience reports alpha / rank all the same.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Final

import msgspec
from msgspec import Struct

from benchd.audit import Audit
from benchd.base import missing
from benchd.document import finite, whole, words
from benchd.settings import BenchSettings

__all__ = [
    "ADAPTER_CONFIG",
    "MAX_ADAPTER_CONFIG",
    "AdapterConfig",
    "adapter_used",
    "counted",
    "read_adapter_config",
    "unusable",
]

ADAPTER_CONFIG: Final = "adapter_config.json"

#: PEFT writes a few kilobytes; only a rank pattern of thousands of modules makes more.
MAX_ADAPTER_CONFIG: Final = 2**20

#: Why a file was not even read, by the code that reading it gave.
_UNREAD: Final = {
    "symlink": "it is a symbolic link, and links are not followed",
    "not_a_regular_file": "it is not a regular file",
    "too_large": f"it has more than {MAX_ADAPTER_CONFIG} bytes",
}


#: Longer than any value that is read, but for the patterns.
_MAX_VALUE: Final = 4096


class _File(Struct, gc=False):
    """What is read of the file, as text: anybody may have put anything there, and most of it is never looked at."""

    peft_type: msgspec.Raw = msgspec.Raw()
    base_model_name_or_path: msgspec.Raw = msgspec.Raw()
    lora_dropout: msgspec.Raw = msgspec.Raw()
    use_rslora: msgspec.Raw = msgspec.Raw()
    r: msgspec.Raw = msgspec.Raw()
    lora_alpha: msgspec.Raw = msgspec.Raw()
    rank_pattern: msgspec.Raw = msgspec.Raw()
    alpha_pattern: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_File).decode
_decode_pattern = msgspec.json.Decoder(dict[str, float] | None).decode


class AdapterConfig(Struct, frozen=True, kw_only=True):
    """What an adapter's own file tells.

    `token` names its content: the SHA-256, or the reason it could not be read. `problem` says why nothing in it counts,
    else it is None. `ranks` are all that its modules may have; empty where it doesn't say.
    """

    token: str
    problem: str | None = None
    base_model: str | None = None
    dropout: float | None = None
    use_rslora: bool = False
    ranks: frozenset[int] = frozenset()
    alpha: float | None = None

    def is_of(self, audit: Audit) -> bool:
        """Whether this can be the file of the adapter that `audit` is about, as far as both tell.

        Several audits may share a folder with the file of one adapter.
        """
        told = [module for module in audit.modules.values() if module.rank]
        if self.ranks and any(module.rank not in self.ranks for module in told):
            return False
        if self.alpha is None:
            return True
        alphas = (module.scaling * module.rank for module in told if module.scaling is not None and module.rank)
        return all(math.isclose(alpha, self.alpha, rel_tol=1e-6) for alpha in alphas)


def read_adapter_config(content: bytes) -> AdapterConfig:
    """Read an `adapter_config.json`. Never raises: what is wrong with it is its `problem`."""
    token = hashlib.sha256(content).hexdigest()
    try:
        file = _decode(content)
    except msgspec.ValidationError:
        return AdapterConfig(token=token, problem="it is not a JSON object")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return AdapterConfig(token=token, problem=f"it is not JSON ({words(str(error), 100)})")
    kind = _value(file.peft_type) if file.peft_type else "LORA"
    if kind != "LORA":
        return AdapterConfig(token=token, problem=f"it is of another kind of adapter: {words(kind, 60)}")
    return AdapterConfig(
        token=token,
        base_model=_name(_value(file.base_model_name_or_path)),
        dropout=_share(_value(file.lora_dropout)),
        use_rslora=_value(file.use_rslora) is True,
        ranks=_ranks(_value(file.r), file.rank_pattern),
        # With an alpha pattern the modules differ, and PEFT alone knows which is which.
        alpha=None if _pattern(file.alpha_pattern) else finite(_value(file.lora_alpha)),
    )


def unusable(code: str) -> AdapterConfig:
    """The file is there but can't be read; `code` is that of the `AuditError`."""
    return AdapterConfig(token=code, problem=_UNREAD.get(code, "it can't be read"))


def adapter_used(settings: BenchSettings, adapter: AdapterConfig | None) -> str | None:
    """The token of `adapter` if it can shape answers under `settings`; only then a config records it.

    It can by its scaling, whatever the settings; by its base model and dropout where they ask for these; and a file
    that can't be used, by the note about it.
    """
    if adapter is None:
        return None
    asked = settings.adapter_config and bool(missing(settings.base))
    return adapter.token if adapter.problem or adapter.use_rslora or asked else None


def counted(
    settings: BenchSettings, adapter: AdapterConfig | None, audit: Audit
) -> tuple[AdapterConfig | None, tuple[str, ...]]:
    """`adapter` if it counts for the answer to `audit`, else None; and the notes about it."""
    if adapter is None or adapter_used(settings, adapter) is None:
        return None, ()
    problem = adapter.problem
    if problem is None and not adapter.is_of(audit):
        problem = "it is of another adapter: its ranks or its alpha are not those in the audit"
    if problem is not None:
        return None, (f"{ADAPTER_CONFIG} beside the audit is not used: {problem}",)
    if adapter.use_rslora:
        return adapter, (f"{ADAPTER_CONFIG} says use_rslora: each alpha here gives that scaling without it",)
    return adapter, ()


def _value(raw: msgspec.Raw) -> Any:
    """What a short text of JSON says; None for a long one, which is no value that PEFT writes there."""
    if not 0 < len(raw) <= _MAX_VALUE:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a number that is none, text that is not UTF-8
        return None


def _pattern(raw: msgspec.Raw) -> dict[str, float] | None:
    """A pattern's numbers by key, empty where there is none; None for what is no pattern."""
    try:
        return (_decode_pattern(raw) or {}) if raw else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() and len(value) <= 1000 and value.isprintable() else None


def _share(value: Any) -> float | None:
    number = finite(value)
    return number if number is not None and 0 <= number <= 1 else None


def _ranks(rank: Any, raw: msgspec.Raw) -> frozenset[int]:
    """`r` and what a rank pattern puts in its place; none if any of them is no rank."""
    pattern = _pattern(raw)
    found = {whole(value) for value in (rank, *pattern.values())} if pattern is not None else {None}
    ranks = frozenset(rank for rank in found if rank)
    return ranks if len(ranks) == len(found) else frozenset()

"""Read the `adapter_config.json` that PEFT writes next to an adapter's weights. Pure.

The file has facts that no audit has: the alpha of each module, whether PEFT scales by alpha / sqrt(rank)
(`use_rslora`), the kind of adapter, and the other settings of a training. The alphas in an audit can be wrong, because
Gradience matches `alpha_pattern` differently from PEFT.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Raw, Struct

from benchd.audit.matching import Matcher, endings
from benchd.audit.values import finite, whole, words

__all__ = [
    "ADAPTER_CONFIG",
    "CARRIED",
    "MAX_ADAPTER_CONFIG",
    "AdapterConfig",
    "Applied",
    "Weights",
    "read_adapter_config",
    "unusable",
]

ADAPTER_CONFIG: Final = "adapter_config.json"

#: Maximum bytes of a file. PEFT writes a few kilobytes, or more for rank patterns of thousands of modules.
MAX_ADAPTER_CONFIG: Final = 2**20

#: Methods to initialize weights that need only their name. Others (`loftq`, `corda`, `eva`) need more settings.
_Initialization = Annotated[str, msgspec.Meta(pattern=r"^(gaussian|olora|orthogonal|pissa|pissa_niter_[0-9]+)$")]

#: Fields that a training needs besides ranks, alphas and targets: name -> (type, values that mean "not used").
CARRIED: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "task_type": (str, ()),
    "lora_dropout": (float, (0,)),
    "bias": (str, ("none",)),
    "fan_in_fan_out": (bool, (False,)),
    "use_rslora": (bool, (False,)),
    "use_dora": (bool, (False,)),
    "lora_bias": (bool, (False,)),
    "modules_to_save": (list[str], ([],)),
    "target_parameters": (list[str], ([],)),
    "trainable_token_indices": (list[int] | dict[str, list[int]], ([], {})),
    "layer_replication": (list[tuple[int, int]], ([],)),
    "init_lora_weights": (bool | _Initialization, (True,)),
}

#: Fields that are neither carried nor noted: benchd sets them itself (ranks, alphas, targets), they don't affect the
#: training, or they belong to another field.
_ANSWERED: Final = frozenset(
    {
        "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules",
        "layers_to_transform", "layers_pattern", "base_model_name_or_path", "revision", "auto_mapping",
        "inference_mode", "peft_version", "megatron_core", "qalora_group_size", "runtime_config",
    }
)  # fmt: skip

#: The reason why a file could not be read, by error code.
_UNREAD: Final = {
    "symlink": "it is a symbolic link, and links are not followed",
    "not_a_regular_file": "it is not a regular file",
    "too_large": f"it has more than {MAX_ADAPTER_CONFIG} bytes",
}

#: `peft_type` -> the common name of this kind of adapter. Other kinds keep the name in `peft_type`.
_KINDS: Final = {
    "ADALORA": "AdaLoRA",
    "IA3": "IA³",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "OFT": "OFT",
    "BOFT": "BOFT",
    "VERA": "VeRA",
    "PREFIX_TUNING": "prefix tuning",
    "PROMPT_TUNING": "prompt tuning",
    "P_TUNING": "P-tuning",
    "TRAINABLE_TOKENS": "trainable tokens",
    "LN_TUNING": "LayerNorm tuning",
    "FOURIERFT": "FourierFT",
    "RANDLORA": "RandLoRA",
    "VBLORA": "VB-LoRA",
    "MISS": "MiSS",
}

#: Maximum keys that are cheap to match: twice the number of modules in the largest real model.
_MOST_KEYS: Final = 10_000

#: Maximum bytes of the JSON text of a value, except for patterns and lists.
_MAX_VALUE: Final = 4096


class _File(Struct, gc=False):
    """The fields of the file, not yet decoded: the file is untrusted, and most fields are never needed."""

    peft_type: Raw = Raw()
    base_model_name_or_path: Raw = Raw()
    lora_dropout: Raw = Raw()
    use_rslora: Raw = Raw()
    r: Raw = Raw()
    lora_alpha: Raw = Raw()
    rank_pattern: Raw = Raw()
    alpha_pattern: Raw = Raw()
    target_parameters: Raw = Raw()


_decode = msgspec.json.Decoder(_File).decode
_decode_pattern = msgspec.json.Decoder(dict[str, float] | None).decode
_decode_names = msgspec.json.Decoder(list[str] | None).decode
_decode_fields = msgspec.json.Decoder(dict[str, Any]).decode


class Applied(NamedTuple):
    """The rank and the alpha that PEFT gave a module under this file. None means that the file doesn't say."""

    rank: int | None
    alpha: float | None


class Weights(NamedTuple):
    """The rank of a module in a saved adapter, and the number of parameters in its two matrices."""

    rank: int
    parameters: int


class AdapterConfig(Struct, frozen=True, kw_only=True, dict=True):
    """The content of an adapter's `adapter_config.json`.

    `token` identifies the content: its SHA-256, or the reason why the file can't be read. `problem` says why benchd
    ignores the file, or is None. `kind` is the kind of an adapter that is not LoRA, or None. `content` is the file
    itself, and `fields` decodes all of it.
    """

    token: str
    problem: str | None = None
    kind: str | None = None
    base_model: str | None = None
    dropout: float | None = None
    use_rslora: bool = False
    rank: int | None = None
    alpha: float | None = None
    rank_pattern: dict[str, float] = {}
    alpha_pattern: dict[str, float] = {}
    target_parameters: tuple[str, ...] = ()
    content: bytes = b""

    @cached_property
    def _matchers(self) -> tuple[Matcher, Matcher]:
        return Matcher(self.rank_pattern), Matcher(self.alpha_pattern)

    def is_costly(self) -> bool:
        """Return whether `applied` may need much more time or memory than it needs for a real model."""
        if len(self.rank_pattern) + len(self.alpha_pattern) > _MOST_KEYS:
            return True
        return any(matcher.is_costly for matcher in self._matchers)

    def applied(self, modules: Sequence[str]) -> dict[str, Applied]:
        """Return the rank and alpha that PEFT gives each of `modules`. Raises `BadKey`."""
        ranks, alphas = (matcher.values(modules) for matcher in self._matchers)
        return {
            module: Applied(whole(ranks.get(module, self.rank)) or None, alphas.get(module, self.alpha))
            for module in modules
        }

    def scaling(self, alpha: float | None, rank: int | None) -> float | None:
        """Return the factor by which PEFT scales a module: alpha / rank, or alpha / sqrt(rank) with `use_rslora`."""
        if alpha is None or not rank:
            return None
        return finite(alpha / (math.sqrt(rank) if self.use_rslora else rank))

    def alpha_in_audit(self, name: str) -> float | None:
        """Return the alpha that Gradience reports for `name`: the alpha of the first key that is a substring of it."""
        for key, alpha in self.alpha_pattern.items():
            if key in name:
                return alpha
        return self.alpha

    @cached_property
    def _holders(self) -> set[str]:
        return {holder for name in self.target_parameters if (holder := name.rpartition(".")[0])}

    @property
    def ranks(self) -> set[int]:
        """Return every rank that a module can have under this file."""
        return {rank for value in (self.rank, *self.rank_pattern.values()) if (rank := whole(value))}

    def holding_parameters(self, modules: Iterable[str]) -> set[str]:
        """Return those of `modules` that have adapters on their own parameters (`target_parameters`)."""
        holders = self._holders
        return {module for module in modules if not holders.isdisjoint(endings(module))} if holders else set()

    @cached_property
    def fields(self) -> dict[str, Any]:
        """Return every field of the file. Empty if the file can't be used."""
        if self.problem is not None or not self.content:
            return {}
        try:
            return _decode_fields(self.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # in a field that was not decoded before
            return {}

    def carried(self) -> dict[str, Any]:
        """Return the used fields that a training of the same adapter needs and that no answer changes."""
        fields = self.fields
        found = {key: fields[key] for key in CARRIED if _is_used(key, fields.get(key))}
        return {key: value for key, value in found.items() if _fits(key, value)}

    def left_behind(self) -> list[str]:
        """Return the names of the used fields that benchd neither sets itself nor carries over."""
        carried = self.carried()
        return [
            words(key, 60)
            for key, value in self.fields.items()
            if key not in carried and key not in _ANSWERED and _is_used(key, value)
        ]


def _is_used(key: str, value: Any) -> bool:
    unused = CARRIED[key][1] if key in CARRIED else (False, 0, "", [], {})
    return value is not None and value not in unused


def _fits(key: str, value: Any) -> bool:
    try:
        msgspec.convert(value, CARRIED[key][0])
    except msgspec.ValidationError:
        return False
    return True


def read_adapter_config(content: bytes) -> AdapterConfig:
    """Return the content of an `adapter_config.json`. Never raises: `problem` describes an error."""
    token = hashlib.sha256(content).hexdigest()
    try:
        file = _decode(content)
    except msgspec.ValidationError:
        return AdapterConfig(token=token, problem="it is not a JSON object")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return AdapterConfig(token=token, problem=f"it is not JSON ({words(str(error), 100)})")
    kind = _value(file.peft_type) if file.peft_type else "LORA"
    if kind != "LORA":
        name = _KINDS.get(kind, words(kind, 60)) if isinstance(kind, str) else words(kind, 60)
        return AdapterConfig(token=token, problem=f"it is of another kind of adapter: {name}", kind=name)
    ranks, alphas = _pattern(file.rank_pattern), _pattern(file.alpha_pattern)
    return AdapterConfig(
        token=token,
        base_model=_name(_value(file.base_model_name_or_path)),
        dropout=_share(_value(file.lora_dropout)),
        use_rslora=_value(file.use_rslora) is True,
        # An unreadable pattern may apply to any module, so no module's default is known.
        rank=None if ranks is None else whole(_value(file.r)) or None,
        alpha=None if alphas is None else finite(_value(file.lora_alpha)),
        rank_pattern=ranks or {},
        alpha_pattern=alphas or {},
        target_parameters=_listed(file.target_parameters),
        content=content,
    )


def unusable(code: str) -> AdapterConfig:
    """Return the config for a file that can't be read. `code` is the code of the `AuditError`."""
    return AdapterConfig(token=code, problem=_UNREAD.get(code, "it can't be read"))


def _value(raw: Raw) -> Any:
    """Return the value of a short JSON text. None if the text is longer than any that PEFT writes for it."""
    if not 0 < len(raw) <= _MAX_VALUE:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a broken number, or text that is not UTF-8
        return None


def _pattern(raw: Raw) -> dict[str, float] | None:
    """Return the numbers of a pattern by key. Empty if the pattern is absent, None if it is invalid."""
    try:
        return (_decode_pattern(raw) or {}) if raw else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _listed(raw: Raw) -> tuple[str, ...]:
    try:
        return tuple(_decode_names(raw) or ()) if raw else ()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() and len(value) <= 1000 and value.isprintable() else None


def _share(value: Any) -> float | None:
    number = finite(value)
    return number if number is not None and 0 <= number <= 1 else None

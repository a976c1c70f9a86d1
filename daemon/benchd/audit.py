"""Bytes -> `Audit`: every shape that Gradience and Bench write (spec, section 2).

Two ways lead to the same value. The fast one decodes, by type, only what the selection needs, straight
from the bytes. What it can't take (`NaN`, malformed entries, wrong types) goes through the tolerant
one: the standard parser, and `_fit`, which keeps what has the right shape. A file that neither can
use raises `AuditError`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from functools import cache, cached_property
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Struct, UnsetType

from benchd.rejection import AuditError, NotAnAudit, refusal

__all__ = ["Audit", "AuditError", "Layer", "Module", "NotAnAudit", "Rationale", "read_audit"]

#: PEFT wraps the model twice, so an audit's names start with this; `rank_pattern` keys must not
#: (PEFT 0.21.2 warns and ignores such a key, older ones ignore it silently).
PEFT_PREFIX: Final = "base_model.model."

#: Longer names are no module of any model, and as a key they would not be YAML any more (PyYAML gives
#: up on a key beyond 1024 characters; escaping can make four of one).
MAX_NAME: Final = 255

#: No adapter has a rank beyond this; a larger number is not evidence for one.
MAX_RANK: Final = 65536

_MAX_ISSUES: Final = 20
_MAX_ISSUES_BYTES: Final = 2**20


class Rationale(Struct, gc=False):
    """`flagging_rationale` as the file has it: any value may be missing, null or of a wrong type.

    Read numbers through `finite` and `whole`.
    """

    spread: object = None
    spread_threshold: object = None
    meets_spread_threshold: object = None
    importance_share: object = None
    uniform_mult: object = None
    uniform_mult_threshold: object = None
    priority_score: object = None
    flagged_as_high_impact: object = None
    k_values: object = None
    failed_reasons: object = None


class _Entry(Struct, gc=False):
    layer_name: object = None
    flagging_rationale: Rationale | None = None


class _Witness(Struct, gc=False):
    threshold: object = None


class _Distribution(Struct, gc=False):
    total_layers: object = None
    max_uniform_mult: object = None
    is_flat: object = None
    flatness_witness: _Witness | None = None


class _DisagreementConfig(Struct, gc=False):
    min_uniform_mult_threshold: object = None
    uniform_mult_gate: object = None


class _Focus(Struct, gc=False):
    message: object = None


class _ComputedWith(Struct, gc=False):
    gradience_version: object = None


class _Analysis(Struct, gc=False):
    analysis_performed: object = None
    reason: object = None
    distribution: _Distribution | None = None
    disagreement_config: _DisagreementConfig | None = None
    disagreement_focus_set: _Focus | None = None
    computed_with: _ComputedWith | None = None
    flagged_layers: list[_Entry] | None = None
    all_layers_with_disagreement: list[_Entry] | None = None


class _Gain(Struct, gc=False):
    module: object = None
    r: object = None
    scaling: object = None


class _PerModule(Struct, gc=False):
    gain: list[_Gain] | None = None


class _Policy(Struct, gc=False):
    k: object = None


class _Row(Struct, gc=False):
    name: object = None
    r: object = None
    adapter_scale: object = None
    rank_suggestions: dict[str, _Policy] | None = None


class _LayerData(Struct, gc=False):
    layer_rows: list[_Row] | None = None


class _Suggested(Struct, gc=False):
    name: object = None
    suggested_r: object = None


class _Suggestions(Struct, gc=False):
    default_r: object = None
    rank_pattern: dict[str, object] | None = None
    layers: list[_Suggested] | None = None


class _PolicyRow(Struct, gc=False):
    layer_name: object = None
    suggestions: dict[str, _Policy] | None = None


class _Policies(Struct, gc=False):
    per_layer: list[_PolicyRow] | None = None


class _Document(Struct, gc=False):
    policy_disagreement_analysis: _Analysis | UnsetType | None = UNSET
    policy_disagreement_analysis_error: object = UNSET
    per_module_gain: list[_Gain] | UnsetType | None = UNSET
    per_module: _PerModule | None = None
    layer_data: _LayerData | None = None
    layers: list[_Row] | None = None
    rank_suggestions: _Suggestions | None = None
    per_layer_suggestions: _Suggestions | None = None
    policies: _Policies | None = None
    issues: msgspec.Raw = msgspec.Raw()
    suggested_r_global_median: object = UNSET
    suggested_r_global_90: object = None
    total_lora_params: object = UNSET
    stable_rank_mean: object = UNSET
    rank_policy_schema_version: object = UNSET
    probe_rank: object = UNSET
    n_layers: object = None
    error: object = None

    @property
    def is_audit(self) -> bool:
        """Whether the keys are those that audits have and nothing else does (field-notes, section 2)."""
        return (
            self.policy_disagreement_analysis is not UNSET
            or self.policy_disagreement_analysis_error is not UNSET
            or self.per_module_gain is not UNSET
            or (self.total_lora_params is not UNSET and self.stable_rank_mean is not UNSET)
            or (self.probe_rank is not UNSET and self.suggested_r_global_median is not UNSET)
            or (self.total_lora_params is not UNSET and self.rank_policy_schema_version is not UNSET)
        )


_decode = msgspec.json.Decoder(_Document).decode


def finite(value: object) -> float | None:
    """`value` as a finite number, or None for anything else (null, NaN, a string, a bool)."""
    kind = type(value)  # exact types are what parsers make; and a bool is no number here
    if kind is float:
        return value if math.isfinite(value) else None  # type: ignore[arg-type,return-value]
    if kind is not int:
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return None


def whole(value: object) -> int | None:
    """`value` as a rank, an integer from 0 to `MAX_RANK`, or None. `8.0` is 8; `True` is not 1."""
    number = finite(value)
    if number is None or not number.is_integer() or not 0 <= number <= MAX_RANK:
        return None
    return int(number)


def words(value: object, limit: int = 300) -> str:
    """`value` as one short printable line, for quoting in messages."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = text[: limit * 4]
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def utf8(text: str) -> str:
    r"""`text` without surrogates: bytes of a file name that are not UTF-8 become `\xff`, others `\udc00`."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


class Layer(Struct, gc=False, frozen=True):
    """One adapted module: its name as the audit has it, as PEFT matches it, and its rationale."""

    name: str
    module: str
    rationale: Rationale


class Module(Struct, gc=False, frozen=True):
    """What the audit tells of a module's own adapter: rank and scaling (alpha / r), where it does."""

    rank: int | None
    scaling: float | None


class Audit:
    """One audit, ready for `benchd.select`. Made by `read_audit`; treat it as immutable.

    `flagged` and `candidates` are `flagged_layers` and `all_layers_with_disagreement` without malformed and
    repeated entries, in the file's order. `no_analysis` says why both are empty where Gradience made no
    analysis, else it is None. `notes` are what a reader should know about the file.
    """

    def __init__(self, document: _Document, *, name: str, sha256: str, size: int, notes: list[str]) -> None:
        self._document = document
        self.name = name
        self.sha256 = sha256
        self.size = size
        analysis = document.policy_disagreement_analysis
        self._analysis = analysis if isinstance(analysis, _Analysis) else _Analysis()
        self.no_analysis = _why_no_analysis(document)
        performed = self.no_analysis is None
        self.flagged = _layers(self._analysis.flagged_layers, "flagged_layers", notes) if performed else ()
        self.candidates = (
            _layers(self._analysis.all_layers_with_disagreement, "all_layers_with_disagreement", notes)
            if performed
            else ()
        )
        self.notes = tuple(notes + _issue_notes(document.issues))

    @property
    def gradience_version(self) -> str | None:
        """The version that computed the analysis, where the audit says so."""
        computed_with = self._analysis.computed_with
        version = computed_with.gradience_version if computed_with else None
        return words(version, 60) if isinstance(version, str) else None

    @cached_property
    def total_layers(self) -> int:
        """How many layers the analysis looked at."""
        named = len({layer.module for layer in self.candidates} | {layer.module for layer in self.flagged})
        distribution = self._analysis.distribution
        told = whole(distribution.total_layers) if distribution else None
        return max(named, told or 0) or whole(self._document.n_layers) or 0

    @property
    def is_flat(self) -> bool:
        """Whether Gradience found the energy distribution flat."""
        distribution = self._analysis.distribution
        return distribution is not None and distribution.is_flat is True

    @property
    def max_uniform_mult(self) -> float | None:
        """The largest share of energy, in multiples of a uniform share."""
        distribution = self._analysis.distribution
        return finite(distribution.max_uniform_mult) if distribution else None

    @property
    def flat_threshold(self) -> float | None:
        """Below this `max_uniform_mult` Gradience calls the distribution flat."""
        distribution, config = self._analysis.distribution, self._analysis.disagreement_config
        witness = distribution.flatness_witness if distribution else None
        for value in (
            witness.threshold if witness else None,
            config.min_uniform_mult_threshold if config else None,
            config.uniform_mult_gate if config else None,
        ):
            threshold = finite(value)
            if threshold is not None:
                return threshold
        return None

    @property
    def focus_message(self) -> str | None:
        """Gradience's own advice, one sentence."""
        focus = self._analysis.disagreement_focus_set
        message = focus.message if focus else None
        return words(message, 1000) if isinstance(message, str) and message.strip() else None

    @property
    def suggested_median(self) -> int | None:
        """`suggested_r_global_median`: Gradience's own uniform rank, or None where there is none above 0."""
        return whole(self._document.suggested_r_global_median) or None

    @property
    def suggested_p90(self) -> int | None:
        """`suggested_r_global_90`, likewise."""
        return whole(self._document.suggested_r_global_90) or None

    def module(self, name: str) -> Module | None:
        """A module's own rank and scaling, from `per_module_gain`, else from a layer row; None if neither names it."""
        told = self._told.get(name)
        if told is None:
            return None
        ranks = (whole(rank) for rank, _ in told)
        scalings = (finite(scaling) for _, scaling in told)
        return Module(
            next((rank for rank in ranks if rank), None),
            next((scaling for scaling in scalings if scaling is not None), None),
        )

    @cached_property
    def _told(self) -> dict[str, list[tuple[object, object]]]:
        document = self._document
        gains = document.per_module_gain if isinstance(document.per_module_gain, list) else []
        if document.per_module is not None:
            gains = gains + (document.per_module.gain or [])
        entries = [(gain.module, gain.r, gain.scaling) for gain in gains]
        entries.extend((row.name, row.r, row.adapter_scale) for row in self._rows)
        told: dict[str, list[tuple[object, object]]] = {}
        for name, rank, scaling in entries:
            if isinstance(name, str):
                told.setdefault(name, []).append((rank, scaling))
        return told

    @cached_property
    def row_ranks(self) -> dict[str, int]:
        """The largest `k` over the policies of each layer row."""
        return _largest((row.name, row.rank_suggestions) for row in self._rows)

    @cached_property
    def policy_ranks(self) -> dict[str, int]:
        """The largest `k` of each layer in `policies.per_layer`."""
        policies = self._document.policies
        rows = (policies.per_layer or []) if policies else []
        return _largest((row.layer_name, row.suggestions) for row in rows)

    def suggested_rank(self, name: str) -> int | None:
        """What `--suggest-per-layer` or Bench suggests: the layer's own, the pattern's, the default."""
        for layers, pattern, default in self._suggestions:
            for value in (layers.get(name), pattern.get(name), default):
                rank = whole(value)
                if rank is not None:
                    return rank
        return None

    @cached_property
    def _suggestions(self) -> list[tuple[dict[str, object], dict[str, object], object]]:
        found = (self._document.rank_suggestions, self._document.per_layer_suggestions)
        return [
            (
                {row.name: row.suggested_r for row in suggestions.layers or [] if isinstance(row.name, str)},
                suggestions.rank_pattern or {},
                suggestions.default_r,
            )
            for suggestions in found
            if suggestions is not None
        ]

    @property
    def _rows(self) -> list[_Row]:
        layer_data = self._document.layer_data
        return ((layer_data.layer_rows or []) if layer_data else []) + (self._document.layers or [])


def _largest(rows: Any) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for name, policies in rows:
        ks = [k for policy in (policies or {}).values() if (k := whole(policy.k)) is not None]
        if isinstance(name, str) and ks:
            ranks.setdefault(name, max(ks))
    return ranks


def _why_no_analysis(document: _Document) -> str | None:
    """Why there is nothing to select from, in Gradience's own words where it has some; None if there is."""
    analysis = document.policy_disagreement_analysis
    if isinstance(analysis, _Analysis):
        if analysis.analysis_performed is False:
            why = words(analysis.reason) if analysis.reason is not None else "no reason given"
            return f"Gradience performed no disagreement analysis: {why}"
        return None
    error = document.policy_disagreement_analysis_error
    if error is not UNSET:
        return f"Gradience's disagreement analysis failed: {words(error)}"
    if document.probe_rank is not UNSET:
        return "the audit has no policy_disagreement_analysis; audits that Bench writes itself never have one"
    if whole(document.n_layers) == 0:
        return "the audit has no policy_disagreement_analysis: Gradience could use no adapter layer"
    return "the audit has no policy_disagreement_analysis"


def _layers(entries: list[_Entry] | None, where: str, notes: list[str]) -> tuple[Layer, ...]:
    layers: dict[str, Layer] = {}
    malformed = repeated = 0
    for entry in entries or ():
        name = entry.layer_name
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            malformed += 1
            continue
        module = name.removeprefix(PEFT_PREFIX) or name
        if module in layers:
            repeated += 1
            continue
        layers[module] = Layer(name, module, entry.flagging_rationale or Rationale())
    if malformed:
        is_are = "entry is" if malformed == 1 else "entries are"
        notes.append(f"{where}: {malformed} {is_are} malformed (no usable layer_name) and skipped")
    if repeated:
        is_are = "entry repeats a layer" if repeated == 1 else "entries repeat layers"
        notes.append(f"{where}: {repeated} {is_are} already named; the first counts")
    return tuple(layers.values())


def _issue_notes(issues: object) -> list[str]:
    if isinstance(issues, msgspec.Raw):
        # As text it takes no more than its size; taken apart it could take a hundred times as much.
        if len(issues) > _MAX_ISSUES_BYTES:
            return ["Gradience: more issues than can be shown here"]
        issues = msgspec.json.decode(issues) if issues else None
    listed = issues if isinstance(issues, list) else []
    notes = [f"Gradience: {words(issue)}" for issue in listed[:_MAX_ISSUES] if issue]
    if len(listed) > _MAX_ISSUES:
        more = len(listed) - _MAX_ISSUES
        notes.append(f"Gradience: {more} more {'issue' if more == 1 else 'issues'}")
    return notes


# --- reading --------------------------------------------------------------------------------------------

_OBJECT_FIRST = re.compile(rb"[ \t\r\n]*\{")
_BARE_OBJECT = re.compile(rb"[ \t\r\n]*\{[ \t]*(?:\r?\n|\})")
_OPENING_LINE = re.compile(rb"^\{[ \t]*\r?$|^\{\"", re.MULTILINE)
_WARNING_LINE = re.compile(rb"^Warning: (Unknown policy [^\r\n]*)", re.MULTILINE)
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


def read_audit(data: bytes, *, name: str = "audit.json", sha256: str | None = None) -> Audit:
    """Read one audit file.

    `name` is the audit's file name, `sha256` the hex digest of `data` where the caller has it already. Raises
    `NotAnAudit` for a JSON object that is something else, `AuditError` for what can't be used (spec, section 2).
    """
    digest = sha256 or hashlib.sha256(data).hexdigest()
    notes: list[str] = []
    text = _utf8(data, notes)
    document, start, end = _read_fast(text) or _read_tolerantly(text, notes)
    if document.error == "unexpected_audit_result_type":
        raise refusal("audit_failed", quote="unexpected_audit_result_type")
    if not document.is_audit:
        raise NotAnAudit
    notes.extend(_warnings(text[:start]) + _warnings(text[end:]))
    try:
        return Audit(document, name=name, sha256=digest, size=len(data), notes=notes)
    except RecursionError:
        # Quoting a value takes a little more stack than reading it took.
        raise refusal("too_deep") from None


def _utf8(data: bytes, notes: list[str]) -> bytes:
    if data.startswith(_UTF8_BOM):
        notes.append("the file starts with a UTF-8 byte order mark")
        return data[len(_UTF8_BOM) :]
    if data.startswith(_UTF16_BOMS):
        try:
            text = data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise refusal("bad_encoding", place=f"byte {error.start}", encoding="UTF-16") from None
        notes.append("the file is UTF-16, as a PowerShell redirect writes it")
        return text
    return data


def _starts(text: bytes) -> list[int]:
    """Where the JSON may begin, the likeliest first: the first line that is exactly `{` (spec, section 2).

    A document that begins with more than that on its first line (a compact one) comes second; and where there is
    neither, the text is looked at from its beginning.
    """
    if _BARE_OBJECT.match(text):
        return [0]
    start = text.find(b"\n{\n") + 1
    if start == 0:
        opening = _OPENING_LINE.search(text)
        start = opening.start() if opening else 0
    return [start, 0] if start and _OBJECT_FIRST.match(text) else [start]


def _end(text: bytes, start: int) -> int:
    """Where the JSON ends, as Gradience writes it: with the text, or with the last line that is exactly `}`."""
    if text.endswith((b"}\n", b"}", b"}\r\n")):
        return len(text)
    closing = max(text.rfind(b"\n}\n"), text.rfind(b"\n}\r\n"))
    return closing + 2 if closing > start else len(text)


def _read_fast(text: bytes) -> tuple[_Document, int, int] | None:
    """The way for nearly every file: typed, from the bytes. None for what it can't take."""
    found: tuple[_Document, int, int] | None = None
    for start in _starts(text):
        end = _end(text, start)
        try:
            document = _decode(memoryview(text)[start:end])
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        except RecursionError:
            raise refusal("too_deep") from None
        if document.is_audit:
            return document, start, end
        found = found or (document, start, end)
    return found


def _warnings(text: bytes) -> list[str]:
    found = _WARNING_LINE.findall(text) if text else []
    return [f"Gradience: {words(line.decode(errors='replace'))}" for line in found[:_MAX_ISSUES]]


class _Tokens:
    """Counts what standard JSON does not have."""

    non_finite = 0

    def constant(self, token: str) -> float:
        self.non_finite += 1
        return float(token.replace("Infinity", "inf"))


def _read_tolerantly(raw: bytes, notes: list[str]) -> tuple[_Document, int, int]:
    """The way for what the fast one refused. Returns the document and where it lies in `raw`."""
    found: tuple[_Document, int, int] | None = None
    refused: AuditError | None = None
    for start in _starts(raw):
        said: list[str] = []
        try:
            document = _read_tolerantly_from(raw, start, said)
        except AuditError as error:
            refused = refused or error
            continue
        if document[0].is_audit:
            notes.extend(said)
            return document
        found = found or document
    if found is not None:
        return found
    raise refused or refusal("empty")  # there is always a place to start from


def _read_tolerantly_from(raw: bytes, start: int, notes: list[str]) -> tuple[_Document, int, int]:
    # What stands before the JSON is never decoded: it is the terminal's, in whatever encoding that has.
    before = raw.count(b"\n", 0, start)
    try:
        text = raw[start:].decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and _OBJECT_FIRST.match(raw, start):
            # Cut off within a character: the end is what is wrong with it, not the encoding.
            text = raw[start : start + error.start].decode()
            raise refusal("truncated", place=_place(text, len(text), before)) from None
        line = raw.count(b"\n", 0, start + error.start) + 1
        raise refusal("bad_encoding", place=f"line {line}, byte {start + error.start}", encoding="UTF-8") from None
    if not text.strip(_BLANK):
        raise refusal("empty")
    tokens = _Tokens()
    blank = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = _parse(text, blank, tokens)
    except RecursionError:
        raise refusal("too_deep") from None
    except json.JSONDecodeError as error:
        raise _explain(text, blank, error, before) from None
    if not isinstance(value, dict):
        if text[end:].strip():
            raise _explain(text, blank, json.JSONDecodeError("Extra data", text, end), before)
        raise refusal("not_an_object", found=_kind(value))
    _check_schema(value)
    if tokens.non_finite:
        times = "once" if tokens.non_finite == 1 else f"{tokens.non_finite} times"
        notes.append(f"NaN or Infinity stands {times} where a number should; such a score ranks no layer")
    return _fit(_Document, value), start, start + len(text[:end].encode())


def _parse(text: str, start: int, tokens: _Tokens) -> tuple[Any, int]:
    try:
        return json.JSONDecoder(parse_constant=tokens.constant).raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # Python refuses to convert an integer of more than 4300 digits; as a float it is infinite.
        tokens.non_finite = 0
        return json.JSONDecoder(parse_constant=tokens.constant, parse_int=float).raw_decode(text, start)


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null", dict: "an object"}
    return names.get(type(value), "a number")


#: A file system that lost its power can leave NUL bytes where content should be.
_BLANK: Final = "\0 \t\r\n"

_FAILURE = re.compile(r"^(?:Error: .*|Traceback \(most recent call last\):)", re.MULTILINE)
_PROGRESS = re.compile(r"\s*(computing SVD and metrics for layer: |Warning: )")
_PROGRESS_LINE: Final = "computing SVD and metrics for layer: "

#: What the parser stumbles over when a text ends within a number or an escape.
_CUT_NUMBER_OR_ESCAPE = re.compile(r"\.|[eE][+-]?|\\?u[0-9a-fA-F]{0,4}")
_LITERALS: Final = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


#: So much of a text's beginning and of its end is looked at to tell what it is.
_WINDOW: Final = 64 * 1024


def _explain(text: str, start: int, error: json.JSONDecodeError, before: int) -> AuditError:
    """What is wrong with a text that is no JSON, told by what Gradience leaves behind (field-notes, 1.2)."""
    end = len(text.rstrip(_BLANK))
    if not text.startswith("{", start):
        shown = text
        if len(text) > 2 * _WINDOW:  # whole lines from both ends
            shown = text[:_WINDOW].rpartition("\n")[0] + "\n" + text[-_WINDOW:].partition("\n")[2]
        lines = [line for line in shown.split("\n") if line.strip(_BLANK)]
        failure = _FAILURE.search(shown)
        if failure:
            quote = failure[0] if failure[0].startswith("Error") else lines[-1]
            return refusal("audit_failed", quote=words(quote))
        if _is_progress(lines):
            number = len(lines) if shown is text else text.count("\n")
            return refusal("audit_interrupted", lines=f"{number} {'line' if number == 1 else 'lines'}")
    elif error.msg.startswith("Unterminated string") or _is_cut_off(text[error.pos : error.pos + 20], end - error.pos):
        return refusal("truncated", place=_place(text, end, before))
    near = words(_line(text, error.pos), 80)
    return refusal("not_json", place=_place(text, error.pos, before), problem=error.msg, near=near)


def _is_progress(lines: list[str]) -> bool:
    """Whether this is what Gradience prints before the JSON. The last line may itself be cut off."""
    if not all(_PROGRESS.match(line) for line in lines[:-1]):
        return False
    return len(lines) > 1 or bool(_PROGRESS.match(lines[0])) or _PROGRESS_LINE.startswith(lines[0].strip(_BLANK))


def _is_cut_off(rest: str, length: int) -> bool:
    """Whether the parser stopped because the text does; `rest` is what it could not read, of `length` to the end."""
    if length <= 0:
        return True
    rest = rest[:length]
    if length > len(rest):
        return False
    return bool(_CUT_NUMBER_OR_ESCAPE.fullmatch(rest)) or any(literal.startswith(rest) for literal in _LITERALS)


def _place(text: str, position: int, before: int) -> str:
    line = before + text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    return f"line {line}, column {column}"


def _line(text: str, position: int) -> str:
    first = text.rfind("\n", 0, position) + 1
    last = text.find("\n", position)
    return text[max(first, position - 40) : last if last >= 0 else len(text)][:400]


def _check_schema(value: dict[str, Any]) -> None:
    """Refuse what is meant as an audit but can't be read as one."""
    where = "policy_disagreement_analysis"
    analysis = value.get(where)
    if analysis is None:
        return
    if not isinstance(analysis, dict):
        raise refusal("bad_schema", where=f"$.{where}", expected="an object", found=_kind(analysis))
    for key in ("flagged_layers", "all_layers_with_disagreement"):
        entries = analysis.get(key)
        if entries is not None and not isinstance(entries, list):
            raise refusal("bad_schema", where=f"$.{where}.{key}", expected="a list", found=_kind(entries))


def _fit(shape: Any, value: Any) -> Any:
    """`value` as the struct `shape`; what does not fit becomes the field's default, in a list an empty entry."""
    return shape(**{key: _fit_field(kind, value[key]) for key, kind in _field_types(shape) if key in value})


@cache
def _field_types(shape: Any) -> list[tuple[str, Any]]:
    # In a union the others are None and UNSET.
    unions = (UnionType, Union)
    types = ((field.name, field.type) for field in msgspec.structs.fields(shape))
    return [(name, get_args(kind)[0] if get_origin(kind) in unions else kind) for name, kind in types]


def _fit_field(shape: Any, value: Any) -> Any:
    if shape in {object, msgspec.Raw}:
        return value
    if get_origin(shape) is list:
        item = get_args(shape)[0]
        entries = value if isinstance(value, list) else ()
        return [_fit(item, entry if isinstance(entry, dict) else {}) for entry in entries]
    if not isinstance(value, dict):
        return None
    if get_origin(shape) is dict:
        item = get_args(shape)[1]
        if item is object:
            return value
        return {key: _fit(item, entry if isinstance(entry, dict) else {}) for key, entry in value.items()}
    return _fit(shape, value)

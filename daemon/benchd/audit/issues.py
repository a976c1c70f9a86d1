"""Quote Gradience's messages in an audit: its issues, and why there is no analysis. Pure."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Raw

from benchd.audit.adapter import ADAPTER_CONFIG
from benchd.audit.shapes import Analysis, Document
from benchd.audit.unread import part, value
from benchd.audit.values import times, whole, words

__all__ = ["issue_notes", "why_no_analysis"]

_MAX_ISSUES: Final = 20
_MAX_ISSUES_BYTES: Final = 2**20
_MOST_GROUPED: Final = 10_000

_decode_any: Final = msgspec.json.Decoder().decode


def issue_notes(document: Document) -> list[str]:
    """Return notes that quote Gradience's issues, each once."""
    issues: object = document.issues
    if issues is UNSET:
        return []
    if isinstance(issues, Raw) and len(issues) > _MAX_ISSUES_BYTES:
        return ["Gradience: more issues than can be shown here"]
    grouped = _issues(document)
    notes = [f"Gradience: {words(text)}" for text in grouped[:_MAX_ISSUES]]
    if len(grouped) > _MAX_ISSUES:
        more = len(grouped) - _MAX_ISSUES
        notes.append(f"Gradience: {more} more {'issue' if more == 1 else 'issues'}")
    return notes


def why_no_analysis(document: Document, kind: str | None, *, frugal: bool) -> str | None:
    """Return why there is nothing to select from, or None if there is something.

    It quotes the reason if Gradience gave one. `kind` is the kind of an adapter that is known not to be LoRA. With
    `frugal` it may raise `Costly`, as `part` does.
    """
    analysis = document.policy_disagreement_analysis
    if isinstance(analysis, Analysis):
        if analysis.analysis_performed is not False:
            return None
        reason = value(analysis.reason, frugal=frugal)
        why = words(reason) if reason is not None else "no reason given"
        return f"Gradience performed no disagreement analysis: {why}"
    if document.policy_disagreement_analysis_error is not UNSET:
        why = words(value(document.policy_disagreement_analysis_error, frugal=frugal))
        return f"Gradience's disagreement analysis failed: {why}"
    if document.n_layers is not UNSET and whole(value(document.n_layers, frugal=frugal)) == 0:
        return _why_no_layers(document, kind)
    missing = "the audit has no policy_disagreement_analysis"
    if document.probe_rank is not UNSET:
        missing += "; audits that Bench writes itself never have one"
    elif document.total_lora_params is not UNSET and document.rank_policy_schema_version is UNSET:
        missing += ": a Gradience before 0.8 wrote it; audit the adapter again with a newer version"
    return missing


def _why_no_layers(document: Document, kind: str | None) -> str:
    if kind is not None:
        return f"the adapter is {kind} ({ADAPTER_CONFIG}), not LoRA: Gradience audits LoRA layers only, and found 0"
    issues = _issues(document)
    why = f": {words(issues[0], 200)}" if issues else "; is the folder right, and the adapter a LoRA?"
    return f"an audit of nothing: Gradience found 0 LoRA layers that it could audit{why}"


def _issues(document: Document) -> list[str]:
    """Return Gradience's issues, each once. Empty if they are larger than `_MAX_ISSUES_BYTES`."""
    issues: object = document.issues
    if isinstance(issues, Raw):
        # Undecoded, they need no more memory than their size. Decoded, they may need a hundred times as much.
        issues = part(issues, _decode_any, object) if len(issues) <= _MAX_ISSUES_BYTES else None
    told = issues[:_MOST_GROUPED] if isinstance(issues, list) else []
    return _grouped([issue if isinstance(issue, str) else words(issue) for issue in told if issue])


def _grouped(issues: list[str]) -> list[str]:
    """Return each issue once, with a count. Issues that differ only in the module's name are combined."""
    groups: dict[tuple[str, str], list[str]] = {}
    for issue in issues:
        what, _, rest = issue.partition(" for ")
        module, colon, why = rest.partition(": ")
        key = (what, why) if colon and " " not in module else (issue, "")
        groups.setdefault(key, []).append(issue)
    texts = []
    for (what, why), members in groups.items():
        modules = len(set(members))
        if modules > 1:
            texts.append(f"{modules} modules: {what[:1].lower()}{what[1:]}: {why}")
        else:
            texts.append(times(members[0], len(members)))
    return texts

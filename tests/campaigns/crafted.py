"""Makers of hostile files, each with the outcome that it must have."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from daemon import AUDITS, audit

#: Outcomes of a file: a config, a record that it is ignored, a kept config, or nothing. Every other value is the
#: code of a rejection.
SELECTED: Final = "selected"
IGNORED: Final = "ignored"
KEPT: Final = "kept"
NOTHING: Final = "nothing"


class Crafted(NamedTuple):
    """One hostile file: its name, its maker, and the outcomes that it may have."""

    name: str
    make: Callable[[Path], object]
    verdicts: tuple[str, ...]


def writing(content: bytes) -> Callable[[Path], object]:
    """Return a function that makes a file with that content."""
    return lambda path: path.write_bytes(content)


def linking(target: Path | str) -> Callable[[Path], object]:
    """Return a function that makes a symbolic link to `target`."""
    return lambda path: path.symlink_to(target)


def device(kind: int, major: int, minor: int) -> Callable[[Path], object]:
    """Return a function that makes a device node. It raises PermissionError for most users."""
    return lambda path: os.mknod(path, kind | 0o666, os.makedev(major, minor))


def make_socket(path: Path) -> None:
    """Make a socket. Its address goes through /proc because the length of an address is limited."""
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(path.parent, os.O_RDONLY)
        try:
            server.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


def of_another_owner(content: bytes) -> Callable[[Path], object]:
    """Return a function that makes a file of another user. It raises PermissionError for most users."""

    def make(path: Path) -> None:
        path.write_bytes(content)
        try:
            os.chown(path, 65534, 65534)
            path.chmod(0o600)
        except OSError:
            path.unlink()
            raise

    return make


def sparse(size: int) -> Callable[[Path], object]:
    """Return a function that makes a sparse file of that size."""

    def make(path: Path) -> None:
        with path.with_name(f".{path.name}").open("wb") as file:
            file.truncate(size)
        path.with_name(f".{path.name}").rename(path)

    return make


# --- special files --------------------------------------------------------------------------------------------


def special(outside: Path) -> Iterator[Crafted]:
    """Yield links, pipes, devices and folders with names of audits. `outside` is a folder with an `audit.json`."""
    yield Crafted("link-out.json", linking(outside / "audit.json"), ("symlink",))
    yield Crafted("link-relative.json", linking("../outside/audit.json"), ("symlink",))
    yield Crafted("link-up.json", linking("../../../../../../etc/passwd"), ("symlink",))
    yield Crafted("link-to-folder.json", linking(outside), ("symlink",))
    yield Crafted("link-to-root.json", linking("/"), ("symlink",))
    yield Crafted("link-to-here.json", linking("."), ("symlink",))
    yield Crafted("link-loop.json", linking("link-loop.json"), ("symlink",))
    yield Crafted("link-nowhere.json", linking(outside / "missing.json"), ("symlink",))
    yield Crafted("link-endless.json", linking("/dev/zero"), ("symlink",))
    yield Crafted("link-to-memory.json", linking("/proc/self/mem"), ("symlink",))
    yield Crafted("link-to-terminal.json", linking("/dev/tty"), ("symlink",))
    yield Crafted("linked-folder", linking(outside), (NOTHING,))
    yield Crafted("hard-link.json", lambda path: os.link(outside / "hard.json", path), (SELECTED,))
    yield Crafted("pipe.json", os.mkfifo, ("not_a_regular_file",))
    yield Crafted("socket.json", make_socket, ("not_a_regular_file",))
    yield Crafted("zero.json", device(stat.S_IFCHR, 1, 5), ("not_a_regular_file",))
    yield Crafted("terminal.json", device(stat.S_IFCHR, 5, 0), ("not_a_regular_file",))
    yield Crafted("disk.json", device(stat.S_IFBLK, 240, 0), ("not_a_regular_file",))
    yield Crafted("folder.json", lambda path: path.mkdir(), (NOTHING,))
    yield Crafted("sparse.json", sparse(100 * 2**30), ("too_large",))


#: Names that others may choose. The last ones leave too little room for the config's name, or just enough.
_NAMES: Final = (
    b"new\nline.json", b"tab\t.json", b"escape\x1b[2J\x1b[31m.json", b"bell\x07.json", b"\xff\xfe.json",
    b"caf\xe9.json", "right\u202egnp.json".encode(), "zero\u200bwidth.json".encode(), "line\u2028s.json".encode(),
    "\U0001f600.json".encode(),
    b"-rf.json", b"$(touch pwned).json", b"`id`.json", b"a b.json", b"'\".json", b"%s%n.json", b"{0.__class__}.json",
    b"*.json", b"[a-z].json", b"a\\b.json", b"x" * 244 + b".json", b"a.bench.json.json", b"a.bench-error.json.json",
    "e\u0301.json".encode(), "\u00e9.json".encode(), b"~.json", b"#.json", b"a.json.json", b" .json",
)  # fmt: skip
_NOT_THOSE_OF_AUDITS: Final = (
    b".json", b"..json", b".hidden.json", b"upper.JSON", b"b.bench.json", b"b.bench-error.json", b".benchd-x.tmp",
    b".benchd-00000000-1-1.tmp", b"json", b"no-suffix",
)  # fmt: skip


def names() -> Iterator[Crafted]:
    """Yield audits with odd names, and other files with names like an audit's."""
    for number, name in enumerate(_NAMES):
        yield Crafted(os.fsdecode(name), writing(audit(number)), (SELECTED,))
    for name in _NOT_THOSE_OF_AUDITS:
        yield Crafted(os.fsdecode(name), writing(audit(0)), (NOTHING,))
    yield Crafted("x" * 245 + ".json", writing(audit(0)), ("name_too_long",))
    yield Crafted("x" * 250 + ".json", writing(b"Error: x\n"), ("name_too_long",))


# --- contents -------------------------------------------------------------------------------------------------


def an_audit(**analysis: Any) -> bytes:
    """Return a small audit whose analysis has these keys."""
    return json.dumps({"policy_disagreement_analysis": {"analysis_performed": True, **analysis}}).encode()


def layer(name: str, **rationale: Any) -> dict[str, Any]:
    """Return one entry of a list of layers, with a rank."""
    return {"layer_name": name, "flagging_rationale": {"k_values": [8], "priority_score": 3.0, **rationale}}


def _raw(value: bytes, *, key: bytes = b"priority_score") -> bytes:
    """Return an audit with the bytes `value` in place of a number of its only layer."""
    return (
        b'{"policy_disagreement_analysis": {"flagged_layers": [], "all_layers_with_disagreement": ['
        b'{"layer_name": "a.b", "flagging_rationale": {"k_values": [8], "%s": %s}}]}}' % (key, value)
    )


def contents() -> Iterator[Crafted]:
    """Yield small files that no real tool writes."""
    deep = 100_000  # Python 3.14 parses this depth if its stack is large enough
    found: list[tuple[str, bytes, tuple[str, ...]]] = [
        ("deep-list", b'{"per_module_gain": ' + b"[" * deep + b"]" * deep + b"}", ("too_deep",)),
        ("deep-object", b'{"per_module_gain": ' + b'{"a":' * deep + b"1" + b"}" * deep + b"}", ("too_deep",)),
        (
            "deep-issues",
            b'{"per_module_gain": [], "issues": ' + b"[" * deep + b"]" * deep + b"}",
            (SELECTED, "too_deep"),
        ),
        ("deep-unknown", b'{"x": ' + b"[" * deep + b"]" * deep + b', "per_module_gain": []}', (SELECTED, "too_deep")),
        ("deep-and-open", b"{" + b'"a": [' * deep, ("too_deep", "truncated", "not_json")),
        ("deep-brackets", b"[" * deep, ("too_deep",)),
        ("deep-closing", b"]" * deep, ("not_json",)),
        ("many-digits", _raw(b"9" * 5000), (SELECTED,)),
        ("many-digits-k", _raw(b"[" + b"7" * 5000 + b"]", key=b"k_values"), (SELECTED,)),
        ("many-digits-unknown", _raw(b"1" * 5000, key=b"unknown"), (SELECTED,)),
        ("many-decimals", _raw(b"0." + b"9" * 100_000), (SELECTED,)),
        ("huge", _raw(b"1e999"), (SELECTED,)),
        ("huge-negative", _raw(b"-1e999"), (SELECTED,)),
        ("huge-exponent", _raw(b"1e" + b"9" * 5000), (SELECTED,)),
        ("tiny", _raw(b"1e-999"), (SELECTED,)),
        ("nan", _raw(b"NaN"), (SELECTED,)),
        ("infinity", _raw(b"-Infinity"), (SELECTED,)),
        ("surrogate-name", an_audit(flagged_layers=[layer("a.\ud800.b"), layer("a.b")]), (SELECTED,)),
        ("surrogate-key", b'{"\\ud800": 1, "per_module_gain": []}', (SELECTED,)),
        ("surrogate-issue", b'{"per_module_gain": [], "issues": ["\\udc00", "\\ud800\\ud800"]}', (SELECTED,)),
        ("surrogate-message", an_audit(disagreement_focus_set={"message": "\udfff"}), (SELECTED,)),
        ("nul-only", b"\0" * 5000, ("empty",)),
        ("nul-behind", audit(1) + b"\0" * 5000, (SELECTED,)),
        ("nul-inside", audit(1).replace(b": ", b":\0", 1), ("not_json",)),
        ("nul-name", an_audit(flagged_layers=[layer("a\0b")]), (SELECTED,)),
        ("twice", b'{"policy_disagreement_analysis": 3, ' + audit(1)[1:], (SELECTED,)),
        ("twice-the-bad-last", audit(1)[:-1] + b', "policy_disagreement_analysis": 3}', ("bad_schema",)),
        ("thousand-times", b'{"per_module_gain": 1' + b', "per_module_gain": []' * 1000 + b"}", (SELECTED,)),
        ("long-name", an_audit(flagged_layers=[layer("m" * 2**20), layer("a.b")]), (SELECTED,)),
        ("lines-in-name", an_audit(flagged_layers=[layer("a\nb"), layer("a\rb"), layer("a\u2028b")]), (SELECTED,)),
        ("rtl-name", an_audit(flagged_layers=[layer("a\u202eb")]), (SELECTED,)),
        ("lists-are-text", an_audit(flagged_layers="model.a"), ("bad_schema",)),
        ("analysis-is-list", b'{"policy_disagreement_analysis": []}', ("bad_schema",)),
        ("entries-are-odd", an_audit(flagged_layers=[None, 1, "a", [], {}, {"layer_name": {}}]), (SELECTED,)),
        ("a-list", b"[]", (IGNORED,)),
        ("a-number", b"1" * 5000, (IGNORED,)),
        ("a-text", b'"x"', (IGNORED,)),
        ("another-object", b'{"r": 8}', (IGNORED,)),
        ("nothing", b"", ("empty",)),
        ("cut", audit(1)[:2000], ("truncated",)),
        ("packed", b"\x1f\x8b\x08" + bytes(range(256)) * 4, ("bad_encoding",)),
        ("latin-1", audit(1)[:-1] + b', "x\xe9": NaN}', (SELECTED, "bad_encoding")),
        ("latin-1-issue", b'{"per_module_gain": [], "issues": ["caf\xe9"]}', (SELECTED, "bad_encoding")),
        ("utf-16", audit(1).decode().encode("utf-16"), (SELECTED,)),
        ("utf-16-cut", audit(1).decode().encode("utf-16")[:-1], ("bad_encoding",)),
        ("utf-32", audit(1).decode().encode("utf-32"), ("bad_encoding", "not_json", "empty")),
        ("utf-7", b"+AHs-", ("not_json",)),
        ("control-text", b"Error: \x1b[2J\x1b]0;x\x07 %s {0} {message}\r\n", ("audit_failed",)),
        ("long-error", b"Error: " + b"x" * 10**6, ("audit_failed",)),
        ("progress-only", b"    computing SVD and metrics for layer: a\n" * 5, ("audit_interrupted",)),
        ("braces", b"{\n" * 50_000, ("truncated", "not_json", "too_deep")),
        ("quotes", b'{"' * 50_000, ("truncated", "not_json", "too_deep")),
        ("backslashes", b'{"' + b"\\" * 100_001, ("truncated", "not_json")),
    ]
    for name, content, verdicts in found:
        yield Crafted(f"content-{name}.json", writing(content), verdicts)


#: Names that match other modules if they are read as regular expressions or as the end of a longer name.
LAYER_NAMES: Final = (
    ".*", "(.*)", "model.layers.0.*", "(?s).*", "|", "a|b", "q_proj|v_proj", "[a-z_.0-9]+", "x)|(.*", "x)$|(.*",
    "(?:)", "$", "^", "\\w+", "\\", "model\\.layers", "(?i:MODEL.LAYERS.0.SELF_ATTN.Q_PROJ)", "a{1,1000}", "(a+)+$",
    "(?#)q_proj", "model.layers.?.self_attn.q_proj", "model.layers.[0-3].self_attn.q_proj", "q_proj",
    "self_attn.q_proj", "." * 14, "model.layers.0.self_attn.q.proj", "model.layers.0.self_attn..._proj",
    "base_model.model.", "base_model.model.q_proj", "base_model.model.base_model.model.model.layers.0.self_attn.q_proj",
    "x#y", "x y", "-", "_", "é", "[", "]", "(", ")", "{", "}", "+", "?", "*", "&&", "~", "--",
)  # fmt: skip


# --- contents that are large ----------------------------------------------------------------------------------


def _filled(head: bytes, part: bytes, tail: bytes, size: int) -> Callable[[Path], object]:
    """Return a function that makes a file of about `size` bytes: `part` repeatedly, separated by commas."""

    def make(path: Path) -> None:
        hidden = path.with_name(f".{path.name}")
        piece = (part + b",") * (2**20 // (len(part) + 1))
        with hidden.open("wb") as file:
            file.write(head)
            for _ in range(size // len(piece)):
                file.write(piece)
            file.write(part + tail)
        hidden.rename(path)

    return make


def _numbered(head: bytes, template: bytes, tail: bytes, size: int) -> Callable[[Path], object]:
    """Return a function that makes a file of about `size` bytes: `template` with a different number each time."""

    def make(path: Path) -> None:
        hidden, number, each = path.with_name(f".{path.name}"), 0, 10_000
        with hidden.open("wb") as file:
            file.write(head)
            while file.tell() < size:
                file.write(b"".join(template % serial for serial in range(number, number + each)))
                number += each
            file.write(template.rstrip(b",") % number + tail)
        hidden.rename(path)

    return make


_ANALYSIS: Final = b'{"policy_disagreement_analysis": {"analysis_performed": true, "flagged_layers": ['
_ONE: Final = b'{"layer_name": "a.b", "flagging_rationale": {"k_values": ['

#: Lists that the readers look into: the text before the list, and the text behind it.
_HOLES: Final[dict[str, tuple[bytes, bytes]]] = {
    "flagged": (_ANALYSIS, b"]}}"),
    "layers": (b'{"policy_disagreement_analysis": {"all_layers_with_disagreement": [', b"]}}"),
    "gains": (b'{"per_module_gain": [', b"]}"),
    "k-values": (_ANALYSIS + _ONE, b"]}}]}}"),
    "issues": (b'{"per_module_gain": [], "issues": [', b"]}"),
    "rows": (b'{"per_module_gain": [], "layer_data": {"layer_rows": [', b"]}}"),
    "bench-rows": (b'{"per_module_gain": [], "layers": [', b"]}"),
    "suggestions": (b'{"per_module_gain": [], "rank_suggestions": {"layers": [', b"]}}"),
    "policies": (b'{"per_module_gain": [], "policies": {"per_layer": [', b"]}}"),
    "reasons": (_ANALYSIS + _ONE + b'], "failed_reasons": [', b"]}}]}}"),
    "reason": (b'{"policy_disagreement_analysis": {"analysis_performed": false, "reason": [', b"]}}"),
    "score": (_ANALYSIS + _ONE + b'], "priority_score": [', b"]}}]}}"),
    "message": (_ANALYSIS + b'], "disagreement_focus_set": {"message": [', b"]}}}"),
    "failure": (b'{"policy_disagreement_analysis_error": [', b"]}"),
    "unknown": (b'{"per_module_gain": [], "x": [', b"]}"),
    "unknown-nan": (b'{"per_module_gain": [], "y": NaN, "x": [', b"]}"),
}
#: Lists that reach every part of the readers; all of them take long.
FIRST_HOLES: Final = ("flagged", "k-values", "unknown-nan")


def dense(size: int, *, every: bool) -> Iterator[Crafted]:
    """Yield files of `size` bytes that a parser expands to fifty times their size. Every answer is valid."""
    any_answer = (SELECTED, IGNORED, "too_complex", "bad_schema", "not_json", "too_deep")
    for hole, (head, tail) in _HOLES.items():
        if every or hole in FIRST_HOLES:
            yield Crafted(f"dense-{hole}.json", _filled(head, b"[]", tail, size), any_answer)
    for hole in list(_HOLES) if every else ["flagged"]:
        head, tail = _HOLES[hole]
        yield Crafted(f"objects-{hole}.json", _filled(head, b"{}", tail, size), any_answer)
    if every:
        for hole in ("k-values", "issues", "unknown-nan"):
            head, tail = _HOLES[hole]
            yield Crafted(f"zeros-{hole}.json", _filled(head, b"0", tail, size), any_answer)
            yield Crafted(f"texts-{hole}.json", _filled(head, b'""', tail, size), any_answer)
            yield Crafted(f"escapes-{hole}.json", _filled(head, b'"\\ud83d\\ude00"', tail, size), any_answer)
            yield Crafted(f"nans-{hole}.json", _filled(head, b"NaN", tail, size), any_answer)
    for name, head, template, tail in (
        ("keys", b'{"per_module_gain": NaN, ', b'"%08d":0,', b"}"),
        ("pattern", b'{"per_module_gain": [], "rank_suggestions": {"rank_pattern": {', b'"%08d":0,', b"}}}"),
        ("policies", b'{"layers": [{"rank_suggestions": {', b'"%08d":{},', b'}}], "per_module_gain": []}'),
    )[: 3 if every else 1]:
        yield Crafted(f"many-{name}.json", _numbered(head, template, tail, size), any_answer)


def long_ones(size: int) -> Iterator[Crafted]:
    """Yield files of about `size` bytes that are read like any other file, or rejected."""
    million, analysis = (
        b'{"layer_name":"m.%07d"},',
        b'{"policy_disagreement_analysis": {"all_layers_with_disagreement": [',
    )
    progress = b"    computing SVD and metrics for layer: base_model.model.model.layers.0.mlp.up_proj\n"
    text = progress * (size // len(progress))
    yield Crafted("long-layers.json", _numbered(analysis, million, b"]}}", size), (SELECTED, "too_complex"))
    yield Crafted("long-before.json", writing(text + json.dumps(json.loads(audit(2)), indent=2).encode()), (SELECTED,))
    yield Crafted(
        "long-behind.json", writing(json.dumps(json.loads(audit(3)), indent=2).encode() + b"\n" + text), (SELECTED,)
    )
    yield Crafted("long-progress.json", writing(text), ("audit_interrupted",))
    yield Crafted("long-name.json", writing(an_audit(flagged_layers=[layer("m" * size), layer("a.b")])), (SELECTED,))
    yield Crafted("long-text.json", writing(b"x" * size), ("not_json",))
    yield Crafted("long-error.json", writing(b"Error: " + b"x" * size), ("audit_failed", "not_json"))
    yield Crafted("long-line.json", writing(b"{" + b" " * size), ("truncated", "not_json"))
    yield Crafted("long-string.json", writing(b'{"' + b"a" * size), ("truncated", "not_json"))
    yield Crafted("long-blank.json", writing(b"\n" * size), ("empty",))
    yield Crafted("long-zeros.json", sparse(size), ("empty",))
    yield Crafted("long-digits.json", writing(_raw(b"9" * size)), (SELECTED, "too_complex", "not_json"))
    yield Crafted(
        "long-16.json", writing(audit(4).decode().encode("utf-16") + b" \0" * (size // 2)), (SELECTED, "too_complex")
    )
    yield Crafted(
        "long-openings.json", writing(b"{\n" * (size // 2)), ("truncated", "not_json", "too_deep", "too_complex")
    )


def honest(size: int, *, non_finite: bool) -> bytes:
    """Return an audit of about `size` bytes as Gradience would write it for a model with that number of modules."""
    value = json.loads((AUDITS / "llama4_many__default.json").read_bytes())
    analysis, gains = value["policy_disagreement_analysis"], value["per_module_gain"]
    layers = analysis["all_layers_with_disagreement"]
    each = len(json.dumps([layers, gains, value["policies"]["per_layer"]], indent=2))
    for listed, key in ((layers, "layer_name"), (gains, "module"), (value["policies"]["per_layer"], "layer_name")):
        few = list(listed)
        for number in range(1, size // each):
            listed += [{**entry, key: f"{entry[key]}.{number}"} for entry in few]
    if non_finite:
        for entry in layers[::7]:
            entry["flagging_rationale"]["uniform_mult"] = float("nan")
    return json.dumps(value, indent=2).encode() + b"\n"


# --- sidecars that were there before -------------------------------------------------------------------------


def in_the_way(outside: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Yield files in places where benchd writes. It must not follow, change or replace them."""
    yield "link-out", linking(outside / "victim.json")
    yield "link-new", linking(outside / "created.json")
    yield "link-loop", lambda path: path.symlink_to(path.name)
    yield "link-folder", linking(outside)
    yield "folder", lambda path: path.mkdir()
    yield "pipe", os.mkfifo
    yield "socket", make_socket
    yield "hard-link", lambda path: os.link(outside / "victim.json", path)
    yield "file", writing(b'{"mine": true}\n')
    yield "empty", writing(b"")
    yield "foreign", of_another_owner(b"mine\n")
    yield "sparse", sparse(100 * 2**30)
    yield "device", device(stat.S_IFCHR, 1, 3)


def bomb(size: int) -> Callable[[Path], object]:
    """Return a function that makes a dense file of `size` bytes that looks like a sidecar of benchd."""
    head = b'{"provenance": {"audit": "x", "audit_sha256": null, "audit_bytes": null, "settings": {"a": ['
    return _filled(head, b"[]", b"]}}}", size)


def made(crafted: Crafted, folder: Path) -> Path | None:
    """Make the file in `folder`. Return None if this user or this file system does not permit it."""
    path = folder / crafted.name
    with contextlib.suppress(PermissionError):
        crafted.make(path)
        return path
    return None

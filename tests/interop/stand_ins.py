"""Local replacements for Bench's downloads (model, tokenizer, data set), and a fix that makes Bench importable."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import yaml
from transformers import BertTokenizer, PreTrainedModel

import families

_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the", "very"]


def make_model(folder: Path, model: PreTrainedModel | None = None) -> None:
    """Save a model and a tokenizer for it; the default model fits the audit `distilbert_seqcls`."""
    folder.mkdir(parents=True)
    (folder / "words.txt").write_text("\n".join(_WORDS), encoding="utf-8")
    BertTokenizer(str(folder / "words.txt")).save_pretrained(folder)
    (model or families.distilbert(6, 16)).save_pretrained(folder)


def make_data(folder: Path, subset: str) -> None:
    """Return a data set of a dozen sentences, good and bad."""
    folder.mkdir()
    rows = [{"sentence": f"a very {word} film", "label": int(word == "good")} for word in ("good", "bad") * 6]
    splits = []
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        splits.append({"split": split, "path": f"{split}.jsonl"})
    card = yaml.safe_dump({"configs": [{"config_name": subset, "data_files": splits}]})
    (folder / "README.md").write_text(f"---\n{card}---\n", encoding="utf-8")


def mend_bench() -> None:
    """Make Bench 0.11.0 importable: before Python 3.12 one line of its reports is a syntax error. No test uses it."""
    name = "gradience.bench.reporting"
    if sys.version_info >= (3, 12) or name in sys.modules:
        return
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).read_text(encoding="utf-8")
    mended = source.replace("{'\\u2265' if probe_gate_data", "{'≥' if probe_gate_data")
    assert mended != source
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    exec(compile(mended, found.origin, "exec"), module.__dict__)

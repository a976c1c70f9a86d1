"""The comprehensive pattern of the design, as people write it: a script that is started for each audit.

Chooses the layers (flagged, else by priority score, else by disagreement), says why, and with `--generate-config`
writes NAME.bench.json beside the audit. The naive watcher takes its functions.
"""

import argparse
import json
import os
import sys


def choose(audit, top_n=3):
    """The strategy that fires, and its layers."""
    analysis = audit.get("policy_disagreement_analysis") or {}
    if flagged := analysis.get("flagged_layers", []):
        return "flagged", flagged
    layers = analysis.get("all_layers_with_disagreement", [])
    scored = [layer for layer in layers if layer["flagging_rationale"].get("priority_score", 0) > 0]
    if scored:
        return "priority_score", sorted(scored, key=lambda x: -x["flagging_rationale"]["priority_score"])[:top_n]
    return ("disagreement", layers[:top_n]) if layers else ("none", [])


def priority(layer, flagged):
    """Return the priority of a layer, and how to validate it."""
    rationale = layer["flagging_rationale"]
    if flagged or rationale.get("flagged_as_high_impact"):
        return "HIGH", "per_layer"
    score = rationale.get("priority_score", 0)
    if score >= 2.0:
        return "MEDIUM", "per_layer"
    return ("LOW", "focused_uniform") if score >= 1.0 else ("SKIP", "uniform_only")


def bench_config(audit, top_n=3):
    """The Bench config for an audit."""
    strategy, layers = choose(audit, top_n)
    configs = [{"variant": "uniform", "rank": 8, "description": "Conservative uniform baseline"}]
    ranks, chosen = {}, []
    for layer in layers:
        rationale = layer["flagging_rationale"]
        level, validation = priority(layer, strategy == "flagged")
        k_values = rationale.get("k_values")
        if validation == "per_layer" and k_values:
            ranks[layer["layer_name"].removeprefix("base_model.model.")] = max(k_values)
        keys = ("spread", "spread_threshold", "uniform_mult", "uniform_mult_threshold", "importance_share")
        metrics = {key: rationale.get(key) for key in (*keys, "priority_score")}
        chosen.append({"layer_name": layer["layer_name"], "priority": level, "validation": validation, **metrics})
    if ranks:
        focus = audit["policy_disagreement_analysis"].get("disagreement_focus_set", {}).get("message")
        configs.append({"variant": "per_layer", "rank_pattern": ranks, "focus_justification": focus})
    return {"compression_strategies": configs, "selection": {"strategy": strategy, "layers": chosen}}


def lines(config):
    """The analysis for people."""
    selection = config["selection"]
    yield f"Using {len(selection['layers'])} layers: {selection['strategy']}"
    for number, layer in enumerate(selection["layers"], 1):
        yield f"{number}. {layer['layer_name']}\n   Status: {layer['priority']}, {layer['validation']}"
        spread, least = layer["spread"], layer["spread_threshold"]
        yield f"   Metrics: spread={spread} (≥{least}), uniform_mult={layer['uniform_mult']}"
        yield f"   Share: {layer['importance_share']}, Priority: {layer['priority_score']}"


def write(path, config):
    """Put the config beside the audit, whole."""
    target = path.removesuffix(".json") + ".bench.json"
    with open(f"{target}.tmp", "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
    os.replace(f"{target}.tmp", target)


def main():
    """Analyse one audit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audit")
    parser.add_argument("--top-n", type=int, default=3)
    parser.add_argument("--generate-config", action="store_true")
    options = parser.parse_args()
    try:
        with open(options.audit, encoding="utf-8") as file:
            config = bench_config(json.load(file), options.top_n)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{options.audit}: {error}")
    print(*lines(config), sep="\n")
    if options.generate_config:
        write(options.audit, config)


if __name__ == "__main__":
    main()

"""Layer after layer: what a text folds to, and what is encoded in it, until nothing new comes or a bound is met."""

from dataclasses import dataclass

from malbox.sdk.findings import Findings

from .decoding import decoded
from .folding import fold
from .language import guess

LAYERS_MAX = 40
DEPTH_MAX = 8
TOTAL_MAX_CHARS = 24 * 1024 * 1024
FOLDING = "constant expressions"


@dataclass(frozen=True)
class Layer:
    """One text, and how it came out of which other. Layer 0 is the sample."""

    number: int
    of: int | None
    decoded_by: str
    language: str | None
    text: str
    depth: int = 0


def unfold(layers: list[Layer], findings: Findings) -> None:
    """The layers behind those given are appended, breadth first, each text once."""
    seen = {layer.text for layer in layers}
    total = sum(len(layer.text) for layer in layers)
    for layer in layers:  # grows while it is walked, up to the bound
        if layer.depth >= DEPTH_MAX:
            findings.problem(f"layer {layer.number} lies {DEPTH_MAX} deep; what is below it was not unfolded")
            continue
        for by, text in _below(layer):
            if text in seen or not text.strip():
                continue
            total += len(text)
            if len(layers) >= LAYERS_MAX or total > TOTAL_MAX_CHARS:
                findings.truncated()
                return
            seen.add(text)
            language = layer.language if by == FOLDING else guess(text)
            layers.append(Layer(len(layers), layer.number, by, language, text, layer.depth + (by != FOLDING)))


def _below(layer: Layer) -> list[tuple[str, str]]:
    folded = fold(layer.text, layer.language) if layer.language else layer.text
    found = [(FOLDING, folded)] if folded != layer.text else []
    if layer.decoded_by != FOLDING:
        found += decoded(layer.text)
    if folded != layer.text:
        found += decoded(folded)
    return found

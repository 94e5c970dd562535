"""Layer after layer: what a text folds to, and what is encoded in it, until nothing new comes or a bound is met."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from malbox.sdk.carried import Carried
from malbox.sdk.children import TOTAL_MAX_BYTES, Children
from malbox.sdk.findings import Findings

from .decoding import DECODED_MAX_BYTES, SCRIPT_ENCODER, Decoded, decoded
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


def unfold(layers: list[Layer], findings: Findings, children: Children) -> None:
    """The layers behind those given are appended, breadth first, each text once; decoded files are children."""
    seen = {layer.text for layer in layers}
    total = sum(len(layer.text) for layer in layers)
    files = _Files(findings, children)
    for layer in layers:  # grows while it is walked, up to the bound
        if layer.depth >= DEPTH_MAX:
            findings.problem(f"layer {layer.number} lies {DEPTH_MAX} deep; what is below it was not unfolded")
            continue
        for found in _below(layer, findings):
            if found.file is not None:
                files.take(layer, found, found.file)
                continue
            by, text = found.by, found.text
            if text in seen or not text.strip():
                continue
            total += len(text)
            if len(layers) >= LAYERS_MAX or total > TOTAL_MAX_CHARS:
                findings.problem(f"{len(layers)} layers of {total} characters were unfolded; what is behind was not")
                findings.truncated()
                return
            seen.add(text)
            language = layer.language if by == FOLDING else guess(text)
            if by == SCRIPT_ENCODER:
                language = language or layer.language
            layers.append(Layer(len(layers), layer.number, by, language, text, layer.depth + (by != FOLDING)))


class _Files:
    """The files that came out so far. The first piece of one may look like one too."""

    def __init__(self, findings: Findings, children: Children) -> None:
        self._findings = findings
        self._children = children
        self._whole: list[bytes] = []

    def take(self, layer: Layer, found: Decoded, file: Carried) -> None:
        """The file is a child, unless it is one of those, or the beginning of one."""
        if any(one.startswith(found.content) for one in self._whole):
            return
        if file.is_program:
            self._findings.trait("carries_a_program", f"layer {layer.number}: a {file.words}, decoded by {found.by}")
        place = f"layer {layer.number}, {found.by} > decoded.{file.suffix}"
        self._children.add(place, "script", found.content[file.offset :])
        if sum(map(len, self._whole)) + len(found.content) <= TOTAL_MAX_BYTES:
            self._whole.append(found.content)


def _below(layer: Layer, findings: Findings) -> Iterator[Decoded]:
    folded = fold(layer.text, layer.language) if layer.language else layer.text
    texts = [] if layer.decoded_by == FOLDING else [layer.text]
    if folded != layer.text:
        yield Decoded(FOLDING, folded)
        texts.insert(0, folded)
    for text in texts:
        passed: Counter[str] = Counter()
        for found in decoded(text, passed):
            if found.is_cut:
                findings.problem(f"layer {layer.number}: what unpacks to more was cut after {DECODED_MAX_BYTES} bytes")
                findings.truncated()
            yield found
        for by, count in sorted((+passed).items()):
            findings.problem(f"layer {layer.number}: {count} shorter pieces like {by} were not decoded")
            findings.truncated()

"""Unfolds a script without running any of it: only what has nothing but constants in it is worked out."""

from typing import Any

from malbox.sdk import Context, PluginSkipped
from malbox.sdk.children import Children
from malbox.sdk.cpu_budget import cpu_budget
from malbox.sdk.findings import Findings, printable

from .judging import judge
from .language import guess, text_of
from .unfolding import Layer, unfold

PROCESSOR_S = 40.0
JUDGING_S = 10.0
SAMPLE_MAX_BYTES = 8 * 1024 * 1024
SHOWN_MAX_CHARS = 20_000


def run(context: Context) -> None:
    """The result `scripts` and the files that the script decodes, `children/…`, are emitted."""
    with context.sample.open("rb") as stream:
        content = stream.read(SAMPLE_MAX_BYTES)
        rest = stream.read(1)
    text = text_of(content)
    language = guess(text, context.sample_name) if text is not None else None
    if text is None or language is None:
        raise PluginSkipped("not a script of a kind that is known here")
    findings = Findings()
    children = Children(findings)
    if rest:
        findings.problem(f"only the first {SAMPLE_MAX_BYTES} bytes were read")
    layers = [Layer(0, None, "the sample", language, text)]
    with cpu_budget(PROCESSOR_S) as time:
        unfold(layers, findings, children)
    if time.is_spent:
        findings.problem(f"unfolding ended after {PROCESSOR_S:.0f} s of processor time")
    with cpu_budget(JUDGING_S) as time:
        judge(layers, findings)
    if time.is_spent:
        findings.problem(f"judging ended after {JUDGING_S:.0f} s of processor time: traits may be missing")
    said = {"language": language, "layers": shown(layers), "children": children.as_json()}
    context.emit_json("scripts", {**said, **findings.as_json()})
    children.emit(context)


def shown(layers: list[Layer]) -> list[dict[str, Any]]:
    """The layers behind the sample itself, each cut to a bound."""
    return [
        {
            "number": layer.number,
            "of": layer.of,
            "decoded_by": layer.decoded_by,
            "language": layer.language,
            "size_chars": len(layer.text),
            "text": "\n".join(printable(line, SHOWN_MAX_CHARS) for line in layer.text[:SHOWN_MAX_CHARS].splitlines()),
        }
        for layer in layers[1:]
    ]

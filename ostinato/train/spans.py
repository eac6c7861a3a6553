"""From attention to everything to a span for each layer, while a model goes on learning.

    span_l(t) = round(wide^(1 - u) own_l^u),   u = min(1, t / (part S))      t = 0 .. S - 1;   full layers see everything

A model that learned with attention to everything keeps it in few layers; in the others a window is enough, and costs less.
Its weights fit as they are. Here the windows come down by the same factor in each step instead of at once, so that what a
layer sees changes little from step to step; with `part` 0 they are there from the first step on.

Zhang, Ram, Hawkins, Zha, Zhao 2023 (MASFormer), https://arxiv.org/abs/2310.12442, who go on at once with the spans that are to
be; that these may come gradually is ours.
"""

from collections.abc import Sequence

from ostinato.registry import register


@register("train:span_schedule", paper="masformer")
def span_schedule(
    spans: Sequence[int | None], step: int, steps: int, *, wide: int, part: float = 0.5
) -> list[int | None]:
    """The span of each layer in a step.

    spans: of each layer at the end; None sees everything, all the time
    step: how many steps were made before this one
    steps: how many there are
    wide: the span of the others at the beginning; those whose own is wider have theirs
    part: of all steps in which spans come down
    """
    if wide < 1 or any(span is not None and span < 1 for span in spans):
        raise ValueError(f"a span is at least 1 token, the current one; got {wide} and {list(spans)}")
    if not 0 <= part <= 1 or not 0 <= step <= steps:
        raise ValueError(f"part is from 0 to 1, and step from 0 to {steps}; got {part} and {step}")
    length = part * steps
    u = min(1.0, step / length) if length else 1.0
    return [None if own is None else max(own, round(wide ** (1 - u) * own**u)) for own in spans]

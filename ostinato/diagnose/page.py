"""The report of a diagnosis: a card for each mixer, a heatmap of tasks, what it costs, how it was made, in one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ostinato.diagnose import radar
from ostinato.diagnose.abilities import TASKS, abilities, mean_share, profile, share
from ostinato.diagnose.run import Diagnosis
from ostinato.diagnose.trial import FACTORS, Trial
from ostinato.report.numbers import count, data_size, digits
from ostinato.report.page import definitions, document
from ostinato.report.summary import Row, Spread
from ostinato.report.tables import ABSENT, Column, table
from ostinato.report.text import safe

STYLE = (
    radar.STYLE
    + """
.heat td { text-align: center; }
.heat td[style] { background: color-mix(in srgb, var(--c2) calc(var(--share) * 62%), var(--back)); }
.heat .edge-left { border-left: 1px solid var(--line); }
.heat .soft { font-weight: 400; }
@media (max-width: 600px) { .heat tbody th { white-space: normal; min-width: 8.5rem; max-width: 8.5rem; overflow-wrap: anywhere; } }
"""
)
NOTES = {
    "score": "Accuracy where answers are tokens; the share of the variance that is explained where they are numbers; for "
    "piecewise_stationary the share of what the exact predictor gains over guessing. 1 is the best that is possible (a little less "
    "where there is noise).",
    "abilities": "Each is the mean over its tasks of how far the score is from guessing (0) to perfect (1): "
    + "; ".join(f"{ability}: {', '.join(tasks.split())}" for ability, tasks in TASKS.items())
    + ".",
    "1\u00d7, 2\u00d7, 4\u00d7, 16\u00d7": "Problems of the length of training, and of multiples of it: 256 of them, or fewer where they "
    "are long, but at least 64 (a few with many answers each where the vocabulary is large). Test problems never occur in training.",
    "colour": "From guessing (white) to a perfect score (full).",
    "\u00b1": "Standard deviation over seeds.",
    "state": "What has to be kept to go on after a problem of the training length, over all layers; the median over tasks.",
    "growth": "Bytes that the state is larger after four times as many places; 0 is a constant memory.",
    "train": "Median over training steps, in places per second, with as many trials side by side as said above.",
}


@dataclass(frozen=True)
class Card:
    """All trials of a mixer with one seed."""

    mixer: str
    seed: int
    trials: list[Trial]

    def middle(self, name: str) -> float:
        """The median of a figure over tasks."""
        return median(getattr(trial, name) for trial in self.trials)

    def mean_score(self, times: int) -> float | None:
        """The mean over tasks of what is better than guessing, from 0 to 1."""
        return mean_share(self.trials, times)


def rows(diagnosis: Diagnosis) -> list[Row]:
    """The mixers with a finished trial."""
    found = []
    for mixer in diagnosis.mixers:
        mine = [trial for trial in diagnosis.trials if trial.mixer == mixer]
        seeds = sorted({trial.seed for trial in mine})
        cards = [Card(mixer, seed, [trial for trial in mine if trial.seed == seed]) for seed in seeds]
        if cards:
            found.append(Row(mixer, cards))  # type: ignore[arg-type]
    return found


def _percent(value: float) -> str:
    return f"{value:.2f}"


COSTS = (
    *(Column(f"{n}\u00d7", lambda card, n=n: card.mean_score(n), _percent, max, "mean of all tasks") for n in FACTORS),
    Column("parameters", lambda card: card.middle("parameters"), count),
    Column("train", lambda card: card.middle("tokens_per_second"), digits, max, "places per second"),
    Column("state", lambda card: card.middle("state_bytes"), data_size, min),
    Column("growth", lambda card: card.middle("state_growth"), data_size, min),
)


def to_html(diagnosis: Diagnosis) -> str:
    """The whole page."""
    known = rows(diagnosis)
    sections = [("tasks", "Task by task", _heatmap(diagnosis) if known else "<p>No trial has ended yet.</p>")]
    if known:
        sections.insert(0, ("abilities", "What it can do", _cards(diagnosis, known)))
        caption = "Scores from guessing (0) to perfect (1). \u2605 marks the best of a column."
        sections.append(("cost", "All tasks together, and what it costs", table(known, COSTS, caption, "All tasks")))
    if diagnosis.failures:
        sections.append(("failures", "What failed", _failures(diagnosis)))
    made = diagnosis.made | {"what the figures mean": NOTES}
    sections.append(("made", "How it was made", definitions(made)))
    return document(diagnosis.title, _lead(diagnosis), sections, STYLE)


def warnings(diagnosis: Diagnosis) -> list[str]:
    """What makes this diagnosis less than it seems, a sentence each."""
    found = []
    sizes = [trial.parameters for trial in diagnosis.trials]
    if sizes and max(sizes) > 1.05 * min(sizes):
        found.append(f"Models differ in size: {min(sizes):,} to {max(sizes):,} parameters.")
    if sizes and len({trial.seed for trial in diagnosis.trials}) == 1:
        found.append("There is one trial of each mixer and task, so how much is chance is not known (--seeds 3).")
    if diagnosis.failures:
        found.append(f"{len(diagnosis.failures)} of the trials failed; see the section on them.")
    if diagnosis.missing:
        found.append(
            f"{len(diagnosis.missing)} trials were not finished when this was written; the same command continues them."
        )
    return found


def _lead(diagnosis: Diagnosis) -> str:
    facts = []
    if diagnosis.trials:
        trial = diagnosis.trials[0]
        seeds = len({trial.seed for trial in diagnosis.trials})
        facts = [f"about {count(trial.parameters)} parameters", f"{trial.steps:,} steps of training"]
        facts.append(f"{seeds} seed{'s' if seeds > 1 else ''}")
    sentences = "".join(f"<li>{safe(sentence)}</li>" for sentence in warnings(diagnosis))
    notes = f'<ul class="warnings" aria-label="What to keep in mind">{sentences}</ul>' if sentences else ""
    line = " \u00b7 ".join(facts)
    return f'<p class="soft lead">{line}</p>{notes}'


def _cards(diagnosis: Diagnosis, known: list[Row]) -> str:
    """A radar for each mixer, with what it costs; the figures of all of them as a table."""
    shown, far = abilities(diagnosis.trials), FACTORS[-1]
    cards = []
    for rank, row in enumerate(known):
        trials = [trial for trial in diagnosis.trials if trial.mixer == row.mixer]
        near, long = ({one: profile(trials, times).get(one) for one in shown} for times in (FACTORS[0], far))
        drawing = ""
        if len(shown) >= radar.FEWEST:
            drawing = radar.radar(f"radar-{rank}", row.mixer, rank, near, long, far)
        state, growth, speed = (
            median(getattr(trial, name) for trial in trials)
            for name in ("state_bytes", "state_growth", "tokens_per_second")
        )
        grows = f", {data_size(growth)} more after four times as many places" if growth else " at every length"
        words = f"state {data_size(state)}{grows}; {digits(speed)} places per second in training"
        cards.append(f"<figure><h3>{safe(row.mixer)}</h3>{drawing}<figcaption>{words}</figcaption></figure>")
    note = (
        f"The middle is guessing, the rim a perfect score: filled at the length of training, dashed at {far} times that length."
        if len(shown) >= radar.FEWEST
        else f"With fewer than {radar.FEWEST} abilities there is no radar."
    )
    columns = tuple(
        Column(
            f"{times}\u00d7",
            lambda card, times=times, ability=ability: profile(card.trials, times).get(ability),
            _percent,
            max,
            ability,
        )
        for ability in shown
        for times in (FACTORS[0], far)
    )
    figures = table(known, columns, "From guessing (0) to perfect (1). \u2605 marks the best of a column.", "Abilities")
    return f'<p class="soft note">{note}</p><div class="radars">{"".join(cards)}</div>{figures}'


def _heatmap(diagnosis: Diagnosis) -> str:
    """Tasks by mixers, with a column for each multiple of the length."""
    top = "".join(
        f'<th class="group edge-left" scope="colgroup" colspan="{len(FACTORS)}">{safe(mixer)}</th>'
        for mixer in diagnosis.mixers
    )
    below = "".join(
        f'<th scope="col"{_edge(n)}>{times}\u00d7</th>' for _ in diagnosis.mixers for n, times in enumerate(FACTORS)
    )
    body = []
    for task in diagnosis.tasks:
        trials = [trial for trial in diagnosis.trials if trial.task == task]
        cells = "".join(
            _cell([trial for trial in trials if trial.mixer == mixer], times, n)
            for mixer in diagnosis.mixers
            for n, times in enumerate(FACTORS)
        )
        about = ""
        if trials:
            one = trials[0]
            about = f'<span class="deviation">{one.length} {safe(one.unit)}, guessing {_percent(one.chance)}</span>'
        body.append(f'<tr><th scope="row">{safe(task)}{about}</th>{cells}</tr>')
    head = f'<tr><th scope="col" rowspan="2">task</th>{top}</tr><tr>{below}</tr>'
    return (
        '<div class="scroll heat" role="region" tabindex="0" aria-label="Scores by task and mixer"><table>'
        f"<thead>{head}</thead><tbody>{''.join(body)}</tbody></table></div>"
        '<p class="soft note">Scores at the length of training and beyond it; 1 is the best. '
        '<span class="narrow">The table scrolls sideways.</span></p>' + _not_asked(diagnosis)
    )


def _not_asked(diagnosis: Diagnosis) -> str:
    """What stands behind each dash of the heatmap."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for trial in diagnosis.trials:
        for answer in trial.answers:
            if answer.score is None:
                found = reasons.setdefault((trial.task, f"{answer.times}\u00d7", answer.error), [])
                found.extend([trial.mixer] if trial.mixer not in found else [])
    if not reasons:
        return ""
    lines = "".join(
        f"<li>{safe(task)} at {times} ({safe(', '.join(mixers))}): {safe(error)}</li>"
        for (task, times, error), mixers in reasons.items()
    )
    return f"<details><summary>Lengths without a score, and why</summary><ul>{lines}</ul></details>"


def _edge(n: int) -> str:
    return ' class="edge-left"' if n == 0 else ""


def _cell(trials: Sequence[Trial], times: int, n: int) -> str:
    scores = [score for trial in trials if (score := trial.score(times)) is not None]
    if not scores:
        reasons = {answer.error for trial in trials for answer in trial.answers if answer.times == times}
        why = safe("; ".join(sorted(reasons - {""})) or "not measured")
        return f'<td{_edge(n)}><span class="soft" title="{why}">{ABSENT}</span></td>'
    spread = Spread.of(scores)
    deviation = ""
    if spread.deviation:
        deviation = f'<span class="deviation">\u00b1 {_percent(spread.deviation)}</span>'
    style = f'style="--share: {share(spread.mean, trials[0].chance):.3f}"'
    value = f'<data value="{spread.mean!r}">{_percent(spread.mean)}</data>'
    return f"<td{_edge(n)} {style}>{value}{deviation}</td>"


def _failures(diagnosis: Diagnosis) -> str:
    lines = "".join(
        f'<tr><th scope="row">{safe(failure.mixer)}</th><td>{safe(task)}</td><td>{failure.seed}</td>'
        f'<td class="words">{safe(failure.error)}<details><summary>where</summary><pre>{safe(failure.details)}</pre>'
        "</details></td></tr>"
        for task, failure in diagnosis.failures
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("mixer", "task", "seed", "error"))
    return (
        "<p>The same command tries these trials again.</p>"
        '<div class="scroll" role="region" tabindex="0" aria-label="Failures"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )

"""The samples as CSV, as a table in Markdown, and as a page with bars."""

from __future__ import annotations

import csv
import html
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from benchmarks.comparison.columns import TITLES, Sample

_PERCENTILE = 0.95
_SEVERAL = 20
"""Of so many samples a 95th percentile is told as well."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h2 { margin: 2.2rem 0 .3rem; font-size: 1.1rem }
.row { display: grid; grid-template-columns: 22rem 1fr 9rem; gap: .6rem; align-items: center; margin: .15rem 0 }
.bar { height: .9rem; background: #017cee; border-radius: 2px; min-width: 2px; position: relative }
.bar.guarded { background: #00a88f } .bar i { position: absolute; top: 0; height: 100%; border-right: 2px solid #222 }
.detail { grid-column: 1 / -1; color: #666; font-size: .85rem; margin: -.1rem 0 .3rem 22.6rem }
"""


def write(samples: Sequence[Sample], folder: Path, introduction: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "samples.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Sample)])
        writer.writerows(astuple(sample) for sample in samples)
    (folder / "comparison.md").write_text(_markdown(samples, introduction))
    (folder / "comparison.html").write_text(_page(samples, introduction))


def read(folder: Path) -> list[Sample]:
    """What an earlier run wrote."""
    try:
        with (folder / "samples.csv").open(newline="") as file:
            return [Sample(**{**row, "value": float(row["value"])}) for row in csv.DictReader(file)]  # type: ignore[arg-type]
    except FileNotFoundError:
        return []


def _markdown(samples: Sequence[Sample], introduction: str) -> str:
    columns = [name for name in TITLES if any(sample.column == name for sample in samples)]
    lines = ["# Comparison", "", introduction, "", *(f"- **{name}**: {TITLES[name]}" for name in columns), ""]
    lines += [f"| case | variant | {' | '.join(columns)} |", "| --- " * (len(columns) + 2) + "|"]
    for case, variant in _rows(samples):
        cells = [_text(_of(samples, case, variant, column)) for column in columns]
        lines.append(f"| {case} | {variant} | {' | '.join(cells)} |")
    details = [f"- {s.column}, {s.case}, {s.variant}: {s.detail}" for s in samples if s.detail]
    return "\n".join([*lines, "", "What else was seen:", "", *details, ""])


def _page(samples: Sequence[Sample], introduction: str) -> str:
    parts = [f"<!doctype html><meta charset=utf-8><title>Comparison</title><style>{_STYLE}</style>"]
    parts += ["<h1>Comparison</h1>", f"<p>{html.escape(introduction)}</p>"]
    for case in dict.fromkeys(sample.case for sample in samples):
        parts.append(f"<h2>{html.escape(case)}</h2>")
        parts += _bars([sample for sample in samples if sample.case == case])
    return "\n".join(parts) + "\n"


def _bars(samples: Sequence[Sample]) -> Iterator[str]:
    longest = max((sample.value for sample in samples), default=0) or 1
    for case, variant in _rows(samples):
        for column in TITLES:
            those = _of(samples, case, variant, column)
            if not those:
                continue
            values = [one.value for one in those]
            mark = f"<i style='width:{100 * _high(values) / max(statistics.median(values), 1e-9):.1f}%'></i>"
            kind = "guarded" if "guarded" in variant or "exclusive" in variant else "plain"
            yield (
                f"<div class=row><span>{html.escape(column)}, {html.escape(variant)}</span>"
                f"<span><div class='bar {kind}' style='width:{100 * statistics.median(values) / longest:.1f}%'>"
                f"{mark if len(values) >= _SEVERAL else ''}</div></span><span>{html.escape(_text(those))}</span></div>"
            )
            yield from (f"<div class=detail>{html.escape(one.detail)}</div>" for one in those if one.detail)


def _rows(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((sample.case, sample.variant) for sample in samples))


def _of(samples: Sequence[Sample], case: str, variant: str, column: str) -> list[Sample]:
    return [one for one in samples if (one.case, one.variant, one.column) == (case, variant, column)]


def _high(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(_PERCENTILE * len(values)) - 1]


def _text(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    values = [sample.value for sample in samples]
    text = f"{statistics.median(values):.3g} {samples[0].unit}".strip()
    return f"{text} (p95 {_high(values):.3g})" if len(values) >= _SEVERAL else text

"""Rendering of evaluation reports: line-oriented JSON for diffs, and Markdown."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Report = dict[str, Any]


def render_json(report: Report) -> str:
    """Return the report as JSON with one line per field of the report and of each metric.

    Score arrays stay on one line, so that a diff shows which metric changed.
    """
    return _render_value(report, 0) + "\n"


def render_markdown(report: Report, picture: str) -> str:
    """Return the report as Markdown.

    Args:
        report: Report of ``pipeline.evaluate``.
        picture: File name of the plots.
    """
    pairs = [report, *report["others"]]
    lines = [f"# {report['id']}", "", _summary_text(report), ""]
    for pair in pairs:
        lines += [f"## {pair['mission']['name']} against {pair['baseline']['name']}", ""]
        lines += _metric_rows(pair)
        lines += ["", *_cost_rows(pair), ""]
    lines += [f"![Differences, categories and seeds]({picture})", ""]
    lines += ["## By category", "", *_category_rows(report), ""]
    lines += ["## How it was made", "", *_provenance_lines(report)]
    return "\n".join(lines) + "\n"


def _render_value(value: Any, depth: int) -> str:
    """Render objects over several lines down to depth 2, and deeper ones on one line."""
    if not isinstance(value, dict | list) or not value or depth > 2:
        return json.dumps(value, ensure_ascii=False)
    pad, end = " " * (depth + 1), " " * depth
    if isinstance(value, list):
        if not isinstance(value[0], dict):
            return json.dumps(value, ensure_ascii=False)
        inner = f",\n{pad}".join(_render_value(entry, depth + 1) for entry in value)
        return f"[\n{pad}{inner}\n{end}]"
    inner = f",\n{pad}".join(
        f"{json.dumps(key)}: {_render_value(entry, depth + 1)}" for key, entry in value.items()
    )
    return f"{{\n{pad}{inner}\n{end}}}"


def _summary_text(report: Report) -> str:
    data = report["data"]
    seeds = len(report["seeds"])
    text = (
        f"{report['n_items']} items of {data['name']} (`{data['digest'][:12]}`), "
        f"{seeds} training seed{'s' if seeds != 1 else ''}."
    )
    return f"{text}\n{report['note']}" if report["note"] else text


def _metric_rows(pair: Report) -> Iterator[str]:
    yield "| metric | mission | baseline | difference | 95 % CI | p | adjusted p | coverage |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, metric in pair["metrics"].items():
        ours, theirs = (float(np.mean(metric[role])) for role in ("mission", "baseline"))
        yield (
            f"| {name} | {ours:.3f} | {theirs:.3f} | {metric['estimate']:+.3f} | "
            f"{_format_interval(metric)} | {_format_p(metric['p'])} | "
            f"{_format_p(metric['p_adjusted'])} | {metric['coverage_class']} |"
        )


def _cost_rows(pair: Report) -> Iterator[str]:
    yield "| side | scoring | shots | prompt tokens | completion tokens | wall s | refused |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for role in ("mission", "baseline"):
        side, tokens = pair[role], pair["tokens"][role]
        yield (
            f"| {side['name']} | {side['scoring_mode']} | {side['shots']} | {tokens['prompt']} | "
            f"{tokens['completion']} | {pair['wall_s'][role]:.1f} | {pair['refused'][role]} |"
        )


def _category_rows(report: Report) -> Iterator[str]:
    yield "| category | metric | items | mission | baseline | 95 % CI of the difference |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for category, table in report["categories"].items():
        for name, row in table.items():
            yield (
                f"| {category} | {name} | {row['n_items']} | {row['mission']:.3f} | "
                f"{row['baseline']:.3f} | {_format_interval(row)} |"
            )


def _provenance_lines(report: Report) -> Sequence[str]:
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    stages = ", ".join(f"{name} {value:.2f}" for name, value in report["stages_s"].items())
    first = next(iter(report["metrics"].values()))
    return [
        "```",
        report["command"],
        "```",
        "",
        f"- decoding: {json.dumps(report['decoding'])}; seeds {report['seeds']}",
        f"- mission: {report['mission']['system']}, `{report['mission']['digest']}`",
        *(
            f"- baseline: {pair['baseline']['system']}, `{pair['baseline']['digest']}`"
            for pair in [report, *report["others"]]
        ),
        f"- data: {report['data']['name']}, `{report['data']['digest']}`",
        f"- items: `{report['items_digest']}`",
        f"- statistics: {first['method']}; adjusted by Benjamini-Hochberg over all claims here",
        "- an answer that the fleet withheld (refused) counts as an empty reply, of no tokens",
        f"- versions: {versions}",
        f"- seconds by stage of the run that wrote this (answers may be cached): {stages}",
    ]


def _format_interval(row: Report) -> str:
    if row.get("ci_low") is None:
        return "none"
    return f"{row['ci_low']:+.3f} to {row['ci_high']:+.3f}"


def _format_p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"

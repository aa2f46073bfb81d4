"""The page of an acceptance: the verdict in its first line, then every step with its values, limits and pictures."""

from html import escape
from pathlib import Path

from rpl_runtime.acceptance.journal import FILE, Journal, Record, Verdict, limits
from rpl_runtime.acceptance.plots import svg
from rpl_runtime.files import staged

PAGE = "acceptance.html"
_STYLE = """
body { font: 15px/1.45 sans-serif; color: #212529; max-width: 62em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.35em; padding: .6em .8em; border-radius: 6px; color: #fff; }
h2 { font-size: 1.1em; margin: 2em 0 .3em; }
h1.accepted, .passed { background: #2b8a3e; }
h1.refused, .failed { background: #c92a2a; }
h1.open { background: #e67700; }
.left { background: #868e96; }
.passed, .failed, .left { color: #fff; border-radius: 4px; padding: 0 .5em; font-size: .85em; white-space: nowrap; }
table { border-collapse: collapse; margin: .5em 0; }
td, th { text-align: left; padding: .2em .8em .2em 0; vertical-align: top; }
th { border-bottom: 1px solid #adb5bd; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.broken td, .error { color: #c92a2a; font-weight: bold; }
svg { font: 11px sans-serif; border: 1px solid #dee2e6; border-radius: 4px; margin: .4em .4em 0 0; }
footer { margin-top: 3em; font-size: .85em; color: #495057; }
"""


def write_report(journal: Journal, folder: Path) -> None:
    """Write the page beside the journal, whole or not at all."""
    with staged(folder / PAGE) as staging:
        staging.write_text(page(journal, folder), encoding="utf-8")


def page(journal: Journal, folder: Path) -> str:
    """The page as HTML; its links lead to the logs in the folder."""
    setting = journal.setting
    about = {
        "robot": setting.robot,
        "bundle": f"{setting.bundle} ({setting.digest[:12]})",
        "goal": ", ".join(setting.elements),
        "objects": setting.objects,
        "workspace [m]": f"{setting.workspace[:3]} to {setting.workspace[3:]}",
        "begun": journal.began,
    }
    steps = "".join(_step(name, journal.record(name), folder) for name in journal.steps)
    versions = ", ".join(f"{name} {version}" for name, version in journal.versions.items())
    advice = "Mend what failed, then run the same command again: it goes on here."
    if journal.verdict is Verdict.ACCEPTED:
        advice = (
            "The steps used a software stop, which is not safety-rated. Accept again after a change of robot, hand, "
            "firmware, network, perception or bundle."
        )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(journal.verdict)}</title>'
        f'<style>{_STYLE}</style></head><body><h1 class="{journal.verdict.name.lower()}">{escape(journal.sentence)}'
        f"</h1>{_pairs(about)}{_summary(journal)}{steps}<footer>{advice} All values are in "
        f'<a href="{FILE}">{FILE}</a>. {escape(journal.command)}; commit {escape(journal.commit)}; {escape(versions)}.'
        f"</footer></body></html>\n"
    )


def _summary(journal: Journal) -> str:
    rows = []
    for name in journal.steps:
        record = journal.record(name)
        took = "" if record is None else f"{record.took_s:.0f} s"
        why = "" if record is None or record.passed else escape("; ".join(record.reasons))
        rows.append(
            f'<tr><td><a href="#{name}">{name}</a></td><td>{_badge(record)}</td><td>{took}</td><td>{why}</td></tr>'
        )
    return f"<table><tr><th>step</th><th>result</th><th>took</th><th></th></tr>{''.join(rows)}</table>"


def _step(name: str, record: Record | None, folder: Path) -> str:
    if record is None:
        return ""
    log = folder / f"{name}.mcap"
    link = f' Log: <a href="{log.name}">{log.name}</a>.' if log.exists() else ""
    error = f'<p class="error">{escape(record.error)}</p>' if record.error else ""
    rows = "".join(
        f'<tr class="{"kept" if check.passed else "broken"}"><td>{escape(check.name)}</td><td class="number">'
        f"{'not measured' if check.value is None else f'{check.value:.4g}'}</td><td>{escape(check.unit)}</td>"
        f"<td>{escape(limits(check))}</td><td>{'' if check.passed else escape(check.meaning)}</td></tr>"
        for check in record.checks
    )
    table = (
        f"<table><tr><th>check</th><th>value</th><th></th><th>must be</th><th></th></tr>{rows}</table>" if rows else ""
    )
    pictures = "".join(map(svg, record.pictures))
    return (
        f'<h2 id="{name}">{name} {_badge(record)}</h2><p>{escape(record.happens)} {record.began}.{link}</p>'
        f"{error}{table}{_pairs(record.notes)}{pictures}"
    )


def _badge(record: Record | None) -> str:
    if record is None:
        return '<span class="left">not yet</span>'
    return '<span class="passed">passed</span>' if record.passed else '<span class="failed">failed</span>'


def _pairs(pairs: dict[str, str]) -> str:
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in pairs.items())
    return f"<table>{rows}</table>" if rows else ""

"""The frame of the pages for data managers: one file, no script, no request to anywhere, readable on a screen and on paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from privacy.report_html import Html, element, join, text
from privacy.report_style import STYLE

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
MORE_STYLE: Final = """
.local{border:1px solid #7a4a00;border-left-width:10px;background:#fff8eb;padding:10px 16px;margin:0 0 20px;max-width:none}
.badge{display:inline-block;font:600 11.5px/1.5 system-ui,'DejaVu Sans',sans-serif;border:1px solid #434b57;padding:0 6px;
margin:2px 4px 0 0;white-space:nowrap}
.badge.key{background:#1b1f24;color:#fff;border-color:#1b1f24}
.allowed ul{margin:0;padding-left:18px}.allowed li{margin:0}
.columns table{table-layout:fixed}.columns th:nth-child(1){width:24%}.columns th:nth-child(2){width:30%}
.columns th:nth-child(3){width:17%}.columns code{min-width:0}.columns .note{font-size:13px}.allowed code{display:inline}
.rules table{table-layout:fixed}.rules th:nth-child(1){width:21%}.rules th:nth-child(2){width:12%}
.bar{display:inline-block;width:120px;max-width:40%;height:10px;border:1px solid #434b57;background:#fff;vertical-align:middle;
margin-right:8px}.bar i{display:block;height:100%;background:#1d4f91}
.finding{border-left:4px solid #cbd5e1;padding:2px 0 2px 14px;margin:0 0 18px}.finding.error{border-color:#8f0c21}
.finding.warning{border-color:#b97700}.finding p{margin:0 0 6px}
.finding h4{margin:0 0 4px;font:600 15.5px/1.4 system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
.finding table{width:auto;min-width:min(340px,100%)}.finding .scroll{margin-bottom:8px}
.place{font-size:19px;margin-top:30px}
@media (max-width:640px){.scroll.rows table{min-width:0}}
@media print{.columns table,.rules table{font-size:8.5pt}.columns .note{font-size:8pt}}
"""


def page(title: str, body: Sequence[Html], *, pictures: bool = False, style: str = "") -> str:
    """The whole file. The content policy forbids scripts and requests, in case an escape were ever forgotten; with `pictures` those
    inside the file are shown. `style`: rules beside those of all pages."""
    policy = f"{POLICY}; img-src data:" if pictures else POLICY
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}"><meta name="referrer" content="no-referrer">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(title)}</title>'
        f"<style>{STYLE}{MORE_STYLE}{style}</style></head><body><main>{join(body)}</main></body></html>\n"
    )


def contents(links: Sequence[tuple[str, str]]) -> Html:
    """A list of links to the sections: (anchor, title)."""
    items = join(element("li", element("a", title, href=f"#{anchor}")) for anchor, title in links)
    return element("nav", element("ol", items), aria_label="Contents")


def section(anchor: str, title: str, *parts: Html) -> Html:
    """A titled part of the page."""
    return element("section", join([element("h2", title, id=anchor), *parts]))


def badge(words: str, kind: str = "") -> Html:
    """A word in a frame beside a name."""
    return element("span", words, class_=f"badge {kind}".strip())


def cards(facts: Sequence[tuple[str, str]]) -> Html:
    """The few figures that matter: (what, figure)."""
    inside = join(element("div", join([element("dt", what), element("dd", figure)])) for what, figure in facts)
    return element("dl", inside, class_="cards")

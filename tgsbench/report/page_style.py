"""The report page's style sheet: system fonts, two colour schemes, phone and paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark;
  --bg: #ffffff; --fg: #1b1f24; --muted: #57606a; --line: #d5dae0; --soft: #f4f6f8;
  --c0: #0b62c4; --c1: #b4520a; --c2: #1a7f4b; --c3: #7a3fb5; --c4: #a3256b; --c5: #5d6b0f; }
@media (prefers-color-scheme: dark) { :root {
  --bg: #14171b; --fg: #e6e9ed; --muted: #9aa4af; --line: #363d46; --soft: #1d2228;
  --c0: #6cb1ff; --c1: #f2a05c; --c2: #63cf95; --c3: #c29bf2; --c4: #f08cbd; --c5: #c3d05a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 32px 0 8px; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 20px 0 6px; }
small, .muted { color: var(--muted); font-weight: 400; }
p { margin: 4px 0; }
li { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
.scroll:focus-visible { outline: 2px solid var(--c0); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13.5px; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--soft); font-weight: 600; white-space: normal;
  vertical-align: bottom; }
tbody th { font-weight: 500; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--bg); }
thead th:first-child { background: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr));
  gap: 14px; margin-top: 14px; }
figure { margin: 0; padding: 12px; border: 1px solid var(--line); border-radius: 6px; min-width: 0; }
figcaption { font-weight: 600; font-size: 13.5px; margin-bottom: 4px; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12.5px; margin-bottom: 6px; }
.key { width: 12px; height: 12px; margin-right: 5px; vertical-align: -1px; }
.chart { display: block; width: 100%; height: auto; }
.chart text { font-size: 11px; fill: var(--fg); font-family: system-ui, sans-serif; }
.chart text.muted { fill: var(--muted); }
.chart text.none { fill: var(--muted); font-style: italic; }
.axis { stroke: var(--muted); } .grid { stroke: var(--line); }
.limit { stroke: var(--muted); stroke-dasharray: 5 4; }
.interval { fill: none; stroke: var(--fg); stroke-width: 1.3; }
.line { fill: none; stroke: var(--c); stroke-width: 1.8; } .bar, .mark { fill: var(--c); }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); }
.c3 { --c: var(--c3); } .c4 { --c: var(--c4); } .c5 { --c: var(--c5); }
pre { background: var(--soft); padding: 12px; border-radius: 6px; font-size: 12.5px; line-height: 1.45;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 14px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; margin: 0; font-size: 13.5px; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) { dl { grid-template-columns: 1fr; } dt { margin-top: 6px; }
  th, td { padding: 5px 7px; } }
@media print { :root { color-scheme: light;
    --bg: #fff; --fg: #000; --muted: #444; --line: #bbb; --soft: #f2f2f2;
    --c0: #0b62c4; --c1: #b4520a; --c2: #1a7f4b; --c3: #7a3fb5; --c4: #a3256b; --c5: #5d6b0f; }
  @page { size: A4 landscape; margin: 12mm; }
  body { font-size: 11px; } main { max-width: none; padding: 0; }
  table { font-size: 9px; } th, td { padding: 2px 4px; white-space: normal; }
  .scroll { overflow: visible; border: 0; } th:first-child { position: static; }
  .charts { grid-template-columns: 1fr 1fr; }
  figure, tr, section > h2, section > h3 { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

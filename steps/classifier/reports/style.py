"""The style sheets of the reports: light and dark, from 400 px wide upwards."""

PAGE_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2330; --dim: #5b6675; --line: #dfe3e9;
  --hit: #2a9d8f; --miss: #e4572e; --bar: #3b7dd8; --track: #e8ebf0; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b2129; --text: #e6eaf0; --dim: #98a4b3;
  --line: #303945; --hit: #2fae9e; --miss: #f0714b; --bar: #5b9cf2; --track: #2a323d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 16px; }
header, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px;
  margin-bottom: 16px; }
h1 { font-size: 1.15rem; margin: 0; color: var(--dim); font-weight: 600; }
h2 { font-size: 1.15rem; margin: 0 0 8px; }
p { margin: 0 0 12px; color: var(--dim); }
section > p:last-child { margin-bottom: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; margin: 16px 0 0; }
.tiles div { border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px; }
.tiles dt { color: var(--dim); font-size: 0.85rem; }
.tiles dd { margin: 0; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.scroll { overflow: auto; max-height: 80vh; overscroll-behavior-x: contain; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th { font-weight: 500; text-align: left; }
h3 { font-size: 1rem; margin: 0 0 6px; }
.bar { width: 23%; white-space: nowrap; }
.bar span { display: inline-block; vertical-align: middle; width: calc(100% - 3rem); height: 8px; margin-right: 8px;
  border-radius: 4px; background: linear-gradient(var(--bar) 0 0) 0 / calc(100% * var(--value)) 100% no-repeat,
  var(--track); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 8px 32px; }
.facts table { width: 100%; align-self: start; }
.facts caption { text-align: left; color: var(--dim); padding-bottom: 4px; }
.facts th, .facts td { padding: 4px 12px 4px 0; border-top: 1px solid var(--line); vertical-align: top; }
.facts th { width: 45%; color: var(--dim); }
.facts td { overflow-wrap: anywhere; }
@media (max-width: 640px) {
  main { padding: 8px; }
  header, section { padding: 14px; }
  .bar { grid-column: 1 / -1; width: 100%; }
  .bar::before { content: attr(data-name); display: inline-block; width: 5rem; color: var(--dim); }
  .bar span { width: calc(100% - 8.5rem); }
}
"""

EVALUATION_STYLE = """
.accuracy { color: var(--text); margin: 4px 0; font-size: 1.15rem; }
.accuracy strong { font-size: 3rem; line-height: 1.1; letter-spacing: -0.02em; }
.matrix { font-size: 0.85rem; }
.matrix td { min-width: 2.5rem; height: 2.1rem; padding: 0 4px; text-align: center;
  border-right: 1px solid var(--line); border-bottom: 1px solid var(--line);
  background: color-mix(in srgb, var(--miss) calc(15% + 75% * var(--share, -0.2)), transparent); }
.matrix .hit { background: color-mix(in srgb, var(--hit) calc(10% + 60% * var(--share, -0.1)), transparent); }
.matrix thead th { position: sticky; top: 0; z-index: 1; background: var(--card); vertical-align: bottom;
  border-bottom: 1px solid var(--line); padding: 4px; }
.matrix thead span { display: block; writing-mode: vertical-rl; transform: rotate(180deg); margin: 0 auto;
  max-height: 9rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.matrix.short thead span { writing-mode: horizontal-tb; transform: none; text-align: center; }
.matrix tbody th { position: sticky; left: 0; background: var(--card); max-width: 9rem; padding: 0 8px 0 0;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; border-right: 1px solid var(--line);
  border-bottom: 1px solid var(--line); }
.matrix .corner { left: 0; z-index: 2; font-size: 0.75rem; color: var(--dim); border-right: 1px solid var(--line); }
.beside { display: flex; flex-wrap: wrap; gap: 16px 40px; align-items: start; }
.beside .scroll { max-width: 100%; }
.pairs ol { margin: 0; padding-left: 1.75rem; }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--track); }
figure .tiny { image-rendering: pixelated; }
figcaption { padding: 6px 10px 8px; font-size: 0.85rem; overflow-wrap: anywhere; }
.wrong, .right { font-weight: 600; }
.wrong { color: var(--miss); }
.wrong::before { content: "✗ "; }
.right { color: var(--hit); }
.right::before { content: "✓ "; }
.classes { width: 100%; }
.classes th, .classes td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); }
.classes thead th { position: sticky; top: 0; background: var(--card); color: var(--dim); font-size: 0.85rem; }
.classes .support { text-align: right; width: 4rem; }
.reliability { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); gap: 16px 40px; }
.diagram { border: 0; border-radius: 0; overflow: visible; max-width: 400px; }
.diagram figcaption { padding: 0 0 6px; font-size: 0.9rem; }
.diagram svg { display: block; width: 100%; height: auto; }
.diagram text { font: 10px system-ui, sans-serif; fill: var(--dim); font-variant-numeric: tabular-nums; }
.diagram .end { text-anchor: end; } .diagram .middle { text-anchor: middle; }
.diagram .plot { fill: none; stroke: var(--line); } .diagram .grid { stroke: var(--line); }
.diagram .right-share { fill: var(--bar); fill-opacity: 0.75; }
.diagram .distance { fill: var(--miss); fill-opacity: 0.35; stroke: var(--miss); stroke-width: 0.7; }
.diagram .diagonal { stroke: var(--text); stroke-width: 1.2; stroke-dasharray: 4 3; }
.diagram .count { fill: var(--dim); }
.verdict { color: var(--text); }
.versus { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px 40px; }
.versus table { width: 100%; align-self: start; }
.versus caption { text-align: left; color: var(--dim); padding-bottom: 4px; }
.versus thead th { color: var(--dim); font-size: 0.85rem; }
.versus th, .versus td { padding: 5px 0 5px 12px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
.versus th:first-child { padding-left: 0; text-align: left; max-width: 11rem; overflow: hidden;
  text-overflow: ellipsis; }
.better { color: var(--hit); font-weight: 600; }
.worse { color: var(--miss); font-weight: 600; }
.alike { color: var(--dim); }
.change span { display: inline-block; vertical-align: middle; width: 5rem; height: 8px; margin-right: 8px;
  border-radius: 4px; background: linear-gradient(to right, transparent var(--start), currentColor var(--start)
  var(--end), transparent var(--end)), linear-gradient(to right, transparent calc(50% - 0.5px), var(--dim) 0
  calc(50% + 0.5px), transparent 0), var(--track); }
@media (max-width: 640px) {
  .change span { display: none; }
  .accuracy strong { font-size: 2.5rem; }
  .matrix tbody th { max-width: 7.5rem; }
  .classes thead { display: none; }
  .classes tr { display: grid; grid-template-columns: 1fr auto; border-bottom: 1px solid var(--line); padding: 6px 0; }
  .classes th, .classes td { border: 0; padding: 1px 0; }
  .classes .support { width: auto; }
  .classes .support::after { content: " images"; color: var(--dim); }
}
"""

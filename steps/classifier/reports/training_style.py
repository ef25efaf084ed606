"""The style sheet of the training report's own parts: outcome, rules, charts, stacked bar, tables of figures."""

TRAINING_STYLE = """
:root { --c0: #2b6cd4; --c1: #d9730d; --c2: #17936f; --c3: #b4418e; --c4: #6f56c9; --c5: #8a7a00; --c6: #c23a4b;
  --c7: #3b8299; --good: #17803d; --warn: #a15c00; --bad: #c22f2f; --plot: #fafbfc; --code: #f1f3f6; }
@media (prefers-color-scheme: dark) { :root { --c0: #6ea8ff; --c1: #ff9f4a; --c2: #3fc79a; --c3: #ec83c8;
  --c4: #ab97ff; --c5: #d6c24a; --c6: #ff7d8a; --c7: #6fc0d8; --good: #4fc978; --warn: #f0a94a; --bad: #ff7b72;
  --plot: #171d25; --code: #141a21; } }
html { scroll-padding-top: 12px; }
h1 span { font-weight: 400; overflow-wrap: anywhere; }
h3 { overflow-wrap: anywhere; }
h2 + ul, h3 + ul { margin-top: 0; }
a { color: inherit; font-weight: 600; text-underline-offset: 2px; }
.outcome { border-top: 5px solid var(--dim); }
.outcome .verdict { margin: 4px 0; color: var(--text); }
.outcome strong { font-size: 2.25rem; line-height: 1.15; letter-spacing: -0.02em; overflow-wrap: anywhere; }
.good { border-top-color: var(--good); } .good strong { color: var(--good); }
.warn { border-top-color: var(--warn); } .warn strong { color: var(--warn); }
.bad { border-top-color: var(--bad); } .bad strong { color: var(--bad); }
.because { color: var(--text); overflow-wrap: anywhere; max-width: 46rem; }
.outcome h2 { font-size: 1rem; margin: 18px 0 4px; }
.findings, .missing, .firings { margin: 0; padding: 0; list-style: none; }
.findings li, .missing li { padding: 4px 0 4px 22px; position: relative; overflow-wrap: anywhere; }
.findings li::before, .missing li::before { content: "●"; position: absolute; left: 0; color: var(--bad); }
.findings .error::before { content: "▲"; color: var(--warn); }
.missing li { color: var(--dim); } .missing li::before { content: "○"; color: var(--dim); }
.in-short { margin: 16px 0 0; color: var(--text); } .in-short::before { content: "✓ "; color: var(--good); }
.in-short.unsure::before { content: "○ "; color: var(--dim); }
.rule { border: 1px solid var(--line); border-left-width: 5px; border-radius: 8px; }
article.rule { padding: 14px 16px; margin-bottom: 12px; }
.rule.fired { border-left-color: var(--bad); } .rule.error { border-left-color: var(--warn); }
.rule h3 { font-size: 1.05rem; margin-bottom: 4px; }
.rule h3 small { font-weight: 400; color: var(--dim); }
.rule .verdict { font-size: 0.78rem; font-weight: 600; padding: 2px 9px; border-radius: 999px; white-space: nowrap;
  color: var(--dim); border: 1px solid currentColor; margin-left: 4px; }
.fired .verdict { color: var(--bad); } .error .verdict { color: var(--warn); }
.told { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 380px); gap: 8px 28px; }
.told > :only-child { grid-column: 1 / -1; }
.looks-for { margin-bottom: 8px; }
.firings li { margin-bottom: 6px; overflow-wrap: anywhere; }
.when { font-weight: 600; margin-right: 4px; font-variant-numeric: tabular-nums; } .when::after { content: ":"; }
.advice { color: var(--text); background: var(--code); border-radius: 6px; padding: 10px 12px; margin: 10px 0; }
.advice b { display: block; font-size: 0.85rem; color: var(--dim); font-weight: 600; }
.parameters { font-size: 0.82rem; margin: 8px 0 0; overflow-wrap: anywhere; }
.quiet-rules { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); gap: 8px;
  align-items: start; }
.rule.quiet { padding: 7px 12px; border-left-width: 1px; min-width: 0; }
.quiet[open] { padding-bottom: 12px; }
.quiet summary b { font-weight: 500; overflow-wrap: anywhere; }
.quiet summary b::before { content: "✓ "; color: var(--good); }
.quiet p { font-size: 0.9rem; margin: 6px 0; }
summary { cursor: pointer; overflow-wrap: anywhere; } summary::marker { color: var(--dim); }
pre { overflow: auto; background: var(--code); border-radius: 6px; padding: 10px 12px; font-size: 0.8rem;
  line-height: 1.4; max-height: 24rem; margin: 8px 0 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 20px 16px; }
.chart { margin: 0; min-width: 0; max-width: 440px; display: flex; flex-direction: column; }
.charts .chart svg { margin-top: auto; }
.chart svg { display: block; width: 100%; height: auto; }
.chart figcaption { font-size: 0.9rem; margin-bottom: 4px; overflow-wrap: anywhere; }
.chart text { font: 11px system-ui, sans-serif; fill: var(--dim); font-variant-numeric: tabular-nums; }
.chart .end { text-anchor: end; } .chart .middle { text-anchor: middle; }
.plot { fill: var(--plot); stroke: var(--line); }
.grid { stroke: var(--line); fill: none; }
.line { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.dot { fill: currentColor; fill-opacity: 0.85; }
.threshold { fill: none; stroke: var(--bad); stroke-width: 1.4; stroke-dasharray: 6 4; }
.mark { fill: none; stroke: var(--dim); stroke-width: 1.2; stroke-dasharray: 2 3; }
svg .best { fill: none; stroke: var(--text); stroke-width: 2; }
.lost { fill: none; stroke: var(--bad); stroke-width: 2; }
.legend { display: flex; flex-wrap: wrap; gap: 0 12px; font-size: 0.8rem; color: var(--dim); }
.legend .key { max-width: 100%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.key i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; background: currentColor;
  vertical-align: middle; margin-right: 5px; }
.key.c0 i { color: var(--c0); } .key.c1 i { color: var(--c1); } .key.c2 i { color: var(--c2); }
.key.c3 i { color: var(--c3); } .key.c4 i { color: var(--c4); } .key.c5 i { color: var(--c5); }
.key.c6 i { color: var(--c6); } .key.c7 i { color: var(--c7); }
svg .c0 { color: var(--c0); } svg .c1 { color: var(--c1); } svg .c2 { color: var(--c2); } svg .c3 { color: var(--c3); }
svg .c4 { color: var(--c4); } svg .c5 { color: var(--c5); } svg .c6 { color: var(--c6); } svg .c7 { color: var(--c7); }
.key.threshold i { height: 0; border-top: 2px dashed var(--bad); background: none; }
.key.mark i { width: 0; height: 12px; border-left: 2px dotted var(--dim); border-radius: 0; background: none; }
.key.best i { width: 11px; height: 11px; border: 2px solid var(--text); border-radius: 50%; background: none; }
.key.lost i { width: 3px; height: 10px; color: var(--bad); }
.aside { color: var(--dim); }
.nothing { padding: 24px 0; text-align: center; }
.stack { display: flex; height: 34px; border-radius: 6px; overflow: hidden; gap: 1px; background: var(--card); }
.stack span { flex: 0 0 0; min-width: 2px; background: currentColor; }
.stack .c0 { color: var(--c0); } .stack .c1 { color: var(--c1); } .stack .c2 { color: var(--c2); }
.stack .c3 { color: var(--c3); } .stack .c4 { color: var(--c4); } .stack .c5 { color: var(--c5); }
.stack .c6 { color: var(--c6); } .stack .c7 { color: var(--c7); }
.parts { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 10px 0 18px; padding: 0; list-style: none; }
.parts i { width: 11px; height: 11px; border-radius: 3px; vertical-align: baseline; }
.parts b { font-weight: 600; }
.operators, .trials { width: 100%; font-size: 0.9rem; }
.operators th, .operators td, .trials th, .trials td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
.operators thead th, .trials thead th { position: sticky; top: 0; background: var(--card); color: var(--dim);
  font-size: 0.82rem; }
.operators tbody th { overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: 0.82rem; }
.operators .bar { width: 40%; } .operators .bar span { width: calc(100% - 5rem); }
.number { text-align: right; white-space: nowrap; }
.operators thead th:nth-child(2), .operators thead th:nth-child(4) { text-align: right; }
.charts + .scroll { margin-top: 18px; }
.trials th, .trials td { white-space: nowrap; }
.winner th, .winner td { font-weight: 600; background: color-mix(in srgb, var(--good) 12%, transparent); }
.winner th { color: var(--good); padding-left: 6px; border-radius: 6px 0 0 6px; }
@media (max-width: 800px) { .told { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 640px) {
  .outcome strong { font-size: 1.8rem; }
  .operators thead { display: none; }
  .operators tr { display: grid; grid-template-columns: 1fr auto auto; border-bottom: 1px solid var(--line);
    padding: 6px 0; }
  .operators th, .operators td { border: 0; padding: 1px 0 1px 12px; } .operators tbody th { padding-left: 0; }
  .operators tr > :nth-child(3) { order: 1; padding-left: 0; } .operators .bar { width: 100%; }
  .operators .bar::before { content: none; } .operators .bar span { width: calc(100% - 5.5rem); }
  .operators td:nth-child(2)::after { content: "×"; }
}
"""

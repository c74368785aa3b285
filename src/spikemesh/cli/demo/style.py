"""The look of the report page: one sheet, light and dark, from a phone's width up. Nothing is loaded from elsewhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --panel: #ffffff; --ink: #1e1d1a; --muted: #66645e; --line: #dedad0;
  --accent: #c2410c; --good: #1a7f4b; --bad: #b3261e;
  --series-0: #2a6fc9; --series-1: #c9418a; --series-2: #16916a; --series-3: #7a4fc9; --series-4: #b57a00;
  --series-5: #0f8a9d; --series-6: #8a5a44; --series-7: #5c6b73;
  --chip-ink: 34%; --chip-paper: 93%;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #161618; --panel: #1e1e21; --ink: #ecebe7; --muted: #a3a19a; --line: #38373a;
    --accent: #ff8a4c; --good: #5cc88f; --bad: #ff8077;
    --series-0: #6aa9f5; --series-1: #ef7fb8; --series-2: #45c79b; --series-3: #ae90f5; --series-4: #e0ad3c;
    --series-5: #4cc3d6; --series-6: #c39a84; --series-7: #9fb0b8;
    --chip-ink: 76%; --chip-paper: 22%;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; letter-spacing: -.02em; margin: 0 0 .6rem; }
h2 { font-size: 1.2rem; letter-spacing: -.01em; margin: 3rem 0 .3rem; }
p { margin: .4rem 0; max-width: 44rem; overflow-wrap: anywhere; }
.note, figcaption { color: var(--muted); font-size: .92rem; }
.mono { font-family: var(--mono); font-size: .86em; overflow-wrap: anywhere; }
.verdict { display: inline-block; margin-top: .9rem; padding: .3rem .8rem; border-radius: 2rem; font-weight: 600;
  border: 1.5px solid currentColor; }
.good { color: var(--good); } .bad { color: var(--bad); }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); gap: 1px; margin: 2rem 0 0;
  padding: 0;
  background: var(--line); border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }
.tiles div { background: var(--panel); padding: 1rem 1.1rem; }
.tiles dt { color: var(--muted); font-size: .86rem; }
.tiles dd { margin: 0; }
.tiles .value { font-size: 1.75rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tiles .value small { font-size: .95rem; font-weight: 500; letter-spacing: 0; color: var(--muted); }
.tiles .beside { font-size: .86rem; color: var(--muted); }

figure { margin: .8rem 0 0; } figcaption { margin-top: .6rem; max-width: 44rem; }
.plot svg { display: block; width: 100%; height: auto; overflow: visible; stroke-linejoin: round; }
.plot svg text { font-family: inherit !important; font-variant-numeric: tabular-nums; }
.plot .narrow { display: none; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .5rem 0 .2rem; padding: 0; list-style: none;
  font-size: .9rem; }
.legend li { display: flex; align-items: center; gap: .45rem; overflow-wrap: anywhere; min-width: 0; }
.stroke { flex: none; width: 1.5rem; border-top: 3px solid; }
.stroke.dashed { border-top-style: dashed; }
.events { margin: .6rem 0 0; padding: 0; list-style: none; font-size: .92rem; display: grid;
  grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: .15rem 1.5rem; }
.events li { display: flex; gap: .6rem; overflow-wrap: anywhere; min-width: 0; }
.events b { flex: none; min-width: 1.1rem; color: var(--muted); }
.events time { flex: none; color: var(--muted); min-width: 3.6rem; font-variant-numeric: tabular-nums; }

table { width: 100%; border-collapse: collapse; margin: .8rem 0 0; font-size: .93rem; }
caption { text-align: left; color: var(--muted); font-size: .92rem; padding: 0 0 .5rem; }
th, td { text-align: left; padding: .5rem .8rem .5rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th { font-weight: 600; } thead th { color: var(--muted); font-size: .84rem; font-weight: 500; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th:last-child, td:last-child { padding-right: 0; }
.chip { font-family: var(--mono); font-size: .84rem; padding: .12rem .45rem; border-radius: .3rem;
  display: inline-block;
  color: hsl(var(--hue) 70% var(--chip-ink)); background: hsl(var(--hue) 60% var(--chip-paper));
  overflow-wrap: anywhere; }
.chip b { font-family: system-ui, sans-serif; margin-right: .5rem; }
pre { background: var(--panel); border: 1px solid var(--line); border-left: 4px solid var(--accent);
  border-radius: .4rem; margin: .8rem 0 0;
  padding: 1rem 1.1rem; font: .86rem/1.6 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin-top: .8rem; } summary { cursor: pointer; color: var(--muted); }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--muted);
  font-size: .88rem; }
footer dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
footer dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }

@media (max-width: 44rem) {
  main { padding: 1.6rem 1rem 3rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tiles div { padding: .8rem .8rem; } .tiles .value { font-size: 1.45rem; }
  .plot .wide { display: none; } .plot .narrow { display: block; }
  .cards, .cards caption, .cards tbody { display: block; } .cards thead { display: none; }
  .cards tr { display: block; padding: .6rem 0; border-bottom: 1px solid var(--line); }
  .cards th, .cards td, .cards td.number { display: flex; justify-content: space-between; gap: 1rem;
  text-align: right; border: 0; padding: .08rem 0; }
  .cards th { text-align: left; font-size: 1rem; }
  .cards td::before { content: attr(data-label); color: var(--muted); text-align: left; flex: none; max-width: 55%; }
  .cards td.whole { display: block; text-align: left; } .cards td.whole::before { content: none; }
}
@media print { .plot, table, pre { break-inside: avoid; } }
"""

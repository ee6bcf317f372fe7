/* What the viewer is made of: its styles and its parts. Colours follow the page's. */

export const STYLE = `
  :host { display: block; color: var(--body-text-color, #17212b); container-type: inline-size;
    font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
    --soft: var(--body-text-color-subdued, #5a6672); --rule: var(--border-color-primary, #dde2e7);
    --card: var(--block-background-fill, #fff); --score: var(--ctv-score, #1f6f8b);
    --mark: var(--ctv-mark, #b35c00); }
  .grid { display: grid; grid-template-columns: minmax(0, 680px) minmax(300px, 1fr); gap: 20px; align-items: start; }
  @container (max-width: 820px) { .grid { grid-template-columns: minmax(0, 1fr); } }
  .look { min-width: 0; max-width: 680px; width: 100%; margin: 0 auto; }
  .bar { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; margin-bottom: 10px; }
  .windows { display: inline-flex; border: 1px solid var(--rule); border-radius: 9px; overflow: hidden; }
  button { font: inherit; color: inherit; background: var(--card); border: 0; cursor: pointer; }
  .windows button { padding: 7px 13px; min-height: 36px; border-right: 1px solid var(--rule); }
  .windows button:last-child { border-right: 0; }
  .windows button[aria-pressed=true] { background: var(--score); color: var(--ctv-on-score, #fff); }
  .over { display: inline-flex; align-items: center; gap: 8px; margin-left: auto; min-height: 36px; }
  .over label { display: inline-flex; gap: 6px; align-items: center; cursor: pointer; }
  .over input[type=range] { width: 84px; }
  input { accent-color: var(--score); }
  .stage { position: relative; background: #000; border-radius: 12px; overflow: hidden; margin: 0 auto;
    touch-action: pan-y; user-select: none; -webkit-user-select: none; cursor: crosshair; }
  :focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
  canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
  .stage span, .stage output { position: absolute; color: #fff; pointer-events: none;
    text-shadow: 0 0 3px #000, 0 0 3px #000, 0 1px 2px #000; font-variant-numeric: tabular-nums; }
  .side { font-weight: 650; font-size: 15px; }
  .r { left: 10px; top: 50%; margin-top: -11px; } .l { right: 28px; top: 50%; margin-top: -11px; } .a { left: 50%; top: 6px; }
  .p { left: 50%; bottom: 6px; }
  .place { left: 12px; top: 8px; line-height: 1.35; } .place i { font-style: normal; } .hu { right: 26px; top: 8px; } .win { left: 12px; bottom: 8px; }
  .win i { font-style: normal; margin-right: 1ch; } .win b { font-weight: inherit; } @container (max-width: 480px) { .win i { display: none; } }
  .wait { left: 50%; top: 50%; transform: translate(-50%, -50%); opacity: 0; transition: opacity .2s .25s; }
  .busy .wait { opacity: 1; }
  .strip { left: auto; right: 6px; top: 6px; width: 10px; height: calc(100% - 12px); border-radius: 5px; }
  .needle { position: absolute; right: 3px; width: 16px; height: 2px; background: #fff;
    box-shadow: 0 0 3px #000; pointer-events: none; }
  [hidden] { display: none !important; }
  .scroll { width: 100%; margin: 12px 0 0; height: 28px; display: block; }
  .curve { position: relative; height: 140px; cursor: pointer; touch-action: pan-y; }
  svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
  .g { stroke: var(--rule); } .c { stroke: var(--score); stroke-width: 2; opacity: .35; }
  .s { fill: none; stroke: var(--score); stroke-width: 2; stroke-linejoin: round; }
  .d { fill: var(--score); } .k { stroke: var(--mark); stroke-dasharray: 3 3; }
  .area { fill: var(--mark); } .now { stroke: currentColor; stroke-width: 1.5; }
  svg text { fill: var(--soft); paint-order: stroke; stroke: var(--body-background-fill, #fff); stroke-width: 3px; font-size: 11.5px; font-variant-numeric: tabular-nums; }
  .ends { display: flex; justify-content: space-between; gap: 10px; text-align: center; color: var(--soft); font-size: 12.5px; }
  .keys { display: flex; flex-wrap: wrap; gap: 7px; margin: 12px 0 0; padding: 0; list-style: none; }
  .keys button { border: 1px solid var(--rule); border-radius: 18px; padding: 5px 12px; min-height: 34px;
    font-variant-numeric: tabular-nums; }
  .keys button[aria-current=true] { border-color: var(--mark); box-shadow: inset 0 0 0 1px var(--mark); }
  .keys b { color: var(--mark); margin-right: 4px; }
  .help { color: var(--soft); font-size: 12.5px; margin: 10px 0 0; }
  .trouble { padding: 14px 16px; border: 1px solid var(--mark); border-radius: 10px; }
  @media (prefers-reduced-motion: reduce) { .wait { transition: none; } }
`;

export const FRAME = `
  <div class="grid">
    <div class="look">
      <div class="bar">
        <div class="windows" role="group" aria-label="Window"></div>
        <div class="over">
          <label><input type="checkbox" class="on" checked> Relevance</label>
          <input type="range" class="opacity" min="0.1" max="1" step="0.05" value="0.7"
            aria-label="Opacity of the relevance">
        </div>
      </div>
      <div class="stage" tabindex="0" role="slider" aria-label="Axial slice" aria-valuemin="0">
        <canvas class="picture"></canvas>
        <canvas class="strip" title="Relevance of each slice, head at the top"></canvas>
        <i class="needle"></i>
        <span class="side r">R</span><span class="side l">L</span>
        <span class="side a">A</span><span class="side p">P</span>
        <span class="place"><b></b><br><i></i></span><span class="hu"></span><span class="win"><i></i><b></b></span>
        <span class="wait">loading</span>
      </div>
      <input type="range" class="scroll" min="0" step="1" aria-label="Slice, from feet to head">
      <div class="curve"><svg role="img"></svg></div>
      <div class="ends"><span>feet</span><span class="what"></span><span>head</span></div>
      <ul class="keys" aria-label="Most suspicious slices"></ul>
      <p class="help why"></p>
      <p class="help">Scroll with the wheel, a sideways swipe or the arrow keys (Page Up and Down
        for ten, Home and End); 1 to 4 set the window, R shows relevance.</p>
    </div>
    <div class="aside"><slot></slot></div>
  </div>`;

/* The viewer of the demo: <ct-viewer src="ct-video/TOKEN">. No library, no request elsewhere.

   Slices come as HU (see encode_slice in routes.py) and are windowed here, so that changing the
   window or scrolling back asks the server for nothing. */
(() => {
  "use strict";

  // centre and width in HU
  const WINDOWS = [
    { name: "Lung", centre: -600, width: 1500 },
    { name: "Mediastinum", centre: 40, width: 400 },
    { name: "Bone", centre: 400, width: 1800 },
    { name: "PE", centre: 100, width: 700 },
  ];
  const LOWEST = -1024, LEVELS = 4096; // HU that are sent
  const KEPT = 96; // slices in memory
  const AHEAD = 6; // slices asked for around the one that is shown
  const TOGETHER = 4; // requests at a time
  const FAINT = 8; // of 255: what a map says less than that is not painted
  const INSET = 9; // half a slider's thumb: the curve below lies on the slider's axis

  const STYLE = `
    :host { display: block; color: var(--body-text-color, #17212b); container-type: inline-size;
      font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
      --soft: var(--body-text-color-subdued, #5a6672); --rule: var(--border-color-primary, #dde2e7);
      --card: var(--block-background-fill, #fff); --score: var(--ctv-score, #1f6f8b);
      --mark: var(--ctv-mark, #b35c00); }
    .grid { display: grid; grid-template-columns: minmax(0, 1fr) 320px; gap: 20px; align-items: start; }
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

  const FRAME = `
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
          <span class="place"><b></b><br><i></i></span><span class="hu"></span><span class="win"></span>
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

  // from near black over orange to pale yellow
  const heat = (share) =>
    [Math.min(255, 40 + 330 * share), 20 + 200 * share * share, 20 + 120 * share ** 4].map(Math.round);
  const HEAT = Uint8Array.from(Array.from({ length: 256 }, (_, level) => heat(level / 255)).flat());

  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };

  class CTViewer extends HTMLElement {
    connectedCallback() {
      if (this.shadowRoot) return;
      this.attachShadow({ mode: "open" }).innerHTML = `<style>${STYLE}</style>${FRAME}`;
      this.$ = (name) => this.shadowRoot.querySelector(name);
      this.slices = new Map();
      this.asked = new Map();
      this.index = 0;
      this.window = 0;
      this.start().catch((error) => this.fail(error));
    }

    disconnectedCallback() {
      if (this.resized) this.resized.disconnect();
      for (const request of this.asked?.values() ?? []) request.abort();
    }

    async start() {
      const answer = await fetch(`${this.getAttribute("src")}/facts`);
      const facts = await answer.json();
      if (!answer.ok) throw new Error(facts.error);
      this.facts = facts;
      this.best = facts.key_slices.length ? facts.key_slices[0] : facts.slices >> 1;
      const stage = this.$(".stage"), picture = this.$(".picture");
      stage.style.aspectRatio = `${facts.width_mm} / ${facts.height_mm}`;
      picture.width = facts.columns;
      picture.height = facts.rows;
      this.pixels = new ImageData(facts.columns, facts.rows);
      this.pixels.data.fill(255);
      stage.setAttribute("aria-valuemax", facts.slices - 1);
      this.$(".scroll").max = facts.slices - 1;
      this.$(".what").textContent =
        `clip scores for “${facts.label}”${facts.relevance ? ", relevance of slices" : ""}; z in mm`;
      if (!facts.relevance && !facts.map) this.$(".over").hidden = true;
      this.$(".over").title = facts.map_words;
      if (!facts.map && facts.map_words) this.$(".why").textContent = `No map in the plane: ${facts.map_words}`;
      this.buttons();
      this.listen();
      this.setWindow(0);
      this.showRelevance();
      this.resized = new ResizeObserver(() => this.drawCurve());
      this.resized.observe(this.$(".curve"));
      this.go(this.best);
    }

    fail(error) {
      const box = document.createElement("p");
      box.className = "trouble";
      box.setAttribute("role", "alert");
      box.textContent = `The pictures cannot be shown: ${error.message}`;
      this.$(".look").replaceChildren(box);
    }

    buttons() {
      WINDOWS.forEach((window, number) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = window.name;
        button.title = `centre ${window.centre}, width ${window.width} HU (key ${number + 1})`;
        button.onclick = () => this.setWindow(number);
        this.$(".windows").append(button);
      });
      this.facts.key_slices.forEach((index, number) => {
        const button = document.createElement("button"), rank = document.createElement("b");
        button.type = "button";
        rank.textContent = number + 1;
        button.append(rank, `slice ${index}`);
        button.dataset.index = index;
        button.onclick = () => this.go(index);
        const item = document.createElement("li");
        item.append(button);
        this.$(".keys").append(item);
      });
    }

    listen() {
      const stage = this.$(".stage"), curve = this.$(".curve");
      this.$(".scroll").addEventListener("input", (event) => this.go(+event.target.value));
      this.$(".on").addEventListener("change", () => this.showRelevance());
      this.$(".opacity").addEventListener("input", () => this.showRelevance());
      stage.addEventListener("keydown", (event) => this.key(event));
      stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
      stage.addEventListener("pointerleave", () => (this.$(".hu").textContent = ""));
      let from = null;
      stage.addEventListener("pointerdown", (event) => {
        stage.focus({ preventScroll: true });
        from = { x: event.clientX, index: this.index };
      });
      stage.addEventListener("pointerup", () => (from = null));
      stage.addEventListener("pointercancel", () => (from = null));
      stage.addEventListener("pointermove", (event) => {
        if (from && event.pointerType === "touch") {
          const per = Math.max(4, stage.clientWidth / Math.max(this.facts.slices, 40));
          this.go(from.index + Math.round((event.clientX - from.x) / per));
        } else this.probe(event);
      });
      const jump = (event) => {
        const box = curve.getBoundingClientRect();
        const share = (event.clientX - box.left - INSET) / (box.width - 2 * INSET);
        this.go(Math.round(share * (this.facts.slices - 1)));
      };
      curve.addEventListener("pointerdown", (event) => {
        curve.setPointerCapture(event.pointerId);
        jump(event);
      });
      curve.addEventListener("pointermove", (event) => {
        if (curve.hasPointerCapture(event.pointerId)) jump(event);
      });
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const last = this.facts.slices - 1;
      const targets = {
        ArrowUp: this.index + 1, ArrowRight: this.index + 1, ArrowDown: this.index - 1,
        ArrowLeft: this.index - 1, PageUp: this.index + 10, PageDown: this.index - 10,
        Home: 0, End: last,
      };
      if (event.key in targets) this.go(targets[event.key]);
      else if (event.key >= "1" && event.key <= String(WINDOWS.length)) this.setWindow(event.key - 1);
      else if (event.key.toLowerCase() === "r" && !this.$(".over").hidden) {
        this.$(".on").checked = !this.$(".on").checked;
        this.showRelevance();
      } else return;
      event.preventDefault();
    }

    wheel(event) {
      if (event.ctrlKey) return; // zooms the page
      const up = event.deltaY < 0;
      if (this.index === (up ? this.facts.slices - 1 : 0)) return; // the page scrolls on
      event.preventDefault();
      this.turned = (this.turned || 0) + event.deltaY * (event.deltaMode ? 30 : 1);
      const steps = Math.trunc(this.turned / 30);
      this.turned -= steps * 30;
      if (steps) this.go(this.index - steps);
    }

    go(index) {
      const last = this.facts.slices - 1;
      index = Math.max(0, Math.min(last, index));
      this.heading = index < this.index ? -1 : 1;
      this.index = index;
      const { z_mm: z } = this.facts;
      const place = `slice ${index} of 0 to ${last}, z ${z[index].toFixed(1)} mm`;
      const scores = this.facts.clips.filter((c) => c.start <= index && index < c.stop);
      const score = scores.length ? Math.max(...scores.map((c) => c.score)).toFixed(3) : "none";
      this.$(".place b").textContent = `slice ${index}`;
      this.$(".place i").textContent = `z ${z[index].toFixed(1)} mm`;
      this.$(".scroll").value = index;
      this.$(".scroll").setAttribute("aria-valuetext", place);
      this.$(".stage").setAttribute("aria-valuenow", index);
      this.$(".stage").setAttribute("aria-valuetext", `${place}, highest clip score ${score}`);
      this.$(".needle").style.top = `calc(6px + (100% - 12px) * ${(last - index + 0.5) / (last + 1)} - 1px)`;
      for (const button of this.shadowRoot.querySelectorAll(".keys button"))
        button.setAttribute("aria-current", +button.dataset.index === index);
      this.moveCursor();
      this.draw();
      this.fetchAround();
    }

    // ---- slices

    fetchAround() {
      const wanted = [this.index];
      for (let step = 1; step <= AHEAD; step++)
        wanted.push(this.index + step * this.heading, this.index - step * this.heading);
      const near = new Set(wanted.filter((i) => i >= 0 && i < this.facts.slices));
      for (const [index, request] of this.asked)
        if (!near.has(index)) {
          request.abort();
          this.asked.delete(index);
        }
      for (const index of near) {
        if (this.asked.size >= TOGETHER) break;
        if (!this.slices.has(index) && !this.asked.has(index)) this.fetchSlice(index);
      }
    }

    async fetchSlice(index) {
      const request = new AbortController();
      this.asked.set(index, request);
      try {
        const parts = this.facts.map ? ["slice", "map"] : ["slice"];
        const [slice, map] = await Promise.all(parts.map((part) => this.fetchPart(part, index, request.signal)));
        this.keep(index, slice, map);
      } catch (error) {
        if (error.name !== "AbortError" && index === this.index) this.fail(error);
        return;
      } finally {
        if (this.asked.get(index) === request) this.asked.delete(index);
      }
      if (index === this.index) this.draw();
      this.fetchAround();
    }

    async fetchPart(part, index, signal) {
      const answer = await fetch(`${this.getAttribute("src")}/${part}/${index}`, { signal });
      if (!answer.ok) throw new Error((await answer.json()).error);
      return new Uint8Array(await answer.arrayBuffer());
    }

    keep(index, bytes, map) {
      const { rows, columns } = this.facts, count = rows * columns, hu = new Int16Array(count);
      for (let row = 0, at = 0; row < rows; row++) {
        let value = 0;
        for (let column = 0; column < columns; column++, at++) {
          value = ((value + ((bytes[at] << 8) | bytes[count + at])) << 16) >> 16;
          hu[at] = value;
        }
      }
      this.slices.set(index, { hu, map });
      if (this.slices.size > KEPT) {
        const far = [...this.slices.keys()].sort((a, b) => Math.abs(b - this.index) - Math.abs(a - this.index));
        this.slices.delete(far[0]);
      }
    }

    setWindow(number) {
      this.window = number;
      const { name, centre, width } = WINDOWS[number];
      this.grey = new Uint8ClampedArray(LEVELS);
      for (let level = 0; level < LEVELS; level++)
        this.grey[level] = ((level + LOWEST - centre + width / 2) * 255) / width;
      this.shadowRoot.querySelectorAll(".windows button").forEach((button, place) =>
        button.setAttribute("aria-pressed", place === number));
      this.$(".win").textContent = `${name}  C ${centre}  W ${width}`;
      this.draw();
    }

    draw() {
      const slice = this.slices.get(this.index);
      this.$(".stage").classList.toggle("busy", !slice);
      if (!slice) return;
      const { hu, map } = slice, { data } = this.pixels, { grey } = this;
      const over = this.$(".on").checked && map ? +this.$(".opacity").value : 0;
      for (let at = 0, to = 0; at < hu.length; at++, to += 4) {
        const value = grey[hu[at] - LOWEST];
        if (over && map[at] > FAINT) {
          const share = over * Math.min(1, map[at] / 160), from = 3 * map[at];
          for (let part = 0; part < 3; part++)
            data[to + part] = value + (HEAT[from + part] - value) * share;
        } else data[to] = data[to + 1] = data[to + 2] = value;
      }
      this.$(".picture").getContext("2d").putImageData(this.pixels, 0, 0);
      this.$(".stage").dataset.shown = this.index;
      this.$(".stage").dataset.overlay = over;
    }

    probe(event) {
      const hu = this.slices.get(this.index)?.hu;
      if (!hu || event.pointerType === "touch") return;
      const box = this.$(".stage").getBoundingClientRect(), { rows, columns } = this.facts;
      const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
      const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
      if (row < 0 || row >= rows || column < 0 || column >= columns) return;
      this.$(".hu").textContent = `${hu[row * columns + column]} HU`;
    }

    // ---- relevance and the curve

    showRelevance() {
      const on = this.$(".on").checked && !!this.facts.relevance;
      const strip = this.$(".strip");
      strip.hidden = this.$(".needle").hidden = !on;
      this.$(".opacity").disabled = !on;
      strip.style.opacity = this.$(".opacity").value;
      if (on && strip.width !== 1) {
        strip.width = 1;
        strip.height = this.facts.slices;
        const painter = strip.getContext("2d"), top = Math.max(...this.facts.relevance, 1e-6);
        this.facts.relevance.forEach((value, index) => {
          painter.fillStyle = `rgb(${heat(value / top).join(" ")})`;
          painter.fillRect(0, this.facts.slices - 1 - index, 1, 1);
        });
      }
      this.drawCurve();
      this.draw();
    }

    across(index) {
      const width = this.$(".curve").clientWidth;
      return INSET + ((width - 2 * INSET) * index) / Math.max(this.facts.slices - 1, 1);
    }

    drawCurve() {
      const box = this.$(".curve"), { clips, relevance, key_slices: keys, slices } = this.facts;
      const top = 12, foot = box.clientHeight - 20, paper = this.$("svg");
      if (!box.clientWidth) return;
      const x = (index) => this.across(index), y = (score) => foot - (foot - top) * score;
      const best = Math.max(...clips.map((clip) => clip.score));
      paper.setAttribute("aria-label",
        `Scores of ${clips.length} clips from feet to head, highest ${best.toFixed(3)}`);
      const parts = [], labels = [];
      for (const score of [0, 0.5, 1]) {
        parts.push(svg("line", { class: "g", x1: 0, x2: box.clientWidth, y1: y(score), y2: y(score) }));
        labels.push(svg("text", { x: 0, y: y(score) - 3 }));
        labels.at(-1).textContent = score;
      }
      if (this.$(".on").checked && relevance) {
        const line = relevance.map((value, index) => `${x(index)},${y(value)}`).join(" ");
        parts.push(svg("polygon", {
          class: "area", opacity: 0.55 * this.$(".opacity").value,
          points: `${x(0)},${foot} ${line} ${x(slices - 1)},${foot}`,
        }));
      }
      for (const key of keys) parts.push(svg("line", { class: "k", x1: x(key), x2: x(key), y1: top, y2: foot }));
      const middle = (clip) => x((clip.start + clip.stop - 1) / 2);
      for (const clip of clips)
        parts.push(svg("line", { class: "c", x1: x(clip.start), x2: x(clip.stop - 1), y1: y(clip.score), y2: y(clip.score) }));
      parts.push(svg("polyline", { class: "s", points: clips.map((c) => `${middle(c)},${y(c.score)}`).join(" ") }));
      const radius = clips.length > 60 ? 2 : 3.5;
      for (const clip of clips) parts.push(svg("circle", { class: "d", cx: middle(clip), cy: y(clip.score), r: radius }));
      for (const [index, z] of this.ticks()) {
        parts.push(svg("line", { class: "g", x1: x(index), x2: x(index), y1: foot, y2: foot + 4 }));
        labels.push(svg("text", { x: x(index), y: foot + 16, "text-anchor": "middle" }));
        labels.at(-1).textContent = z;
      }
      this.cursor = svg("line", { class: "now", y1: 0, y2: foot });
      paper.replaceChildren(...parts, ...labels, this.cursor);
      this.moveCursor();
    }

    /** Where round heights lie: [slice, mm] pairs, at most about six. */
    ticks() {
      const { z_mm: z } = this.facts, low = z[0], high = z.at(-1);
      const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
      const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
      const found = [];
      for (let mm = Math.ceil(low / step) * step, at = 0; mm <= high; mm += step) {
        while (at < z.length - 2 && z[at + 1] < mm) at++;
        found.push([at + (mm - z[at]) / (z[at + 1] - z[at]), Math.round(mm * 10) / 10]);
      }
      return found;
    }

    moveCursor() {
      if (!this.cursor) return;
      this.cursor.setAttribute("x1", this.across(this.index));
      this.cursor.setAttribute("x2", this.across(this.index));
    }
  }

  customElements.define("ct-viewer", CTViewer);
})();

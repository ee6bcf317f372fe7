/* The curve of clip scores along the body; a press or a drag on it jumps to that slice. */

const INSET = 9; // half a slider's thumb: the curve lies on the axis of the slider above it

const svg = (name, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

export class Curve {
  /** @param jump called with the slice that was pressed on */
  constructor(box, facts, jump) {
    Object.assign(this, { box, facts, paper: box.querySelector("svg"), index: 0, over: 0 });
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(box);
    const press = (event) => {
      const { left, width } = box.getBoundingClientRect();
      const share = (event.clientX - left - INSET) / (width - 2 * INSET);
      jump(Math.round(share * (facts.slices - 1)));
    };
    box.addEventListener("pointerdown", (event) => {
      box.setPointerCapture(event.pointerId);
      press(event);
    });
    box.addEventListener("pointermove", (event) => {
      if (box.hasPointerCapture(event.pointerId)) press(event);
    });
  }

  close() {
    this.resized.disconnect();
  }

  /** Show where one looks. */
  lookAt(index) {
    this.index = index;
    if (!this.cursor) return;
    this.cursor.setAttribute("x1", this.x(index));
    this.cursor.setAttribute("x2", this.x(index));
  }

  /** Show the relevance of slices below the scores; 0 for none. */
  setOver(over) {
    this.over = this.facts.relevance ? over : 0;
    this.draw();
  }

  x(index) {
    return INSET + ((this.box.clientWidth - 2 * INSET) * index) / Math.max(this.facts.slices - 1, 1);
  }

  y(score) {
    return this.foot - (this.foot - this.top) * score;
  }

  draw() {
    const { clips, key_slices: keys } = this.facts;
    if (!this.box.clientWidth) return;
    this.top = 12;
    this.foot = this.box.clientHeight - 20;
    const best = Math.max(...clips.map((clip) => clip.score));
    this.paper.setAttribute("aria-label",
      `Scores of ${clips.length} clips from feet to head, highest ${best.toFixed(3)}`);
    const { lines, labels } = this.axes();
    if (this.over) lines.push(this.area());
    for (const key of keys)
      lines.push(svg("line", { class: "k", x1: this.x(key), x2: this.x(key), y1: this.top, y2: this.foot }));
    this.cursor = svg("line", { class: "now", y1: 0, y2: this.foot });
    this.paper.replaceChildren(...lines, ...this.scores(), ...labels, this.cursor);
    this.lookAt(this.index);
  }

  axes() {
    const lines = [], labels = [];
    for (const score of [0, 0.5, 1]) {
      lines.push(svg("line", { class: "g", x1: 0, x2: this.box.clientWidth, y1: this.y(score), y2: this.y(score) }));
      labels.push(svg("text", { x: 0, y: this.y(score) - 3 }));
      labels.at(-1).textContent = score;
    }
    for (const [index, z] of this.ticks()) {
      lines.push(svg("line", { class: "g", x1: this.x(index), x2: this.x(index), y1: this.foot, y2: this.foot + 4 }));
      labels.push(svg("text", { x: this.x(index), y: this.foot + 16, "text-anchor": "middle" }));
      labels.at(-1).textContent = z;
    }
    return { lines, labels };
  }

  area() {
    const { relevance, slices } = this.facts;
    const line = relevance.map((value, index) => `${this.x(index)},${this.y(value)}`).join(" ");
    return svg("polygon", {
      class: "area", opacity: 0.55 * this.over,
      points: `${this.x(0)},${this.foot} ${line} ${this.x(slices - 1)},${this.foot}`,
    });
  }

  scores() {
    const { clips } = this.facts;
    const middle = (clip) => this.x((clip.start + clip.stop - 1) / 2);
    const spans = clips.map((clip) => svg("line", {
      class: "c", x1: this.x(clip.start), x2: this.x(clip.stop - 1), y1: this.y(clip.score), y2: this.y(clip.score),
    }));
    const points = clips.map((clip) => `${middle(clip)},${this.y(clip.score)}`).join(" ");
    const r = clips.length > 60 ? 2 : 3.5;
    const dots = clips.map((clip) => svg("circle", { class: "d", cx: middle(clip), cy: this.y(clip.score), r }));
    return [...spans, svg("polyline", { class: "s", points }), ...dots];
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
}

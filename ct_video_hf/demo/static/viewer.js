/* The viewer of the demo: <ct-viewer src="ct-video/TOKEN">. No library, no request elsewhere.

   Slices are windowed here (picture.js), so that changing the window or scrolling back asks the
   server for nothing. */

import { Curve } from "./curve.js";
import { FRAME, STYLE } from "./frame.js";
import { paintStrip, Picture, WINDOWS } from "./picture.js";
import { Slices } from "./slices.js";

class CTViewer extends HTMLElement {
  connectedCallback() {
    if (this.shadowRoot) return;
    this.attachShadow({ mode: "open" }).innerHTML = `<style>${STYLE}</style>${FRAME}`;
    this.$ = (name) => this.shadowRoot.querySelector(name);
    this.index = 0;
    this.start().catch((error) => this.fail(error));
  }

  disconnectedCallback() {
    this.curve?.close();
    this.slices?.close();
  }

  async start() {
    const source = this.getAttribute("src");
    const answer = await fetch(`${source}/facts`);
    const facts = await answer.json();
    if (!answer.ok) throw new Error(facts.error);
    this.facts = facts;
    this.last = facts.slices - 1;
    this.picture = new Picture(this.$(".picture"), facts);
    this.slices = new Slices(source, facts, () => this.draw(), (error) => this.fail(error));
    this.curve = new Curve(this.$(".curve"), facts, (index) => this.go(index));
    this.label();
    this.buttons();
    this.listen();
    this.setWindow(0);
    this.showRelevance();
    this.go(facts.key_slices.length ? facts.key_slices[0] : facts.slices >> 1);
  }

  fail(error) {
    const box = document.createElement("p");
    box.className = "trouble";
    box.setAttribute("role", "alert");
    box.textContent = `The pictures cannot be shown: ${error.message}`;
    this.$(".look").replaceChildren(box);
  }

  // ---- what stands around the slice

  label() {
    const { facts } = this, stage = this.$(".stage");
    stage.style.aspectRatio = `${facts.width_mm} / ${facts.height_mm}`;
    stage.setAttribute("aria-valuemax", this.last);
    this.$(".scroll").max = this.last;
    this.$(".what").textContent =
      `clip scores for “${facts.label}”${facts.relevance ? ", relevance of slices" : ""}; z in mm`;
    if (!facts.relevance && !facts.map) this.$(".over").hidden = true;
    this.$(".over").title = facts.map_words;
    if (!facts.map && facts.map_words) this.$(".why").textContent = `No map in the plane: ${facts.map_words}`;
    if (facts.relevance) paintStrip(this.$(".strip"), facts.relevance);
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

  // ---- keys, wheel and pointer

  listen() {
    const stage = this.$(".stage");
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
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const targets = {
      ArrowUp: this.index + 1, ArrowRight: this.index + 1, ArrowDown: this.index - 1,
      ArrowLeft: this.index - 1, PageUp: this.index + 10, PageDown: this.index - 10,
      Home: 0, End: this.last,
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
    if (this.index === (up ? this.last : 0)) return; // the page scrolls on
    event.preventDefault();
    this.turned = (this.turned || 0) + event.deltaY * (event.deltaMode ? 30 : 1);
    const steps = Math.trunc(this.turned / 30);
    this.turned -= steps * 30;
    if (steps) this.go(this.index - steps);
  }

  probe(event) {
    const slice = this.slices.get(this.index);
    if (!slice || event.pointerType === "touch") return;
    const hu = this.picture.under(event, slice);
    if (hu !== undefined) this.$(".hu").textContent = `${hu} HU`;
  }

  // ---- what is shown

  go(index) {
    const { last } = this;
    index = Math.max(0, Math.min(last, index));
    this.index = index;
    const z = this.facts.z_mm[index].toFixed(1), place = `slice ${index} of 0 to ${last}, z ${z} mm`;
    const scores = this.facts.clips.filter((c) => c.start <= index && index < c.stop);
    const score = scores.length ? Math.max(...scores.map((c) => c.score)).toFixed(3) : "none";
    this.$(".place b").textContent = `slice ${index}`;
    this.$(".place i").textContent = `z ${z} mm`;
    this.$(".scroll").value = index;
    this.$(".scroll").setAttribute("aria-valuetext", place);
    this.$(".stage").setAttribute("aria-valuenow", index);
    this.$(".stage").setAttribute("aria-valuetext", `${place}, highest clip score ${score}`);
    this.$(".needle").style.top = `calc(6px + (100% - 12px) * ${(last - index + 0.5) / (last + 1)} - 1px)`;
    for (const button of this.shadowRoot.querySelectorAll(".keys button"))
      button.setAttribute("aria-current", +button.dataset.index === index);
    this.curve.lookAt(index);
    this.draw();
    this.slices.lookAt(index);
  }

  setWindow(number) {
    const { name, centre, width } = WINDOWS[number];
    this.picture.setWindow(WINDOWS[number]);
    this.shadowRoot.querySelectorAll(".windows button").forEach((button, place) =>
      button.setAttribute("aria-pressed", place === number));
    this.$(".win i").textContent = name;
    this.$(".win b").textContent = `C ${centre}  W ${width}`;
    this.draw();
  }

  /** Opacity of the relevance, 0 while it is switched off. */
  get over() {
    return this.$(".on").checked ? +this.$(".opacity").value : 0;
  }

  showRelevance() {
    const along = !!this.over && !!this.facts.relevance;
    this.$(".strip").hidden = this.$(".needle").hidden = !along;
    this.$(".strip").style.opacity = this.$(".opacity").value;
    this.$(".opacity").disabled = !this.over;
    this.curve.setOver(this.over);
    this.draw();
  }

  draw() {
    const slice = this.slices.get(this.index), stage = this.$(".stage");
    stage.classList.toggle("busy", !slice);
    if (!slice) return;
    const over = slice.map ? this.over : 0;
    this.picture.paint(slice, over);
    stage.dataset.shown = this.index;
    stage.dataset.overlay = over;
  }
}

customElements.define("ct-viewer", CTViewer);

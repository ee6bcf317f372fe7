/* Slices of a scan, with their planes of the map: fetched ahead of where one looks, kept a while.

   They come as HU, see encode_slice in routes.py. */

const KEPT = 96; // slices in memory
const AHEAD = 6; // slices asked for around the one that is shown
const TOGETHER = 4; // requests at a time

export class Slices {
  /** @param source where a scan's parts are; @param arrived, failed called with what they say */
  constructor(source, facts, arrived, failed) {
    Object.assign(this, { source, facts, arrived, failed });
    this.index = 0;
    this.heading = 1;
    this.held = new Map();
    this.asked = new Map();
  }

  /** { hu, map } of a slice, undefined while it is not there. */
  get(index) {
    return this.held.get(index);
  }

  /** Look at a slice: it and those around it are asked for, others no longer. */
  lookAt(index) {
    this.heading = index < this.index ? -1 : 1;
    this.index = index;
    this.fetchAround();
  }

  close() {
    for (const request of this.asked.values()) request.abort();
  }

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
      if (!this.held.has(index) && !this.asked.has(index)) this.fetchSlice(index);
    }
  }

  async fetchSlice(index) {
    const request = new AbortController();
    this.asked.set(index, request);
    try {
      const parts = this.facts.map ? ["slice", "map"] : ["slice"];
      const [slice, map] = await Promise.all(parts.map((part) => this.fetchPart(part, index, request.signal)));
      this.keep(index, { hu: this.decoded(slice), map });
    } catch (error) {
      if (error.name !== "AbortError" && index === this.index) this.failed(error);
      return;
    } finally {
      if (this.asked.get(index) === request) this.asked.delete(index);
    }
    if (index === this.index) this.arrived();
    this.fetchAround();
  }

  async fetchPart(part, index, signal) {
    const answer = await fetch(`${this.source}/${part}/${index}`, { signal });
    if (!answer.ok) throw new Error((await answer.json()).error);
    return new Uint8Array(await answer.arrayBuffer());
  }

  decoded(bytes) {
    const { rows, columns } = this.facts, count = rows * columns, hu = new Int16Array(count);
    for (let row = 0, at = 0; row < rows; row++) {
      let value = 0;
      for (let column = 0; column < columns; column++, at++) {
        value = ((value + ((bytes[at] << 8) | bytes[count + at])) << 16) >> 16;
        hu[at] = value;
      }
    }
    return hu;
  }

  keep(index, slice) {
    this.held.set(index, slice);
    if (this.held.size <= KEPT) return;
    const far = [...this.held.keys()].sort((a, b) => Math.abs(b - this.index) - Math.abs(a - this.index));
    this.held.delete(far[0]);
  }
}

/* A slice as it is painted: HU through a window, and the map over it. */

// centre and width in HU
export const WINDOWS = [
  { name: "Lung", centre: -600, width: 1500 },
  { name: "Mediastinum", centre: 40, width: 400 },
  { name: "Bone", centre: 400, width: 1800 },
  { name: "PE", centre: 100, width: 700 },
];

const LOWEST = -1024, LEVELS = 4096; // HU that are sent
const FAINT = 8; // of 255: what a map says less than that is not painted

// from near black over orange to pale yellow
const heat = (share) =>
  [Math.min(255, 40 + 330 * share), 20 + 200 * share * share, 20 + 120 * share ** 4].map(Math.round);
const HEAT = Uint8Array.from(Array.from({ length: 256 }, (_, level) => heat(level / 255)).flat());

export class Picture {
  constructor(canvas, { rows, columns }) {
    Object.assign(this, { canvas, rows, columns });
    canvas.width = columns;
    canvas.height = rows;
    this.pixels = new ImageData(columns, rows);
    this.pixels.data.fill(255);
  }

  setWindow({ centre, width }) {
    this.grey = new Uint8ClampedArray(LEVELS);
    for (let level = 0; level < LEVELS; level++)
      this.grey[level] = ((level + LOWEST - centre + width / 2) * 255) / width;
  }

  /** Paint a slice; `over` is the opacity of its map, 0 for none. */
  paint({ hu, map }, over) {
    const { data } = this.pixels, { grey } = this;
    for (let at = 0, to = 0; at < hu.length; at++, to += 4) {
      const value = grey[hu[at] - LOWEST];
      if (over && map[at] > FAINT) {
        const share = over * Math.min(1, map[at] / 160), from = 3 * map[at];
        for (let part = 0; part < 3; part++)
          data[to + part] = value + (HEAT[from + part] - value) * share;
      } else data[to] = data[to + 1] = data[to + 2] = value;
    }
    this.canvas.getContext("2d").putImageData(this.pixels, 0, 0);
  }

  /** HU under the pointer, undefined beside the picture. */
  under({ clientX, clientY }, { hu }) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor(((clientX - box.left) / box.width) * this.columns);
    const row = Math.floor(((clientY - box.top) / box.height) * this.rows);
    if (row < 0 || row >= this.rows || column < 0 || column >= this.columns) return undefined;
    return hu[row * this.columns + column];
  }
}

/** A canvas one pixel wide: the relevance of each slice, head at the top. */
export function paintStrip(canvas, relevance) {
  canvas.width = 1;
  canvas.height = relevance.length;
  const painter = canvas.getContext("2d"), top = Math.max(...relevance, 1e-6);
  relevance.forEach((value, index) => {
    painter.fillStyle = `rgb(${heat(value / top).join(" ")})`;
    painter.fillRect(0, relevance.length - 1 - index, 1, 1);
  });
}

// Draws the pool: a cell for every block, in the colours of the style sheet.

import { number } from "./format.js";
import { t } from "./strings.js";

const CELL_MIN = 3;
const CELL_MAX = 16;
/** Colours of sequences, as the style sheet numbers them. */
export const COLOURS = 10;
/** From this size on, cells have room for gaps and marks. */
const GAP_FROM = 5;
const MARK_FROM = 7;

/** The number of a sequence's colour. Neighbours in time differ. */
export function colourOf(id) {
  return id % COLOURS;
}

export class PoolMap {
  constructor(canvas, onInspect) {
    this.canvas = canvas;
    this.answer = null;
    this.cells = [];
    this.cursor = null;
    this.drawn = "";
    this.onInspect = onInspect;
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    window.addEventListener("themechange", () => this.redraw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("pointerleave", () => this.inspect(null));
  }

  /** Shows an answer of `/v1/memory/blocks`. */
  show(answer) {
    this.answer = answer;
    this.cells = answer.runs.flatMap(([count, code]) => new Array(count).fill(code));
    this.draw();
    if (this.cursor !== null) this.inspect(Math.min(this.cursor, this.cells.length - 1));
  }

  redraw() {
    this.drawn = "";
    this.draw();
  }

  draw() {
    if (!this.answer) return;
    const width = this.canvas.parentElement.clientWidth;
    if (width === 0) return;
    const key = JSON.stringify([width, this.cursor, devicePixelRatio, this.answer.runs, this.answer.sequences.map(({ id }) => id)]);
    if (key === this.drawn) return;
    this.drawn = key;
    this.lay(width);
    const { canvas, size, columns } = this;
    const scale = devicePixelRatio || 1;
    const rows = Math.ceil(this.cells.length / columns);
    canvas.style.height = `${rows * size}px`;
    canvas.style.width = `${columns * size}px`;
    canvas.width = Math.round(columns * size * scale);
    canvas.height = Math.round(rows * size * scale);
    const brush = canvas.getContext("2d");
    brush.scale(scale, scale);
    this.paint(brush);
  }

  /** The largest cells with which all fit the height there is. */
  lay(width) {
    const height = Math.max(220, Math.min(460, innerHeight * 0.55));
    const count = Math.max(this.cells.length, 1);
    let size = CELL_MAX;
    while (size > CELL_MIN && Math.ceil(count / Math.floor(width / size)) * size > height) size -= 1;
    this.size = size;
    this.columns = Math.max(1, Math.floor(width / size));
  }

  paint(brush) {
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const { legend, sequences } = this.answer;
    const named = legend.map((name) => colour(`--cell-${name}`));
    const owned = Array.from({ length: COLOURS }, (_, index) => colour(`--seq-${index}`));
    const { size, columns } = this;
    const gap = size >= GAP_FROM ? 1 : 0;
    const mark = colour("--cell-mark");
    this.cells.forEach((code, index) => {
      const [x, y] = [(index % columns) * size, Math.floor(index / columns) * size];
      const side = size - gap;
      brush.fillStyle = code < legend.length ? named[code] : owned[colourOf(sequences[code - legend.length]?.id ?? 0)];
      if (legend[code] === "uncommitted" && gap) {
        // Only an address: an outline.
        brush.fillRect(x, y, side, side);
        brush.clearRect(x + 1, y + 1, side - 2, side - 2);
        return;
      }
      brush.fillRect(x, y, side, side);
      if (legend[code] === "shared" && size >= MARK_FROM) {
        brush.strokeStyle = mark;
        brush.beginPath();
        brush.moveTo(x + 1, y + side - 1);
        brush.lineTo(x + side - 1, y + 1);
        brush.stroke();
      }
    });
    if (this.cursor !== null) {
      brush.strokeStyle = colour("--ink");
      brush.lineWidth = 2;
      const [x, y] = [(this.cursor % columns) * size, Math.floor(this.cursor / columns) * size];
      brush.strokeRect(x - 0.5, y - 0.5, size + 0.5, size + 0.5);
    }
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / this.size);
    const row = Math.floor((event.clientY - box.top) / this.size);
    const cell = row * this.columns + column;
    this.inspect(column < this.columns && cell >= 0 && cell < this.cells.length ? cell : null);
  }

  /** Points out a cell and says what it is. */
  inspect(cell) {
    this.cursor = cell;
    this.draw();
    this.onInspect(cell === null ? "" : this.describe(cell), cell);
  }

  describe(cell) {
    const { legend, sequences, blocks, blocks_per_cell: each } = this.answer;
    const code = this.cells[cell];
    const sequence = sequences[code - legend.length];
    const what = sequence ? t("memory.sequence", { id: sequence.id }) : t(`memory.${legend[code]}`);
    const first = cell * each;
    const last = Math.min(first + each, blocks) - 1;
    return t("memory.map.at", { block: first === last ? number(first) : `${number(first)}–${number(last)}`, what });
  }
}

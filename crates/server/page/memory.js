// The memory view: numbers of now, the budget line by line, the map of the pool, and who is in it.

import { get } from "./api.js";
import { el, svg } from "./dom.js";
import { bytes, number, percent, rate, seconds } from "./format.js";
import { colourOf, PoolMap } from "./map.js";
import { errorCard } from "./message.js";
import { t } from "./strings.js";
import { WhatIf } from "./whatif.js";

/** Looks a second, and how many of them also ask for the lines. */
const LOOK_MS = 250;
const LINES_EVERY = 4;
/** How far back rates are measured, and sparklines go. */
const RATE_SECONDS = 1.5;
const SPARK_SECONDS = 60;
const SPARK_STEP_SECONDS = 0.5;

/** Tiles that show the last minute. */
const SPARKS = ["rate", "ttft", "running", "pool"];

const STATES = ["owned", "shared", "cached", "free", "uncommitted"];
/** Lines of the plan by what people ask about. */
const GROUPS = {
  weights: ["weights_resident", "weights_mapped", "weights_ring"],
  kv: ["kv_pool", "kv_tables", "kv_tier"],
  work: ["activations", "logits", "sampler", "tokenizer", "threads", "http", "drafts"],
  process: ["program", "margin"],
};

export function startMemory(root, context) {
  return new Memory(root, context);
}

class Memory {
  constructor(root, context) {
    this.context = context;
    this.isShown = false;
    this.timer = null;
    this.looks = 0;
    this.samples = [];
    this.sparks = emptySparks();
    this.build(root);
  }

  build(root) {
    this.trouble = el("div", { class: "notice" });
    this.tiles = Object.fromEntries(["rate", "ttft", "running", "pool", "hits", "preemptions"].map((name) => [name, tile(name)]));
    const now = el("section", { class: "tiles", "aria-label": t("memory.now") }, ...Object.values(this.tiles).map(({ node }) => node));
    this.canvas = el("canvas", { role: "img", "aria-label": t("memory.map") });
    const frame = el("div", { class: "map-frame" }, this.canvas);
    this.inspected = el("output", { class: "inspected", for: "inspect" });
    this.slider = el("input", { id: "inspect", type: "range", min: "0", value: "0", step: "1" });
    this.map = new PoolMap(this.canvas, (text, cell) => {
      this.inspected.textContent = text;
      if (cell !== null) this.slider.value = cell;
      this.slider.setAttribute("aria-valuetext", text);
    });
    this.slider.addEventListener("input", () => this.map.inspect(Number(this.slider.value)));
    this.slider.addEventListener("blur", () => this.map.inspect(null));
    this.mapNote = el("p", { class: "quiet small" });
    this.legend = el("ul", { class: "legend" });
    this.full = el("p", { class: "notice-full", role: "status", hidden: true });
    const inspect = el("div", { class: "inspect" }, el("label", { for: "inspect", text: t("memory.map.inspect") }), this.slider, this.inspected);
    const pool = panel("memory.map", "pool", this.mapNote, this.full, frame, this.legend, inspect);
    this.requests = el("div", { class: "table", tabindex: "0", role: "group", "aria-label": t("memory.requests") });
    const requests = panel("memory.requests", "requests", this.requests);
    this.bars = el("div", { class: "bars" });
    this.budgetNote = el("p", { class: "quiet small" });
    this.lines = el("div", { class: "table", tabindex: "0", role: "group", "aria-label": t("memory.lines") });
    const lines = el("details", { class: "lines" }, el("summary", { text: t("memory.lines") }), this.lines);
    const budget = panel("memory.budget", "budget", this.budgetNote, this.bars, lines);
    this.whatIf = new WhatIf(this.context, () => this.look(true));
    const left = el("div", { class: "column" }, pool, requests);
    const right = el("div", { class: "column" }, budget, panel("whatif.title", "whatif", ...this.whatIf.nodes));
    root.append(el("h1", { class: "visually-hidden", text: t("nav.memory") }), this.trouble, now, el("div", { class: "columns" }, left, right));
    document.addEventListener("visibilitychange", () => this.pace());
  }

  /** Asks the server only while somebody can see the answer. */
  setShown(isShown) {
    this.isShown = isShown;
    this.pace();
  }

  /** Another model, or another key. */
  reload() {
    this.samples = [];
    this.sparks = emptySparks();
    this.looks = 0;
    this.whatIf.forget();
    this.pace();
  }

  pace() {
    clearTimeout(this.timer);
    if (this.isShown && !document.hidden && this.context.model()) this.look();
  }

  async look(withLines = false) {
    clearTimeout(this.timer);
    const begun = performance.now();
    try {
      const model = this.context.model();
      const [blocks, memory] = await Promise.all([
        get(`/v1/memory/blocks?model=${encodeURIComponent(model)}`),
        withLines || this.looks % LINES_EVERY === 0 ? get("/v1/memory") : null,
      ]);
      this.looks += 1;
      this.showTrouble(null);
      if (model === this.context.model()) this.show(blocks, memory);
    } catch (error) {
      this.showTrouble(error);
    }
    if (!this.isShown || document.hidden) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), Math.max(LOOK_MS - (performance.now() - begun), LOOK_MS / 5));
  }

  /** Says once what is in the way, however often it is met. */
  showTrouble(error) {
    const key = error ? error.code || error.message : "";
    if (key === this.troubled) return;
    this.troubled = key;
    if (!error) this.trouble.replaceChildren();
    else if (error.code === "model_not_loaded") this.trouble.replaceChildren(el("p", { class: "quiet", text: t("memory.unloaded") }));
    else this.trouble.replaceChildren(errorCard(error, { openKey: this.context.openKey }));
  }

  show(blocks, memory) {
    this.measure(blocks);
    this.showNow(blocks);
    this.showPool(blocks);
    this.showRequests(blocks);
    if (memory) {
      this.showBudget(memory);
      const model = memory.models.find(({ id }) => id === blocks.model);
      if (model) this.whatIf.offer(model, memory);
    }
  }

  /** Turns counters into rates. */
  measure({ counters, counts, running, blocks }) {
    const now = performance.now() / 1000;
    this.samples.push({ now, ...counters });
    while (this.samples.length > 2 && this.samples[1].now < now - RATE_SECONDS) this.samples.shift();
    const [first] = this.samples;
    const time = now - first.now;
    this.rate = time > 0 ? (counters.output_tokens - first.output_tokens) / time : 0;
    const firsts = counters.ttft_count - first.ttft_count;
    if (firsts > 0) this.ttft = (counters.ttft_seconds - first.ttft_seconds) / firsts;
    this.note("rate", now, this.rate);
    this.note("ttft", now, firsts > 0 ? this.ttft : null);
    this.note("running", now, running);
    this.note("pool", now, (counts.owned + counts.shared) / Math.max(blocks, 1));
  }

  note(name, now, value) {
    const points = this.sparks[name];
    if (points.length > 0 && now - points.at(-1).now < SPARK_STEP_SECONDS) {
      if (value !== null) points.at(-1).value = Math.max(points.at(-1).value ?? 0, value);
      return;
    }
    points.push({ now, value });
    while (points[0].now < now - SPARK_SECONDS) points.shift();
  }

  showNow({ counts, blocks, running, waiting, counters }) {
    const held = counts.owned + counts.shared;
    const { rate: rateTile, ttft, running: runningTile, pool, hits, preemptions } = this.tiles;
    rateTile.set(rate(this.rate), t("memory.rate.unit"));
    spark(rateTile.spark, this.sparks.rate, t("memory.spark", { name: t("memory.rate"), value: rate(this.rate) }));
    const first = this.ttft === undefined ? "–" : seconds(this.ttft);
    ttft.set(first, "");
    spark(ttft.spark, this.sparks.ttft, t("memory.spark", { name: t("memory.ttft"), value: first }));
    runningTile.set(number(running), t("memory.queue", { count: number(waiting) }));
    spark(runningTile.spark, this.sparks.running, t("memory.spark", { name: t("memory.running"), value: number(running) }));
    pool.set(percent(held, blocks), t("memory.pool.of", { used: number(held), count: number(blocks) }));
    // Of the whole pool, not of the most there was.
    spark(pool.spark, this.sparks.pool, t("memory.spark", { name: t("memory.pool"), value: percent(held, blocks) }), 1);
    hits.set(percent(counters.prefix_hit_tokens, counters.prefix_query_tokens), t("memory.hits.note"));
    preemptions.set(number(counters.preemptions), t("memory.preemptions.note"));
  }

  showPool(answer) {
    const { blocks, block_size: tokens, block_bytes: each, blocks_per_cell: perCell, counts, waiting } = answer;
    const note = [t("memory.map.note", { blocks: number(blocks), tokens: number(tokens), bytes: bytes(each) })];
    if (perCell > 1) note.push(t("memory.map.cell", { count: number(perCell) }));
    this.mapNote.textContent = note.join(" · ");
    const isFull = waiting > 0 && counts.free + counts.uncommitted + counts.cached === 0;
    this.full.hidden = !isFull;
    if (isFull) this.full.textContent = t("memory.full", { count: number(waiting) });
    const said = Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, number(count)]));
    this.canvas.setAttribute("aria-label", t("memory.map.label", said));
    this.slider.max = Math.max(Math.ceil(blocks / perCell) - 1, 0);
    this.map.show(answer);
    this.legend.replaceChildren(
      ...STATES.map((name) => el("li", {}, el("span", { class: `swatch cell-${name}` }), el("span", { text: t(`memory.${name}`) }), el("span", { class: "count", text: number(counts[name]) }))),
    );
  }

  showRequests({ sequences, running, waiting }) {
    if (sequences.length === 0) {
      this.requests.replaceChildren(el("p", { class: "quiet", text: t("memory.requests.none") }));
      return;
    }
    const heads = ["request", "state", "tokens", "blocks", "hit", "preempted", "age"];
    const head = el("tr", {}, ...heads.map((name) => el("th", { scope: "col", class: `col-${name}`, text: t(`memory.${name}`) })));
    const rows = sequences.map((sequence) => requestRow(sequence));
    const table = el("table", { class: "dense" }, el("thead", {}, head), el("tbody", {}, ...rows));
    const more = running + waiting - sequences.length;
    const rest = more > 0 ? el("p", { class: "quiet small", text: t("memory.requests.more", { count: number(more) }) }) : null;
    this.requests.replaceChildren(table, ...(rest ? [rest] : []));
  }

  showBudget({ budget, planned, committed, used, lines, process }) {
    const note = [t("memory.budget.of", { committed: bytes(committed), budget: bytes(budget) })];
    if (process) note.push(t("memory.resident", { bytes: bytes(process.resident) }));
    this.budgetNote.textContent = note.join(" · ");
    const sums = { planned, committed, used };
    const bars = Object.entries(sums).map(([state, sum]) => bar(state, sum, budget, groupsOf(lines, state)));
    const legend = Object.keys(GROUPS).map((name) => el("li", {}, el("span", { class: `swatch group-${name}` }), el("span", { text: t(`memory.${name}`) })));
    this.bars.replaceChildren(...bars, el("ul", { class: "legend" }, ...legend));
    const states = Object.keys(sums);
    const head = el("tr", {}, el("th", { scope: "col", text: t("memory.line") }), ...states.map((state) => el("th", { scope: "col", class: "side-end", text: t(`memory.${state}`) })));
    const models = new Set(lines.map(({ model }) => model));
    const name = (line) => (models.size > 1 && line.model ? `${line.model}: ${line.name}` : line.name);
    const row = (text, line) => el("tr", {}, el("th", { scope: "row", text }), ...states.map((state) => el("td", { class: "side-end", text: bytes(line[state]) })));
    const body = [...lines.map((line) => row(name(line), line)), row(t("memory.total"), sums)];
    this.lines.replaceChildren(el("table", { class: "dense" }, el("thead", {}, head), el("tbody", {}, ...body)));
  }
}

function emptySparks() {
  return Object.fromEntries(SPARKS.map((name) => [name, []]));
}

function panel(title, name, ...children) {
  const id = `title-${name}`;
  return el("section", { class: `panel panel-${name}`, "aria-labelledby": id }, el("h2", { id, text: t(title) }), ...children);
}

function tile(name) {
  const value = el("span", { class: "value", text: "–" });
  const note = el("span", { class: "note" });
  const drawing = SPARKS.includes(name) ? svg("svg", { class: "spark", role: "img", viewBox: "0 0 100 24", preserveAspectRatio: "none" }) : null;
  const node = el("div", { class: "tile" }, el("span", { class: "name", text: t(`memory.${name}`) }), el("span", { class: "number" }, value, " ", note), ...(drawing ? [drawing] : []));
  const set = (text, said) => {
    value.textContent = text;
    note.textContent = said;
  };
  return { node, set, spark: drawing };
}

/** The last minute as a line; where nothing was measured there is none. */
function spark(drawing, points, label, least = 1e-9) {
  drawing.setAttribute("aria-label", label);
  const end = points.at(-1)?.now ?? 0;
  const top = Math.max(...points.map(({ value }) => value ?? 0), least);
  const known = points.filter(({ value }) => value !== null);
  const place = ({ now, value }) => `${(100 - ((end - now) / SPARK_SECONDS) * 100).toFixed(1)},${(22 - (value / top) * 20).toFixed(1)}`;
  const line = known.map(place).join(" ");
  drawing.replaceChildren(svg("polyline", { points: line, "vector-effect": "non-scaling-stroke" }));
}

function requestRow({ id, state, prompt_len: prompt, computed_len: computed, known_len: known, len_max: most, blocks, prefix_hit_len: hit, preempted, age_seconds: age }) {
  const swatch = el("span", { class: `swatch ${state === "running" ? `seq-${colourOf(id)}` : "seq-none"}` });
  const share = (part) => `${((100 * part) / most).toFixed(2)}%`;
  const progress = el("span", { class: "progress", "aria-hidden": "true" }, el("span", { class: "known" }), el("span", { class: "computed" }), el("span", { class: "prompt-end" }));
  const [knownPart, computedPart, promptEnd] = progress.children;
  knownPart.style.width = share(known);
  computedPart.style.width = share(computed);
  promptEnd.style.left = share(prompt);
  const cell = (name, ...children) => el("td", { class: `col-${name}` }, ...children);
  return el(
    "tr",
    {},
    el("th", { scope: "row", class: "col-request" }, swatch, el("span", { text: `#${id}` })),
    cell("state", t(`memory.state.${state}`)),
    cell("tokens", el("div", {}, progress, el("span", { text: t("memory.tokens.of", { known: number(known), max: number(most) }) }))),
    cell("blocks", number(blocks)),
    cell("hit", number(hit)),
    cell("preempted", number(preempted)),
    cell("age", seconds(age)),
  );
}

function groupsOf(lines, state) {
  const sum = (kinds) => lines.filter(({ kind }) => kinds.includes(kind)).reduce((total, line) => total + line[state], 0);
  return Object.entries(GROUPS).map(([name, kinds]) => [name, sum(kinds)]);
}

/** One state of all lines, as parts of the budget. */
export function bar(state, sum, budget, groups) {
  const track = el("div", { class: "track", role: "img", "aria-label": t("memory.bar", { state: t(`memory.${state}`), bytes: bytes(sum), budget: bytes(budget) }) });
  for (const [name, part] of groups) {
    const piece = el("span", { class: `group-${name}`, title: `${t(`memory.${name}`)}: ${bytes(part)}` });
    piece.style.width = `${(100 * part) / Math.max(budget, sum)}%`;
    track.append(piece);
  }
  return el("div", { class: "bar" }, el("span", { class: "bar-name", text: t(`memory.${state}`) }), track, el("span", { class: "bar-sum", text: bytes(sum) }));
}

// The planner, asked what another context, batch or budget would take.

import { post, put } from "./api.js";
import { announce, copyText, el, icon } from "./dom.js";
import { bytes, number } from "./format.js";
import { t } from "./strings.js";

const ASK_AFTER_MS = 120;
const CONTEXT_MIN = 512;
const SEQUENCES_MAX = 256;
const MIB = 1 << 20;
const KV_DTYPES = ["f16", "bf16", "q8_0", "f32"];
/** Positions of a slider whose values grow by factors. */
const STEPS = 200;

export class WhatIf {
  constructor(context, onBudget) {
    this.context = context;
    this.onBudget = onBudget;
    this.asked = 0;
    this.ranges = null;
    this.inputs = Object.fromEntries(["context", "sequences", "memory"].map((name) => [name, this.slider(name)]));
    this.kv = el("select", { id: "whatif-kv" }, el("option", { value: "", text: t("whatif.served") }), ...KV_DTYPES.map((value) => el("option", { value, text: value })));
    this.kv.addEventListener("change", () => this.ask());
    const kv = el("div", { class: "control" }, el("label", { for: "whatif-kv", text: t("whatif.kv") }), this.kv);
    const reset = el("button", { type: "button", class: "text-button", text: t("whatif.reset"), on: { click: () => this.reset() } });
    this.result = el("div", { class: "result" });
    const controls = el("div", { class: "controls" }, ...Object.values(this.inputs).map(({ node }) => node), el("div", { class: "row spread" }, kv, reset));
    this.nodes = [el("p", { class: "quiet small", text: t("whatif.note") }), controls, this.result];
  }

  slider(name) {
    const id = `whatif-${name}`;
    const value = el("output", { for: id });
    const input = el("input", { id, type: "range", min: "0", max: String(STEPS), step: "1", disabled: true });
    input.addEventListener("input", () => {
      this.sayValues();
      this.ask();
    });
    const node = el("div", { class: "control" }, el("label", { for: id, text: t(`whatif.${name}`) }), value, input);
    return { node, input, value };
  }

  /** Forgets what was offered: another model is looked at. */
  forget() {
    this.ranges = null;
    this.result.replaceChildren();
  }

  /** Takes the served plan as the start, once for each model. */
  offer({ id, plan }, { budget }) {
    this.served = { model: id, plan, budget };
    if (this.ranges) return;
    const most = Math.max(budget * 4, plan.total * 4);
    this.ranges = {
      context: geometric(Math.min(CONTEXT_MIN, plan.context_max), plan.context_max, 16),
      sequences: geometric(1, Math.max(SEQUENCES_MAX, plan.running_max), 1),
      memory: geometric(Math.max(64 * MIB, Math.floor(plan.total / 8)), most, 16 * MIB),
    };
    for (const { input } of Object.values(this.inputs)) input.disabled = false;
    this.reset();
    this.isTouched = false;
  }

  reset() {
    if (!this.served) return;
    const { plan, budget } = this.served;
    this.set("context", plan.model_len);
    this.set("sequences", plan.running_max);
    this.set("memory", budget);
    this.kv.value = "";
    this.sayValues();
    this.ask();
  }

  set(name, value) {
    this.exact = { ...this.exact, [name]: value };
    this.inputs[name].input.value = this.ranges[name].place(value);
    this.exact[`${name}At`] = this.inputs[name].input.value;
  }

  value(name) {
    const at = this.inputs[name].input.value;
    // A value that was set is itself until the slider moves.
    return this.exact?.[`${name}At`] === at ? this.exact[name] : this.ranges[name].value(Number(at));
  }

  sayValues() {
    if (!this.ranges) return;
    const said = {
      context: t("whatif.tokens", { count: number(this.value("context")) }),
      sequences: number(this.value("sequences")),
      memory: bytes(this.value("memory")),
    };
    for (const [name, text] of Object.entries(said)) {
      this.inputs[name].value.textContent = text;
      this.inputs[name].input.setAttribute("aria-valuetext", text);
    }
  }

  ask() {
    this.isTouched = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.askNow(), ASK_AFTER_MS);
  }

  async askNow() {
    if (!this.ranges) return;
    this.asked += 1;
    const number = this.asked;
    const request = {
      model: this.served.model,
      max_model_len: this.value("context"),
      max_num_seqs: this.value("sequences"),
      memory: this.value("memory"),
      kv_cache_dtype: this.kv.value || null,
    };
    try {
      const plan = await post("/v1/plan", request);
      if (number === this.asked) this.show(plan, request);
    } catch (error) {
      if (number === this.asked) this.result.replaceChildren(el("p", { class: "verdict no", text: error.message }));
    }
  }

  show(plan, request) {
    const { fits, does_not_fit: refused } = plan.verdict;
    const nodes = fits ? this.fitting(plan, fits) : this.refusal(refused);
    const isCapped = plan.budget < request.memory;
    if (isCapped) nodes.splice(1, 0, el("p", { class: "quiet small", text: t("whatif.capped", { source: plan.budget_source }) }));
    if (fits) nodes.push(...this.command(request));
    this.result.replaceChildren(...nodes);
    // Not what the page asked by itself.
    if (this.isTouched) announce(nodes[0].textContent);
  }

  fitting(plan, { capacity }) {
    const verdict = el("p", { class: "verdict yes" }, icon("check"), el("span", { text: t("whatif.fits", { total: bytes(plan.total), budget: bytes(plan.budget) }) }));
    const pool = el("p", { class: "quiet small", text: t("whatif.fits.kv", { blocks: number(plan.kv.blocks), tokens: number(plan.kv.tokens) }) });
    const head = el("tr", {}, el("th", { scope: "col", text: t("whatif.length") }), el("th", { scope: "col", class: "side-end", text: t("whatif.count") }));
    const row = ({ context, sequences }) => el("tr", {}, el("th", { scope: "row", text: t("whatif.tokens", { count: number(context) }) }), el("td", { class: "side-end", text: number(sequences) }));
    const caption = el("caption", { text: t("whatif.capacity") });
    return [verdict, pool, el("table", { class: "dense" }, caption, el("thead", {}, head), el("tbody", {}, ...capacity.map(row)))];
  }

  refusal({ needed, available, shortfall, ways_out: ways }) {
    const verdict = el("p", { class: "verdict no" }, icon("alert"), el("span", { text: t("whatif.no", { shortfall: bytes(shortfall) }) }));
    const why = el("p", { class: "quiet small", text: t("whatif.no.needs", { needed: bytes(needed), available: bytes(available) }) });
    const buttons = ways.map((way) => this.wayOut(way)).filter((button) => button !== null);
    return [verdict, why, el("div", { class: "row" }, ...buttons)];
  }

  /** A change that alone would make it fit, to be tried with a click. */
  wayOut(way) {
    const [[kind, how]] = Object.entries(way);
    const button = (text, act) => {
      const change = () => {
        act();
        this.sayValues();
        this.ask();
      };
      return el("button", { type: "button", class: "button small", text, on: { click: change } });
    };
    switch (kind) {
      case "smaller_context":
        return button(`${t("whatif.context")}: ${t("whatif.tokens", { count: number(how.model_len) })}`, () => this.set("context", how.model_len));
      case "fewer_sequences":
        return button(`${t("whatif.sequences")}: ${number(how.running_max)}`, () => this.set("sequences", how.running_max));
      case "lighter_kv":
        return button(`${t("whatif.kv")}: ${how.kv_dtype}`, () => (this.kv.value = how.kv_dtype));
      case "raise_budget":
        return button(`${t("whatif.memory")}: ${bytes(how.memory)}`, () => this.set("memory", how.memory));
      default:
        return null;
    }
  }

  command(request) {
    const flags = [`--max-model-len ${request.max_model_len}`, `--max-num-seqs ${request.max_num_seqs}`, `--memory ${request.memory}`];
    if (request.kv_cache_dtype) flags.push(`--kv-cache-dtype ${request.kv_cache_dtype}`);
    const line = `kvist serve ${this.served.model} ${flags.join(" ")}`;
    const copy = el("button", { type: "button", class: "copy" }, icon("copy"), el("span", { text: t("copy") }));
    copy.addEventListener("click", () => copyText(copy, line, t("copied")));
    const code = el("pre", { tabindex: "0", role: "group", "aria-label": t("whatif.command") }, el("code", { text: line }));
    const figure = el("figure", { class: "code" }, el("figcaption", {}, el("span", { text: t("whatif.command") }), copy), code);
    const isOther = request.memory !== this.served.budget;
    const apply = el("button", { type: "button", class: "button", text: t("whatif.apply"), disabled: !isOther, on: { click: () => this.apply(request.memory) } });
    return [figure, apply];
  }

  async apply(budget) {
    try {
      await put("/v1/memory", { budget });
      announce(t("whatif.applied", { budget: bytes(budget) }));
      this.onBudget();
    } catch (error) {
      this.result.prepend(el("p", { class: "verdict no", role: "alert", text: error.message }));
    }
  }
}

/** Values between two, each larger than the one before by the same factor, in whole units. */
function geometric(least, most, unit) {
  const factor = Math.log(Math.max(most / least, 1.0001));
  return {
    value: (at) => {
      if (at >= STEPS) return most;
      const exact = least * Math.exp((factor * at) / STEPS);
      return Math.max(least, Math.round(exact / unit) * unit);
    },
    place: (value) => Math.round((STEPS * Math.log(Math.max(value, least) / least)) / factor),
  };
}

// One message as it is shown: its text, its reasoning, what it took, and what can be done with it.

import { copyText, el, icon, iconButton } from "./dom.js";
import { number, rate, seconds } from "./format.js";
import { showMarkdown } from "./markdown.js";
import { isSaid, t } from "./strings.js";

const OPEN = "<think>";
const CLOSE = "</think>";

/** What of a text is reasoning. Templates may have written the opening mark into the prompt, so that only
 * the closing one is there. */
export function splitReasoning(text) {
  const start = text.trimStart();
  // Perhaps the beginning of a mark: it will be clear with the next piece.
  if (start.length < OPEN.length && OPEN.startsWith(start) && start !== "") return { reasoning: "", answer: "", isOpen: true };
  const close = text.indexOf(CLOSE);
  if (!start.startsWith(OPEN) && close < 0) return { reasoning: "", answer: text, isOpen: false };
  const from = start.startsWith(OPEN) ? text.length - start.length + OPEN.length : 0;
  if (close < 0) return { reasoning: text.slice(from), answer: "", isOpen: true };
  return { reasoning: text.slice(from, close), answer: text.slice(close + CLOSE.length).trimStart(), isOpen: false };
}

/** A version's reasoning, whichever way the server told it, and its answer. */
export function partsOf(version) {
  const { reasoning, answer, isOpen } = splitReasoning(version.text);
  return { reasoning: (version.reasoning + reasoning).trim(), answer, isOpen: isOpen || (version.reasoning !== "" && version.text === "") };
}

/** What the user said. `onEdit` gets the new text. */
export function userMessage(message, onEdit) {
  const body = el("div", { class: "bubble" }, el("p", { class: "plain", text: message.text }));
  const actions = el("div", { class: "actions" });
  const who = el("h2", { class: "visually-hidden", text: t("chat.you") });
  const node = el("article", { class: "message user", "aria-label": t("chat.you") }, who, body, actions);
  const copy = iconButton("copy", t("chat.copy.message"), () => copyText(copy, message.text, t("copied")));
  const edit = iconButton("edit", t("chat.edit"), () => editMessage(node, message, onEdit));
  actions.append(edit, copy);
  return node;
}

function editMessage(node, message, onEdit) {
  const old = [...node.childNodes];
  const close = () => {
    node.replaceChildren(...old);
    node.classList.remove("editing");
    node.querySelector("button").focus();
  };
  const area = el("textarea", { "aria-label": t("chat.edit"), rows: "3" });
  area.value = message.text;
  const form = el(
    "form",
    { class: "edit" },
    area,
    el("p", { class: "quiet small", text: t("chat.edit.note") }),
    el("div", { class: "row" }, el("button", { type: "button", class: "button", text: t("cancel"), on: { click: close } }), el("button", { type: "submit", class: "button primary", text: t("chat.edit.send") })),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (area.value.trim() !== "") onEdit(area.value.trim());
  });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  node.classList.add("editing");
  node.replaceChildren(form);
  area.style.height = `${Math.min(area.scrollHeight + 4, 360)}px`;
  area.focus();
}

/** What the model says. `actions` are `regenerate`, `show(index)`, `openKey`; `update` shows what has come. */
export function assistantMessage(message, actions) {
  const name = el("h2", { class: "who" });
  const thought = el("details", { class: "thought", hidden: true });
  const thoughtLabel = el("summary");
  const thoughtText = el("div", { class: "prose" });
  thought.append(thoughtLabel, thoughtText);
  const text = el("div", { class: "prose answer" });
  const trouble = el("div");
  const foot = el("div", { class: "foot" });
  const node = el("article", { class: "message assistant" }, name, thought, text, trouble, foot);

  const update = ({ isRunning, since }) => {
    const version = message.versions[message.shown];
    const { reasoning, answer, isOpen } = partsOf(version);
    node.setAttribute("aria-label", version.model || t("model.label"));
    node.setAttribute("aria-busy", String(isRunning));
    name.textContent = version.model;
    thought.hidden = reasoning === "";
    thoughtLabel.textContent = isOpen && isRunning ? t("chat.thinking") : t("chat.thought");
    if (!thought.hidden) showMarkdown(thoughtText, reasoning);
    showMarkdown(text, answer);
    text.classList.toggle("running", isRunning && !isOpen);
    trouble.replaceChildren(...troubleNodes(version, { isRunning, reasoning, answer }, actions));
    foot.replaceChildren(...(isRunning ? runningNodes(version, since) : footNodes(message, version, answer, actions)));
  };
  return { node, update };
}

function runningNodes(version, since) {
  const isWaiting = version.text === "" && version.reasoning === "";
  const elapsed = seconds((performance.now() - since) / 1000);
  return [el("span", { class: "stats", text: isWaiting ? `${t("chat.waiting")} ${elapsed}` : elapsed })];
}

function footNodes(message, version, answer, actions) {
  const nodes = [];
  const copy = iconButton("copy", t("chat.copy"), () => copyText(copy, answer, t("copied")));
  nodes.push(copy, iconButton("retry", t("chat.regenerate"), actions.regenerate));
  const count = message.versions.length;
  if (count > 1) {
    const shown = message.shown;
    const turn = (name, label, to) => iconButton(name, t(label), () => actions.show(to), { disabled: to < 0 || to >= count });
    const place = el("span", { class: "place", "aria-label": t("chat.version", { shown: shown + 1, count }), role: "img" }, `${shown + 1}/${count}`);
    nodes.push(turn("left", "chat.version.prev", shown - 1), place, turn("right", "chat.version.next", shown + 1));
  }
  nodes.push(el("span", { class: "stats" }, ...statTexts(version).map((text) => el("span", { text }))));
  return nodes;
}

/** What an answer took, in words. */
function statTexts({ stats, finish }) {
  const texts = [];
  if (stats?.output != null) {
    texts.push(t("stats.output", { count: number(stats.output) }));
    // The first token belongs to the prompt's time.
    if (stats.output > 1 && stats.seconds > stats.first) texts.push(t("stats.rate", { rate: rate((stats.output - 1) / (stats.seconds - stats.first)) }));
  }
  if (stats?.first != null) texts.push(t("stats.first", { time: seconds(stats.first) }));
  if (stats?.prompt != null) {
    const [count, cached] = [number(stats.prompt), number(stats.cached ?? 0)];
    texts.push(stats.cached > 0 ? t("stats.prompt.cached", { count, cached }) : t("stats.prompt", { count }));
  }
  if (finish === "length") texts.push(t("stats.length"));
  if (finish === "stopped") texts.push(t("stats.stopped"));
  return texts;
}

function troubleNodes(version, { isRunning, reasoning, answer }, actions) {
  if (version.error) return [errorCard(version.error, actions)];
  const isEmpty = !isRunning && version.finish === "stop" && answer.trim() === "" && reasoning === "";
  return isEmpty ? [el("p", { class: "quiet", text: t("chat.empty") })] : [];
}

/** What went wrong, and what to do. */
export function errorCard(error, { regenerate, openKey }) {
  const key = isSaid(`error.${error.code}`) ? `error.${error.code}` : "error.other";
  const buttons = [];
  if (error.code === "invalid_api_key") buttons.push(el("button", { type: "button", class: "button", text: t("error.key"), on: { click: openKey } }));
  if (regenerate) buttons.push(el("button", { type: "button", class: "button", text: t("chat.retry"), on: { click: regenerate } }));
  return el(
    "div",
    { class: "error", role: "alert" },
    icon("alert"),
    el("div", {}, el("strong", { text: t(key) }), el("p", { text: t(`${key}.do`) }), el("p", { class: "detail", text: error.message }), el("div", { class: "row" }, ...buttons)),
  );
}

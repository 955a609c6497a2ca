// Markdown as models write it, to elements. Model output is hostile: it becomes text nodes and the few
// kinds of elements made here, never HTML. Links lead to http and https only, and pictures are shown as
// links, so that nothing is loaded because a model said so.
//
// Work is linear in the text but for the bounds below, which end nesting and searching.

import { copyText, el, icon } from "./dom.js";
import { t } from "./strings.js";

const DEPTH_MAX = 8;
/** Closing marks looked at for one opening mark. */
const TRIES_MAX = 4;
const LABEL_MAX = 2000;
const CELLS_MAX = 64;
/** The page has a first level, and each message a second. */
const HEADING_FIRST = 3;

/** Shows `text` in `container`. Blocks that have not changed since the last call keep their elements, so
 * that a selection survives while more text arrives. */
export function showMarkdown(container, text) {
  const blocks = parseBlocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
  rankHeadings(blocks);
  const old = container.shownBlocks ?? [];
  blocks.forEach((block, index) => {
    const key = JSON.stringify(block);
    if (old[index] === key) return;
    const node = blockNode(block);
    if (index < container.childNodes.length) container.replaceChild(node, container.childNodes[index]);
    else container.append(node);
    old[index] = key;
  });
  while (container.childNodes.length > blocks.length) container.lastChild.remove();
  container.shownBlocks = old.slice(0, blocks.length);
}

/** Headings below the message's own, whatever level the model began with, and no step left out. */
function rankHeadings(blocks) {
  const headings = blocks.filter(({ kind }) => kind === "heading");
  const least = Math.min(...headings.map(({ level }) => level));
  let before = HEADING_FIRST - 1;
  for (const heading of headings) {
    before = Math.min(heading.level - least + HEADING_FIRST, before + 1, 6);
    heading.rank = before;
  }
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Lines to blocks: plain values that say all about an element. */
function parseBlocks(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    if (line.trim() === "") {
      at += 1;
      continue;
    }
    const [block, next] = depth < DEPTH_MAX ? parseBlock(lines, at, depth) : parseParagraph(lines, at);
    blocks.push(block);
    at = next;
  }
  return blocks;
}

function parseBlock(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return parseCode(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return [{ kind: "heading", level: heading[1].length, text: heading[2] }, at + 1];
  if (RULE.test(line)) return [{ kind: "rule" }, at + 1];
  if (QUOTE.test(line)) {
    const inner = [];
    let end = at;
    while (end < lines.length && QUOTE.test(lines[end])) inner.push(lines[end++].replace(QUOTE, ""));
    return [{ kind: "quote", blocks: parseBlocks(inner, depth + 1) }, end];
  }
  if (ITEM.test(line)) return parseList(lines, at, depth);
  if (line.includes("|") && DIVIDER.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) return parseTable(lines, at);
  return parseParagraph(lines, at);
}

function parseCode(lines, at, [, mark, language]) {
  const code = [];
  let end = at + 1;
  const isClosing = (line) => line.trim().startsWith(mark) && line.trim().replaceAll(mark[0], "") === "";
  while (end < lines.length && !isClosing(lines[end])) code.push(lines[end++]);
  return [{ kind: "code", language: language.trim().split(/\s/)[0].slice(0, 40), text: code.join("\n") }, end + 1];
}

/** Items begin with a mark at the list's own indent; what is indented further belongs to the item. */
function parseList(lines, at, depth) {
  const [, indent, mark] = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(mark);
  const items = [];
  let end = at;
  let wasBlank = false;
  while (end < lines.length) {
    const line = lines[end];
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length + 1) {
      if (/\d/.test(item[2]) !== isOrdered || item[1].length + 1 < indent.length) break;
      items.push({ lines: [item[4]], width: item[1].length + item[2].length + Math.min(Math.max(item[3].length, 1), 4) });
    } else if (line.trim() === "") {
      items.at(-1).lines.push("");
    } else if (/^ +/.exec(line)?.[0].length > indent.length || line.startsWith("\t")) {
      const { width } = items.at(-1);
      items.at(-1).lines.push(line.replace(/^\t/, "    ").replace(new RegExp(`^ {1,${width}}`), ""));
    } else if (!wasBlank && !FENCE.test(line) && !HEADING.test(line) && !QUOTE.test(line) && !RULE.test(line)) {
      items.at(-1).lines.push(line);
    } else {
      break;
    }
    wasBlank = line.trim() === "";
    end += 1;
  }
  const start = isOrdered ? Number.parseInt(mark, 10) : 1;
  return [{ kind: "list", isOrdered, start, items: items.map((item) => parseBlocks(item.lines, depth + 1)) }, end];
}

function parseTable(lines, at) {
  const head = cells(lines[at]);
  const sides = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "end") : "start"));
  const rows = [];
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim() !== "") {
    const row = cells(lines[end++]);
    rows.push(head.map((_, column) => row[column] ?? ""));
  }
  return [{ kind: "table", head, sides, rows }, end];
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/, CELLS_MAX).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function parseParagraph(lines, at) {
  let end = at + 1;
  const begins = (line) => FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || RULE.test(line) || ITEM.test(line);
  while (end < lines.length && lines[end].trim() !== "" && !begins(lines[end])) {
    if (lines[end].includes("|") && DIVIDER.test(lines[end + 1] ?? "")) break;
    end += 1;
  }
  return [{ kind: "paragraph", text: lines.slice(at, end).map((line) => line.trim()).join("\n") }, end];
}

function blockNode(block) {
  switch (block.kind) {
    case "heading":
      // In a list or a quote it is only a strong line.
      return block.rank ? el(`h${block.rank}`, {}, inline(block.text)) : el("p", {}, el("strong", {}, inline(block.text)));
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", {}, block.blocks.map(blockNode));
    case "code":
      return codeNode(block);
    case "list": {
      const items = block.items.map((blocks) => el("li", {}, itemNodes(blocks)));
      const start = block.isOrdered && block.start !== 1 ? block.start : null;
      return el(block.isOrdered ? "ol" : "ul", { start }, items);
    }
    case "table":
      return tableNode(block);
    default:
      return el("p", {}, inline(block.text));
  }
}

/** An item that begins with a paragraph needs none around it. */
function itemNodes(blocks) {
  const [first, ...others] = blocks;
  if (first?.kind !== "paragraph") return blocks.map(blockNode);
  const task = /^\[([ xX])\] /.exec(first.text);
  const text = task ? `${task[1] === " " ? "☐" : "☑"} ${first.text.slice(4)}` : first.text;
  return [...inline(text), ...others.map(blockNode)];
}

function codeNode({ language, text }) {
  const copy = el("button", { type: "button", class: "copy" }, icon("copy"), el("span", { text: t("copy") }));
  copy.addEventListener("click", () => copyText(copy, text, t("copied")));
  const head = el("figcaption", {}, el("span", { text: language || t("code") }), copy);
  const body = el("pre", { tabindex: "0", role: "group", "aria-label": t("code") }, el("code", { text }));
  return el("figure", { class: "code" }, head, body);
}

function tableNode({ head, sides, rows }) {
  // A head that says nothing is none.
  const cell = (tag) => (text, column) => el(text === "" ? "td" : tag, { class: `side-${sides[column] ?? "start"}` }, inline(text));
  const top = el("thead", {}, el("tr", {}, head.map(cell("th"))));
  const body = el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell("td")))));
  return el("div", { class: "table", tabindex: "0", role: "group", "aria-label": t("table") }, el("table", {}, top, body));
}

const LINK = /(!?)\[((?:[^[\]\\]|\\.|\[[^[\]]{0,200}\]){0,2000})\]\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+(?:"[^"]{0,500}"|'[^']{0,500}'))?\s*\)/y;
const BARE_LINK = /https?:\/\/[^\s<>"'`]+/y;
const SPECIAL = /[\\`*_~[!h\n]/g;

/** Text to text nodes and the elements of a line. */
function inline(text, depth = 0) {
  const nodes = [];
  let plain = "";
  const flush = () => {
    if (plain !== "") nodes.push(document.createTextNode(plain));
    plain = "";
  };
  const push = (node) => {
    flush();
    nodes.push(node);
  };
  /** Marks of which no more are to come. */
  const missing = new Set();
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const next = SPECIAL.exec(text)?.index ?? text.length;
    plain += text.slice(at, next);
    at = next;
    if (at >= text.length) break;
    const found = depth < DEPTH_MAX ? special(text, at, depth, missing) : null;
    if (!found) {
      plain += text[at];
      at += 1;
    } else {
      if (typeof found.node === "string") plain += found.node;
      else push(found.node);
      at = found.end;
    }
  }
  flush();
  return nodes;
}

function special(text, at, depth, missing) {
  switch (text[at]) {
    case "\n":
      return { node: el("br"), end: at + 1 };
    case "\\":
      return /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "") ? { node: text[at + 1], end: at + 2 } : null;
    case "`":
      return codeSpan(text, at, missing);
    case "*":
    case "_":
    case "~":
      return emphasis(text, at, depth, missing);
    case "h":
      return bareLink(text, at);
    default:
      return link(text, at, depth);
  }
}

function codeSpan(text, at, missing) {
  const mark = /^`+/.exec(text.slice(at, at + LABEL_MAX))[0];
  let from = at + mark.length;
  for (let tries = 0; tries < TRIES_MAX && !missing.has(mark); tries += 1) {
    const end = text.indexOf(mark, from);
    if (end < 0) {
      missing.add(mark);
      break;
    }
    if (text[end + mark.length] !== "`" && text[end - 1] !== "`") {
      const inner = text.slice(at + mark.length, end).replaceAll("\n", " ");
      const isPadded = inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ");
      return { node: el("code", { text: isPadded ? inner.slice(1, -1) : inner }), end: end + mark.length };
    }
    from = end + mark.length;
  }
  return { node: mark, end: at + mark.length };
}

function emphasis(text, at, depth, missing) {
  const letter = text[at];
  const mark = text[at + 1] === letter ? letter + letter : letter;
  const tag = letter === "~" ? "del" : mark.length === 2 ? "strong" : "em";
  const start = at + mark.length;
  const isWord = (char) => /[\p{L}\p{N}]/u.test(char ?? "");
  const plain = { node: mark, end: start };
  if (mark === "~" || /\s|^$/.test(text[start] ?? "") || (letter === "_" && isWord(text[at - 1]))) return plain;
  let from = start;
  for (let tries = 0; tries < TRIES_MAX && !missing.has(mark); tries += 1) {
    const end = text.indexOf(mark, from);
    if (end < 0) {
      missing.add(mark);
      break;
    }
    const after = text[end + mark.length];
    const isOpen = /\s/.test(text[end - 1]) || (letter === "_" && isWord(after));
    const isLonger = mark.length === 1 && (after === letter || text[end - 1] === letter);
    if (end > start && !isOpen && !isLonger) {
      // Three closing marks: the last two are ours.
      const shift = mark.length === 2 && after === letter && text[start] === letter ? 1 : 0;
      const inner = inline(text.slice(start, end + shift), depth + 1);
      return { node: el(tag, {}, inner), end: end + shift + mark.length };
    }
    from = end + (isLonger ? 2 : mark.length);
  }
  return plain;
}

function link(text, at, depth) {
  LINK.lastIndex = at;
  const match = LINK.exec(text);
  if (!match) return null;
  const [all, isPicture, label, address] = match;
  const end = at + all.length;
  const url = safeUrl(address);
  const shown = label || address;
  // The text stays, so that nothing is lost; it only leads nowhere.
  if (!url) return { node: isPicture ? shown : `${label} (${address})`, end };
  const inner = isPicture ? [document.createTextNode(shown)] : inline(shown, depth + 1);
  return { node: anchor(url, inner), end };
}

function bareLink(text, at) {
  BARE_LINK.lastIndex = at;
  const address = BARE_LINK.exec(text)?.[0].replace(/[.,;:!?*_~)\]]+$/, "");
  const url = address && safeUrl(address);
  return url ? { node: anchor(url, [document.createTextNode(address)]), end: at + address.length } : null;
}

function safeUrl(address) {
  try {
    const url = new URL(address);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch {
    return null;
  }
}

function anchor(url, children) {
  // A link within a link is text.
  const texts = children.map((child) => (child.nodeName === "A" ? document.createTextNode(child.textContent) : child));
  return el("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, texts);
}

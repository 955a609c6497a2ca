// The conversation: sends what is written, shows what comes back, and keeps both.

import { ApiError, stream } from "./api.js";
import { announce, confirmed, el, iconButton } from "./dom.js";
import { number } from "./format.js";
import { assistantMessage, errorCard, partsOf, userMessage } from "./message.js";
import * as store from "./store.js";
import { t } from "./strings.js";

const EXAMPLES = 3;
/** Fields of the settings that are numbers of a request. */
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
/** Nearer to the end than this, the view follows the answer. */
const FOLLOW_PX = 80;

const byId = (id) => document.getElementById(id);

/** Begins the chat. `context` gives `model()`, `modelLen()`, `openKey()`. */
export async function startChat(context) {
  const chat = new Chat(context);
  await chat.open();
  return chat;
}

class Chat {
  constructor(context) {
    this.context = context;
    this.messages = byId("messages");
    this.draft = byId("draft");
    this.current = newChat();
    /** The answer that is being given, if one is: at most one at a time. */
    this.run = null;
    this.views = new Map();
  }

  async open() {
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(this.draft.value);
    });
    byId("stop").addEventListener("click", () => this.stop());
    byId("new-chat").addEventListener("click", () => this.startNew());
    byId("history-export").addEventListener("click", () => this.exportAll());
    byId("history-import").addEventListener("click", () => byId("history-file").click());
    byId("history-file").addEventListener("change", (event) => this.importFile(event.target));
    byId("history-clear").addEventListener("click", () => this.clearAll());
    this.draft.addEventListener("input", () => this.fitDraft());
    this.draft.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.run) this.send(this.draft.value);
    });
    if (!(await store.isLasting())) byId("history-empty").textContent = t("history.volatile");
    this.show();
    await this.listChats();
  }

  /** Whether something was stopped by this. */
  stop() {
    this.run?.abort.abort();
    return this.run !== null;
  }

  startNew() {
    this.current = newChat();
    this.show();
    this.listChats();
    this.draft.focus();
    byId("history").dispatchEvent(new CustomEvent("chosen"));
  }

  send(text) {
    const trimmed = text.trim();
    if (trimmed === "" || this.run) return;
    this.draft.value = "";
    this.fitDraft();
    const { current } = this;
    if (current.messages.length === 0) current.title = trimmed.slice(0, 80);
    current.messages.push({ role: "user", text: trimmed });
    this.answer();
  }

  /** Asks for an answer to all there is; `message` gets another version if it has one already. */
  answer(message = null) {
    if (this.run) return;
    const { current } = this;
    let answer = message;
    if (!answer) {
      answer = { role: "assistant", versions: [], shown: 0 };
      current.messages.push(answer);
    } else {
      // What came after it was said of the version before.
      current.messages.length = current.messages.indexOf(answer) + 1;
    }
    answer.versions = answer.versions.filter((version) => version.text !== "" || version.reasoning !== "");
    answer.versions.push({ text: "", reasoning: "", model: this.context.model(), finish: "", stats: null });
    answer.shown = answer.versions.length - 1;
    this.show();
    this.messages.scrollTop = this.messages.scrollHeight;
    this.receive(current, answer);
  }

  async receive(chat, answer) {
    const version = answer.versions.at(-1);
    const run = { abort: new AbortController(), chat, answer, since: performance.now(), first: null };
    this.run = run;
    this.showRunning();
    this.refresh(answer);
    // The question outlives a page that is closed before the answer.
    this.keep(chat);
    try {
      const request = this.request(chat, answer);
      for await (const chunk of stream("/v1/chat/completions", request, run.abort.signal)) this.take(chunk, version, run);
    } catch (error) {
      if (error.name === "AbortError") version.finish = "stopped";
      else version.error = plainError(error);
    }
    const took = (performance.now() - run.since) / 1000;
    version.stats = { prompt: null, cached: null, output: null, ...version.stats, first: run.first, seconds: took };
    this.run = null;
    this.showRunning();
    this.refresh(answer);
    const tokens = version.stats.output ?? 0;
    announce(version.error ? t("error.other") : version.finish === "stopped" ? t("chat.stopped") : t("chat.done", { tokens: number(tokens) }));
    chat.updated = Date.now();
    if (!chat.isRemoved) await this.keep(chat);
  }

  take(chunk, version, run) {
    const [choice] = chunk.choices;
    const { content, reasoning_content: reasoning } = choice?.delta ?? {};
    if ((content || reasoning) && run.first === null) run.first = (performance.now() - run.since) / 1000;
    if (content) version.text += content;
    if (reasoning) version.reasoning += reasoning;
    if (choice?.finish_reason) version.finish = choice.finish_reason;
    if (chunk.model) version.model = chunk.model;
    if (chunk.usage) {
      const cached = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
      version.stats = { prompt: chunk.usage.prompt_tokens, cached, output: chunk.usage.completion_tokens };
    }
    run.frame ??= requestAnimationFrame(() => {
      run.frame = null;
      if (this.run === run) this.refresh(run.answer);
    });
  }

  request(chat, answer) {
    const settings = store.settings();
    const messages = [];
    if (settings.system) messages.push({ role: "system", content: settings.system });
    for (const message of chat.messages) {
      if (message === answer) break;
      // Reasoning is not said again: models are not trained to see their own.
      if (message.role === "user") messages.push({ role: "user", content: message.text });
      else messages.push({ role: "assistant", content: partsOf(message.versions[message.shown]).answer });
    }
    const request = { model: this.context.model(), messages, stream: true, stream_options: { include_usage: true } };
    for (const name of NUMBERS) if (Number.isFinite(settings[name])) request[name] = settings[name];
    return request;
  }

  /** Shows the conversation anew. */
  show() {
    this.views.clear();
    const nodes = this.current.messages.map((message) => this.messageNode(message));
    this.messages.replaceChildren(...(nodes.length > 0 ? nodes : [this.hello()]));
    for (const message of this.current.messages) this.refresh(message);
  }

  messageNode(message) {
    if (message.role === "user") {
      return userMessage(message, (text) => {
        if (this.run) return;
        message.text = text;
        this.current.messages.length = this.current.messages.indexOf(message) + 1;
        this.answer();
      });
    }
    const view = assistantMessage(message, {
      regenerate: () => this.answer(message),
      openKey: this.context.openKey,
      show: (index) => {
        message.shown = index;
        this.refresh(message);
        this.keep(this.current);
      },
    });
    this.views.set(message, view);
    return view.node;
  }

  refresh(message) {
    const isNear = this.messages.scrollHeight - this.messages.scrollTop - this.messages.clientHeight < FOLLOW_PX;
    const isRunning = this.run?.answer === message && message.shown === message.versions.length - 1;
    this.views.get(message)?.update({ isRunning, since: this.run?.since ?? 0 });
    if (isNear) this.messages.scrollTop = this.messages.scrollHeight;
  }

  showRunning() {
    const focused = document.activeElement;
    const [send, stop] = [byId("send"), byId("stop")];
    send.hidden = this.run !== null;
    stop.hidden = this.run === null;
    if (focused === send || focused === stop) (this.run ? stop : this.draft).focus();
    clearInterval(this.clock);
    // Seconds go on where no tokens come.
    if (this.run) this.clock = setInterval(() => this.run && this.refresh(this.run.answer), 500);
  }

  hello() {
    const examples = Array.from({ length: EXAMPLES }, (_, index) => {
      const text = t(`chat.example.${index + 1}`);
      return el("li", {}, el("button", { type: "button", class: "example", text, on: { click: () => this.send(text) } }));
    });
    const [model, modelLen] = [this.context.model(), this.context.modelLen()];
    const about = modelLen ? t("chat.hello.model", { model, tokens: number(modelLen) }) : "";
    return el("div", { class: "hello" }, el("h2", { text: t("chat.hello") }), el("p", { class: "quiet", text: about }), el("ul", {}, ...examples));
  }

  /** Shows a conversation's greeting again, once it is known who answers. */
  refreshHello() {
    if (this.current.messages.length === 0) this.show();
  }

  /** Shows what stands in the way of any conversation. */
  showError(error) {
    if (this.current.messages.length > 0) return;
    this.messages.replaceChildren(el("div", { class: "hello" }, errorCard(plainError(error), { openKey: this.context.openKey, regenerate: this.context.reload })));
  }

  async keep(chat) {
    try {
      await store.saveChat(chat);
    } catch (error) {
      byId("history-empty").hidden = false;
      byId("history-empty").textContent = `${t("history.volatile")} (${error.message ?? error})`;
    }
    await this.listChats();
  }

  async listChats() {
    const chats = await store.allChats();
    const items = chats.map((chat) => {
      const title = chat.title || t("history.untitled");
      const open = el("button", { type: "button", class: "chat-title", text: title, title, on: { click: () => this.openChat(chat) } });
      if (chat.id === this.current.id) open.setAttribute("aria-current", "true");
      return el("li", {}, open, iconButton("trash", t("history.delete", { title }), () => this.remove(chat)));
    });
    byId("history-list").replaceChildren(...items);
    byId("history-empty").hidden = chats.length > 0;
    byId("history-clear").hidden = chats.length === 0;
    byId("history-export").hidden = chats.length === 0;
  }

  openChat(chat) {
    // A conversation in which an answer is being given is the one in memory, not its last copy.
    this.current = this.run?.chat.id === chat.id ? this.run.chat : chat;
    this.show();
    this.messages.scrollTop = this.messages.scrollHeight;
    this.listChats();
    byId("history").dispatchEvent(new CustomEvent("chosen"));
    this.draft.focus();
  }

  async remove(chat) {
    const title = chat.title || t("history.untitled");
    if (!(await confirmed(t("history.delete.ask", { title }), t("history.delete.yes")))) return;
    await store.removeChat(chat.id);
    if (this.run?.chat.id === chat.id) {
      this.run.chat.isRemoved = true;
      this.stop();
    }
    if (chat.id === this.current.id) {
      this.current = newChat();
      this.show();
    }
    await this.listChats();
    byId("new-chat").focus();
  }

  async clearAll() {
    const count = (await store.allChats()).length;
    if (!(await confirmed(t("history.clear.ask", { count }), t("history.delete.yes")))) return;
    if (this.run) this.run.chat.isRemoved = true;
    this.stop();
    await store.removeAllChats();
    this.startNew();
  }

  async exportAll() {
    const file = new Blob([await store.exportChats()], { type: "application/json" });
    const address = URL.createObjectURL(file);
    el("a", { href: address, download: `kvist-${new Date().toISOString().slice(0, 10)}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  async importFile(input) {
    const [file] = input.files;
    if (!file) return;
    const count = await store.importChats(await file.text());
    input.value = "";
    announce(count === null ? t("history.import.failed") : t("history.import.done", { count }));
    if (count === null) await confirmed(t("history.import.failed"), t("close"));
    await this.listChats();
  }

  fitDraft() {
    this.draft.style.height = "auto";
    this.draft.style.height = `${Math.min(this.draft.scrollHeight, 240)}px`;
  }
}

function newChat() {
  const now = Date.now();
  return { id: store.newId(), title: "", created: now, updated: now, messages: [] };
}

/** An error as it can be kept. */
function plainError(error) {
  if (error instanceof ApiError) return { code: error.code, message: error.message, status: error.status };
  return { code: "other", message: String(error.message ?? error), status: 0 };
}

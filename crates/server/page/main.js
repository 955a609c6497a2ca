// Begins the page: language, theme, views, keys, settings.

import { ApiError, apiKey, get, setApiKey } from "./api.js";
import { startChat } from "./chat.js";
import { applyIcons, el, icon } from "./dom.js";
import { startMemory } from "./memory.js";
import { saveSettings, settings } from "./store.js";
import { applyStrings, chooseLanguage, LANGUAGES, t } from "./strings.js";

const THEMES = ["auto", "light", "dark"];
const THEME_ICONS = { auto: "contrast", light: "sun", dark: "moon" };
const SHORTCUTS = [
  ["Enter", "help.send"],
  ["Shift+Enter", "help.line"],
  ["Esc", "help.stop"],
  ["/", "help.draft"],
  ["Alt+N", "help.new"],
  ["Alt+1", "help.chat"],
  ["Alt+2", "help.memory"],
  ["?", "help.help"],
];
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

const byId = (id) => document.getElementById(id);
const models = new Map();
let chat;
let memory;

function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const button = byId("theme");
  button.replaceChildren(icon(THEME_ICONS[theme]));
  button.setAttribute("aria-label", t(`theme.${theme}`));
  button.title = t(`theme.${theme}`);
  window.dispatchEvent(new Event("themechange"));
}

function setUpTheme() {
  let theme = THEMES.includes(settings().theme) ? settings().theme : "auto";
  showTheme(theme);
  byId("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    saveSettings({ theme });
    showTheme(theme);
  });
}

function showView() {
  const isMemory = location.hash === "#memory";
  byId("view-chat").hidden = isMemory;
  byId("view-memory").hidden = !isMemory;
  document.body.dataset.view = isMemory ? "memory" : "chat";
  for (const [id, isHere] of [["tab-chat", !isMemory], ["tab-memory", isMemory]]) {
    if (isHere) byId(id).setAttribute("aria-current", "page");
    else byId(id).removeAttribute("aria-current");
  }
  document.title = `${t(isMemory ? "nav.memory" : "nav.chat")} – kvist`;
  memory.setShown(isMemory);
}

function setUpSettings() {
  const panel = byId("settings");
  const form = byId("settings-form");
  const kept = settings();
  form.elements.system.value = kept.system ?? "";
  form.elements.key.value = apiKey();
  for (const name of NUMBERS) form.elements[name].value = kept[name] ?? "";
  form.elements.language.append(...Object.entries(LANGUAGES).map(([value, text]) => el("option", { value, text, lang: value })));
  form.elements.language.value = document.documentElement.lang;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    const { name, value } = event.target;
    if (name === "key") {
      setApiKey(value.trim());
      loadModels();
    } else if (name === "language") {
      saveSettings({ language: value });
      location.reload();
    } else if (name === "system") {
      saveSettings({ system: value });
    } else {
      saveSettings({ [name]: value === "" ? null : Number(value) });
    }
  });
  byId("settings-open").addEventListener("click", () => (panel.hidden ? openSettings() : closeSettings()));
  byId("settings-close").addEventListener("click", closeSettings);
}

function openSettings(field = "set-system") {
  byId("settings").hidden = false;
  byId("settings-open").setAttribute("aria-expanded", "true");
  document.body.classList.add("with-settings");
  byId(field).focus();
}

function closeSettings() {
  byId("settings").hidden = true;
  byId("settings-open").setAttribute("aria-expanded", "false");
  document.body.classList.remove("with-settings");
  byId("settings-open").focus();
}

function setUpHistory() {
  const show = (isOpen) => {
    document.body.classList.toggle("with-history", isOpen);
    byId("history-open").setAttribute("aria-expanded", String(isOpen));
  };
  byId("history-open").addEventListener("click", () => {
    location.hash = "#chat";
    show(!document.body.classList.contains("with-history"));
  });
  byId("history").addEventListener("chosen", () => show(false));
}

function setUpKeys() {
  byId("help-keys").append(
    ...SHORTCUTS.flatMap(([keys, said]) => [el("dt", {}, ...keys.split("+").map((key) => el("kbd", { text: key }))), el("dd", { text: t(said) })]),
  );
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const isWriting = event.target.matches("input, textarea, select");
    const act = shortcut(event, isWriting);
    if (!act) return;
    event.preventDefault();
    act();
  });
}

/** What a key is for, if it is for anything. */
function shortcut(event, isWriting) {
  if (event.ctrlKey || event.metaKey) return null;
  if (event.altKey) {
    // By place on the keyboard: with Alt, some layouts give other letters.
    switch (event.code) {
      case "Digit1":
        return () => (location.hash = "#chat");
      case "Digit2":
        return () => (location.hash = "#memory");
      case "KeyN":
        return () => {
          location.hash = "#chat";
          chat.startNew();
        };
      default:
        return null;
    }
  }
  if (event.key === "Escape") {
    if (document.body.classList.contains("with-history")) return () => byId("history").dispatchEvent(new CustomEvent("chosen"));
    if (!byId("settings").hidden) return closeSettings;
    return chat.run ? () => chat.stop() : null;
  }
  if (isWriting) return null;
  if (event.key === "/") {
    return () => {
      location.hash = "#chat";
      byId("view-chat").hidden = false;
      byId("draft").focus();
    };
  }
  return event.key === "?" ? () => byId("help").showModal() : null;
}

/** Asks who can answer. */
async function loadModels() {
  const select = byId("model");
  try {
    const { data } = await get("/v1/models");
    models.clear();
    for (const model of data) models.set(model.id, model);
    select.replaceChildren(...data.map(({ id }) => el("option", { value: id, text: id })));
    if (models.has(settings().model)) select.value = settings().model;
    chat.refreshHello();
    memory.reload();
  } catch (error) {
    chat.showError(error);
    if (error instanceof ApiError && error.code === "invalid_api_key") openSettings("set-key");
  }
}

async function start() {
  chooseLanguage(settings().language);
  applyStrings(document);
  applyIcons(document);
  const context = {
    model: () => byId("model").value,
    modelLen: () => models.get(byId("model").value)?.max_model_len ?? null,
    openKey: () => openSettings("set-key"),
    reload: () => loadModels(),
  };
  memory = startMemory(byId("view-memory"), context);
  chat = await startChat(context);
  setUpTheme();
  setUpSettings();
  setUpHistory();
  setUpKeys();
  byId("model").addEventListener("change", () => {
    saveSettings({ model: context.model() });
    chat.refreshHello();
    memory.reload();
  });
  window.addEventListener("hashchange", showView);
  showView();
  await loadModels();
  document.body.dataset.ready = "true";
}

start();

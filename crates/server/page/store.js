// What the browser keeps: conversations in a database, settings beside it. Nothing of it leaves the
// browser but by export.

const SETTINGS = "kvist.settings";
const FORMAT = "kvist-conversations";
/** More would be no export of ours. */
const IMPORT_CHATS_MAX = 10_000;
const ROLES = ["user", "assistant"];

/** Without a database, as in some private windows, conversations live as long as the page. */
const memory = new Map();
let opened;

function open() {
  opened ??= new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open("kvist", 1);
    } catch {
      return resolve(null);
    }
    request.onupgradeneeded = () => request.result.createObjectStore("chats", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  });
  return opened;
}

async function run(mode, act) {
  const database = await open();
  if (!database) return undefined;
  return new Promise((resolve, reject) => {
    const transaction = database.transaction("chats", mode);
    const request = act(transaction.objectStore("chats"));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}

/** Whether conversations outlive the page. */
export async function isLasting() {
  return (await open()) !== null;
}

/** Every conversation, the latest first. */
export async function allChats() {
  const kept = (await run("readonly", (chats) => chats.getAll())) ?? [...memory.values()];
  return kept.sort((a, b) => b.updated - a.updated);
}

export async function saveChat(chat) {
  if (await isLasting()) await run("readwrite", (chats) => chats.put(structuredClone(chat)));
  else memory.set(chat.id, structuredClone(chat));
}

export async function removeChat(id) {
  memory.delete(id);
  await run("readwrite", (chats) => chats.delete(id));
}

export async function removeAllChats() {
  memory.clear();
  await run("readwrite", (chats) => chats.clear());
}

export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** All conversations as one file. */
export async function exportChats() {
  return JSON.stringify({ format: FORMAT, version: 1, chats: await allChats() }, null, 1);
}

/** Adds the conversations of a file; those with the same id are replaced. Returns how many, or null if the
 * file is none of ours. */
export async function importChats(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    return null;
  }
  if (file?.format !== FORMAT || !Array.isArray(file.chats) || file.chats.length > IMPORT_CHATS_MAX) return null;
  const chats = file.chats.map(cleanChat).filter((chat) => chat !== null);
  for (const chat of chats) await saveChat(chat);
  return chats.length;
}

/** Only what we know, in the types we know. */
function cleanChat(chat) {
  if (typeof chat?.id !== "string" || !Array.isArray(chat.messages)) return null;
  const messages = chat.messages.filter((message) => ROLES.includes(message?.role)).map(cleanMessage);
  return {
    id: chat.id.slice(0, 64),
    title: text(chat.title).slice(0, 200),
    created: time(chat.created),
    updated: time(chat.updated),
    messages,
  };
}

function cleanMessage(message) {
  if (message.role === "user") return { role: "user", text: text(message.text) };
  const versions = (Array.isArray(message.versions) ? message.versions : []).map((version) => ({
    text: text(version?.text),
    reasoning: text(version?.reasoning),
    model: text(version?.model),
    finish: text(version?.finish),
    stats: cleanStats(version?.stats),
  }));
  if (versions.length === 0) versions.push({ text: "", reasoning: "", model: "", finish: "", stats: null });
  const shown = Number.isInteger(message.shown) ? Math.min(Math.max(message.shown, 0), versions.length - 1) : 0;
  return { role: "assistant", versions, shown };
}

function cleanStats(stats) {
  if (typeof stats !== "object" || stats === null) return null;
  const names = ["prompt", "cached", "output", "first", "seconds"];
  return Object.fromEntries(names.map((name) => [name, Number.isFinite(stats[name]) ? stats[name] : null]));
}

function text(value) {
  return typeof value === "string" ? value : "";
}

function time(value) {
  return Number.isFinite(value) ? value : Date.now();
}

export function settings() {
  try {
    return JSON.parse(localStorage.getItem(SETTINGS)) ?? {};
  } catch {
    return {};
  }
}

export function saveSettings(changed) {
  const all = { ...settings(), ...changed };
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(all));
  } catch {
    // A browser that keeps nothing: the settings hold until the page is closed.
  }
  return all;
}

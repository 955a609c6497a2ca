// The server as the page knows it. The key stays in this tab: it is gone when the tab is closed.

const KEY = "kvist.key";

export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** What the server, or the way to it, had against a request. */
export class ApiError extends Error {
  constructor({ status = 0, code = "", message, retryAfter = null }) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

async function send(method, path, body, signal) {
  const headers = {};
  const key = apiKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ code: "unreachable", message: String(error.message ?? error) });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let detail = {};
  try {
    detail = (await response.json()).error ?? {};
  } catch {
    // Not one of our answers: something between us and the server spoke.
  }
  return new ApiError({
    status: response.status,
    code: String(detail.code ?? ""),
    message: String(detail.message ?? response.statusText),
    retryAfter: Number(response.headers.get("Retry-After")) || null,
  });
}

export async function get(path, signal) {
  return (await send("GET", path, undefined, signal)).json();
}

export async function post(path, body, signal) {
  return (await send("POST", path, body, signal)).json();
}

export async function put(path, body) {
  return (await send("PUT", path, body)).json();
}

/** The chunks of a streamed answer, in order. */
export async function* stream(path, body, signal) {
  const response = await send("POST", path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let isDone = false;
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        // Other lines are comments, which keep the connection open, and ends of events.
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") {
          isDone = true;
          continue;
        }
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError({ status: 200, code: String(chunk.error.code ?? ""), message: String(chunk.error.message) });
        yield chunk;
      }
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError({ code: "broken", message: String(error.message ?? error) });
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!isDone) throw new ApiError({ code: "broken", message: "the stream ended early" });
}

// Requests to this server, and what goes wrong with them in plain words.

export const GONE = "The server does not answer. Is “residency serve” still running?";
export const BROKEN = "The connection broke off before the answer had ended.";
const BUSY = "The server is busy with other questions.";
const LONGEST_WAIT = 30; // seconds between two tries, whatever the server asks for

/** Something that went wrong, its message in plain words; `wait` is in seconds, and null where waiting helps nothing. */
export class Trouble extends Error {
  constructor(words, wait = null) {
    super(words);
    this.wait = wait;
  }
}

/** Ask the server: a GET, or a POST of `body` as JSON. Returns the response; raises Trouble, or AbortError if stopped. */
export async function ask(path, body, signal) {
  const request = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, { ...request, signal, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Trouble(GONE);
  }
  if (response.status === 401) window.location.assign("/sign-in");
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The JSON value that the server answers with. */
export async function askJson(path, body, signal) {
  const response = await ask(path, body, signal);
  try {
    return await response.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Trouble(BROKEN);
  }
}

/** What an error's message says, wherever a server puts it. */
export const messageOf = (value) => value?.error?.message ?? (typeof value?.detail === "string" ? value.detail : null);

async function refusal(response) {
  const said = messageOf(await response.json().catch(() => null));
  if (response.status === 503 || response.status === 429) {
    const wait = Number.parseFloat(response.headers.get("Retry-After")) || 3;
    return new Trouble(BUSY, Math.min(Math.max(wait, 1), LONGEST_WAIT));
  }
  if (response.status >= 500) return new Trouble(`The server failed${said ? `: ${said}` : ` (${response.status})`}.`.replace(/\.\.$/, "."));
  return new Trouble(said ? said[0].toUpperCase() + said.slice(1) : `The server refused this (${response.status}).`);
}

// An answer as it comes: server-sent events in the form of OpenAI's chat completions.

import { ask, BROKEN, messageOf, Trouble } from "./server.js";

/** The data of each event of a response, however its bytes are cut; comments and other fields are passed over. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      rest += done ? "\n\n" : value;
      const lines = rest.split(/\r\n|\n|\r(?!$)/); // a last \r may be half of a line's end
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Ask a model and hear its answer; `heard` gets each piece of text.
 *
 * Returns {reason, tokens, seconds, residency}: why it ended (stop, length, or another word of the server's), the
 * answer's tokens and the seconds from its first piece to its last, null where unknown, and what the server adds.
 * Raises Trouble, and AbortError if it was stopped.
 */
export async function answer(model, messages, signal, heard) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  const response = await ask("/v1/chat/completions", body, signal);
  const found = { reason: null, tokens: null, seconds: null, residency: {} };
  let first = null;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Trouble(`The answer failed: ${messageOf(chunk) ?? "no reason is given"}`);
      const choice = chunk.choices?.[0];
      const text = choice?.delta?.content;
      if (text) {
        first ??= performance.now();
        heard(text);
        found.seconds = (performance.now() - first) / 1000;
      }
      found.reason = choice?.finish_reason ?? found.reason;
      found.tokens = chunk.usage?.completion_tokens ?? found.tokens;
      Object.assign(found.residency, chunk.residency);
    }
  } catch (error) {
    throw error instanceof Trouble || error.name === "AbortError" ? error : new Trouble(BROKEN);
  }
  if (found.reason === null) throw new Trouble(BROKEN);
  return found;
}

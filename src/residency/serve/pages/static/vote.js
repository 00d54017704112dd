// Blind votes: two answers, four choices. Which system gave which answer stays on the server until the vote is cast.

import { announce, find, make, recall, remember, showTrouble } from "./dom.js";
import { askJson } from "./server.js";
import { guard } from "./turn.js";

const KEYS = { 1: "a", 2: "b", 3: "tie", 4: "both bad" };
const own = find("own"), from = find("from"), voter = find("voter");
let pair = null; // the id that the server knows the shown pair by
let asking = null; // an AbortController while a pair is fetched or a vote is sent

const ofOwn = () => (from ? from.querySelector("input:checked").value === "own" : own !== null);

/** Get the next pair, of a held-out question or of one's own. */
async function next(question, first = false) {
  clear();
  const working = start(question ? "Both models are answering; this may take a while." : "");
  try {
    show(await askJson("/api/pairs", { voter: voter.value.trim(), question }, working.signal), first);
  } catch (error) {
    fail(error, () => next(question));
  } finally {
    if (asking === working) asking = null;
  }
}

function show(found, first) {
  pair = found.id;
  find("asked").textContent = found.question;
  before(found.before);
  find("notices").replaceChildren(...(found.guard?.length ? [guard(found.guard)] : []));
  for (const [place, name] of ["a", "b"].entries()) answerText(name, found.answers[place]);
  find("pair").hidden = false;
  const { done, of } = found.progress;
  if (of) {
    const again = done >= of ? " You have voted on each of them; from here on they come again." : "";
    say(`${done} of ${of} pairs voted on by you.${again}`);
  } else say("");
  window.scrollTo({ top: 0 });
  if (!first) find("asked").focus({ preventScroll: true }); // whoever listens goes on from here
}

function answerText(name, text) {
  const place = find(`answer-${name}`);
  place.textContent = text || "(nothing)";
  place.classList.toggle("nothing", !text);
  find(`who-${name}`).textContent = "";
}

function before({ system, history }) {
  const parts = system ? [make("dt", {}, "System message"), make("dd", { class: "text" }, system)] : [];
  for (const [question, answer] of history) {
    parts.push(make("dt", {}, "Question"), make("dd", { class: "text" }, question));
    parts.push(make("dt", {}, "Answer"), make("dd", { class: "text" }, answer));
  }
  find("earlier").replaceChildren(...parts);
  find("before").hidden = parts.length === 0;
  find("before").open = history.length > 0;
}

/** Cast the vote; the same pair comes again only if the server did not take it. */
async function cast(choice) {
  if (!pair || asking) return;
  const working = start("");
  enable(false);
  const vote = { id: pair, vote: choice, why: find("why").value.trim(), voter: voter.value.trim(), reveal: find("reveal").checked };
  try {
    taken(await askJson("/api/votes", vote, working.signal));
  } catch (error) {
    fail(error, null);
    enable(true);
  } finally {
    if (asking === working) asking = null;
  }
}

function taken({ a, b }) {
  pair = null;
  find("why").value = "";
  asking = null;
  if (a) {
    find("who-a").textContent = a;
    find("who-b").textContent = b;
  }
  if (!a && !ofOwn()) {
    next();
    return;
  }
  find("votes").hidden = find("why-box").hidden = true;
  find("after").hidden = ofOwn();
  say(`Your vote is kept.${a ? ` A was ${a}, B was ${b}.` : ""}${ofOwn() ? " Ask another question, if you like." : ""}`);
  (ofOwn() ? find("question") : find("next")).focus();
}

function clear() {
  pair = null;
  find("pair").hidden = find("after").hidden = find("trouble").hidden = true;
  find("votes").hidden = find("why-box").hidden = false;
  enable(true);
}

function start(words) {
  asking?.abort();
  asking = new AbortController();
  find("trouble").hidden = true;
  if (words) say(words);
  return asking;
}

function fail(error, again) {
  if (error.name === "AbortError") return;
  say("");
  showTrouble(find("trouble"), error.message, again);
}

const say = (words) => announce(find("state"), words);
const enable = (on) => find("votes").querySelectorAll("button").forEach((button) => { button.disabled = !on; });

function begin() {
  asking?.abort();
  clear();
  say("");
  if (own) own.hidden = !ofOwn();
  if (!ofOwn()) next(undefined, true);
  else find("question").focus();
}

find("votes").addEventListener("click", (event) => {
  const choice = event.target.closest("button")?.dataset.vote;
  if (choice) cast(choice);
});
find("next").addEventListener("click", () => next());
document.addEventListener("keydown", (event) => {
  const writing = event.target.closest('textarea, input[type="text"]');
  if (!writing && !event.ctrlKey && !event.altKey && !event.metaKey && KEYS[event.key] && !find("votes").hidden) cast(KEYS[event.key]);
});
own?.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = find("question").value.trim();
  if (question) next(question);
});
from?.addEventListener("change", begin);
voter.value = recall("localStorage", "residency voter") ?? "";
voter.addEventListener("change", () => {
  remember("localStorage", "residency voter", voter.value.trim());
  if (!ofOwn() && !asking) next(undefined, true);
});
if (from || own || document.querySelector("#main .notice") === null) begin();

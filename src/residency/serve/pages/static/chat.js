// The chat page: questions in, answers out as they are made.

import { Conversation } from "./conversation.js";
import { announce, find, showTrouble } from "./dom.js";
import { askJson, Trouble } from "./server.js";
import { answer } from "./stream.js";
import { AnswerView, spoken, turnElement } from "./turn.js";

const TRIES = 4; // of one question, while the server is busy
const KEPT_EVERY = 1000; // milliseconds, while an answer grows

const main = find("main"), turns = find("turns"), question = find("question");
const talk = new Conversation(document.body.dataset.name);
const models = new Map(); // role to the model's id
let last = new Map(); // role to the view of the last turn's answer
let stopping = null; // an AbortController while answers are under way
let forgotten = null; // the conversation before the last "New conversation"
let early = false; // whether a question was sent before the models were known

/** Learn which models are served; nothing can be asked before that. */
async function begin() {
  try {
    const { data } = await askJson("/v1/models");
    for (const model of data) models.set(model.residency?.role ?? "tuned", model.id);
    find("who").hidden = !models.has("base");
    if (!models.has("base")) talk.who = "tuned";
  } catch (error) {
    showTrouble(find("trouble"), error.message, begin);
  }
  drawAll();
  enable();
  if (early && models.size) send();
}

function drawAll() {
  document.querySelector(`#who input[value="${talk.who}"]`).checked = true;
  find("system").value = talk.system;
  find("system-box").open = Boolean(talk.system);
  question.value = talk.draft;
  turns.replaceChildren();
  last = new Map();
  talk.turns.forEach((_, place) => drawTurn(place));
  arrange();
}

function drawTurn(place) {
  const { question: asked, answers } = talk.turns[place];
  last.forEach((view) => view.forgetAgain());
  const isLast = place === talk.turns.length - 1;
  last = new Map(Object.entries(answers).map(([role, said]) => [
    role, new AnswerView(role, models.get(role) ?? role, said, isLast ? () => answerAgain(place, role) : null),
  ]));
  turns.append(turnElement(place + 1, asked, [...last.values()]));
}

/** What depends on how much was said, and by whom. */
function arrange() {
  const both = talk.turns.some((turn) => Object.keys(turn.answers).length > 1);
  main.classList.toggle("both", both || talk.who === "both");
  main.classList.toggle("begun", talk.turns.length > 0);
  turns.classList.toggle("alone", !models.has("base"));
  find("empty").hidden = talk.turns.length > 0;
  find("undo").hidden = forgotten === null;
  find("reset").hidden = talk.turns.length === 0;
}

function enable() {
  const busy = stopping !== null;
  find("send").hidden = busy;
  find("stop").hidden = !busy;
  find("send").disabled = models.size === 0 || !question.value.trim();
  find("reset").disabled = busy;
}

function send() {
  const asked = question.value.trim();
  early = Boolean(asked) && !models.size;
  if (!asked || stopping || early) return;
  const roles = talk.who === "both" ? ["tuned", "base"] : [talk.who];
  const answers = Object.fromEntries(roles.map((role) => [role, { text: "", ended: null }]));
  talk.turns.push({ question: asked, answers });
  talk.draft = question.value = "";
  forgotten = null;
  drawTurn(talk.turns.length - 1);
  arrange();
  const page = document.scrollingElement;
  page.scrollTop = page.scrollHeight;
  answerAll(talk.turns.length - 1, roles);
}

async function answerAgain(place, role) {
  if (!models.size) await begin(); // the list may not have come at first
  if (stopping || !models.has(role)) return;
  const said = talk.turns[place].answers[role];
  for (const name of Object.keys(said)) delete said[name];
  Object.assign(said, { text: "", ended: null });
  last.get(role).draw();
  answerAll(place, [role]);
}

async function answerAll(place, roles) {
  stopping = new AbortController();
  enable();
  const keeping = setInterval(() => talk.keep(), KEPT_EVERY);
  await Promise.all(roles.map((role) => answerOne(place, role, last.get(role), stopping.signal)));
  clearInterval(keeping);
  const ending = document.activeElement === find("stop");
  stopping = null;
  enable();
  if (ending) question.focus();
  if (!talk.keep()) showTrouble(find("trouble"), "The browser has no room for this conversation: a reload would lose it.");
  const told = roles.map((role) => spoken(models.get(role), talk.turns[place].answers[role]));
  announce(find("said"), told.filter(Boolean).join("\n"));
}

async function answerOne(place, role, view, signal) {
  const { said } = view;
  try {
    const found = await patiently(view, signal, () =>
      answer(models.get(role), talk.messages(place, role), signal, (text) => hear(view, text)));
    said.ended = found.reason;
    said.tokens = found.tokens;
    said.speed = found.tokens > 1 && found.seconds > 0 ? (found.tokens - 1) / found.seconds : null;
    said.left = found.residency.turns_left_out;
    said.notices = found.residency.guard;
  } catch (error) {
    if (error.name === "AbortError") said.ended = "stopped";
    else said.trouble = error instanceof Trouble ? error.message : `This page failed: ${error.message}`;
  }
  following(() => view.draw());
}

/** Ask; where the server is busy, wait as long as it asks for, say so, and ask again. */
async function patiently(view, signal, asking) {
  for (let tries = 1; ; tries += 1) {
    view.wait("waiting for the first words");
    try {
      return await asking();
    } catch (error) {
      if (!error.wait || tries === TRIES) throw error;
      for (let left = Math.ceil(error.wait); left > 0; left -= 1) {
        view.wait(`The server is busy; asking again in ${left} s`);
        await pause(1000, signal);
      }
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stopped = () => reject(new DOMException("stopped", "AbortError"));
    if (signal.aborted) return stopped();
    const timer = setTimeout(() => { signal.removeEventListener("abort", stopped); resolve(); }, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); stopped(); }, { once: true });
  });
}

function hear(view, text) {
  view.said.text += text;
  following(() => view.add(text));
}

/** Change the page; whoever is at its end stays there, and whoever reads further up is left in peace. */
function following(change) {
  const page = document.scrollingElement;
  const atEnd = page.scrollHeight - page.scrollTop - page.clientHeight < 80;
  change();
  if (atEnd) page.scrollTop = page.scrollHeight;
}

function reset() {
  if (stopping) return;
  forgotten = talk.turns;
  talk.turns = [];
  talk.keep();
  drawAll();
  enable();
  question.focus();
}

find("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
find("stop").addEventListener("click", () => stopping?.abort());
find("reset").addEventListener("click", reset);
find("undo").addEventListener("click", () => {
  talk.turns = forgotten;
  forgotten = null;
  talk.keep();
  drawAll();
  question.focus();
});
find("who").addEventListener("change", (event) => { talk.who = event.target.value; talk.keep(); arrange(); });
find("system").addEventListener("change", (event) => { talk.system = event.target.value; talk.keep(); });
question.addEventListener("input", () => { talk.draft = question.value; enable(); });
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") stopping?.abort(); });
// What a reload cuts off must not be kept as a failure: nothing is kept any more after the page has gone.
window.addEventListener("pagehide", () => { talk.system = find("system").value; talk.keep(); talk.closed = true; });
window.addEventListener("pageshow", () => { talk.closed = false; });
talk.draft = question.value || talk.draft; // what was typed before this script was there
drawAll();
if (window.matchMedia("(pointer: fine)").matches) question.focus(); // on a phone it would bring up the keyboard
begin();

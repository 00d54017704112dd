// One turn on the page: the question, and below it an answer for each model that was asked.

import { copyButton, make } from "./dom.js";

const ENDED = {
  stop: "ended by itself",
  length: "cut off at its longest",
  stopped: "stopped by you",
  cut: "cut off by a reload",
};

/** How an answer is told in a line: its tokens, their speed, why it ended, what had to be left out before it. */
export function footWords(said) {
  const words = [];
  if (said.tokens) words.push(said.tokens === 1 ? "1 token" : `${said.tokens.toLocaleString("en")} tokens`);
  if (said.speed) words.push(`${said.speed < 10 ? said.speed.toFixed(1) : Math.round(said.speed)} tokens/s`);
  if (said.ended) words.push(ENDED[said.ended] ?? said.ended.replaceAll("_", " "));
  if (said.left) words.push(`left out ${said.left} earlier ${said.left === 1 ? "turn" : "turns"}`);
  return words.join(" · ");
}

/** An answer for who listens; trouble is an alert already. */
export function spoken(name, said) {
  if (said.trouble) return "";
  const notices = (said.notices ?? []).map((one) => `Notice: ${one.notice ?? one.rule}`);
  return [`${name}: ${said.text || "nothing"}`, ...notices].join("\n");
}

/** An answer as it is drawn: `element`, and what changes it. */
export class AnswerView {
  constructor(role, name, said, again) {
    this.said = said;
    this.again = again;
    this.words = document.createTextNode(said.text);
    this.text = make("p", { class: "text" }, this.words);
    this.notices = make("div");
    this.foot = make("div", { class: "foot" });
    this.element = make("article", { class: `answer ${role}`, "aria-label": `Answer of ${name}` },
      make("h3", {}, name), this.text, this.notices, this.foot);
    this.draw();
  }

  /** A piece more of the answer. */
  add(text) {
    this.words.appendData(text);
    if (this.foot.classList.contains("waiting")) this.wait("answering");
  }

  /** Say what is being waited for. */
  wait(words) {
    this.element.setAttribute("aria-busy", "true");
    this.foot.classList.add("waiting");
    this.foot.replaceChildren(`${words} …`);
  }

  /** Everything but the text, as the answer stands now. */
  draw() {
    const { said } = this;
    this.element.removeAttribute("aria-busy");
    this.foot.classList.remove("waiting");
    this.words.data = said.text;
    const empty = !said.text && said.ended;
    this.text.classList.toggle("nothing", Boolean(empty));
    if (empty) this.words.data = "(nothing)";
    this.notices.replaceChildren(...(said.notices?.length ? [guard(said.notices)] : []));
    const foot = footWords(said);
    this.foot.replaceChildren(...(foot ? [make("span", {}, foot)] : []));
    if (said.text) this.foot.append(copyButton(() => said.text, "Copy the answer"));
    if (said.trouble) this.#trouble();
    else if (said.ended === "cut" && this.again) this.foot.append(this.#tryAgain("plain"));
  }

  /** Only the last turn's answers can be asked for again. */
  forgetAgain() {
    if (this.again) {
      this.again = null;
      this.draw();
    }
  }

  #trouble() {
    const box = make("div", { class: "trouble", role: "alert" }, make("p", {}, this.said.trouble));
    if (this.again) box.append(this.#tryAgain(""));
    this.notices.append(box);
  }

  #tryAgain(kind) {
    const button = make("button", { type: "button", class: kind }, "Try again");
    button.addEventListener("click", this.again);
    return button;
  }
}

/** What a guard says of the question or the answer, apart from the answer. */
export function guard(notices) {
  const lines = notices.map((one) => make("p", {}, one.notice ?? one.rule ?? String(one)));
  return make("aside", { class: "notice", "aria-label": "Notice" }, make("h4", {}, "Please mind"), ...lines);
}

/** A turn as a list's item; `views` are its answers. */
export function turnElement(number, question, views) {
  return make("li", { class: "turn" },
    make("h2", { class: "unseen" }, `Question ${number}`),
    make("p", { class: "question text" }, question),
    make("div", { class: "answers" }, ...views.map((view) => view.element)));
}

// What was said, kept in this tab: a reload does not lose it, and closing the tab forgets it.

import { recall, remember } from "./dom.js";

const OTHER = { tuned: "base", base: "tuned" };

/**
 * A conversation with up to two models. A turn is {question, answers}, and `answers` has by role (tuned, base) what that
 * model said: {text, ended, tokens, speed, left, notices, trouble}. `ended` is stop, length, stopped or cut; it is null
 * while the answer grows, and where there is trouble.
 */
export class Conversation {
  constructor(name) {
    this.key = `residency chat ${name}`;
    this.closed = false; // then nothing is kept
    const kept = recall("sessionStorage", this.key) ?? {};
    this.turns = Array.isArray(kept.turns) ? kept.turns : [];
    this.system = kept.system ?? "";
    this.draft = kept.draft ?? "";
    this.who = kept.who ?? "tuned";
    for (const turn of this.turns) {
      for (const said of Object.values(turn.answers)) if (!said.ended && !said.trouble) said.ended = "cut";
    }
  }

  /** Keep everything as it is now; false where the browser has no room. */
  keep() {
    if (this.closed) return true;
    const { turns, system, draft, who } = this;
    return remember("sessionStorage", this.key, { turns, system, draft, who });
  }

  /**
   * The messages that ask a role the question of the turn at `place`. Each model sees the answers that it gave itself,
   * and the other one's where it was not asked; a question that nobody answered is left out.
   */
  messages(place, role) {
    const found = this.system.trim() ? [{ role: "system", content: this.system.trim() }] : [];
    for (const { question, answers } of this.turns.slice(0, place)) {
      const said = answers[role]?.text || answers[OTHER[role]]?.text;
      if (said) found.push({ role: "user", content: question }, { role: "assistant", content: said });
    }
    return [...found, { role: "user", content: this.turns[place].question }];
  }
}

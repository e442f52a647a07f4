// The conversation: what was asked, who replied what, and how it looks. Text comes in as text.

import { element, hue } from "/page/choice.js";

/** Pixels from the end within which the view follows what is written. */
const NEAR = 48;

/** A reply, while it is written and after. */
export class Reply {
  text = "";
  /** "writing", "done", "stopped" or "failed". */
  state = "writing";
  facts = "";
  trouble = "";
  #body = document.createTextNode("");
  #facts = element("p", { className: "facts" });
  #trouble = element("p", { className: "trouble", hidden: true });

  constructor(by) {
    this.by = by;
    const dot = element("span", { className: "dot" });
    dot.style.setProperty("--hue", hue(by));
    const head = element("h2", { className: "by" }, dot, by);
    const body = element("p", { className: "text" }, this.#body);
    this.element = element("section", { className: "reply" }, head, body, this.#trouble);
    this.element.append(this.#facts);
    this.element.setAttribute("aria-label", `Reply of ${by}`);
    this.#show();
  }

  static restore({ by, text, state, facts, trouble }) {
    const reply = new Reply(by);
    reply.write(text);
    reply.end(state === "writing" ? "stopped" : state, facts, trouble);
    return reply;
  }

  write(text) {
    this.text += text;
    this.#body.appendData(text);
  }

  end(state, facts = "", trouble = "") {
    Object.assign(this, { state, facts, trouble });
    this.#show();
  }

  // Who listens hears a reply when it is whole, not letter by letter.
  #show() {
    this.element.setAttribute("aria-busy", String(this.state === "writing"));
    this.element.dataset.state = this.state;
    this.#facts.textContent = this.facts;
    this.#trouble.textContent = this.trouble;
    this.#trouble.hidden = this.trouble === "";
  }

  saved() {
    const { by, text, state, facts, trouble } = this;
    return { by, text, state, facts, trouble };
  }
}

export class Talk {
  #log;
  #empty;
  #turns = [];
  #edit;
  /** Is the end in view? */
  #isNear = true;

  /** In the element `log`, which shows `empty` when nothing was asked; `edit(text)` takes back. */
  constructor(log, empty, edit) {
    this.#log = log;
    this.#empty = empty;
    this.#edit = edit;
    log.addEventListener("scroll", () => {
      this.#isNear = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
    });
    // What is below takes more or less room.
    new ResizeObserver(() => this.follow(() => {})).observe(log);
  }

  get isEmpty() {
    return this.#turns.length === 0;
  }

  /** A question, with the replies that it gets side by side. */
  ask(asked, replies) {
    const edit = element("button", { type: "button", className: "edit", textContent: "Edit" });
    const text = element("p", { className: "text", textContent: asked });
    const question = element("div", { className: "asked" }, text, edit);
    const columns = element("div", { className: "replies" });
    const turn = { asked, replies, columns };
    turn.element = element("article", { className: "turn" }, question, columns);
    turn.element.setAttribute("aria-label", "Question and reply");
    edit.addEventListener("click", () => this.#takeBack(turn));
    this.#turns.push(turn);
    this.#empty.hidden = true;
    this.#fill(turn);
    this.#log.append(turn.element);
    this.#toEnd();
  }

  /** Other replies to the last question; gives it. */
  askAgain(replies) {
    const turn = this.#turns.at(-1);
    turn.replies = replies;
    this.#fill(turn);
    this.#toEnd();
    return turn.asked;
  }

  #toEnd() {
    this.#log.scrollTop = this.#log.scrollHeight;
    this.#isNear = true;
  }

  #fill({ columns, replies }) {
    columns.replaceChildren(...replies.map((reply) => reply.element));
    columns.classList.toggle("two", replies.length > 1);
  }

  #takeBack(turn) {
    this.#turns = this.#turns.filter((other) => other !== turn);
    turn.element.remove();
    this.#empty.hidden = !this.isEmpty;
    this.#edit(turn.asked);
  }

  clear() {
    for (const turn of this.#turns) turn.element.remove();
    this.#turns = [];
    this.#empty.hidden = false;
  }

  /**
   * The messages of one column up to the last question: those of the only reply where there was
   * one. A question that got no word is left out, as if it had not been asked.
   */
  messages(side) {
    const messages = [];
    for (const { asked, replies } of this.#turns.slice(0, -1)) {
      const { text } = replies[side] ?? replies[0];
      if (text === "") continue;
      messages.push({ role: "user", content: asked }, { role: "assistant", content: text });
    }
    return [...messages, { role: "user", content: this.#turns.at(-1).asked }];
  }

  /** Does `change`, and keeps the end in view if it was. */
  follow(change) {
    change();
    if (this.#isNear) this.#toEnd();
  }

  saved() {
    const replies = (turn) => turn.replies.map((reply) => reply.saved());
    return this.#turns.map((turn) => ({ asked: turn.asked, replies: replies(turn) }));
  }

  restore(turns) {
    for (const { asked, replies } of turns) this.ask(asked, replies.map(Reply.restore));
  }
}

// The page of `lowrank serve`: binds the parts together. Nothing here leaves for another host.

import { ServerError, chunks, bases, load, models, onKeyNeeded } from "/page/api.js";
import { Choice } from "/page/choice.js";
import { fill, typed, withSettings } from "/page/settings.js";
import { Reply, Talk } from "/page/talk.js";

/** The number changes with what is saved: another version of the page starts anew. */
const SAVED = "lowrank.talk.1";
/** Milliseconds between looks at the server's load. */
const LOOK = 2000;
/** Milliseconds of a reply below which its rate is chance. */
const SHORT = 50;

const get = (id) => document.getElementById(id);
const message = get("message");

/** Does the base take conversations? Unknown until the server has said so. */
let isChat = null;
/** Ends the replies that are being written; null when none is. */
let writing = null;

const talk = new Talk(get("log"), get("empty"), takeBack);
const first = new Choice(get("first"));
const second = new Choice(get("second"));

/** For who listens. */
function say(text) {
  get("said").textContent = text;
}

function showTrouble(text) {
  get("trouble").textContent = text;
  get("trouble").hidden = text === "";
}

/** Asks what there is to choose from; null if the server does not say. */
async function refresh() {
  try {
    const cards = await models();
    const { writes: base, reads, has_chat_template } = await bases();
    if (base === null) throw new Error("This server has no model that writes: it makes vectors and labels of texts.");
    const isElse = ({ id, parent }) => id === base || (reads !== null && (id === reads || parent === reads));
    const names = cards.filter((card) => !isElse(card)).map((card) => card.id);
    first.offer(base, names);
    second.offer(base, names);
    get("base").textContent = base;
    document.title = `${base} · lowrank`;
    isChat = has_chat_template;
    get("note").hidden = isChat;
    showTrouble("");
    say(`${names.length} adapters are listed.`);
    return { base, names };
  } catch (error) {
    showTrouble(error.message);
    return null;
  }
}

/** Who is asked: one choice, or two side by side. */
function chosen() {
  return (get("both").checked ? [first, second] : [first]).map((choice) => choice.value());
}

async function send() {
  const text = message.value;
  if (writing) return say("A reply is being written: Escape stops it.");
  if (text.trim() === "") return say("The message is empty.");
  if (isChat === null && !(await refresh())) return;
  // Sent twice while the server was asked.
  if (writing) return;
  const choices = chosen();
  const replies = choices.map(({ by }) => new Reply(by));
  talk.ask(text, replies);
  message.value = "";
  grow();
  await answer(text, choices, replies);
}

/** Asks the last question again, of who is chosen now. */
async function sendAgain() {
  if (writing || talk.isEmpty) return;
  const choices = chosen();
  const replies = choices.map(({ by }) => new Reply(by));
  await answer(talk.askAgain(replies), choices, replies);
}

/** Puts a question back to where it was typed, before what is there. */
function takeBack(text) {
  message.value = message.value === "" ? text : `${text}\n${message.value}`;
  grow();
  update();
  message.focus();
}

async function answer(asked, choices, replies) {
  writing = new AbortController();
  update();
  showTrouble("");
  say("");
  const { signal } = writing;
  await Promise.all(
    choices.map(({ request }, side) => {
      const body = isChat
        ? { ...request, messages: talk.messages(side) }
        : { ...request, prompt: asked };
      return write(replies[side], body, signal);
    }),
  );
  writing = null;
  update();
  const told = ({ by, state, facts, trouble }) => `${by}: ${trouble || facts || state}`;
  say(replies.map(told).join(". "));
}

/** Lets one reply be written. */
async function write(reply, body, signal) {
  const all = { ...body, stream: true, stream_options: { include_usage: true } };
  const path = isChat ? "/v1/chat/completions" : "/v1/completions";
  const told = { begun: performance.now(), first: null, last: null, usage: null, end: null };
  try {
    for await (const chunk of chunks(path, withSettings(all), signal)) {
      const choice = chunk.choices[0];
      const text = choice?.delta?.content ?? choice?.text ?? "";
      told.usage = chunk.usage ?? told.usage;
      told.end = choice?.finish_reason ?? told.end;
      if (text === "") continue;
      told.last = performance.now();
      told.first ??= told.last;
      talk.follow(() => reply.write(text));
    }
    talk.follow(() => reply.end("done", facts(told)));
  } catch (error) {
    const isStopped = error.name === "AbortError";
    const [state, trouble] = isStopped ? ["stopped", ""] : ["failed", sentence(error)];
    talk.follow(() => reply.end(state, facts(told, isStopped), trouble));
  }
}

function sentence(error) {
  return error instanceof ServerError ? error.message : `this page failed: ${error.message}`;
}

/** What a reply cost, in a line. The rate is that of the tokens behind the first. */
function facts({ begun, first: from, last, usage, end }, isStopped = false) {
  const parts = isStopped ? ["stopped"] : [];
  if (usage) {
    const tokens = usage.completion_tokens;
    parts.push(tokens === 1 ? "1 token" : `${tokens} tokens`);
    if (tokens > 1 && last - from > SHORT) {
      parts.push(`${(((tokens - 1) * 1000) / (last - from)).toFixed(1)} tokens/s`);
    }
  }
  if (from !== null) parts.push(`first after ${((from - begun) / 1000).toFixed(2)} s`);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(`${cached} of ${usage.prompt_tokens} prompt tokens cached`);
  }
  if (end === "length") parts.push("ended at the limit");
  return parts.join(" · ");
}

/** Buttons say what can be done now; who stood on one that goes is led to its place. */
function update() {
  const isBusy = writing !== null;
  const stood = document.activeElement;
  document.body.classList.toggle("busy", isBusy);
  get("send").hidden = isBusy;
  get("stop").hidden = !isBusy;
  get("again").disabled = isBusy || talk.isEmpty;
  get("clear").disabled = isBusy || talk.isEmpty;
  if (isBusy && [get("send"), get("again")].includes(stood)) get("stop").focus();
  if (!isBusy && stood === get("stop")) message.focus();
}

/** The field is as high as its text, up to what the style allows. */
function grow() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight + 2}px`;
}

function showBoth() {
  get("second").hidden = !get("both").checked;
}

/** Asks for a key; resolves to "" if there is none. */
function askKey(why) {
  const dialog = get("key");
  const field = get("key-text");
  get("key-why").textContent = why;
  const { promise, resolve } = Promise.withResolvers();
  const use = (event) => {
    event.preventDefault();
    const text = field.value.trim();
    // Nothing else goes into a header.
    if (!/^[\x20-\x7e]+$/.test(text)) {
      get("key-why").textContent = "A key is at least one letter, of ASCII alone.";
      return;
    }
    resolve(text);
    dialog.close();
  };
  get("key-form").onsubmit = use;
  get("key-cancel").onclick = () => dialog.close();
  dialog.onclose = () => {
    field.value = "";
    resolve("");
  };
  dialog.showModal();
  field.focus();
  return promise;
}

async function look() {
  let text = "The server does not answer.";
  try {
    const { running, waiting, used } = await load();
    const share = Math.round(used * 100);
    text = `${running} running · ${waiting} waiting · cache ${share} % full`;
  } catch {
    // Said in the line.
  }
  if (get("state").textContent !== text) get("state").textContent = text;
}

/** Looks at the server's load as long as somebody looks at the page. */
async function watch() {
  for (;;) {
    if (document.visibilityState === "visible") await look();
    await new Promise((wake) => setTimeout(wake, LOOK));
  }
}

/** Keeps for this tab what was typed and said. */
function save() {
  const choices = [first.state(), second.state()];
  const all = { talk: talk.saved(), draft: message.value, both: get("both").checked, choices };
  try {
    sessionStorage.setItem(SAVED, JSON.stringify({ ...all, settings: typed() }));
  } catch {
    // No room: a reload starts anew.
  }
}

function restored() {
  try {
    return JSON.parse(sessionStorage.getItem(SAVED));
  } catch {
    return null;
  }
}

function listen() {
  get("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  message.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  message.addEventListener("input", grow);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !get("key").open) writing?.abort();
  });
  get("stop").addEventListener("click", () => writing?.abort());
  get("again").addEventListener("click", sendAgain);
  get("clear").addEventListener("click", () => {
    talk.clear();
    update();
    message.focus();
  });
  get("both").addEventListener("change", showBoth);
  get("reload").addEventListener("click", refresh);
  addEventListener("pagehide", save);
}

/** Brings back what this tab had; says whether there was something. */
function restore() {
  const before = restored();
  fill(before?.settings);
  if (!before) return false;
  talk.restore(before.talk);
  message.value = before.draft;
  get("both").checked = before.both;
  first.restore(before.choices[0]);
  second.restore(before.choices[1]);
  return true;
}

async function start() {
  onKeyNeeded(askKey);
  const isBack = restore();
  listen();
  showBoth();
  grow();
  update();
  watch();
  const found = await refresh();
  // Two that differ.
  if (!isBack && found?.names.length > 0) second.choose(found.names[0]);
}

start();

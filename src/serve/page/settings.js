// How replies are written. A field goes out as it was typed: the server says what is wrong with it.

const NUMBERS = ["temperature", "top_p", "max_tokens"];
const FIRST = { temperature: "0.7", top_p: "", max_tokens: "200", seed: "", stops: "" };

const field = (name) => document.getElementById(name);

/** A number if it is one, else what was typed. */
function numberOrText(text) {
  const number = Number(text);
  return Number.isFinite(number) ? number : text;
}

/** The texts of the stop field: one a line, `\n` for a line break. */
function stops() {
  const lines = field("stops").value.split("\n");
  return lines.filter((line) => line !== "").map((line) => line.replaceAll("\\n", "\n"));
}

/**
 * A request's body: `request` and the settings. A seed goes out digit by digit, since the largest
 * ones are more than a number of JavaScript holds.
 */
export function withSettings(request) {
  const body = { ...request };
  for (const name of NUMBERS) {
    const text = field(name).value.trim();
    if (text !== "") body[name] = numberOrText(text);
  }
  const texts = stops();
  if (texts.length > 0) body.stop = texts;
  const seed = field("seed").value.trim();
  if (/^\d+$/.test(seed)) {
    return `${JSON.stringify(body).slice(0, -1)},"seed":${BigInt(seed)}}`;
  }
  if (seed !== "") body.seed = numberOrText(seed);
  return JSON.stringify(body);
}

/** All fields as typed. */
export function typed() {
  return Object.fromEntries(Object.keys(FIRST).map((name) => [name, field(name).value]));
}

/** Fills the fields, those of `values` as they were. */
export function fill(values) {
  for (const [name, first] of Object.entries(FIRST)) {
    field(name).value = values?.[name] ?? first;
  }
  summarize();
  document.getElementById("settings").addEventListener("input", summarize);
}

/** The settings in a line, for when their fields are folded away. */
function summarize() {
  const { temperature, top_p, max_tokens, seed } = typed();
  const parts = [`temperature ${temperature || "1"}`];
  if (top_p) parts.push(`top p ${top_p}`);
  if (max_tokens) parts.push(`${max_tokens} tokens`);
  if (seed) parts.push(`seed ${seed}`);
  const count = stops().length;
  if (count > 0) parts.push(count === 1 ? "1 stop text" : `${count} stop texts`);
  document.getElementById("summary").textContent = parts.join(", ");
}

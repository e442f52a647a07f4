// Requests to the server that this page came from, with the key that its user gave.

const KEY = "lowrank.key";

let key = sessionStorage.getItem(KEY) ?? "";
let asking = null;
let askForKey = async () => "";

/** What the server says is wrong, in its own sentence. */
export class ServerError extends Error {}

/** `ask(sentence)` resolves to a key, or to "" if there is none to be had. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

// Requests that are refused together ask once.
async function newKey(sentence) {
  asking ??= askForKey(sentence).finally(() => {
    asking = null;
  });
  const given = await asking;
  if (given) {
    key = given;
    sessionStorage.setItem(KEY, key);
  }
  return given !== "";
}

async function sentenceOf(response) {
  const text = await response.text().catch(() => "");
  try {
    const { message } = JSON.parse(text).error;
    if (typeof message === "string") return message;
  } catch {
    // Not this server's form: something stands between.
  }
  return `the server answered ${response.status} ${response.statusText}`.trim();
}

/** The answer to a request, if it is a good one. */
async function request(path, { headers = {}, ...options } = {}) {
  for (;;) {
    const used = key;
    const all = used ? { ...headers, Authorization: `Bearer ${used}` } : headers;
    let response;
    try {
      response = await fetch(path, { ...options, headers: all, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(`the server at ${location.host} does not answer: is it still running?`);
    }
    if (response.ok) return response;
    const sentence = await sentenceOf(response);
    const mayAskAgain = response.status === 401 && (key !== used || (await newKey(sentence)));
    if (!mayAskAgain) throw new ServerError(sentence);
    // Stopped while the key was asked for.
    options.signal?.throwIfAborted();
  }
}

function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", headers, body, signal });
}

/** `[{id, parent, …}]`, the base first. */
export async function models() {
  return (await (await request("/v1/models")).json()).data;
}

/** `{writes, reads, has_chat_template}`: the names of the bases, null for one that is not there. Without a template a base continues texts. */
export async function bases() {
  return (await request("/page/base.json")).json();
}

/** What the server has to do: `{running, waiting, used}`, the last as a share of the cache. */
export async function load() {
  const text = await (await request("/metrics")).text();
  const gauge = (name) => {
    const line = text.split("\n").find((line) => line.startsWith(`${name}{`));
    return Number(line?.slice(line.lastIndexOf(" ") + 1));
  };
  return {
    running: gauge("vllm:num_requests_running"),
    waiting: gauge("vllm:num_requests_waiting"),
    used: gauge("vllm:kv_cache_usage_perc"),
  };
}

/**
 * The data of server-sent events, by the standard: lines end with CR, LF or both, an empty line
 * ends an event, its lines of data are joined, comments and other fields say nothing here.
 */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value: text, done } = await reader.read();
      if (done) return;
      // A CR at the end may be the first half of CR LF.
      const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        const [, field, value = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
        if (line === "") {
          if (data.length > 0) yield data.join("\n");
          data = [];
        } else if (field === "data") {
          data.push(value);
        }
      }
    }
  } finally {
    // Who reads no further ends the request.
    await reader.cancel().catch(() => {});
  }
}

/** The chunks of a streamed reply; an error in the stream is thrown. */
export async function* chunks(path, body, signal) {
  const response = await post(path, body, signal);
  const broken = "the connection ended before the reply did";
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(chunk.error.message);
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ServerError) throw error;
    throw new ServerError(broken);
  }
  throw new ServerError(broken);
}

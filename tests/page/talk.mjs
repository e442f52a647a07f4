// Checks of what is said: replies, errors, who writes them.

import assert from "node:assert/strict";

const PROMPT = "Duck and boat:";
const TOKENS = 24;

/** A line of the settings, unfolded if need be. */
export async function set(page, name, value) {
    if (!(await page.isVisible(`#${name}`))) await page.click("summary");
    await page.fill(`#${name}`, value);
}

/** Greedy replies, so that what comes is known. */
async function greedy(page, tokens = TOKENS) {
    await page.waitForSelector("#first option[value=pirate]", { state: "attached" });
    await set(page, "temperature", "0");
    await set(page, "max_tokens", String(tokens));
}

async function send(page, text) {
    await page.fill("#message", text);
    await page.press("#message", "Enter");
}

const idle = (page) => page.waitForSelector("#send:not([hidden])");

async function ask(page, text) {
    await send(page, text);
    await page.waitForFunction((text) => [...document.querySelectorAll(".asked .text")].at(-1)?.textContent === text, text);
    await idle(page);
}

/** Who wrote the replies, what, and what is said beside it; by columns, in the order of the page. */
function replies(page) {
    const read = (all) =>
        all.map((reply) => {
            const of = (name) => reply.querySelector(name).textContent;
            return { by: of(".by"), text: of(".text"), facts: of(".facts"), trouble: of(".trouble"), state: reply.dataset.state };
        });
    return page.$$eval(".reply", read);
}

/** What the server itself replies. */
async function alone(address, model, prompt, tokens = TOKENS) {
    const body = JSON.stringify({ model, prompt, max_tokens: tokens, temperature: 0 });
    const answer = await (await fetch(`${address}/v1/completions`, { method: "POST", body })).json();
    return { text: answer.choices[0].text, tokens: answer.usage.completion_tokens };
}

const last = (seen) => JSON.parse(seen.asked.at(-1)[1]);

export async function replies_(opened) {
    const { page, seen, address } = opened;
    await greedy(page);
    await set(page, "seed", "18446744073709551615");
    await set(page, "top_p", "0.9");
    await set(page, "stops", "zebra\n\\n\\n");
    await ask(page, PROMPT);
    const wanted = await alone(address, "tiny", PROMPT);
    const [reply] = await replies(page);
    assert.equal(reply.text, wanted.text);
    assert.equal(reply.by, "tiny");
    assert.equal(reply.state, "done");
    assert.match(reply.facts, new RegExp(`^${wanted.tokens} tokens · .*first after \\d+\\.\\d\\d s · \\d+ of \\d+ prompt tokens cached`));
    const [path, body] = seen.asked.at(-1);
    assert.equal(path, "/v1/completions");
    assert.match(body, /"seed":18446744073709551615[,}]/);
    const { seed: _, ...rest } = JSON.parse(body);
    assert.deepEqual(rest, {
        model: "tiny", prompt: PROMPT, stream: true, stream_options: { include_usage: true }, temperature: 0, top_p: 0.9,
        max_tokens: TOKENS, stop: ["zebra", "\n\n"],
    });
    await page.fill("#message", "half a thought");
    await page.check("#both");
    await page.reload();
    await page.waitForSelector(".reply[data-state=done]");
    assert.deepEqual(await replies(page), [reply]);
    assert.equal(await page.inputValue("#message"), "half a thought");
    assert.equal(await page.inputValue("#seed"), "18446744073709551615");
    assert.ok(await page.isVisible("#second"));
}
export { replies_ as replies };

export async function sideBySide({ page, address }) {
    await greedy(page);
    await page.check("#both");
    await page.selectOption("#first .who", "notes");
    await page.selectOption("#second .who", "pirate");
    // What there is to read at each change, and how many are being written.
    await page.evaluate(() => {
        window.moments = [];
        const look = () => {
            const all = [...document.querySelectorAll(".reply")];
            const busy = all.filter((reply) => reply.getAttribute("aria-busy") === "true").length;
            window.moments.push([busy, ...all.map((reply) => reply.querySelector(".text").textContent)]);
        };
        new MutationObserver(look).observe(document.getElementById("log"), { subtree: true, childList: true, characterData: true });
    });
    await ask(page, PROMPT);
    const found = await replies(page);
    for (const [side, name] of ["notes", "pirate"].entries()) {
        const { text } = await alone(address, name, PROMPT);
        assert.deepEqual([found[side].by, found[side].text], [name, text]);
        const steps = new Set((await page.evaluate(() => window.moments)).map((moment) => moment[1 + side]));
        assert.ok(steps.size > 4, `${name} appeared in ${steps.size} steps`);
    }
    const moments = await page.evaluate(() => window.moments);
    assert.ok(moments.some(([busy, a, b]) => busy === 2 && a && b), "both are written at once");
}

export async function stops({ page, address }) {
    await greedy(page, 100);
    for (const stop of [() => page.keyboard.press("Escape"), () => page.click("#stop")]) {
        await send(page, "Once upon a time there was");
        await page.waitForFunction(() => [...document.querySelectorAll(".reply .text")].at(-1)?.textContent.length > 1);
        assert.equal(await page.locator(".edit:visible").count(), 0);
        // A thought meanwhile stays where it is.
        await send(page, "and now");
        await stop();
        await idle(page);
        const reply = (await replies(page)).at(-1);
        assert.equal(reply.state, "stopped");
        assert.match(reply.facts, /^stopped · first after/);
        assert.equal(reply.trouble, "");
        assert.equal(await page.inputValue("#message"), "and now");
    }
    const running = async () => (await (await fetch(`${address}/metrics`)).text()).match(/running\{.*\} (\d+)/)[1];
    for (let tries = 0; (await running()) !== "0"; tries += 1) {
        assert.ok(tries < 100, "the server goes on writing");
        await page.waitForTimeout(20);
    }
}

export async function isText({ page }) {
    await greedy(page, 6);
    await ask(page, PROMPT);
    const [reply] = await replies(page);
    assert.match(reply.text, /^<img src='\/nowhere' onerror='document.title=1'> ünd 🦆 /);
    assert.equal(await page.locator("#log img").count(), 0);
    assert.notEqual(await page.title(), "1");
}

export async function failsAmid({ page }) {
    await greedy(page);
    await ask(page, PROMPT);
    const [reply] = await replies(page);
    assert.deepEqual([reply.state, reply.trouble], ["failed", "the model lost its thread"]);
    assert.notEqual(reply.text, "");
}

export async function breaks({ page }) {
    await greedy(page);
    await ask(page, PROMPT);
    const [reply] = await replies(page);
    assert.deepEqual([reply.state, reply.trouble], ["failed", "the connection ended before the reply did"]);
    assert.notEqual(reply.text, "");
}

export async function switches({ page, address }) {
    await greedy(page);
    await ask(page, PROMPT);
    await page.selectOption("#first .who", "pirate");
    await ask(page, "The boat");
    await page.selectOption("#first .who", "notes");
    await page.click("#again");
    await page.waitForSelector(".turn:last-child .reply[aria-label='Reply of notes'][data-state=done]");
    const found = await replies(page);
    assert.deepEqual(found.map(({ by }) => by), ["tiny", "notes"]);
    assert.equal(found[0].text, (await alone(address, "tiny", PROMPT)).text);
    assert.equal(found[1].text, (await alone(address, "notes", "The boat")).text);
    await page.fill("#message", "not sent yet");
    await page.click("#clear");
    assert.equal(await page.locator(".turn").count(), 0);
    assert.equal(await page.inputValue("#message"), "not sent yet");
}

export async function mixes({ page, seen }) {
    await greedy(page);
    await page.selectOption("#first .who", { label: "several adapters …" });
    await page.focus("#first .row:nth-child(2) input");
    await page.keyboard.press("ArrowRight");
    await ask(page, PROMPT);
    assert.deepEqual(
        [last(seen).model, last(seen).adapters],
        ["tiny", [{ name: "notes", weight: 0.5 }, { name: "pirate", weight: 0.55 }]],
    );
    const [reply] = await replies(page);
    assert.deepEqual([reply.by, reply.state], ["notes 0.50 + pirate 0.55", "done"]);
    await page.click("#first .add");
    await page.click("#first .add");
    assert.ok(await page.isDisabled("#first .add"), "four at most");
    await page.click("#first .row:nth-child(1) .remove");
    await ask(page, PROMPT);
    assert.deepEqual(last(seen).adapters.map(({ name }) => name), ["pirate", "notes", "notes"]);
    assert.equal((await replies(page)).at(-1).state, "done");
}

export async function refusal({ page, address }) {
    await greedy(page);
    await set(page, "temperature", "warm");
    await ask(page, PROMPT);
    const body = JSON.stringify({ prompt: PROMPT, temperature: "warm" });
    const { error } = await (await fetch(`${address}/v1/completions`, { method: "POST", body })).json();
    const [reply] = await replies(page);
    assert.deepEqual([reply.state, reply.trouble], ["failed", error.message]);
    await page.fill("#message", "more");
    await page.click(".edit");
    assert.equal(await page.inputValue("#message"), `${PROMPT}\nmore`);
    assert.equal(await page.locator(".turn").count(), 0);
}

export async function gone({ page, address }, kill) {
    await greedy(page);
    await kill();
    await ask(page, PROMPT);
    const [reply] = await replies(page);
    const wanted = `the server at ${new URL(address).host} does not answer: is it still running?`;
    assert.deepEqual([reply.state, reply.trouble], ["failed", wanted]);
    await page.waitForFunction(() => document.getElementById("state").textContent === "The server does not answer.");
    await page.click(".edit");
    assert.equal(await page.inputValue("#message"), PROMPT);
}

export async function converses({ page, seen }) {
    await greedy(page);
    assert.ok(!(await page.isVisible("#note")), "this base has a chat template");
    await ask(page, "What is tea?");
    await page.selectOption("#first .who", "pirate");
    await ask(page, "And coffee?");
    const found = await replies(page);
    assert.deepEqual(found.map(({ by, state }) => [by, state]), [["smol", "done"], ["pirate", "done"]]);
    assert.ok(found.every(({ text, facts }) => text.length > 10 && /tokens\/s/.test(facts)), JSON.stringify(found));
    const { model, messages } = last(seen);
    assert.equal(model, "pirate");
    assert.deepEqual(messages, [
        { role: "user", content: "What is tea?" },
        { role: "assistant", content: found[0].text },
        { role: "user", content: "And coffee?" },
    ]);
    // The same conversation once more: the server knows its beginning.
    await page.click("#again");
    await page.waitForFunction(() => /[1-9]\d* of \d+ prompt tokens cached/.test([...document.querySelectorAll(".facts")].at(-1).textContent));
}

export async function columns({ page, seen }) {
    await greedy(page, 12);
    await page.check("#both");
    await page.selectOption("#first .who", "smol");
    await page.selectOption("#second .who", "notes");
    await ask(page, "What is tea?");
    await ask(page, "Why?");
    const found = await replies(page);
    assert.deepEqual(found.map(({ by }) => by), ["smol", "notes", "smol", "notes"]);
    const bodies = seen.asked.slice(-2).map(([, body]) => JSON.parse(body));
    for (const [side, model] of ["smol", "notes"].entries()) {
        const { messages } = bodies.find((body) => body.model === model);
        assert.equal(messages[1].content, found[side].text, "each goes on from its own reply");
    }
}

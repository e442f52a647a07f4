// Checks of what hands and eyes meet: loading, keys, colours, sizes.

import assert from "node:assert/strict";

import { set } from "./talk.mjs";

const ready = (page) => page.waitForSelector("#first option[value=pirate]", { state: "attached" });

export async function loads({ page, address }) {
    await ready(page);
    const names = await page.$$eval("#first .who option", (options) => options.map((option) => option.textContent));
    assert.deepEqual(names, ["tiny", "notes", "pirate", "several adapters …"]);
    assert.match(await page.title(), /^tiny/);
    assert.ok(await page.isVisible("#note"), "it says that there is no chat template");
    await page.waitForFunction(() => /^0 running · 0 waiting · cache 0 % full$/.test(document.getElementById("state").textContent));
    const { headers } = await fetch(`${address}/`);
    assert.match(headers.get("content-security-policy"), /default-src 'self'/);
}

/** Events of every line ending, cut at any byte, into two and into single bytes. */
export async function parses({ page }) {
    const found = await page.evaluate(async () => {
        const { events } = await import("/page/api.js");
        const text = ": ping\n\ndata: one\r\n\r\ndata:two\ndata: 🦆 ü\rid: 7\r\rdata\ndata: four\n\nevent: x\n\ndata: unfinished";
        const bytes = new TextEncoder().encode(text);
        const read = async (cuts) => {
            const body = new ReadableStream({
                start(to) {
                    let from = 0;
                    for (const cut of [...cuts, bytes.length]) {
                        to.enqueue(bytes.slice(from, cut));
                        from = cut;
                    }
                    to.close();
                },
            });
            const all = [];
            for await (const data of events(body)) all.push(data);
            return JSON.stringify(all);
        };
        const ways = [await read([...bytes.keys()].slice(1))];
        for (let cut = 1; cut < bytes.length; cut += 1) ways.push(await read([cut]));
        return [...new Set(ways)];
    });
    assert.deepEqual(found.map((way) => JSON.parse(way)), [["one", "two\n🦆 ü", "\nfour"]]);
}

/** What has the focus, and whether one sees it. */
function focused(page) {
    return page.evaluate(() => {
        const at = document.activeElement;
        const style = getComputedStyle(at);
        const isSeen = style.outlineStyle !== "none" && Number.parseFloat(style.outlineWidth) >= 1;
        const name = at.id || at.className || at.tagName.toLowerCase();
        return { name, isSeen, label: at.getAttribute("aria-label") ?? at.labels?.[0]?.textContent ?? at.textContent };
    });
}

export async function keyboard({ page }) {
    await ready(page);
    const { keyboard } = page;
    assert.equal((await focused(page)).name, "message");
    await keyboard.type("Duck");
    await keyboard.press("Shift+Enter");
    await keyboard.type("and boat:");
    assert.equal(await page.inputValue("#message"), "Duck\nand boat:");
    await keyboard.press("Enter");
    await page.waitForSelector(".reply[data-state=done]");
    assert.equal(await page.inputValue("#message"), "");
    assert.equal((await focused(page)).name, "message");
    // Once around.
    const order = [];
    await page.evaluate(() => document.activeElement.blur());
    await page.evaluate(() => document.querySelector(".skip").focus());
    for (let steps = 0; steps < 30 && !order.includes("clear"); steps += 1) {
        const { name, isSeen, label } = await focused(page);
        assert.ok(isSeen, `the focus on ${name} is seen`);
        assert.ok(name === "log" || label.trim() !== "", `${name} has a label`);
        order.push(name);
        await keyboard.press("Tab");
    }
    assert.deepEqual(order, ["skip", "log", "edit", "who", "both", "reload", "message", "send", "summary", "again", "clear"]);
    // Another adapter, two at once, a setting: by keys alone.
    await page.focus("#first .who");
    await keyboard.type("pir");
    assert.equal(await page.inputValue("#first .who"), "pirate");
    await keyboard.press("Tab");
    await keyboard.press("Space");
    assert.ok(await page.isVisible("#second"));
    await page.focus("summary");
    await keyboard.press("Enter");
    await keyboard.press("Tab");
    await keyboard.press("Control+A");
    await keyboard.type("0");
    assert.equal(await page.inputValue("#temperature"), "0");
    assert.match(await page.textContent("#summary"), /^temperature 0,/);
    await page.focus("#message");
    await keyboard.type("The boat");
    await keyboard.press("Tab");
    await keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll(".turn:last-child .reply[data-state=done]").length === 2);
    const by = await page.$$eval(".turn:last-child .by", (all) => all.map((one) => one.textContent));
    assert.deepEqual(by, ["pirate", "notes"]);
    assert.match(await page.textContent("#said"), /^pirate: \d+ token.*notes: \d+ token/);
}

/** Every text stands out from its ground by 4.5 to 1, as WCAG's AA has it. */
export async function contrast({ page, address }) {
    await ready(page);
    await set(page, "max_tokens", "8");
    await page.fill("#message", "Duck");
    await page.press("#message", "Enter");
    await page.waitForSelector(".reply[data-state=done]");
    const poor = await page.evaluate(() => {
        const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
        const linear = (value) => (value <= 10.31475 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4);
        const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        const ground = (at) => {
            const colour = numbers(getComputedStyle(at).backgroundColor);
            return colour[3] === 0 && at.parentElement ? ground(at.parentElement) : colour;
        };
        // What is hidden now is looked at too.
        for (const at of document.querySelectorAll("[hidden]")) at.hidden = false;
        document.getElementById("key").showModal();
        const found = [];
        for (const at of document.querySelectorAll("h1, p, span, h2, label, legend, summary, button:enabled, select, textarea, input, output")) {
            if (at.textContent === "" && !at.matches("input, textarea")) continue;
            const [a, b] = [light(numbers(getComputedStyle(at).color)), light(ground(at))];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) found.push(`${at.id || at.className || at.tagName}: ${ratio.toFixed(2)}`);
        }
        return { found, dark: light(ground(document.body)) < 0.05 };
    });
    assert.deepEqual(poor.found, []);
    assert.equal(poor.dark, await page.evaluate(() => matchMedia("(prefers-color-scheme: dark)").matches), address);
}

export async function narrow({ page }) {
    await ready(page);
    await page.check("#both");
    await page.selectOption("#first .who", { label: "several adapters …" });
    await set(page, "max_tokens", "40");
    await page.fill("#message", "Long".repeat(18));
    await page.press("#message", "Enter");
    await page.waitForFunction(() => document.querySelectorAll(".reply:not([data-state=writing])").length === 2);
    const wide = await page.evaluate(() => {
        const all = [...document.querySelectorAll("body, body *:not(dialog *, .hidden)")];
        const out = all.filter((at) => at.getClientRects().length > 0 && at.getBoundingClientRect().right > innerWidth + 0.5);
        return out.map((at) => at.id || at.className || at.tagName);
    });
    assert.deepEqual(wide, []);
    const [first, second] = await page.$$eval(".reply", (all) => all.map((one) => one.getBoundingClientRect().top));
    assert.ok(second > first, "columns stand below each other");
}

export async function key({ page }) {
    await page.waitForSelector("#key[open]");
    const why = await page.textContent("#key-why");
    assert.match(why, /a valid key is needed/);
    // Without one, the sentence stands where the list would come from, and what is typed stays.
    await page.keyboard.press("Escape");
    await page.waitForSelector("#trouble:not([hidden])");
    assert.equal(await page.textContent("#trouble"), why);
    await page.fill("#message", "Duck");
    for (const given of ["sk-wrong", "sk-right"]) {
        await page.click(given === "sk-wrong" ? "#reload" : "#key-text");
        await page.waitForSelector("#key[open]");
        assert.equal((await focused(page)).name, "key-text");
        await page.keyboard.type(given);
        await page.keyboard.press("Enter");
        // A wrong one is asked for again.
        await page.waitForFunction(() => document.getElementById("key-text").value === "");
    }
    await ready(page);
    assert.ok(!(await page.isVisible("#trouble")));
    assert.equal(await page.inputValue("#message"), "Duck");
    await page.press("#message", "Enter");
    await page.waitForSelector(".reply[data-state=done]");
    assert.equal(await page.evaluate(() => localStorage.length), 0);
    await page.reload();
    await ready(page);
    assert.ok(!(await page.isVisible("#key")));
}

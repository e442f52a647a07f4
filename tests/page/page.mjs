// Drives the page of `lowrank serve` in a browser.
// Usage: page.mjs LOWRANK FOLDER: the program built with the features cli and serve, and what examples/quickstart.sh left, if it
// did. CHROMIUM is the browser, PACKAGES where playwright-core is.

import { spawn } from "node:child_process";
import fs from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import readline from "node:readline";

import { between } from "./between.mjs";
import * as hand from "./hand.mjs";
import * as talk from "./talk.mjs";

const { chromium } = createRequire(process.env.PACKAGES)("playwright-core");
const [lowrank, quickstart] = process.argv.slice(2);
const flags = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
];
const servers = [];

/** A server; resolves to its address when it answers. */
async function start(base, adapters, more = []) {
    const given = adapters.flatMap(([name, file]) => ["--adapter", `${name}=${file}`]);
    const words = ["serve", "--base", base, ...given, "--port", "0", "--precision", "exact", ...more];
    const server = spawn(lowrank, words, { stdio: ["ignore", "pipe", "inherit"] });
    servers.push(server);
    for await (const line of readline.createInterface(server.stdout)) {
        const address = line.match(/^(http:\/\/[^/]+)\/v1/);
        if (address) return { address: address[1], server };
    }
    throw new Error("the server did not start");
}

function tiny(more = []) {
    const adapters = ["notes", "pirate"].map((name) => [name, `assets/tiny-${name}.lrk`]);
    return start("assets/tiny.lrk", adapters, ["--name", "tiny", "--threads", "1", ...more]);
}

/** A fresh page at an address, with all that it asks for and complains of. */
async function open(browser, address, options = {}) {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    const seen = { asked: [], others: [], complaints: [] };
    page.on("request", (request) => {
        if (request.method() === "POST") seen.asked.push([new URL(request.url()).pathname, request.postData()]);
        if (!request.url().startsWith(`${address}/`)) seen.others.push(request.url());
    });
    page.on("console", (message) => message.type() === "error" && seen.complaints.push(message.text()));
    page.on("pageerror", (error) => seen.complaints.push(error.message));
    await page.goto(`${address}/`);
    return { page, seen, address, close: () => context.close() };
}

/** One check on a page of its own: `allowed` complaints of the browser are part of it. */
async function check(browser, what, address, run, { allowed = /^$/, ...options } = {}) {
    const opened = await open(browser, address, options);
    try {
        await run(opened);
        const { others, complaints } = opened.seen;
        const left = complaints.filter((text) => !allowed.test(text));
        if (others.length + left.length > 0) throw new Error(`asked of others: ${others}; complaints: ${left}`);
        console.log(`page: ${what}`);
    } catch (error) {
        error.message = `${what}: ${error.message}`;
        throw error;
    } finally {
        await opened.close();
    }
}

async function overTiny(browser, folder) {
    const { address, server } = await tiny();
    const way = { kind: "plain" };
    const line = await between(address, way);
    const slow = (kind, run) => (opened) => ((way.kind = kind), run(opened));
    const failed = { allowed: /Failed to load resource/ };
    const on = (what, run, options) => check(browser, what, address, run, options);
    const behind = (what, kind, run, options) => check(browser, what, line.address, slow(kind, run), options);

    await on("it loads, names the models, says that there is no chat template", hand.loads);
    await on("events by the standard, cut at any byte", hand.parses);
    await on("a reply as the server gives it, a reload keeps it", talk.replies);
    await behind("a reply appears while it is written, in two columns at once", "slow", talk.sideBySide);
    await behind("Escape and Stop end a reply, for the server too", "slow", talk.stops);
    await behind("what a model writes is text", "markup", talk.isText);
    await behind("an error amid a reply", "error", talk.failsAmid);
    await behind("a line that breaks", "cut", talk.breaks, failed);
    await behind("a line that ends too early", "short", talk.breaks);
    await on("another adapter in mid-conversation, again, clear", talk.switches);
    await on("adapters with weights", talk.mixes);
    await on("a refusal is the server's sentence, and what was typed comes back", talk.refusal, failed);
    await on("the keyboard is enough", hand.keyboard);
    for (const colorScheme of ["light", "dark"]) {
        await on(`it can be read, ${colorScheme}`, hand.contrast, { colorScheme });
    }
    await on("a narrow screen", hand.narrow, { viewport: { width: 320, height: 640 } });
    await withKey(browser, folder, failed);
    line.end();
    const kill = async () => {
        const ended = new Promise((done) => server.once("exit", done));
        server.kill();
        await ended;
    };
    await on("a server that is gone", (opened) => talk.gone(opened, kill), { allowed: /ERR_/ });
}

async function withKey(browser, folder, failed) {
    const file = path.join(folder, "keys");
    fs.writeFileSync(file, "sk-right\n");
    const { address, server } = await tiny(["--api-key-file", file]);
    await check(browser, "a key is asked for when it is needed", address, hand.key, failed);
    server.kill();
}

async function overSmolLM2(browser) {
    const file = (name) => path.join(quickstart, `${name}.lrk`);
    if (!["base", "notes", "pirate"].every((name) => fs.existsSync(file(name)))) {
        console.log("SKIPPED: the page over SmolLM2: examples/quickstart.sh leaves what it needs");
        return;
    }
    const adapters = ["notes", "pirate"].map((name) => [name, file(name)]);
    const { address } = await start(file("base"), adapters, ["--name", "smol"]);
    await check(browser, "a conversation, in which another adapter goes on", address, talk.converses);
    await check(browser, "two that go on side by side", address, talk.columns);
}

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "page-"));
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: flags });
try {
    await overTiny(browser, folder);
    await overSmolLM2(browser);
} finally {
    await browser.close();
    for (const server of servers) server.kill();
    fs.rmSync(folder, { recursive: true });
}

// What may stand between a browser and the server: a slow line that cuts bytes anywhere, an error amid a reply, a reply with
// markup in it, a line that breaks, one that ends in good order before the reply does.

import http from "node:http";

const PIECE = 17;
const PAUSE = 1;
const EVENTS = 5;

const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Listens in front of `upstream`; `way.kind` is "plain", "slow", "error", "markup", "cut" or "short". */
export async function between(upstream, way) {
    const server = http.createServer((request, response) => {
        const { method, url, headers } = request;
        const onward = http.request(new URL(url, upstream), { method, headers }, (answer) => {
            response.writeHead(answer.statusCode, answer.headers);
            const isStream = answer.headers["content-type"] === "text/event-stream";
            const sent = isStream && way.kind !== "plain" ? trickle(answer, response, way) : answer.pipe(response);
            Promise.resolve(sent).catch(() => response.destroy());
        });
        onward.on("error", () => response.destroy());
        // A client that goes is gone for the server too.
        response.on("close", () => onward.destroy());
        request.pipe(onward);
    });
    await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
    const address = `http://127.0.0.1:${server.address().port}`;
    const end = () => {
        server.close();
        server.closeAllConnections();
    };
    return { address, end };
}

async function trickle(answer, response, way) {
    const { kind } = way;
    let rest = "";
    let count = 0;
    answer.setEncoding("utf8");
    for await (const text of answer) {
        const events = (rest + text).split("\n\n");
        rest = events.pop();
        for (const event of events) {
            count += 1;
            if (count > EVENTS && kind === "cut") return response.destroy();
            if (count > EVENTS && kind === "short") return response.end();
            if (count === EVENTS && kind === "error") {
                await piecewise(response, 'data: {"error": {"message": "the model lost its thread"}}\r\n\r\n');
            }
            // Each line ending that the standard knows, a comment, and data on two lines.
            const ended = count % 2 ? `${event}\r\n\r\n` : `: ping\r\r${event.replace(',"object"', ',\ndata: "object"')}\n\n`;
            await piecewise(response, kind === "markup" ? marked(ended) : ended);
        }
    }
    response.end();
}

/** An event whose text is markup. */
function marked(event) {
    return event.replace(/"text":"[^"]/, `"text":"<img src='/nowhere' onerror='document.title=1'> ünd 🦆 `);
}

async function piecewise(response, text) {
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length && !response.destroyed; at += PIECE) {
        response.write(bytes.subarray(at, at + PIECE));
        await wait(PAUSE);
    }
}

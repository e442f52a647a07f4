// Loads the module named on the command line, runs its comparisons, and ends with status 1 unless all of them hold and there were
// at least as many as the edge shapes give.
import { readFileSync } from "node:fs";
import process from "node:process";

const LEAST = 1_000_000;
let memory;
const log = (start, length) => console.log(new TextDecoder().decode(new Uint8Array(memory.buffer, start, length)));
const { instance } = await WebAssembly.instantiate(readFileSync(process.argv[2]), { env: { log } });
memory = instance.exports.memory;

let failures;
try {
    failures = instance.exports.failures();
} catch (error) {
    console.log(`FAIL: ${error}`);
    process.exit(1);
}
const comparisons = instance.exports.comparisons();
const passed = failures === 0 && comparisons >= LEAST;
console.log(`${passed ? "PASS" : "FAIL"}: ${comparisons} comparisons, ${failures} failures`);
process.exit(passed ? 0 : 1);

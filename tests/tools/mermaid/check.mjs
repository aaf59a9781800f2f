// Reads every drawing in the pages that are given with mermaid's own parser. A wrong one must be refused.
import { readFileSync } from "node:fs";
import { JSDOM } from "jsdom";

const { window } = new JSDOM("");
Object.assign(globalThis, { window, document: window.document });
const { default: mermaid } = await import("mermaid");

await mermaid.parse("flowchart TD\n a[no end --> b").then(
    () => { throw new Error("the parser takes anything"); },
    () => {},
);
let drawings = 0;
for (const page of process.argv.slice(2)) {
    for (const [, drawing] of readFileSync(page, "utf8").matchAll(/^```mermaid\n(.*?)^```$/gms)) {
        await mermaid.parse(drawing).catch((error) => {
            console.error(`${page}: ${error.message}`);
            process.exitCode = 1;
        });
        drawings += 1;
    }
}
if (drawings === 0) throw new Error("no drawings");
console.log(`${drawings} drawings`);

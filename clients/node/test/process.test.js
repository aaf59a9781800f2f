// A program as a process, as the gate runs it.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";

import { deserialize, serialize } from "bson";

const client = path.resolve(import.meta.dirname, "..");
const greeting = serialize({ gate: 1, version: "1.1.0", step: "pin", collection: "items" });
const ask = (document) => serialize({ document, found: {} });

function run(source, messages) {
  const folder = fs.mkdtempSync(path.join(client, "test", "program-"));
  try {
    const program = path.join(folder, "program.js");
    const imports = source.includes('from "upgrade-gate"') ? "" : 'import { transform } from "upgrade-gate";\n';
    fs.writeFileSync(program, `${imports}${source}`.replace('"upgrade-gate"', `"${client}/index.js"`));
    const input = path.join(folder, "input");
    fs.writeFileSync(input, Buffer.concat(messages));
    // Node itself would start it with sockets, and the gate has pipes
    const [stderr, status] = [path.join(folder, "stderr"), path.join(folder, "status")];
    const shell = `cat ${input} | { ${process.execPath} ${program} 2>${stderr}; echo $? >${status}; } | cat`;
    const { stdout } = spawnSync("sh", ["-c", shell], { env: { PATH: process.env.PATH }, maxBuffer: 1 << 26 });
    return { stdout, stderr: fs.readFileSync(stderr, "utf8"), status: Number(fs.readFileSync(status)) };
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

function answers(bytes) {
  const all = [];
  for (let at = 0; at < bytes.length; ) {
    const end = at + bytes.readInt32LE(at);
    all.push(deserialize(bytes.subarray(at, end)));
    at = end;
  }
  return all;
}

test("the program of the README leaves its own output as it is", () => {
  const readme = fs.readFileSync(path.join(client, "README.md"), "utf8");
  const source = readme.split("```js\n")[1].split("```")[0];
  const asked = [{ _id: 1, order: 7 }, { _id: 2 }, { _id: 1, position: 7 }, { _id: 2, position: 0 }];
  const ended = run(source, [greeting, ...asked.map(ask)]);
  const moved = { set: { position: 7 }, unset: ["order"], count: { moved: 1 } };
  const without = { set: { position: 0 }, count: { moved: 1 } };
  assert.deepEqual(answers(ended.stdout), [{ ready: 1 }, moved, without, {}, {}]);
});

test("answers in order until the input ends", () => {
  const source = `
    transform(async (document) => { document.n *= factor; return document; });
    const factor = 2;
  `;
  const numbers = [...Array(1000).keys()];
  const load = "x".repeat(10_000);
  const ended = run(source, [greeting, ...numbers.map((n) => ask({ _id: n, n, load }))]);
  assert.equal(ended.stderr, "");
  const [ready, ...others] = answers(ended.stdout);
  assert.deepEqual(ready, { ready: 1 });
  assert.deepEqual(others, numbers.map((n) => (n ? { set: { n: 2 * n } } : {})));
  assert.equal(ended.status, 0);
});

test("keeps what is printed off the answers", () => {
  const source = `
    import { execFileSync, spawnSync } from "node:child_process";
    import fs from "node:fs";
    transform((document) => {
      console.log("a print");
      process.stdout.write("a write\\n");
      fs.writeSync(1, "a file\\n");
      spawnSync("sh", ["-c", "echo a child"], { stdio: "inherit" });
      return document;
    });
  `;
  const ended = run(source, [greeting, ask({ _id: 1 }), ask({ _id: 2 })]);
  assert.deepEqual(answers(ended.stdout), [{ ready: 1 }, {}, {}]);
  for (const text of ["a print", "a write", "a file", "a child"]) assert.ok(ended.stderr.includes(text), text);
  assert.equal(ended.status, 0);
});

test("another protocol is refused, and a message that is cut off is an error", () => {
  const source = "transform((document) => document);";
  assert.match(answers(run(source, [serialize({ gate: 2 })]).stdout)[0].refuse, /protocol 1, and the gate 2/);
  assert.notEqual(run(source, [greeting, ask({ _id: 1 }).subarray(0, -1)]).status, 0);
});

test("a program that ends while it is asked says so for the document that it was asked about", () => {
  for (const ending of [
    "process.exit(0)",
    "await new Promise(() => {})",
    "setTimeout(() => { throw new Error('later'); }); await new Promise(() => {})",
  ]) {
    const source = `transform(async (document) => { if (document._id === 2) { ${ending}; } return { ...document, n: 1 }; });`;
    const said = answers(run(source, [greeting, ask({ _id: 1 }), ask({ _id: 2 }), ask({ _id: 3 })]).stdout);
    assert.deepEqual(said.slice(0, 2), [{ ready: 1 }, { set: { n: 1 } }], ending);
    assert.match(said[2].refuse, /ended while it was asked/, ending);
    assert.equal(said.length, 3, ending);
  }
});

test("a program with two functions, or without one, is refused", () => {
  const twice = "transform((document) => document); transform((document) => document);";
  for (const [source, says] of [[twice, /more than once/], ["transform({});", /takes a function/]]) {
    assert.match(answers(run(source, [greeting, ask({ _id: 1 })]).stdout)[0].refuse, says);
  }
});

test("names that BSON cannot hold are refused, and do not end the program", () => {
  const source = `
    import { count } from "${client}/index.js";
    transform((document) => count("a\\0b"));
  `;
  assert.match(answers(run(source, [greeting, ask({ _id: 1 })]).stdout)[1].refuse, /cannot be written as BSON/);
});

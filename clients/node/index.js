// Programs of upgrade-gate: a function that says what each document of a collection becomes.

import fs from "node:fs";
import path from "node:path";
import tty from "node:tty";

import { Harmed, changes, checkCopies, decode, encode, named, refuseLost, refuseUnheld } from "./fields.js";

const PROTOCOL = 1;
const CHUNK = 1 << 18;
const OWN = ["index.js", "fields.js"].map((name) => path.join(import.meta.dirname, name));
const SOON = 20; // milliseconds for which an answer may wait for others, so that they are written together

export class Refused extends Error {}

let current;
let calls = 0;

function said() {
  if (!current) throw new Error("only the function of transform can call this, for its document");
  return current;
}

export function refuse(reason) {
  throw new Refused(reason);
}

export function count(name, n = 1) {
  const { counts } = said();
  if (typeof name !== "string" || !Number.isSafeInteger(n) || n < 0) {
    throw new TypeError("count takes a name and a whole number from 0 on");
  }
  counts[name] = (counts[name] ?? 0) + n;
}

export function insert(collection, document) {
  const { inserts } = said();
  if (typeof collection !== "string" || document === null || typeof document !== "object") {
    throw new TypeError("insert takes the name of a collection and a document");
  }
  if (!Object.hasOwn(document, "_id")) throw new TypeError("a document to insert needs an _id that follows from the input");
  refuseLost(`a document for ${collection}`, document);
  refuseUnheld(`a document for ${collection}`, document);
  (inserts[collection] ??= []).push(decode(encode(document), { promoteValues: false }));
}

export function deleteDocument() {
  said().deleted = true;
}

/** What the program answers to one message of the gate, which is `{ document, found }`. */
export async function answer(transform, message, options = {}) {
  current = { counts: named(), inserts: named(), deleted: false };
  try {
    const { document, found } = read(message, options);
    const result = await transform(document, found);
    const nothing = result === undefined || result === null;
    if (!nothing && (typeof result !== "object" || Array.isArray(result))) {
      throw new Harmed("the function returned something that is not a document");
    }
    const { counts, inserts, deleted } = current;
    if (!nothing && !deleted && isLost(message, result, options)) {
      throw new Harmed("the function returned something without the `_id`: return the whole document, not only what changes");
    }
    const reply = deleted ? { delete: true } : changes(message, nothing ? document : result, options);
    if (nothing && !deleted && Object.keys(reply).length) {
      throw new Harmed("the function changed the document, but returned nothing: return the document");
    }
    const written = Object.entries(reply.set ?? {}).map(([name, value]) => [`field \`${name}\``, value]);
    for (const [collection, documents] of Object.entries(inserts)) {
      for (const one of documents) written.push([`a document for ${collection}`, decode(encode(one), options)]);
    }
    if (written.length) checkCopies(message, written, reply.unset ?? [], options);
    if (Object.keys(inserts).length) reply.insert = inserts;
    if (Object.keys(counts).length) reply.count = counts;
    return reply;
  } catch (error) {
    if (error instanceof Refused || error instanceof Harmed) return { refuse: error.message };
    // its text may hold contents: that is for the log at level debug only
    process.stderr.write(`${error?.stack ?? error}\n`);
    const where = place(error?.stack ?? "");
    return { refuse: `the program threw ${error?.name ?? typeof error}${where}` };
  } finally {
    current = undefined;
  }
}

/** Whether a document lost its `_id`. */
function isLost(message, result, options) {
  return !Object.hasOwn(result, "_id") && Object.hasOwn(decode(message, options).document, "_id");
}

/** The innermost line of the author's that an error passed through. */
function place(stack) {
  const lines = [...stack.matchAll(/\(?(?:file:\/\/)?([^()\s]+):(\d+):\d+\)?$/gm)];
  const foreign = (file) => OWN.includes(file) || file.startsWith("node:") || file.includes("/node_modules/");
  const line = lines.find(([, file]) => !foreign(file)) ?? lines[0];
  return line ? ` in ${line[1].split("/").pop()}, line ${line[2]}` : "";
}

function read(message, options) {
  try {
    return decode(message, options);
  } catch (error) {
    throw new Harmed(`JavaScript cannot read it, or what was found for it (${error.name})`);
  }
}

/** Answers the gate until its input ends. */
export async function transform(transform, options = {}) {
  calls += 1;
  if (calls > 1) return; // the first one refuses
  await null; // whatever the file defines below this call is there then
  if (tty.isatty(0)) {
    process.stderr.write("this is a program of upgrade-gate, which starts it and sends it documents\n");
    process.exitCode = 1;
    return;
  }
  const [source, target] = [ownInput(), ownOutput()];
  let [buffer, greeted, asked, answers, since] = [Buffer.alloc(0), false, false, [], 0];
  const write = () => {
    const bytes = Buffer.concat(answers.splice(0));
    for (let at = 0; at < bytes.length; ) at += fs.writeSync(target, bytes, at);
  };
  process.on("exit", () => {
    if (!asked) return;
    answers.push(encode({ refuse: UNANSWERED }));
    write();
  });
  const chunks = [];
  for (;;) {
    const chunk = Buffer.allocUnsafe(CHUNK);
    const read = fs.readSync(source, chunk);
    if (read === 0) break;
    chunks.push(chunk.subarray(0, read));
    const held = buffer.length + chunks.reduce((sum, part) => sum + part.length, 0);
    // a large message comes in many parts: they are joined once
    if (buffer.length >= 4 && held < buffer.readInt32LE(0)) continue;
    buffer = Buffer.concat([buffer, ...chunks.splice(0)]);
    let at = 0;
    while (buffer.length - at >= 4 && buffer.length - at >= buffer.readInt32LE(at)) {
      const message = buffer.subarray(at, (at += buffer.readInt32LE(at)));
      since ||= performance.now(); // the time of the answer itself counts: one that took long is not held back
      asked = true;
      const reply = greeted ? await answer(transform, message, options) : greet(message, transform);
      asked = false;
      greeted = true;
      answers.push(encoded(calls > 1 ? { refuse: TWICE } : reply));
      if (performance.now() - since > SOON) {
        write();
        since = 0;
      }
    }
    write();
    since = 0;
    buffer = buffer.subarray(at);
  }
  if (buffer.length || chunks.length) {
    process.stderr.write("the input ended within a message\n");
    process.exitCode = 1;
  }
}

const TWICE = "the program calls transform more than once: it has one function";
const UNANSWERED =
  "the program ended while it was asked: it called process.exit, threw outside of its function, or awaits what never comes";

function encoded(reply) {
  try {
    return encode(reply);
  } catch (error) {
    const refuse = error instanceof Harmed ? error.message : `what it counts or inserts cannot be written as BSON (${error.name})`;
    return encode({ refuse });
  }
}

function greet(message, transform) {
  const { gate } = decode(message);
  if (typeof transform !== "function") return { refuse: "transform takes a function" };
  return gate === PROTOCOL ? { ready: 1 } : { refuse: `the program speaks protocol ${PROTOCOL}, and the gate ${gate}` };
}

/** Where messages come from: read without Node's own stream, which would not wait for them. */
function ownInput() {
  try {
    return fs.openSync("/dev/fd/0", "r");
  } catch {
    return 0; // not a pipe
  }
}

/** Where answers go; standard output is standard error from then on, for this process and those that it starts. */
function ownOutput() {
  let own;
  try {
    own = fs.openSync("/dev/fd/1", "w");
  } catch {
    // not a pipe: what JavaScript prints is kept off it, if not what others print
    process.stdout.write = process.stderr.write.bind(process.stderr);
    return 1;
  }
  fs.closeSync(1);
  try {
    fs.openSync("/dev/fd/2", "a");
  } catch {
    fs.openSync("/dev/null", "w");
  }
  return own;
}

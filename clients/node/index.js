// Programs of upgrade-gate: a function that says what each document of a collection becomes.

import fs from "node:fs";
import tty from "node:tty";

import { serialize } from "bson";

import { Harmed, changes, checkCopies, decode, hasUndefined, named } from "./fields.js";

const PROTOCOL = 1;
const CHUNK = 1 << 18;
const SOON = 20; // milliseconds for which an answer may wait for others, so that they are written together

export class Refused extends Error {}

let current;

function said() {
  if (!current) throw new Error("only the function of transform can call this, for its document");
  return current;
}

export function refuse(reason) {
  throw new Refused(reason);
}

export function count(name, n = 1) {
  const { counts } = said();
  counts[name] = (counts[name] ?? 0) + n;
}

export function insert(collection, document) {
  if (!Object.hasOwn(document, "_id")) throw new TypeError("a document to insert needs an _id that follows from the input");
  if (hasUndefined(document)) throw new Harmed(`a document for ${collection} holds undefined: set it to null, or leave it out`);
  (said().inserts[collection] ??= []).push(decode(serialize(document), { promoteValues: false }));
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
    const reply = deleted ? { delete: true } : changes(message, nothing ? document : result, options);
    if (nothing && !deleted && Object.keys(reply).length) {
      throw new Harmed("the function changed the document, but returned nothing: return the document");
    }
    const written = Object.entries(reply.set ?? {}).map(([name, value]) => [`field \`${name}\``, value]);
    for (const [collection, documents] of Object.entries(inserts)) {
      for (const one of documents) written.push([`a document for ${collection}`, decode(serialize(one), options)]);
    }
    if (written.length) checkCopies(message, written, reply.unset ?? [], options);
    if (Object.keys(inserts).length) reply.insert = inserts;
    if (Object.keys(counts).length) reply.count = counts;
    return reply;
  } catch (error) {
    if (error instanceof Refused || error instanceof Harmed) return { refuse: error.message };
    // its text may hold contents: that is for the log at level debug only
    process.stderr.write(`${error?.stack ?? error}\n`);
    const place = /\(?(?:file:\/\/)?([^()\s]+):(\d+):\d+\)?$/m.exec(error?.stack ?? "");
    const where = place ? ` in ${place[1].split("/").pop()}, line ${place[2]}` : "";
    return { refuse: `the program threw ${error?.name ?? typeof error}${where}` };
  } finally {
    current = undefined;
  }
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
  await null; // whatever the file defines below this call is there then
  if (tty.isatty(0)) {
    process.stderr.write("this is a program of upgrade-gate, which starts it and sends it documents\n");
    process.exitCode = 1;
    return;
  }
  const [source, target] = [ownInput(), ownOutput()];
  let [buffer, greeted, answers, since] = [Buffer.alloc(0), false, [], 0];
  const write = () => {
    const bytes = Buffer.concat(answers.splice(0));
    for (let at = 0; at < bytes.length; ) at += fs.writeSync(target, bytes, at);
  };
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
      const reply = greeted ? await answer(transform, message, options) : greet(message);
      greeted = true;
      since ||= performance.now();
      answers.push(serialize(reply));
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

function greet(message) {
  const { gate } = decode(message);
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

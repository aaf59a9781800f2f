// What changed in a document, field by field, and whether JavaScript held it unharmed.

import { Double, Int32, deserialize, serialize, setInternalBufferSize } from "bson";

// The gate takes answers of 33 MiB. What does not fit into its buffer, `bson` cuts off without a word.
const LARGEST = 34 << 20;
setInternalBufferSize(LARGEST);

// Whatever a document holds, it can be read: only what is changed must also be written.
const LENIENT = { validation: { utf8: false }, bsonRegExp: true };

// The bytes of a value by its type, where they are always the same, and what comes with the length of the others.
const SIZES = { 1: 8, 6: 0, 7: 12, 8: 1, 9: 8, 10: 0, 16: 4, 17: 8, 18: 8, 19: 16, 127: 0, 255: 0 };
const BESIDES = { 2: 4, 3: 0, 4: 0, 5: 5, 12: 16, 13: 4, 14: 4, 15: 0 };

/** An answer that cannot be given; its text names fields, and holds nothing of their contents. */
export class Harmed extends Error {}

/** An object for fields of any name: `__proto__` is one like any other. */
export const named = () => Object.create(null);

export const decode = (bytes, options) => deserialize(bytes, { ...LENIENT, ...options });

export function encode(document) {
  const bytes = Buffer.from(serialize(document));
  if (bytes.length > LARGEST) throw new Harmed("an answer may have 33 MiB: set less, or add fewer or smaller documents");
  return bytes;
}

/** `set` and `unset` that make the message's document `after`, by comparison with a second decoding of it. */
export function changes(message, after, options) {
  const raw = documentOf(message);
  const lost = Object.entries(after).filter(([, now]) => lostIn(now, new Set()));
  if (!lost.length && isWrittenAs(after, raw)) return {};
  const before = decode(raw, options);
  for (const [name, now] of lost) {
    // a date that JavaScript does not have is an invalid one from the start
    if (!Object.hasOwn(before, name) || mark(before[name]) !== mark(now)) refuseLost(`field \`${name}\``, now);
  }
  let elements;
  const set = named();
  for (const [name, now] of Object.entries(after)) {
    const isOld = Object.hasOwn(before, name);
    if (isOld && isPlainlySame(before[name], now)) continue;
    let bytes;
    try {
      bytes = element(name, now);
    } catch (error) {
      if (error instanceof Harmed) throw error;
      if (isOld && mark(before[name]) === mark(now)) continue;
      throw new Harmed(`field \`${name}\` cannot be written as BSON (${error.name})`);
    }
    if (isOld) {
      if (same(name, before[name], bytes)) continue;
      elements ??= stored(raw);
      if (!isHeld(name, before[name], elements.get(name))) throw new Harmed(`field \`${name}\` is changed, but ${UNHELD}`);
      const typed = decode(documentWith(elements.get(name)[0]), { promoteValues: false });
      if (forgets(typed[name], now)) {
        throw new Harmed(`field \`${name}\` gets a number of another type than it has: use Double, Int32 or Long of bson`);
      }
    }
    refuseUnheld(`field \`${name}\``, now);
    set[name] = now;
  }
  const unset = Object.keys(before).filter((name) => !Object.hasOwn(after, name));
  return { ...(Object.keys(set).length ? { set } : {}), ...(unset.length ? { unset } : {}) };
}

const UNHELD =
  "holds what JavaScript cannot hold unharmed: a double like 1.0 or a long (see the option promoteValues), a name like 1" +
  " behind others, a name that occurs twice, text that is not UTF-8, a date beyond the year 275760, a DBRef or the flags of" +
  " a regular expression in an unusual order, or a value of a deprecated type";

/** Refuses to write to another place what JavaScript did not hold unharmed; `written` are places and values. */
export function checkCopies(message, written, removed, options) {
  const asked = decode(message, options);
  const whole = Buffer.concat([Buffer.from([3, 0]), message]);
  if (isHeld("", asked, [whole])) return;
  const harmed = new Map();
  const parts = stored(message);
  for (const name of ["document", "found"]) markHarmed(name, asked[name], parts.get(name), harmed);
  const own = stored(value(parts.get("document")[0]));
  for (const name of removed) {
    if (!isHeld(name, asked.document[name], own.get(name))) harmed.set(mark(asked.document[name]), name);
  }
  for (const [place, one] of written) {
    const marks = new Set();
    mark(one, marks);
    for (const [key, name] of harmed) {
      if (!marks.has(key)) continue;
      if (key.startsWith("number ")) {
        throw new Harmed(`${place} gets the number of \`${name}\`, but JavaScript does not keep its type: write it as Double, Int32 or Long of bson`);
      }
      throw new Harmed(`${place} gets a value from \`${name}\`, which ${UNHELD}`);
    }
  }
}

/** The elements of a document or array by their names, as the bytes of type, name and value. */
function stored(document) {
  const found = new Map();
  let at = 4;
  while (at < document.length - 1) {
    const start = at;
    const kind = document[at];
    const from = document.indexOf(0, at + 1) + 1;
    if (kind === 11) at = document.indexOf(0, document.indexOf(0, from) + 1) + 1;
    else at = from + (SIZES[kind] ?? document.readInt32LE(from) + BESIDES[kind]);
    const name = document.toString("utf8", start + 1, from - 1);
    const elements = found.get(name);
    if (elements) elements.push(document.subarray(start, at));
    else found.set(name, [document.subarray(start, at)]);
  }
  return found;
}

/** The document of a message, which the gate writes first. */
function documentOf(message) {
  if (message.toString("latin1", 4, 14) === "\x03document\0") return message.subarray(14, 14 + message.readInt32LE(14));
  return value(stored(message).get("document")[0]);
}

function documentWith(bytes) {
  const document = Buffer.alloc(bytes.length + 5);
  document.writeInt32LE(document.length);
  bytes.copy(document, 4);
  return document;
}

function isWrittenAs(document, bytes) {
  try {
    return encode(document).equals(bytes);
  } catch {
    return false;
  }
}

/** Whether two values are seen to be stored as the same bytes without writing them. */
function isPlainlySame(before, now) {
  if (now === null || typeof now !== "object") return Object.is(before, now);
  return Array.isArray(now) && now.length === 0 && Array.isArray(before) && before.length === 0;
}

const value = (bytes) => bytes.subarray(bytes.indexOf(0, 1) + 1);

const element = (name, now) => encode({ [name]: now }).subarray(4, -1);

function same(name, before, bytes) {
  try {
    return element(name, before).equals(bytes);
  } catch {
    return false;
  }
}

/** Whether a field survives decoding and encoding. */
function isHeld(name, now, elements) {
  try {
    return elements.length === 1 && element(name, now).equals(elements[0]);
  } catch {
    return false;
  }
}

const isPlain = (now) => Object.getPrototypeOf(now ?? 0) === Object.prototype;

/** A text that equal values have in common; adds those of all parts that a copy can be recognised by. */
function mark(now, marks) {
  let text;
  if (Array.isArray(now)) text = `[${now.map((part) => mark(part, marks))}]`;
  else if (isPlain(now)) text = `{${Object.entries(now).map(([name, part]) => JSON.stringify(name) + mark(part, marks))}}`;
  else if (now && typeof now === "object") text = `${now._bsontype ?? now.constructor.name} ${JSON.stringify(now)}`;
  else text = `${typeof now} ${Object.is(now, -0) ? "-0" : String(now)}`;
  marks?.add(text);
  return text;
}

/** Marks the parts of a field that do not survive, by the name of the innermost field. */
function markHarmed(name, now, elements, harmed) {
  // of a name that occurs twice, the value that was kept may be whole: what holds both is not
  if (elements.some((one) => isHeld(name, now, [one]))) return;
  if (now !== undefined && !harmed.has(mark(now))) harmed.set(mark(now), name);
  if (elements.length === 1 && (Array.isArray(now) || isPlain(now))) {
    for (const [inner, parts] of stored(value(elements[0]))) markHarmed(inner, now[inner], parts, harmed);
  }
}

/** Whether a number would get another type than the one in its place has, without the author saying so. */
function forgets(typed, now) {
  if (typeof now === "number" && Number.isInteger(now)) {
    const small = now === (now | 0) && !Object.is(now, -0);
    return (typed instanceof Double && small) || (typed instanceof Int32 && !small);
  }
  if (Array.isArray(now)) return Array.isArray(typed) && now.some((part, index) => forgets(typed[index], part));
  return isPlain(now) && isPlain(typed) && Object.keys(now).some((name) => forgets(typed[name], now[name]));
}

/** Refuses a new value that would not be stored as the author sees it. */
export function refuseUnheld(place, now) {
  if (reorders(now)) throw new Harmed(`${place} has names like 1 next to others, which JavaScript moves to the front`);
  if (hasUndefined(now)) throw new Harmed(`${place} holds undefined: remove what is undefined, or set it to null`);
}

/** Refuses what `bson` writes without a word as something else: nothing, an empty document, or another date or number. */
export function refuseLost(place, now) {
  const lost = lostIn(now, new Set());
  if (lost) throw new Harmed(`${place} holds ${lost}, which BSON has no value for`);
}

function lostIn(now, above) {
  if (typeof now === "function" || typeof now === "symbol") return `a ${typeof now}`;
  if (typeof now === "bigint") return BigInt.asIntN(64, now) === now ? undefined : "a number of more than 64 bits";
  if (now === null || typeof now !== "object" || typeof now.toBSON === "function") return undefined;
  if (now._bsontype) return lostIn(now.scope ?? now.fields ?? null, above) ?? lostIn(now.oid ?? null, above);
  if (now instanceof Date) return Number.isNaN(now.getTime()) ? "an invalid date" : undefined;
  if (ArrayBuffer.isView(now) || now instanceof ArrayBuffer || now instanceof RegExp) return undefined;
  const parts = now instanceof Map ? [...now.values()] : Object.values(now);
  const isDocument = Array.isArray(now) || now instanceof Map || isPlain(now) || Object.getPrototypeOf(now) === null;
  if (!isDocument && parts.length === 0) return `a ${now.constructor?.name ?? "thing without fields"}`;
  if (above.has(now)) return undefined; // a circle, which `bson` refuses
  above.add(now);
  for (const part of parts) {
    const lost = lostIn(part, above);
    if (lost) return lost;
  }
  above.delete(now);
  return undefined;
}

function hasUndefined(now) {
  if (Array.isArray(now)) return now.some(hasUndefined);
  return now === undefined || (isPlain(now) && Object.values(now).some(hasUndefined));
}

const isIndex = (name) => /^(0|[1-9]\d{0,9})$/.test(name) && Number(name) < 2 ** 32 - 1;

/** Whether an object has names that JavaScript orders as numbers, before all others. */
function reorders(now) {
  if (Array.isArray(now)) return now.some(reorders);
  if (!isPlain(now)) return false;
  const names = Object.keys(now);
  return (names.some(isIndex) && !names.every(isIndex)) || Object.values(now).some(reorders);
}

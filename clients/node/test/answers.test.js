// What a program answers to a message of the gate.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Double, Int32, Long, calculateObjectSize, deserialize, serialize } from "bson";

import { answer, count, deleteDocument, insert, refuse } from "../index.js";

const raw = (...elements) => {
  const inner = Buffer.concat(elements);
  const size = Buffer.alloc(4);
  size.writeInt32LE(inner.length + 5);
  return Buffer.concat([size, inner, Buffer.from([0])]);
};
const nested = (name, document) => Buffer.concat([Buffer.from([3]), Buffer.from(`${name}\0`), document]);
const bytes = (text) => Buffer.from(text, "latin1");

const ID = bytes("\x10_id\0\x01\0\0\0");
const HARMED = {
  double: Buffer.from(serialize({ double: new Double(1) })).subarray(4, -1),
  long: Buffer.from(serialize({ long: Long.fromNumber(5) })).subarray(4, -1),
  symbol: bytes("\x0esymbol\0\x02\0\0\0a\0"),
  undefined: bytes("\x06undefined\0"),
  text: bytes("\x02text\0\x02\0\0\0\xff\0"),
  twice: nested("twice", raw(bytes("\x10n\0\x01\0\0\0"), bytes("\x10n\0\x02\0\0\0"))),
  order: nested("order", raw(bytes("\x10b\0\x01\0\0\0"), bytes("\x101\0\x02\0\0\0"))),
};

async function ask(transform, document, found = {}, options = {}) {
  const own = Buffer.isBuffer(document) ? document : Buffer.from(serialize(document));
  const message = raw(nested("document", own), nested("found", Buffer.from(serialize(found))));
  return deserialize(serialize(await answer(transform, message, options)), { promoteValues: false });
}
const plain = async (...asked) => deserialize(serialize(await ask(...asked)));

test("what is returned as it was is no change", async () => {
  const document = raw(ID, ...Object.values(HARMED));
  assert.deepEqual(await ask((one) => one, document), {});
  assert.deepEqual(await ask(async (one) => ({ ...one }), document), {});
  assert.deepEqual(await ask(() => {}, document), {});
});

test("only the fields that changed are set, whatever else the document holds", async () => {
  const document = raw(ID, nested("inner", Buffer.from(serialize({ a: 1, b: 2 }))), ...Object.values(HARMED));
  const change = (one, found) => {
    one.inner.a = 2;
    one.added = found.other[0].x;
    delete one.long;
    return one;
  };
  assert.deepEqual(await plain(change, document, { other: [{ x: "y" }] }), {
    set: { inner: { a: 2, b: 2 }, added: "y" },
    unset: ["long"],
  });
});

test("a changed field that JavaScript cannot hold is refused, and so is one that is moved", async () => {
  for (const [name, element] of Object.entries(HARMED)) {
    const inner = raw(ID, nested("outer", raw(element)));
    const change = (one) => ({ ...one, outer: { ...one.outer, more: 1 } });
    assert.match((await ask(change, inner)).refuse, /field `outer`/, name);
    const move = ({ outer, ...rest }) => ({ ...rest, to: outer });
    assert.match((await ask(move, inner)).refuse, /field `to`/, name);
    const moveItself = ({ [name]: value, ...rest }) => ({ ...rest, to: value });
    assert.match((await ask(moveItself, raw(ID, element))).refuse, /field `to`/, name);
    const add = (one) => void insert("others", { _id: 2, outer: one.outer });
    assert.match((await ask(add, inner)).refuse, /others/, name);
  }
});

test("numbers keep their types where the function is given them", async () => {
  const typed = { promoteValues: false };
  const document = { _id: 1, n: { double: new Double(1), long: Long.fromNumber(5), int: new Int32(1) } };
  const change = (one) => ({ ...one, n: { ...one.n, int: new Int32(2) } });
  const said = await ask(change, document, {}, typed);
  assert.deepEqual(said, { set: { n: { ...document.n, int: new Int32(2) } } });
});

test("a number never gets another type in silence", async () => {
  for (const [before, after] of [[1.5, 2], [1, 2 ** 31], [{ n: [1.5] }, { n: [2] }]]) {
    assert.match((await ask((one) => ({ ...one, n: after }), { _id: 1, n: before })).refuse, /field `n`.*another type/);
  }
  assert.deepEqual(await plain((one) => ({ ...one, n: 1.5 }), { _id: 1, n: 1 }), { set: { n: 1.5 } });
});

test("a name that JavaScript would move to the front is refused", async () => {
  const change = (one) => ({ ...one, by: { ...one.by, 7: 1 } });
  assert.match((await ask(change, { _id: 1, by: { a: 1 } })).refuse, /field `by`/);
  assert.deepEqual(await plain(change, { _id: 1, by: { 1: 1 } }), { set: { by: { 1: 1, 7: 1 } } });
});

test("counts, inserts and deletion", async () => {
  const split = (one) => {
    for (const part of one.parts) insert("parts", part);
    count("parts", one.parts.length);
    count("seen");
    deleteDocument();
    one.parts = [];
  };
  assert.deepEqual(await plain(split, { _id: 1, parts: [{ _id: 2 }, { _id: 3 }] }), {
    delete: true,
    insert: { parts: [{ _id: 2 }, { _id: 3 }] },
    count: { parts: 2, seen: 1 },
  });
  assert.throws(() => count("outside"));
});

test("a refusal and an error say what the operator may read", async () => {
  const quiet = process.stderr.write;
  process.stderr.write = () => true;
  try {
    assert.deepEqual(await ask(() => refuse("no list has it"), { _id: 1 }), { refuse: "no list has it" });
    const broken = await ask(() => { throw new RangeError("s3cret"); }, { _id: 1 });
    assert.match(broken.refuse, /^the program threw RangeError in answers\.test\.js, line \d+$/);
    assert.match((await ask(() => insert("parts", {}), { _id: 1 })).refuse, /TypeError/);
    assert.match((await ask((one) => { one.n = 1; }, { _id: 1 })).refuse, /returned nothing/);
    assert.match((await ask(() => [1], { _id: 1 })).refuse, /not a document/);
    const circle = {};
    circle.circle = circle;
    assert.match((await ask(() => ({ _id: 1, circle }), { _id: 1 })).refuse, /field `circle` cannot be written/);
  } finally {
    process.stderr.write = quiet;
  }
});

test("a large document is taken", async () => {
  const document = { _id: 1, load: "x".repeat(15 * 1024 * 1024) };
  assert.ok(calculateObjectSize(document) > 15 * 1024 * 1024);
  assert.deepEqual(await plain((one) => ({ ...one, n: 1 }), document), { set: { n: 1 } });
});

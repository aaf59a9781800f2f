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

test("a number whose type is forgotten is not copied in silence either", async () => {
  const document = { _id: 1, n: new Double(7), long: Long.fromNumber(2 ** 40) };
  const copies = [(one) => ({ ...one, to: one.n }), (one) => ({ ...one, to: [{ n: one.long }] })];
  for (const copy of copies) assert.match((await ask(copy, document)).refuse, /field `to` gets the number of `(n|long)`/);
  const take = (one, found) => ({ ...one, to: found.other[0].n });
  assert.match((await ask(take, { _id: 1 }, { other: [{ n: Long.fromNumber(5) }] })).refuse, /field `to`.*of `n`/);
  assert.deepEqual(await plain((one) => ({ ...one, to: new Int32(7) }), document), { set: { to: 7 } });
  assert.deepEqual(await plain((one) => ({ ...one, to: 8 }), document), { set: { to: 8 } });
});

const int = bytes("\x01\0\0\0");
const string = (text) => Buffer.concat([Buffer.from([text.length + 1, 0, 0, 0]), bytes(`${text}\0`)]);
const KEPT = {
  "minus zero": [1, bytes("\0\0\0\0\0\0\0\x80")],
  "a NaN with a payload": [1, bytes("\x01\x02\x03\x04\0\0\xf8\x7f")],
  "text with a zero": [2, string("a\0b")],
  "a legacy UUID": [5, Buffer.concat([bytes("\x10\0\0\0\x03"), Buffer.alloc(16, 7)])],
  "a UUID": [5, Buffer.concat([bytes("\x10\0\0\0\x04"), Buffer.alloc(16, 7)])],
  "old binary data": [5, bytes("\x07\0\0\0\x02\x03\0\0\0abc")],
  "a date after the year 9999": [9, bytes("\0\xdc\x1f\xd2\x77\xe6\0\0")],
  "a regular expression": [11, bytes("(?<name>a)++\0imsx\0")],
  "code": [13, string("f()")],
  "a timestamp": [17, Buffer.alloc(8, 255)],
  "a long beyond the safe ones": [18, bytes("\x01\0\0\0\0\0\x20\0")],
  "a decimal": [19, Buffer.alloc(16, 1)],
  "the least key": [255, bytes("")],
  "the greatest key": [127, bytes("")],
  "a DBRef": [3, raw(Buffer.concat([bytes("\x02$ref\0"), string("c")]), Buffer.concat([bytes("\x10$id\0"), int]))],
  "names of any kind": [3, raw(...["$set", "a.b", "", "__proto__", "toBSON"].map((name) => Buffer.concat([bytes(`\x10${name}\0`), int])))],
};
const OTHER = {
  "flags in another order": [11, bytes("a\0mi\0")],
  "a date beyond those of JavaScript": [9, bytes("\0\0\0\0\0\0\0\x10")],
  "a dbPointer": [12, Buffer.concat([string("db.c"), Buffer.alloc(12)])],
  "an array of other names": [4, raw(Buffer.concat([bytes("\x105\0"), int]))],
  "a DBRef in another order": [3, raw(Buffer.concat([bytes("\x10$id\0"), int]), Buffer.concat([bytes("\x02$ref\0"), string("c")]))],
  "a boolean that is neither": [8, bytes("\x02")],
  "code with a date beyond those of JavaScript": [15, Buffer.concat([bytes("\x1e\0\0\0"), string("f()"), raw(bytes("\x09a\0\0\0\0\0\0\0\0\x10"))])],
};
const field = (name, [kind, value]) => Buffer.concat([Buffer.from([kind]), bytes(`${name}\0`), value]);

test("a value that the function reads is written as the same bytes, or not at all", async () => {
  const copy = (one) => ({ ...one, to: one.from });
  const said = async (value, options) => {
    const document = raw(ID, field("from", value));
    const found = nested("found", raw());
    return Buffer.from(serialize(await answer(copy, raw(nested("document", document), found), options)));
  };
  for (const options of [{}, { promoteValues: false }]) {
    for (const [name, value] of Object.entries(KEPT)) {
      assert.deepEqual(await said(value, options), raw(nested("set", raw(field("to", value)))), name);
    }
    for (const [name, value] of Object.entries(OTHER)) {
      assert.deepEqual(Object.keys(deserialize(await said(value, options))), ["refuse"], name);
      const document = raw(ID, field("from", value));
      assert.deepEqual(Object.keys(await ask((one) => void insert("others", { _id: 1, to: one.from }), document, {}, options)), ["refuse"], name);
      // what stays as it is may be anything that can be read
      const left = await ask((one) => ({ ...one, n: new Int32(1) }), document, {}, options);
      assert.ok(left.refuse?.includes("cannot read it") || left.set?.n.value === 1, name);
    }
  }
});

test("a field is set whatever its name", async () => {
  const change = (one) => Object.defineProperty(one, "__proto__", { value: 5, enumerable: true, configurable: true });
  const set = raw(nested("set", raw(bytes("\x10__proto__\0\x05\0\0\0"))));
  assert.deepEqual(Buffer.from(serialize(await answer(change, raw(nested("document", raw(ID)), nested("found", raw()))))), set);
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

test("what BSON would hold as something else is refused, wherever it is", async () => {
  const lost = {
    "a Promise": Promise.resolve(1),
    "a Set": new Set([1]),
    "a WeakMap": new WeakMap(),
    "a function": () => 1,
    "a symbol": Symbol("s3cret"),
    "an invalid date": new Date("no date"),
    "a number of more than 64 bits": 2n ** 64n,
  };
  for (const [what, value] of Object.entries(lost)) {
    for (const one of [value, [value], { deep: [{ value }] }, new Map([["a", value]])]) {
      const said = await ask((document) => ({ ...document, n: one }), { _id: 1, n: {} });
      assert.equal(said.refuse, `field \`n\` holds ${what}, which BSON has no value for`);
      const added = await ask(() => void insert("others", { _id: 1, one }), { _id: 1 });
      assert.match(added.refuse, new RegExp(`^a document for others holds ${what}`));
    }
  }
  const kept = { date: new Date(-1), big: 2n ** 62n, map: new Map([["a", 1]]), bytes: new Uint8Array(2), none: Object.create(null) };
  assert.deepEqual(Object.keys(await ask((document) => ({ ...document, ...kept }), { _id: 1 })), ["set"]);
  const moved = await ask(() => void insert("others", { _id: 1, a: 1, 7: 1 }), { _id: 1 });
  assert.match(moved.refuse, /others has names like 1/);
});

test("an answer as large as may be is whole, and a larger one is refused", async () => {
  const load = "x".repeat(12 << 20);
  const add = (n) => (one) => {
    for (let at = 0; at < n; at += 1) insert("others", { _id: at, load });
    return { ...one, n: 1 };
  };
  const { set, insert: inserted } = await plain(add(2), { _id: 1 });
  assert.deepEqual(set, { n: 1 });
  assert.deepEqual(inserted.others.map((one) => one.load === load), [true, true]);
  const changed = await plain((one) => ({ ...one, a: load, b: load }), { _id: 1 });
  assert.ok(changed.set.a === load && changed.set.b === load);
  const field = await ask((one) => ({ ...one, a: [load, load, load] }), { _id: 1 });
  assert.match(field.refuse, /33 MiB/);
});

test("a function that is misused says how it is used", async () => {
  for (const [wrong, says] of [
    [() => count("n", 0.5), /TypeError in answers\.test\.js/],
    [() => count("n", -1), /TypeError/],
    [() => count(undefined), /TypeError/],
    [() => insert("others", null), /TypeError/],
    [() => insert(undefined, { _id: 1 }), /TypeError/],
    [() => ({ n: 1 }), /without the `_id`: return the whole document/],
    [function* () { yield { _id: 1 }; }, /without the `_id`/],
    [() => new Map([["_id", 1]]), /without the `_id`/],
    [() => { throw undefined; }, /threw undefined/],
    [() => JSON.parse("{"), /SyntaxError in answers\.test\.js/],
  ]) {
    const quiet = process.stderr.write;
    process.stderr.write = () => true;
    const said = await ask(wrong, { _id: 1, a: 2 }).finally(() => (process.stderr.write = quiet));
    assert.match(said.refuse, says);
  }
});

test("a large document is taken", async () => {
  const document = { _id: 1, load: "x".repeat(15 * 1024 * 1024) };
  assert.ok(calculateObjectSize(document) > 15 * 1024 * 1024);
  assert.deepEqual(await plain((one) => ({ ...one, n: 1 }), document), { set: { n: 1 } });
});

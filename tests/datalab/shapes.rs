//! Items of every odd shape that a datalab database may hold, and some that it never should.

use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::{CString, RawJavaScriptCodeWithScope};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, DateTime, RawArrayBuf, RawBson, RawBsonRef, RawDocumentBuf, Regex, Timestamp, cstr,
    rawbson, rawdoc,
};

/// Named items, for one collection, in the order in which to insert them. The same at every call.
pub fn items() -> Vec<(String, RawDocumentBuf)> {
    let mut items = Items(Vec::new());
    targets(&mut items);
    for (name, value) in values() {
        items.add(
            format!("item_id is {name}"),
            related([
                rawdoc! { "item_id": value.clone() },
                rawdoc! { "item_id": value.clone(), "refcode": null },
            ]),
        );
        items.add(
            format!("refcode is {name}"),
            related([
                rawdoc! { "item_id": "sample", "refcode": value.clone() },
                rawdoc! { "refcode": value.clone(), "item_id": "nobody" },
                rawdoc! { "refcode": value.clone() },
            ]),
        );
        items.add(
            format!("refers to an item with the refcode {name}"),
            related([
                rawdoc! { "item_id": format!("refcode {name}") },
                rawdoc! { "item_id": format!("refcode {name}"), "refcode": "" },
                rawdoc! { "item_id": format!("refcode {name}"), "refcode": value.clone() },
            ]),
        );
        items.add(
            format!("deprecated is {name}"),
            related([
                rawdoc! { "item_id": "sample", "deprecated": value.clone() },
                rawdoc! { "deprecated": value.clone(), "item_id": "nobody", "refcode": null },
            ]),
        );
        items.add(format!("relationships is {name}"), rawdoc! { "relationships": value.clone() });
        items.add(
            format!("an entry is {name}"),
            rawdoc! { "relationships": [value.clone(), { "item_id": "sample" }, value] },
        );
    }
    special(&mut items);
    items.0
}

/// A few items that differ between calls with different seeds, out of the same odd values.
pub fn random(seed: u64) -> Vec<RawDocumentBuf> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut values = values();
    values.truncate(12 + random.usize(..30));
    let mut items = Items(Vec::new());
    for _ in 0..10 + random.usize(..40) {
        let mut item = RawDocumentBuf::new();
        let value = |random: &mut fastrand::Rng| values[random.usize(..values.len())].1.clone();
        for name in [cstr!("item_id"), cstr!("refcode"), cstr!("type")] {
            if random.u8(..4) > 0 {
                item.append(name, value(&mut random));
            }
        }
        let mut entries = RawArrayBuf::new();
        for _ in 0..random.usize(..6) {
            let mut names =
                [cstr!("item_id"), cstr!("refcode"), cstr!("deprecated"), cstr!("relation")];
            random.shuffle(&mut names);
            let mut entry = RawDocumentBuf::new();
            for name in names {
                let value = match name.as_str() {
                    "item_id" => value(&mut random),
                    "deprecated" if random.bool() => RawBson::Boolean(random.bool()),
                    _ if random.bool() => RawBson::Null,
                    _ => value(&mut random),
                };
                if random.u8(..5) > 0 {
                    entry.append(name, value);
                }
            }
            entries.push(entry);
        }
        item.append(cstr!("relationships"), entries);
        items.add("random", item);
    }
    items.0.into_iter().map(|(_, item)| item).collect()
}

/// What the others refer to.
fn targets(items: &mut Items) {
    for (name, value) in values() {
        let of = format!("refcode of {name}");
        items.add(
            format!("the item_id {name}"),
            rawdoc! { "item_id": value.clone(), "refcode": of },
        );
        items.add(
            format!("the refcode {name}"),
            rawdoc! { "item_id": format!("refcode {name}"), "refcode": value },
        );
    }
    let several: [(&str, &[RawBson]); 6] = [
        ("two refcodes", &[rawbson!("first"), rawbson!("last")]),
        ("the last null", &[rawbson!("first"), rawbson!("last"), RawBson::Null]),
        ("the last undefined", &[rawbson!("first"), RawBson::Undefined]),
        ("the first null", &[RawBson::Null, rawbson!("last")]),
        ("the last empty", &[rawbson!("first"), rawbson!("")]),
        ("only null", &[RawBson::Null, RawBson::Null]),
    ];
    for (item_id, refcodes) in several {
        for refcode in refcodes {
            items.add(item_id, rawdoc! { "item_id": item_id, "refcode": refcode.clone() });
        }
    }
    items.add("two refcodes, and none", rawdoc! { "item_id": "two refcodes" });
    items.add("no refcode", rawdoc! { "item_id": "no refcode" });
    for number in [rawbson!(7), rawbson!(7_i64), rawbson!(7.0)] {
        let refcode = format!("seven as {:?}", number.element_type());
        items.add("seven", rawdoc! { "item_id": number, "refcode": refcode });
    }
    items.add("member", rawdoc! { "item_id": ["sample 1", "member"], "refcode": "of an array" });
    items.add("refcode first", rawdoc! { "refcode": "refcode first", "item_id": "refcode first" });
    for item_id in ["sample", "Sample", "sam-ple", "sample ", "caf\u{e9}", "cafe\u{301}", "$sample"]
    {
        items.add(item_id, rawdoc! { "item_id": item_id, "refcode": format!("for {item_id:?}") });
    }
}

/// Shapes that no value alone makes.
fn special(items: &mut Items) {
    let referred = [
        "two refcodes",
        "the last null",
        "the last undefined",
        "the first null",
        "the last empty",
        "only null",
        "no refcode",
        "member",
        "sample 1",
        "refcode first",
        "sample",
        "Sample",
        "SAMPLE",
        "sam-ple",
        "sample ",
        "sample\0",
        "caf\u{e9}",
        "cafe\u{301}",
        "cafe",
        "$sample",
        "sample.",
        ".*",
        "^sample$",
        "s.mple",
        "nobody",
        "-",
        " ",
    ];
    for item_id in referred {
        items.add(format!("refers to {item_id:?}"), related([rawdoc! { "item_id": item_id }]));
    }
    for seven in [rawbson!(7), rawbson!(7_i64), rawbson!(7.0), rawbson!("7")] {
        items.add("refers to seven", related([rawdoc! { "item_id": seven }]));
    }
    items.add(
        "refers to itself",
        rawdoc! { "item_id": "self", "refcode": "own", "relationships": [{ "item_id": "self" }] },
    );
    items.add(
        "refers to itself before it has a refcode",
        rawdoc! { "relationships": [{ "item_id": "bare" }], "item_id": "bare", "refcode": null },
    );
    for (one, other) in [("left", "right"), ("right", "left")] {
        let relationships = [rawdoc! { "item_id": other }];
        items.add(
            "two that refer to each other",
            rawdoc! { "relationships": relationships.into_iter().collect::<RawArrayBuf>(), "item_id": one, "refcode": one },
        );
    }
    items.add("no relationships", rawdoc! { "item_id": "alone", "refcode": "alone" });
    items.add("nothing", rawdoc! {});
    items.add("relationships is one entry", rawdoc! { "relationships": { "item_id": "sample" } });
    items.add(
        "relationships by number",
        rawdoc! { "relationships": { "0": { "item_id": "sample" } } },
    );
    items.add("entries in an entry", rawdoc! { "relationships": [[{ "item_id": "sample" }], []] });
    items.add(
        "entries below an entry",
        rawdoc! { "relationships": [{ "relationships": [{ "item_id": "sample" }] }] },
    );
    items.add(
        "relationships twice",
        rawdoc! { "relationships": [{ "item_id": "sample" }], "relationships": [{ "item_id": "nobody" }] },
    );
    items.add(
        "relationships twice, the first null",
        rawdoc! { "relationships": null, "relationships": [{ "item_id": "sample" }] },
    );
    items.add(
        "a field of an entry twice",
        related([
            rawdoc! { "item_id": "sample", "item_id": "nobody" },
            rawdoc! { "item_id": "", "item_id": "sample" },
            rawdoc! { "refcode": null, "refcode": "there", "item_id": "sample" },
            rawdoc! { "refcode": "there", "refcode": null, "item_id": "sample" },
            rawdoc! { "deprecated": false, "deprecated": true, "item_id": "nobody" },
            rawdoc! { "deprecated": true, "deprecated": false, "item_id": "nobody" },
        ]),
    );
    items.add(
        "fields in every order",
        related([
            rawdoc! { "item_id": "sample", "refcode": null, "deprecated": false, "x": 1 },
            rawdoc! { "x": 1, "deprecated": false, "refcode": null, "item_id": "sample" },
            rawdoc! { "deprecated": false, "item_id": "nobody", "x": 1 },
            rawdoc! { "refcode": "", "x": 1, "item_id": "nobody" },
        ]),
    );
    items.add(
        "pinned, deprecated and bare entries side by side",
        related([
            rawdoc! { "item_id": "sample", "refcode": "there" },
            rawdoc! { "item_id": "nobody", "refcode": null, "deprecated": true },
            rawdoc! { "item_id": "sample", "refcode": null, "deprecated": true },
            rawdoc! { "type": "collections", "immutable_id": ObjectId::from_bytes([1; 12]) },
            rawdoc! { "item_id": null, "refcode": null },
            rawdoc! {},
            rawdoc! { "item_id": "sample" },
        ]),
    );
    items.add(
        "odd names",
        rawdoc! {
            "": "empty", "a.b": 1, "relationships.0.refcode": "dotted", "item_id ": "sample",
            "relationships": [{ "": 1, "$x": 2, "refcode.": "there", "item_id": "sample", "0": 3 }],
            "Relationships": [{ "item_id": "sample" }],
        },
    );
    let everything: RawDocumentBuf = values()
        .into_iter()
        .map(|(name, value)| (CString::try_from(name).unwrap(), value))
        .chain([(cstr!("item_id").into(), rawbson!("sample"))])
        .collect();
    items.add("an entry with every value", related([everything.clone()]));
    items.add("an item with every value", {
        let mut item = everything;
        item.append(
            cstr!("relationships"),
            RawArrayBuf::from_iter([rawdoc! { "item_id": "sample" }]),
        );
        item
    });
    let deep = (0..60).fold(rawdoc! {}, |inner, _| rawdoc! { "in": [inner] });
    items.add("deep", related([rawdoc! { "deep": deep, "item_id": "sample" }]));
    let long = "long ".repeat(50_000);
    items.add("a long item_id", rawdoc! { "item_id": long.clone(), "refcode": "of a long one" });
    items.add("refers to a long item_id", related([rawdoc! { "item_id": long }]));
    let many = |n: i32| match n % 3 {
        0 => rawdoc! { "item_id": "sample", "n": n },
        1 => rawdoc! { "item_id": format!("nobody {n}"), "refcode": null },
        _ => rawdoc! { "refcode": "there", "item_id": "sample" },
    };
    items.add("many entries", related((0..300).map(many)));
}

/// An item with these entries.
fn related(entries: impl IntoIterator<Item = RawDocumentBuf>) -> RawDocumentBuf {
    rawdoc! { "before": 1, "relationships": RawArrayBuf::from_iter(entries), "after": { "x": [1] } }
}

/// A value of every type, and of each the odd ones, by name.
fn values() -> Vec<(&'static str, RawBson)> {
    let binary = |subtype, bytes: &[u8]| RawBson::from(Binary { subtype, bytes: bytes.to_vec() });
    let code = |code: &str, scope| {
        RawBson::from(RawJavaScriptCodeWithScope { code: code.to_owned(), scope })
    };
    let regex = |pattern, options| {
        let (pattern, options) = (CString::try_from(pattern), CString::try_from(options));
        RawBson::from(Regex { pattern: pattern.unwrap(), options: options.unwrap() })
    };
    let decimal = |text: &str| RawBson::Decimal128(text.parse().unwrap());
    vec![
        ("null", RawBson::Null),
        ("false", rawbson!(false)),
        ("true", rawbson!(true)),
        ("an empty string", rawbson!("")),
        ("a string", rawbson!("sample")),
        ("int 0", rawbson!(0)),
        ("int 1", rawbson!(1)),
        ("long 0", rawbson!(0_i64)),
        ("long 1", rawbson!(1_i64)),
        ("double 0", rawbson!(0.0)),
        ("double 1", rawbson!(1.0)),
        ("undefined", RawBson::Undefined),
        ("an empty array", rawbson!([])),
        ("an array", rawbson!(["sample"])),
        ("an array of null", rawbson!([null])),
        ("an array of an empty string", rawbson!([""])),
        ("an empty document", rawbson!({})),
        ("a document", rawbson!({ "item_id": "sample" })),
        ("an object id", ObjectId::from_bytes([5; 12]).into()),
        ("a regular expression", regex("^sample$", "")),
        ("another regular expression", regex("", "i")),
        ("minus 0", rawbson!(-0.0)),
        ("a fraction", rawbson!(0.5)),
        ("a negative number", rawbson!(-1)),
        ("NaN", rawbson!(f64::NAN)),
        ("infinity", rawbson!(f64::INFINITY)),
        ("2^53 as double", rawbson!(9_007_199_254_740_992.0)),
        ("2^53 as long", rawbson!(9_007_199_254_740_992_i64)),
        ("2^53 + 1", rawbson!(9_007_199_254_740_993_i64)),
        ("2^63 as double", rawbson!(9_223_372_036_854_775_808.0)),
        ("2^63 - 1", rawbson!(i64::MAX)),
        ("the least long", rawbson!(i64::MIN)),
        ("the least long as double", rawbson!(-9_223_372_036_854_775_808.0)),
        ("decimal 0", decimal("0")),
        ("decimal 1", decimal("1")),
        ("decimal 1.0", decimal("1.0")),
        ("decimal NaN", decimal("NaN")),
        ("a string with a zero byte", rawbson!("sam\0ple")),
        ("a string of digits", rawbson!("1")),
        ("an empty symbol", RawBson::Symbol(String::new())),
        ("a symbol", RawBson::Symbol("sample".to_owned())),
        ("an empty code", RawBson::JavaScriptCode(String::new())),
        ("a code", RawBson::JavaScriptCode("sample".to_owned())),
        ("an empty code with a scope", code("", rawdoc! { "x": 1 })),
        ("a code with a scope", code("sample", rawdoc! {})),
        ("an empty binary", binary(BinarySubtype::Generic, b"")),
        ("an empty binary of the old kind", binary(BinarySubtype::BinaryOld, b"")),
        ("an empty binary of a kind of one's own", binary(BinarySubtype::UserDefined(0x90), b"")),
        ("a binary", binary(BinarySubtype::Generic, b"sample")),
        ("a binary of the old kind", binary(BinarySubtype::BinaryOld, b"sample")),
        ("a uuid", binary(BinarySubtype::Uuid, &[3; 16])),
        ("an old uuid", binary(BinarySubtype::UuidOld, &[3; 16])),
        ("a date", DateTime::from_millis(1_700_000_000_000).into()),
        ("1970", DateTime::from_millis(0).into()),
        ("a date before 1970", DateTime::from_millis(-1).into()),
        ("an empty timestamp", Timestamp { time: 0, increment: 0 }.into()),
        ("a timestamp", Timestamp { time: 1, increment: 2 }.into()),
        ("a db pointer", db_pointer()),
        ("the least key", RawBson::MinKey),
        ("the greatest key", RawBson::MaxKey),
    ]
}

/// The bson crate has no way to make one.
fn db_pointer() -> RawBson {
    let mut bytes = b"\0\0\0\0\x0cp\0\x07\0\0\0sample\0".to_vec();
    bytes.extend([9; 12]);
    bytes.push(0);
    bytes[0] = bytes.len() as u8;
    let document = RawDocumentBuf::from_bytes(bytes).unwrap();
    document.get("p").unwrap().map(RawBsonRef::into).unwrap()
}

struct Items(Vec<(String, RawDocumentBuf)>);

impl Items {
    /// Adds an item under an `_id` of its own, the types taking turns.
    fn add(&mut self, name: impl Into<String>, fields: RawDocumentBuf) {
        let n = self.0.len() as i32;
        let id = match n % 6 {
            0 => rawbson!(n),
            1 => rawbson!(format!("item {n}")),
            2 => ObjectId::parse_str(format!("{n:024x}")).unwrap().into(),
            3 => rawbson!({ "n": n }),
            4 => DateTime::from_millis(i64::from(-n)).into(),
            _ => rawbson!(f64::from(n) + 0.5),
        };
        let mut item = rawdoc! { "_id": id };
        for field in fields.iter() {
            let (name, value) = field.unwrap();
            item.append(name, value);
        }
        self.0.push((name.into(), item));
    }
}

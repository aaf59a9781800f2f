//! Edits, and how the real server carries them out.

use fastrand::Rng;
use mongodb::Database;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::{CString, cstr};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, Bson, DateTime, Document, RawArrayBuf, RawBson, RawBsonRef, RawDocument,
    RawDocumentBuf, Regex, Timestamp, doc, rawbson, rawdoc,
};

use super::assign::*;
use super::edits::*;
use super::element::MAX_DOCUMENT_SIZE;
use super::error::*;
use super::statement::*;
use super::touched::CHANGED;
use super::tree::*;

#[path = "../../../tests/support/mod.rs"]
mod support;

use support::Server;

impl Edits {
    fn apply(&self, document: &RawDocument) -> Result<RawDocumentBuf, EditError> {
        let after = match self.changes()? {
            Some(changes) => changes.apply(document)?,
            None => document.as_bytes().to_vec(),
        };
        Ok(RawDocumentBuf::from_bytes(after).unwrap())
    }

    fn statement(&self, document: &RawDocument) -> Result<RawDocumentBuf, EditError> {
        self.changes()?.unwrap().statement(document, Extent::Whole)
    }

    fn guarded_statement(&self, document: &RawDocument) -> Result<RawDocumentBuf, EditError> {
        self.changes()?.unwrap().guarded(document, Extent::Whole)
    }

    /// Statements that set what they touch in every manner.
    fn statements(
        &self,
        document: &RawDocument,
        make: impl Fn(&Changes<'_>, &RawDocument, Extent) -> Result<RawDocumentBuf, EditError>,
    ) -> [RawDocumentBuf; 3] {
        let single = self.changes().unwrap().unwrap();
        let whole = Changes { wholes: Wholes::Everywhere, ..self.changes().unwrap().unwrap() };
        [(&single, Extent::Whole), (&whole, Extent::Fields), (&whole, Extent::Whole)]
            .map(|(changes, extent)| make(changes, document, extent).unwrap())
    }
}

impl Changes<'_> {
    fn guarded(&self, document: &RawDocument, extent: Extent) -> Result<RawDocumentBuf, EditError> {
        let after = RawDocumentBuf::from_bytes(self.apply(document)?).unwrap();
        Ok(self.guarded_statement(document, extent, &after)?.unwrap())
    }
}

fn edits<const N: usize>(changes: [(&str, Option<RawBson>); N]) -> Edits {
    let mut edits = Edits::default();
    for (path, value) in changes {
        match value {
            Some(value) => edits.set(path, value),
            None => edits.unset(path),
        }
    }
    edits
}

fn set(path: &str) -> Edits {
    edits([(path, Some(rawbson!("new")))])
}

#[test]
fn fields_keep_their_place_and_new_ones_follow_in_the_servers_order() {
    let document = rawdoc! { "_id": 1, "b": { "x": 1, "y": 2 }, "a": [1, 2] };
    let edits = edits([
        ("a.3", Some(rawbson!(3))),
        ("a.0", None),
        ("b.x", Some(rawbson!("new"))),
        ("b.y", None),
        ("b.10", Some(rawbson!(10))),
        ("b.9", Some(rawbson!(9))),
        ("c.d.e", Some(rawbson!({}))),
        ("missing.too", None),
    ]);
    let expected = rawdoc! {
        "_id": 1,
        "b": { "x": "new", "9": 9, "10": 10 },
        "a": [null, 2, null, 3],
        "c": { "d": { "e": {} } },
    };
    assert!(edits.apply(&document) == Ok(expected));
}

#[test]
fn what_cannot_be_edited_is_refused_with_its_path() {
    let document = rawdoc! { "_id": 1, "scalar": 1, "null": null, "array": [1] };
    for (path, reason) in [
        ("", "a part of the path is empty"),
        ("a..b", "a part of the path is empty"),
        ("a.", "a part of the path is empty"),
        ("$a", "a part of the path begins with `$`"),
        ("a.$[]", "a part of the path begins with `$`"),
        ("_id", "`_id` cannot be edited"),
        ("_id.a", "`_id` cannot be edited"),
        ("a\0b", "the path holds a zero byte"),
        (&["a"; 1000].join("."), "the path goes deeper than the server allows"),
    ] {
        let error = EditError::new(path, reason);
        assert!(set(path).apply(&document) == Err(error.clone()), "{path}");
        assert!(set(path).statement(&document) == Err(error.clone()), "{path}");
        assert!(set(path).guarded_statement(&document) == Err(error), "{path}");
    }
    for (path, at, reason) in [
        ("scalar.a", "scalar", "is neither a document nor an array"),
        ("null.a.b", "null", "is neither a document nor an array"),
        ("array.a", "array.a", "an array has positions, not names"),
        ("array.00", "array.00", "a position in an array has no leading zeros"),
        ("array.1500002", "array.1500002", "is too far beyond the end of the array"),
    ] {
        assert!(set(path).apply(&document) == Err(EditError::new(at, reason)), "{path}");
    }
    for (one, other) in [("a", "a"), ("a", "a.b"), ("a.b.c", "a.b")] {
        let error = EditError::new(other, "another edit touches the same field");
        let both = edits([(one, None), (other, Some(rawbson!(1)))]);
        assert!(both.apply(&document) == Err(error), "{one} {other}");
    }
    assert!(edits([("scalar.a", None), ("array.a", None)]).apply(&document) == Ok(document));
}

#[test]
fn an_inserted_document_needs_an_id_of_its_own() {
    for (document, refused) in [
        (rawdoc! { "_id": 1 }, false),
        (rawdoc! { "id": 1 }, true),
        (rawdoc! { "_id": [1] }, true),
        (rawdoc! { "_id": "x".repeat(MAX_DOCUMENT_SIZE) }, true),
    ] {
        let mut edits = Edits::default();
        edits.insert("blocks", document);
        assert_eq!(edits.inserts().any(|insert| insert.is_err()), refused);
    }
}

#[test]
fn counts_are_no_edit() {
    let mut edits = Edits::default();
    edits.count("pinned", 2);
    assert!(edits.is_empty());
    edits.unset("a");
    assert!(!edits.is_empty());
    assert_eq!(edits.into_counts_and_inserts().0, [("pinned".into(), 2)]);
}

#[tokio::test]
async fn the_server_agrees_with_apply_byte_for_byte() {
    let database = Server::shared().await.database().await;
    for seed in 0..10 {
        let mut random = Rng::with_seed(seed);
        let before: Vec<_> = (0..300).map(|n| document(&mut random, n)).collect();
        let edits: Vec<_> = before.iter().map(|before| some_edits(&mut random, before)).collect();

        let items = Items::insert(&database, &before).await;
        let statements = edits.iter().zip(&before).map(|(edits, before)| {
            // what cannot be applied is not set as a whole
            let manner = if edits.apply(before).is_ok() { seed as usize % 3 } else { 0 };
            match manner {
                0 => edits.statement(before).unwrap(),
                _ => edits.statements(before, |c, d, e| c.statement(d, e))[manner].clone(),
            }
        });
        let refused = items.update(statements).await;
        for (n, after) in items.all().await.into_iter().enumerate() {
            let expected = edits[n].apply(&before[n]);
            assert_eq!(
                refused.contains(&n),
                expected.is_err(),
                "{}",
                show(seed, &edits[n], &before[n])
            );
            let expected = expected.as_ref().unwrap_or(&before[n]);
            assert!(after == *expected, "{}\n{after:?}", show(seed, &edits[n], &before[n]));
        }
        assert!((10..150).contains(&refused.len()), "seed {seed}: {} are refused", refused.len());
    }
}

#[tokio::test]
async fn a_guarded_edit_is_made_only_where_what_it_touches_is_unchanged() {
    let database = Server::shared().await.database().await;
    for seed in 100..110 {
        let mut random = Rng::with_seed(seed);
        let (mut before, mut edits) = (vec![], vec![]);
        while before.len() < 300 {
            let document = document(&mut random, before.len());
            let some = some_edits(&mut random, &document);
            if some.apply(&document).is_ok() {
                before.push(document);
                edits.push(some);
            }
        }
        let items = Items::insert(&database, &before).await;

        // Now and then a user is faster.
        let theirs = edits.iter().zip(&before).filter_map(|(edits, before)| {
            let path = edits.path(random.usize(..edits.changes.len()));
            let mut theirs = Edits::default();
            match random.u8(..8) {
                0 => theirs.unset(path),
                1 => theirs.set(path, value(&mut random, 1)),
                2 => theirs.set(path.split('.').next()?, value(&mut random, 2)),
                3 => theirs.set("elsewhere", true),
                _ => return None,
            }
            theirs.apply(before).ok().and_then(|_| theirs.statement(before).ok())
        });
        let theirs: Vec<_> = theirs.collect();
        assert!(items.update(theirs).await.is_empty());
        let now = items.all().await;

        let ours = edits.iter().zip(&before).map(|(edits, before)| {
            edits.statements(before, |c, d, e| c.guarded(d, e))[seed as usize % 3].clone()
        });
        assert!(items.update(ours).await.is_empty());
        let (mut made, mut missed) = (0, 0);
        for (n, after) in items.all().await.into_iter().enumerate() {
            let show = || show(seed, &edits[n], &before[n]);
            if now[n] != before[n] && now[n] == after {
                missed += 1;
                continue;
            }
            made += 1;
            assert!(edits[n].apply(&now[n]) == Ok(after), "{}", show());
            for path in edits[n].paths() {
                assert!(
                    value_at(&before[n], path) == value_at(&now[n], path),
                    "{path} in {}",
                    show()
                );
            }
        }
        assert!(made > 100 && missed > 50, "seed {seed}: {made} were made, {missed} missed");
    }
}

#[tokio::test]
async fn a_number_that_became_another_one_of_the_same_value_is_not_overwritten() {
    let database = Server::shared().await.database().await;
    let decimal = |text: &str| RawBson::Decimal128(text.parse().unwrap());
    for (old, now) in [
        (rawbson!(0.0), rawbson!(-0.0)),
        (rawbson!(-0.0), rawbson!(0.0)),
        (decimal("1.0"), decimal("1.00")),
        (decimal("0"), decimal("-0")),
        (rawbson!(0.0), rawbson!(0)),
        (rawbson!(0.0), rawbson!([0.0])),
        (decimal("1"), rawbson!({})),
        (decimal("1"), rawbson!(1_i64)),
    ] {
        let before = rawdoc! { "_id": 0, "plain": old };
        let (edits, then) = (set("plain"), rawdoc! { "_id": 0, "plain": now });
        for (there, made) in [(&then, false), (&before, true)] {
            let items = Items::insert(&database, std::slice::from_ref(there)).await;
            items.update([edits.guarded_statement(&before).unwrap()]).await;
            assert_eq!(items.all().await != [there.clone()], made, "{there:?}");
            if support::mongod_version() < (5, 0) {
                continue;
            }
            let items = Items::insert(&database, std::slice::from_ref(there)).await;
            let after = edits.apply(&before).unwrap();
            let touched = edits.changes().unwrap().unwrap().touched(&before, &after).unwrap();
            let token = ObjectId::new();
            let stage = touched.stage(&before, "records", token).unwrap();
            database.run_raw_command(stage).await.unwrap();
            let exchange = touched.exchange(&before, &items.name, "records", token).unwrap();
            let ended = database.run_raw_command(exchange).await;
            assert_eq!(ended.is_ok(), made, "{there:?}");
            assert!(made || ended.unwrap_err().to_string().contains(CHANGED), "{there:?}");
            assert_eq!(items.all().await != [there.clone()], made, "{there:?}");
        }
    }
}

#[test]
fn what_repeats_a_name_is_not_exchanged() {
    let (twice, once) = (rawdoc! { "x": 1, "x": 2 }, rawdoc! { "x": 1, "y": 2 });
    let touched = |before: &RawDocument, new: RawBson| {
        let edits = edits([("f", Some(new))]);
        let after = edits.apply(before).unwrap();
        edits.changes().unwrap().unwrap().touched(before, &after).map(|_| ())
    };
    let with = |value: RawBson| rawdoc! { "_id": 0, "f": value, "g": twice.clone() };
    let deep = |value: &RawDocument| RawBson::from(rawdoc! { "d": [1, [value.to_owned()]] });
    assert!(touched(&with(deep(&once)), deep(&once)) == Ok(()));
    for (before, new) in [(deep(&twice), deep(&once)), (deep(&once), deep(&twice))] {
        let refused = touched(&with(before), new).unwrap_err();
        assert_eq!(refused.path, "f");
        assert!(refused.reason.starts_with("a document in it repeats a field"));
    }
    let repeated = rawdoc! { "_id": 0, "f": 1, "f": 2 };
    assert_eq!(touched(&repeated, rawbson!(3)).unwrap_err().path, "f");
    assert_eq!(touched(&rawdoc! { "_id": null, "f": 1 }, rawbson!(3)).unwrap_err().path, "_id");
    let large = RawBson::from("x".repeat(MAX_DOCUMENT_SIZE - 60));
    let refused = touched(&rawdoc! { "_id": 0, "f": large }, rawbson!(1)).unwrap_err();
    assert!(refused.reason.contains("--replSet"), "{refused}");
}

#[tokio::test]
async fn fields_are_exchanged_for_what_the_edits_make_of_them_where_they_are_unchanged() {
    if support::mongod_version() < (5, 0) {
        return; // such edits are refused there
    }
    let database = Server::shared().await.database().await;
    let (mut made, mut missed, mut refused) = (0, 0, 0);
    for seed in 200..203 {
        let mut random = Rng::with_seed(seed);
        let documents: Vec<_> = (0..100).map(|n| document(&mut random, n)).collect();
        let items = Items::insert(&database, &documents).await;
        for (n, before) in documents.into_iter().enumerate() {
            let edits = some_edits(&mut random, &before);
            let Ok(after) = edits.apply(&before) else { continue };
            let touched = edits.changes().unwrap().unwrap().touched(&before, &after);
            let Ok(touched) = touched else {
                refused += 1;
                continue;
            };
            let mut theirs = Edits::default();
            match edits.paths().next().filter(|_| random.u8(..3) == 0) {
                Some(path) if random.bool() => theirs.set(path, value(&mut random, 1)),
                Some(path) => theirs.unset(path),
                None => theirs.set("elsewhere", true),
            }
            if theirs.apply(&before).is_ok() {
                items.update([theirs.statement(&before).unwrap()]).await;
            }
            let now = items.all().await.remove(n);
            let unchanged =
                edits.fields().all(|field| value_at(&before, field) == value_at(&now, field));
            let token = ObjectId::new();
            let stage = touched.stage(&before, "records", token).unwrap();
            database.run_raw_command(stage).await.unwrap();
            let exchange = || touched.exchange(&before, &items.name, "records", token).unwrap();
            let ended = database.run_raw_command(exchange()).await;
            let expected = if unchanged { edits.apply(&now).unwrap() } else { now.clone() };
            let show = || format!("{}: {ended:?}", show(seed, &edits, &before));
            assert!(items.all().await[n] == expected, "{}", show());
            match &ended {
                Ok(_) => made += 1,
                Err(error) => {
                    assert!(error.to_string().contains(CHANGED), "{}", show());
                    missed += 1;
                }
            }
            assert_eq!(ended.is_ok(), unchanged, "{}", show());
            // one that arrives late, when the old values are gone, does nothing
            let records = database.collection::<Document>("records");
            assert_eq!(
                records.delete_many(crate::record::staged::filter()).await.unwrap().deleted_count,
                1
            );
            items.update([rawdoc! { "q": { "_id": n as i32 }, "u": before.clone() }]).await;
            database.run_raw_command(exchange()).await.unwrap();
            assert!(items.all().await[n] == before, "{}", show());
        }
    }
    assert!(made > 50 && missed > 10 && refused > 10, "{made}, {missed}, {refused}");
}

#[tokio::test]
async fn what_is_set_as_a_whole_is_guarded_down_to_the_types_inside() {
    let database = Server::shared().await.database().await;
    let document = rawdoc! { "_id": 0, "list": [{ "n": 1 }, 2], "sub": { "x": 1, "y": [1] } };
    let edits = edits([("list.0.new", Some(rawbson!(1))), ("sub.new", Some(rawbson!(1)))]);
    for (user, made) in [
        (rawdoc! { "elsewhere": 1 }, true),
        (rawdoc! { "list.0.n": 1.0 }, false),
        (rawdoc! { "list.1": 2_i64 }, false),
        (rawdoc! { "sub.x": 1_i64 }, false),
        (rawdoc! { "sub.y.0": 1.0 }, false),
        (rawdoc! { "sub.z": 1 }, false),
        (rawdoc! { "list.2": 1 }, false),
    ] {
        let items = Items::insert(&database, std::slice::from_ref(&document)).await;
        items.update([rawdoc! { "q": {}, "u": { "$set": user.clone() } }]).await;
        let now = items.all().await;
        let [_, fields, whole] = edits.statements(&document, |c, d, e| c.guarded(d, e));
        items.update([whole]).await;
        if made {
            // nothing else may have changed of a document that is replaced
            assert!(items.all().await == now);
        }
        items.update([fields]).await;
        assert_eq!(items.all().await != now, made, "{:?}", Document::try_from(user));
    }
}

/// Edits that the server would search for one by one, in a document with as many elements.
fn many(n: usize) -> [(&'static str, RawDocumentBuf, Edits); 7] {
    let positions = || (0..n).map(|i| i.to_string());
    let fields = |names: &mut dyn Iterator<Item = String>| {
        let mut document = RawDocumentBuf::new();
        names.for_each(|name| document.append(CString::try_from(name).unwrap(), 1));
        document
    };
    let with = |value: RawBson| {
        let mut document = rawdoc! { "_id": 0 };
        document.append(cstr!("a"), value);
        document
    };
    let entries = || (0..n).map(|i| rawdoc! { "n": i as i32 }).collect::<RawArrayBuf>();
    let edits = |paths: &mut dyn Iterator<Item = String>, unsets: bool| {
        let mut edits = Edits::default();
        for (i, path) in paths.enumerate() {
            match unsets && i % 2 == 0 {
                true => edits.unset(path),
                false => edits.set(path, i as i32),
            }
        }
        edits
    };
    let mut top = rawdoc! { "_id": 0 };
    positions().for_each(|i| top.append(CString::try_from(format!("f{i}")).unwrap(), 1));
    let two = rawdoc! { "_id": 0, "a": entries(), "b": { "c": entries() } };
    [
        (
            "array",
            with(entries().into()),
            edits(&mut positions().map(|i| format!("a.{i}.x")), false),
        ),
        (
            "unset",
            with(entries().into()),
            edits(&mut positions().map(|i| format!("a.{i}.n")), true),
        ),
        (
            "nested",
            with(RawArrayBuf::from_iter([entries(), entries()]).into()),
            edits(&mut positions().map(|i| format!("a.1.{i}.x.y.z")), false),
        ),
        (
            "two",
            two,
            edits(&mut positions().flat_map(|i| [format!("b.c.{i}.x"), format!("a.{i}")]), true),
        ),
        (
            "document",
            with(fields(&mut positions()).into()),
            edits(&mut positions().map(|i| format!("a.{i}")), true),
        ),
        ("top", top.clone(), edits(&mut positions().map(|i| format!("f{i}")), true)),
        ("backwards", top, edits(&mut positions().rev().map(|i| format!("f{i}")), false)),
    ]
}

#[tokio::test]
async fn very_many_edits_of_one_document_take_the_server_no_search_for_each() {
    let database = Server::shared().await.database().await;
    for (shape, document, edits) in many(20_000) {
        let after = edits.apply(&document).unwrap();
        for statement in
            [edits.statement(&document).unwrap(), edits.guarded_statement(&document).unwrap()]
        {
            let operators = statement.get("u").unwrap().unwrap();
            let operators = operators.as_document().unwrap().iter().map(|field| field.unwrap());
            // a replacement has none
            let operators = operators.filter(|(name, _)| name.as_str().starts_with('$'));
            let assigned: usize =
                operators.map(|(_, fields)| fields.as_document().unwrap().iter().count()).sum();
            assert!(assigned <= 2, "{shape}: {assigned} assignments");
            let items = Items::insert(&database, std::slice::from_ref(&document)).await;
            assert!(items.update([statement]).await.is_empty(), "{shape}");
            assert!(items.all().await == [after.clone()], "{shape}");
        }
    }
    // what is cheap goes one by one, and what is large is not sent for little
    let [_, (_, document, _), ..] = many(100);
    let one = edits([("a.7.x", Some(rawbson!(1)))]).statement(&document).unwrap();
    assert!(one.as_bytes().len() < 100);
}

#[tokio::test]
async fn what_a_guard_sees() {
    let database = Server::shared().await.database().await;
    let collation = doc! { "locale": "en", "strength": 1 };
    let document = rawdoc! {
        "_id": 0, "n": 1, "text": "a", "null": null, "sub": { "x": 1 }, "list": [{ "x": 1 }, "b"],
    };
    for (path, user, made) in [
        ("n", rawdoc! { "text": "b" }, true),
        ("n", rawdoc! { "n": 2 }, false),
        ("n", rawdoc! { "n": 1.0 }, false),
        ("text", rawdoc! { "text": "A" }, false),
        ("null", rawdoc! { "n": 2 }, true),
        ("null", rawdoc! { "null": RawBson::Undefined }, false),
        ("missing", rawdoc! { "n": 2 }, true),
        ("missing", rawdoc! { "missing": null }, false),
        ("missing", rawdoc! { "missing": RawBson::Undefined }, false),
        ("missing.x", rawdoc! { "missing": {} }, false),
        ("sub.x", rawdoc! { "sub.y": 1 }, true),
        ("sub.x", rawdoc! { "sub.x": 2 }, false),
        ("sub.x", rawdoc! { "sub": [{ "x": 1 }] }, false),
        ("sub.y", rawdoc! { "sub": {} }, true),
        ("sub.y", rawdoc! { "sub": 1 }, false),
        ("sub.y", rawdoc! { "sub": [] }, false),
        ("list.0.x", rawdoc! { "sub": 1 }, true),
        ("list.0.x", rawdoc! { "list.0.y": 1 }, false),
        ("list.0.x", rawdoc! { "list.1": "B" }, false),
        ("list.0.x", rawdoc! { "list.2": 1 }, false),
        ("list.5", rawdoc! { "list.2": 1 }, false),
    ] {
        let items = Items::create(
            &database,
            doc! { "collation": &collation },
            std::slice::from_ref(&document),
        )
        .await;
        items.update([rawdoc! { "q": {}, "u": { "$set": user.clone() } }]).await;
        let now = items.all().await;
        items.update([set(path).guarded_statement(&document).unwrap()]).await;
        assert_eq!(items.all().await != now, made, "{path} and {:?}", Document::try_from(user));
    }
}

#[tokio::test]
async fn an_id_of_any_type_means_one_document() {
    let database = Server::shared().await.database().await;
    let documents: Vec<_> = [
        rawbson!(null),
        rawbson!(1),
        rawbson!(9_007_199_254_740_993_i64),
        rawbson!(9_007_199_254_740_992.0),
        rawbson!(f64::NAN),
        rawbson!("a"),
        rawbson!("A"),
        rawbson!(true),
        rawbson!({}),
        rawbson!({ "a": "a" }),
        rawbson!({ "a": ["a"] }),
        ObjectId::from_bytes([1; 12]).into(),
        DateTime::from_millis(-1).into(),
        RawBson::Symbol("b".to_owned()),
        RawBson::MinKey,
        RawBson::MaxKey,
    ]
    .map(|id| rawdoc! { "_id": id })
    .into();
    let items = Items::insert(&database, &documents).await;
    for document in &documents {
        items.update([set("plain").statement(document).unwrap()]).await;
        items.update([set("guarded").guarded_statement(document).unwrap()]).await;
    }
    for after in items.all().await {
        assert!(after.get("plain").unwrap().is_some() && after.get("guarded").unwrap().is_some());
    }
}

/// A collection of its own.
struct Items<'a> {
    database: &'a Database,
    name: String,
}

impl<'a> Items<'a> {
    async fn insert(database: &'a Database, documents: &[RawDocumentBuf]) -> Self {
        Items::create(database, doc! {}, documents).await
    }

    async fn create(
        database: &'a Database,
        options: Document,
        documents: &[RawDocumentBuf],
    ) -> Self {
        let name = ObjectId::new().to_hex();
        let mut create = doc! { "create": &name };
        create.extend(options);
        database.run_command(create).await.unwrap();
        let documents = RawArrayBuf::from_iter(documents.iter().map(|document| &**document));
        let insert = rawdoc! { "insert": name.as_str(), "documents": documents };
        let answer = database.run_raw_command(insert).await.unwrap();
        assert!(!answer.contains_key("writeErrors"), "{answer}");
        Items { database, name }
    }

    /// The positions of the statements that the server refuses.
    async fn update(&self, statements: impl IntoIterator<Item = RawDocumentBuf>) -> Vec<usize> {
        let updates = RawArrayBuf::from_iter(statements);
        if updates.is_empty() {
            return vec![];
        }
        let update = rawdoc! { "update": self.name.as_str(), "updates": updates, "ordered": false };
        let answer = self.database.run_raw_command(update).await.unwrap();
        let errors = answer.get_array("writeErrors").cloned().unwrap_or_default();
        let index = |error: Bson| error.as_document().unwrap().get_i32("index").unwrap() as usize;
        errors.into_iter().map(index).collect()
    }

    /// All documents, in the order in which they were inserted.
    async fn all(&self) -> Vec<RawDocumentBuf> {
        let collection = self.database.collection::<RawDocumentBuf>(&self.name);
        let mut cursor = collection.find(doc! {}).sort(doc! { "$natural": 1 }).await.unwrap();
        let mut documents = vec![];
        while cursor.advance().await.unwrap() {
            documents.push(cursor.current().to_owned());
        }
        documents
    }
}

fn show(seed: u64, edits: &Edits, document: &RawDocument) -> String {
    let paths: Vec<_> = edits.paths().collect();
    let applied = edits.apply(document).map(|applied| Document::try_from(applied).unwrap());
    let document = Document::try_from(document).unwrap();
    format!("seed {seed}\nedits {paths:?}\ndocument {document}\napplied {applied:?}")
}

/// The bytes of the value at a path.
fn value_at(document: &RawDocument, path: &str) -> Option<RawDocumentBuf> {
    let mut value = RawBsonRef::Document(document);
    for part in path.split('.') {
        value = match value {
            RawBsonRef::Document(document) => document.get(part).unwrap()?,
            RawBsonRef::Array(array) => array.get(part.parse().ok()?).unwrap()?,
            _ => return None,
        };
    }
    Some(RawDocumentBuf::from_iter([(cstr!(""), value)]))
}

const NAMES: [&str; 14] =
    ["a", "b", "B", "0", "1", "2", "9", "10", "1a", "-1", "\u{e9}", "a b", "", "$x"];

fn document(random: &mut Rng, id: usize) -> RawDocumentBuf {
    let mut document = rawdoc! { "_id": id as i32 };
    for field in fields(random, 3).iter() {
        let (name, value) = field.unwrap();
        document.append(name, value);
    }
    document
}

fn fields(random: &mut Rng, depth: usize) -> RawDocumentBuf {
    let mut fields = RawDocumentBuf::new();
    for _ in 0..random.usize(..5) {
        // The last only below the top, where the server allows it.
        let names = NAMES.len() - usize::from(depth == 3);
        let name = CString::try_from(NAMES[random.usize(..names)]).unwrap();
        fields.append(name, value(random, depth));
    }
    fields
}

/// Random values of which no two that compare as equal differ.
fn value(random: &mut Rng, depth: usize) -> RawBson {
    match random.u8(..6) {
        0 | 1 if depth > 0 => return fields(random, depth - 1).into(),
        2 | 3 if depth > 0 => {
            let elements = 0..random.usize(..5);
            return elements.map(|_| value(random, depth - 1)).collect::<RawArrayBuf>().into();
        }
        _ => {}
    }
    let text = ["", "a", "A", "a\0b", "$a"][random.usize(..5)].to_owned();
    match random.u8(..20) {
        0 => RawBson::Null,
        1 => RawBson::Undefined,
        2 => random.bool().into(),
        3 => i64::MIN.into(),
        4 => [0.5, f64::NAN, f64::INFINITY][random.usize(..3)].into(),
        5 => RawBson::Symbol(format!("symbol {text}")),
        6 => RawBson::JavaScriptCode(text),
        7 => RawBson::MinKey,
        8 => ObjectId::from_bytes([random.u8(..2); 12]).into(),
        9 => DateTime::from_millis(random.i64(-2..2)).into(),
        10 => Timestamp { time: 1, increment: random.u32(..2) }.into(),
        11 => RawBson::Decimal128("1.50".parse().unwrap()),
        12 => Binary { subtype: BinarySubtype::BinaryOld, bytes: text.into() }.into(),
        13 => Binary { subtype: BinarySubtype::UserDefined(200), bytes: text.into() }.into(),
        14 => Regex { pattern: cstr!("^a").into(), options: cstr!("mi").into() }.into(),
        15 | 16 => text.into(),
        _ => random.i32(0..3).into(),
    }
}

/// Edits whose paths mostly follow what is there.
fn some_edits(random: &mut Rng, document: &RawDocument) -> Edits {
    let mut edits = Edits::default();
    while edits.is_empty() || random.u8(..3) > 0 {
        let path = path(random, document);
        let inside =
            |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|a| a.starts_with('.'));
        if edits.paths().any(|other| inside(&path, other) || inside(other, &path)) {
            continue;
        }
        match random.u8(..3) {
            0 => edits.unset(path),
            _ => edits.set(path, value(random, 2)),
        }
    }
    edits
}

fn path(random: &mut Rng, document: &RawDocument) -> String {
    let mut at = Some(RawBsonRef::Document(document));
    let mut path = String::new();
    loop {
        let names: Vec<String> = match at {
            Some(RawBsonRef::Document(document)) => {
                let names = document.iter().map(|field| field.unwrap().0.as_str().to_owned());
                names.filter(|name| !["_id", "", "$x"].contains(&name.as_str())).collect()
            }
            Some(RawBsonRef::Array(array)) => {
                (0..=array.into_iter().count()).map(|position| position.to_string()).collect()
            }
            _ => vec![],
        };
        let name = match names.is_empty() || random.u8(..5) == 0 {
            true => NAMES[random.usize(..NAMES.len() - 2)].to_owned(),
            false => names[random.usize(..names.len())].clone(),
        };
        at = match at {
            Some(RawBsonRef::Document(document)) => document.get(&name).unwrap(),
            Some(RawBsonRef::Array(array)) => name.parse().ok().and_then(|n| array.get(n).unwrap()),
            _ => None,
        };
        path = if path.is_empty() { name } else { format!("{path}.{name}") };
        let deeper = matches!(at, Some(RawBsonRef::Document(_) | RawBsonRef::Array(_)));
        if random.u8(..8) < if deeper { 2 } else { 6 } {
            return path;
        }
    }
}

//! Records read, moved, capped and repaired, without a server.

use std::str::FromStr;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, RawArrayBuf,
    RawDocumentBuf, Regex, Timestamp, cstr, doc, rawdoc,
};

use crate::authoring::command::Command;
use crate::authoring::table::{Upgrades, VersionUpgrade};
use crate::authoring::upgrade::Upgrade;
use crate::process::action::{ActionType, UpgradeAction};
use crate::record::document::*;
use crate::record::history::*;
use crate::record::journal::*;
use crate::record::moves::*;
use crate::record::names::*;
use crate::record::stamp::stamped::*;
use crate::record::swept::*;
use crate::version::Version;

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

fn names() -> Names {
    Names {
        collection: "database_metadata".to_owned(),
        record: "app_schema_version".to_owned(),
        code_version: "app_version".to_owned(),
        stamp: None,
    }
}

fn writer() -> Writer {
    Writer {
        run_id: "run".to_owned(),
        host: "host".to_owned(),
        code_version: "0.9.0".to_owned(),
        code_version_field: "app_version".to_owned(),
    }
}

fn upgrades() -> Upgrades {
    let upgrade = |version: &str, collection| {
        Upgrade::new(version, "drop it").step(Command::drop_collection(collection))
    };
    Upgrades::new([upgrade("0.8.0", "old"), upgrade("0.9.0", "older")], &version("0.9.0")).unwrap()
}

fn of_version(text: &str) -> VersionUpgrade {
    let upgrade = Upgrade::new(text, "drop it").step(Command::drop_collection("old"));
    let upgrades = Upgrades::new([upgrade], &version(text)).unwrap();
    upgrades.versions()[0].clone()
}

fn applied(bytes: usize) -> Applied {
    let action = UpgradeAction {
        description: "do it".to_owned(),
        collection: "things".to_owned(),
        action_type: ActionType::Update,
        details: doc! { "text": "x".repeat(bytes) },
    };
    Applied { actions: vec![action], late: 0, duration_ms: 1 }
}

/// An entry like `upgrade 0.8.0` (Python's) or `upgrade 0.8.0 floor 0.8.0` (the gate's).
fn entry(text: &str) -> Document {
    let mut words = text.split(' ');
    let (action, version) = (words.next(), words.next());
    let mut entry = doc! { "version": version, "action": action, "timestamp": DateTime::MIN };
    if words.next() == Some("floor") {
        entry.insert("floor", words.next().filter(|floor| *floor != "none"));
    }
    entry
}

fn stored(version: &str, history: &[&str]) -> Document {
    let history: Vec<_> = history.iter().map(|text| entry(text)).collect();
    doc! { "_id": "app_schema_version", "version": version, "history": history }
}

fn parsed(document: &Document) -> Recorded {
    Recorded::parse(Some(&RawDocumentBuf::try_from(document).unwrap()))
}

#[track_caller]
fn readable(document: &Document) -> Record {
    match parsed(document) {
        Recorded::Readable(record) => record,
        other => panic!("not readable: {other:?}"),
    }
}

#[track_caller]
fn unreadable(document: &Document) -> Unreadable {
    match parsed(document) {
        Recorded::Unreadable(unreadable) => unreadable,
        other => panic!("not unreadable: {other:?}"),
    }
}

fn texts(record: &Record) -> Vec<String> {
    record.history.iter().map(|e| format!("{:?} {}", e.action, e.version)).collect()
}

#[test]
fn the_floor_is_that_of_the_newest_upgrade_or_birth() {
    for (recorded, history, floor) in [
        // the gate's entries state it
        ("0.9.0", &["initialise 0.7.0 floor none", "upgrade 0.9.0 floor 0.9.0"][..], Some("0.9.0")),
        ("0.9.5", &["upgrade 0.9.0 floor 0.9.0", "auto_stamp 0.9.5 floor 0.9.0"], Some("0.9.0")),
        ("0.9.0", &["initialise 0.9.0 floor 0.8.0"], Some("0.8.0")),
        ("0.9.0", &["initialise 0.9.0 floor none", "auto_stamp 0.9.0 floor none"], None),
        // the operator's declaration lowers it
        ("0.8.0", &["upgrade 0.9.0 floor 0.9.0", "initialise 0.8.0 floor 0.8.0"], Some("0.8.0")),
        ("0.7.0", &["upgrade 0.9.0", "initialise 0.7.0 floor none"], None),
        // Python's raise it to their version
        ("0.9.0", &["initialise 0.7.0", "upgrade 0.9.0"], Some("0.9.0")),
        ("0.7.0", &["initialise 0.7.0"], Some("0.7.0")),
        ("0.8.0", &["upgrade 0.9.0", "initialise 0.8.0"], Some("0.9.0")),
        ("0.9.5", &["initialise 0.7.0", "upgrade 0.9.0", "auto_stamp 0.9.5"], Some("0.9.0")),
        ("0.9.0", &["upgrade 0.8.0 floor 0.8.0", "upgrade 0.9.0"], Some("0.9.0")),
        ("0.8.1", &["initialise 0.9.0 floor none", "upgrade 0.8.1"], Some("0.8.1")),
        ("0.8.1", &["initialise 0.9.0 floor 0.8.5", "upgrade 0.8.1"], Some("0.8.5")),
        // with entries of neither kind it is the oldest
        ("0.9.0", &["auto_stamp 0.7.0", "auto_stamp 0.9.0"], Some("0.7.0")),
        ("0.9.0", &["auto_stamp 0.9.0"], Some("0.9.0")),
        ("0.9.0", &["backup 0.6.0", "auto_stamp 0.9.0"], Some("0.6.0")),
        // but a sweep says nothing
        ("0.9.0", &["sweep 0.6.0", "auto_stamp 0.9.0"], Some("0.9.0")),
        ("0.9.0", &["upgrade 0.9.0", "sweep 0.9.0 floor 0.8.0"], Some("0.9.0")),
        ("0.9.0", &["sweep 0.9.0"], Some("0.9.0")),
        // the gate's own stamps know better
        ("0.9.0", &["auto_stamp 0.7.0", "auto_stamp 0.9.0 floor 0.7.0"], Some("0.7.0")),
        ("0.9.0", &["auto_stamp 0.7.0 floor none", "auto_stamp 0.9.0"], None),
        // nothing better is known
        ("0.9.0", &[], Some("0.9.0")),
        ("0.9.0rc1", &[], Some("0.9.0-rc.1")),
    ] {
        let record = readable(&stored(recorded, history));
        assert_eq!(record.floor(), floor.map(version), "{history:?}");
    }
    let record = readable(&doc! { "version": "0.9.0" });
    assert_eq!(record.floor(), Some(version("0.9.0")), "no field history");
}

#[test]
fn what_is_written_states_the_floor_it_leaves() {
    let (upgrades, writer) = (upgrades(), writer());
    let floor = |record: &Record| {
        let newest = Document::try_from(&record.history.last().unwrap().document).unwrap();
        assert_eq!(newest.get_str("run_id").unwrap(), "run");
        assert_eq!(newest.get_str("app_version").unwrap(), "0.9.0");
        let stated = newest.get_str("floor").ok().map(version);
        assert!(newest.contains_key("floor"));
        assert_eq!(stated, record.floor());
        stated
    };
    let begin = |text| Record::begin(&version(text), &upgrades, &writer);
    assert_eq!(floor(&begin("0.7.0")), None);
    assert_eq!(floor(&begin("0.8.0")), Some(version("0.8.0")));
    assert_eq!(floor(&begin("0.8.9")), Some(version("0.8.0")));
    assert_eq!(floor(&Record::stamp_new(&version("0.9.0"), &writer)), None);
    let upgraded = begin("0.7.0").upgraded(&of_version("0.8.0"), &writer, &applied(1));
    assert_eq!(floor(&upgraded), Some(version("0.8.0")));
    assert_eq!(floor(&upgraded.stamped(&version("0.8.9"), &writer)), Some(version("0.8.0")));
    let python = readable(&stored("0.8.5", &["auto_stamp 0.6.0", "auto_stamp 0.8.5"]));
    assert_eq!(floor(&python.stamped(&version("0.9.0"), &writer)), Some(version("0.6.0")));
}

#[test]
fn a_record_names_what_in_it_cannot_be_read() {
    let entry = |entry: Bson| doc! { "version": "0.8.0", "history": [entry] };
    let good = || doc! { "version": "0.8.0", "action": "upgrade" };
    let with = |name: &str, value: Bson| {
        let mut entry = good();
        entry.insert(name, value);
        entry
    };
    for (document, reason, text) in [
        (doc! {}, "its version is missing", "missing"),
        (doc! { "version": "latest" }, "\"latest\"", "latest"),
        (doc! { "version": "" }, "\"\"", "empty"),
        (doc! { "version": " " }, "\" \"", " "),
        (doc! { "version": "0.8.0\0" }, "0.8.0", "\"0.8.0\\u0000\""),
        (doc! { "version": "0.8.0-1" }, "bare number", "0.8.0-1"),
        (doc! { "version": Bson::Null }, "its version is null", "null"),
        (doc! { "version": 1 }, "its version is 1", "1"),
        (doc! { "version": 0.8 }, "its version is 0.8", "0.8"),
        (doc! { "version": true }, "its version is true", "true"),
        (doc! { "version": ["0.8.0"] }, "its version is [\"0.8.0\"]", "[\"0.8.0\"]"),
        (doc! { "version": { "a": 1 } }, "its version is {\"a\":1}", "{\"a\":1}"),
        (doc! { "version": "0.8.0", "history": {} }, "its history is not an array", "0.8.0"),
        (
            doc! { "version": "0.8.0", "history": Bson::Null },
            "its history is not an array",
            "0.8.0",
        ),
        (entry(1.into()), "history entry 0: it is not a document", "0.8.0"),
        (entry(doc! {}.into()), "history entry 0: its version is missing", "0.8.0"),
        (entry(with("version", 1.into()).into()), "history entry 0: its version is 1", "0.8.0"),
        (entry(with("version", "x".into()).into()), "history entry 0: version \"x\"", "0.8.0"),
        (entry(with("floor", 1.into()).into()), "history entry 0: its floor is not", "0.8.0"),
        (entry(with("floor", "x".into()).into()), "history entry 0: its floor: version", "0.8.0"),
        (doc! { "version": "0.8.0", "journal": 1 }, "its journal is not a document", "0.8.0"),
        (doc! { "version": "0.8.0", "journal": Bson::Null }, "its journal is not", "0.8.0"),
        (doc! { "version": "0.8.0", "journal": {} }, "its journal cannot be read", "0.8.0"),
    ] {
        let unreadable = unreadable(&document);
        assert!(unreadable.reason.contains(reason), "{document}: {}", unreadable.reason);
        assert_eq!(unreadable.text, text, "{document}");
        assert_eq!(unreadable.journal_id().is_some(), document.contains_key("journal"));
    }
    for odd in [Bson::Null, 1.into(), "rollback".into()] {
        let record = readable(&entry(with("action", odd).into()));
        assert_eq!(record.history[0].action, Action::Other);
    }
    assert_eq!(Recorded::parse(None), Recorded::Absent);
}

#[test]
fn a_text_that_is_not_utf8_is_unreadable() {
    let mut bytes = rawdoc! { "version": "0.8.?" }.into_bytes();
    let odd = bytes.iter().position(|byte| *byte == b'?').unwrap();
    bytes[odd] = 0xFF;
    let document = RawDocumentBuf::from_bytes(bytes).unwrap();
    assert!(matches!(Recorded::parse(Some(&document)), Recorded::Unreadable(_)));
}

#[test]
fn a_journal_is_unreadable_where_it_names_no_step_or_version() {
    let record = readable(&stored("0.7.0", &["initialise 0.7.0"]));
    let journal =
        Journal::begin("j".to_owned(), &upgrades().versions()[0], record.start(), &writer());
    let document = |change: &dyn Fn(&mut Document)| {
        let mut journal = mongodb::bson::serialize_to_document(&journal).unwrap();
        change(&mut journal);
        let mut document = stored("0.7.0", &["initialise 0.7.0"]);
        document.insert("journal", journal);
        document
    };
    assert_eq!(readable(&document(&|_| {})).journal, Some(journal.clone()));
    let more = document(&|journal| drop(journal.insert("of a later gate", true)));
    assert_eq!(readable(&more).journal, Some(journal.clone()));
    for (field, value) in [
        ("step", Bson::from(2)),
        ("step", Bson::from(-1)),
        ("version", "latest".into()),
        ("steps", Bson::from(doc! {})),
        ("pass", "third".into()),
        ("started", "now".into()),
        ("id", Bson::Null),
    ] {
        let unreadable = unreadable(&document(&|j| drop(j.insert(field, value.clone()))));
        assert!(unreadable.reason.contains("its journal"), "{field}: {}", unreadable.reason);
        let id = if field == "id" { "unreadable" } else { "j" };
        assert_eq!(unreadable.journal_id().unwrap(), id);
    }
    for field in ["id", "version", "from", "steps", "step", "pass", "seq", "run_id"] {
        unreadable(&document(&|journal| drop(journal.remove(field))));
    }
}

/// A value of every type that a document may have, and so a detail of an action.
fn every_value() -> Vec<Bson> {
    let mut values = every_id();
    values.extend([
        Bson::Array(vec![1.into(), Bson::Null]),
        Bson::RegularExpression(Regex {
            pattern: cstr!("^a").to_owned(),
            options: cstr!("i").to_owned(),
        }),
    ]);
    values
}

/// A value of every type that an `_id` may have.
fn every_id() -> Vec<Bson> {
    let binary = |subtype| Bson::Binary(Binary { subtype, bytes: vec![0, 255, 7, 8] });
    vec![
        Bson::Null,
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Undefined,
        Bson::Boolean(false),
        Bson::Int32(i32::MIN),
        Bson::Int64(1),
        Bson::Int64(i64::MAX),
        Bson::Double(1.0),
        Bson::Double(-0.0),
        Bson::Double(f64::INFINITY),
        Bson::Decimal128(Decimal128::from_str("1.10").unwrap()),
        Bson::String(String::new()),
        Bson::String("a\0b".to_owned()),
        Bson::Symbol("symbol".to_owned()),
        Bson::JavaScriptCode("f()".to_owned()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: "f()".to_owned(),
            scope: doc! { "a": 1 },
        }),
        Bson::ObjectId(ObjectId::from_bytes([7; 12])),
        Bson::DateTime(DateTime::MIN),
        Bson::DateTime(DateTime::from_millis(-1)),
        Bson::Timestamp(Timestamp { time: u32::MAX, increment: 0 }),
        binary(BinarySubtype::Generic),
        binary(BinarySubtype::Uuid),
        binary(BinarySubtype::UserDefined(0x80)),
        Bson::Document(doc! {}),
        Bson::Document(doc! { "b": 1, "a": { "c": Bson::Null, "d": [1_i64, 1.0] } }),
        Bson::Document(doc! { "oid": "no extended JSON", "numberLong": "5", "date": 1 }),
    ]
}

#[test]
fn a_journal_survives_storage_with_a_position_of_every_type() {
    let base = readable(&stored("0.7.0", &["initialise 0.7.0"]));
    let journal =
        Journal::begin("j".to_owned(), &upgrades().versions()[0], base.start(), &writer());
    for after in every_id() {
        for position in [None, Some(Position { after: after.clone() })] {
            let advanced = base.journaled(journal.clone()).advanced(&writer(), |journal| {
                journal.position = position.clone();
                journal.pass = Pass::Late;
                journal.command = Some(doc! { "uuid": after.clone() });
                journal.step = 1;
                journal.steps[0].done.documents = u64::from(u32::MAX) + 1;
                journal.steps[0].done.counts.insert("pinned".to_owned(), 3);
            });
            let Move::Insert(document) = Move::between(None, &advanced, &names()).unwrap() else {
                panic!("not an insert")
            };
            let Recorded::Readable(reread) = Recorded::parse(Some(&document)) else {
                panic!("not readable: {after:?}")
            };
            assert_eq!(reread.journal, advanced.journal, "{after:?}");
            assert_eq!(reread.journal.as_ref().unwrap().seq, 1);
            assert!(reread.is_state(&advanced));
        }
    }
}

#[test]
fn a_journal_keeps_what_the_authors_actions_say_whatever_their_types() {
    let base = readable(&stored("0.7.0", &["initialise 0.7.0"]));
    let journal =
        Journal::begin("j".to_owned(), &upgrades().versions()[0], base.start(), &writer());
    for value in every_value() {
        let advanced = base.journaled(journal.clone()).advanced(&writer(), |journal| {
            let mut applied = applied(1);
            applied.actions[0].details = doc! { "value": value.clone() };
            journal.steps[0].done.actions = applied.actions;
        });
        let document = mongodb::bson::serialize_to_document(&advanced.journal).unwrap();
        let raw = RawDocumentBuf::try_from(&document).unwrap();
        assert_eq!(Journal::parse(&raw).ok(), advanced.journal, "{value:?}");
    }
}

#[test]
fn a_first_record_is_inserted_whole() {
    let record = Record::begin(&version("0.8.0"), &upgrades(), &writer());
    let Move::Insert(document) = Move::between(None, &record, &names()).unwrap() else {
        panic!("not an insert")
    };
    let document = Document::try_from(&document).unwrap();
    assert_eq!(document.keys().collect::<Vec<_>>(), ["_id", "version", "history"]);
    assert_eq!(document.get_str("_id").unwrap(), "app_schema_version");
    assert!(readable(&document).is_state(&record));
}

#[track_caller]
fn update(from: &Record, to: &Record) -> (Document, Document) {
    match Move::between(Some(from), to, &names()).unwrap() {
        Move::Update { filter, update } => (filter, update),
        Move::Insert(_) | Move::Replace { .. } => panic!("not an update"),
    }
}

#[test]
fn an_entry_is_pushed_and_leaves_the_others_untouched() {
    let from = readable(&stored("0.8.0", &["initialise 0.7.0", "upgrade 0.8.0"]));
    let to = from.upgraded(&of_version("0.9.0"), &writer(), &applied(1));
    let (filter, update) = update(&from, &to);
    assert_eq!(filter.get_str("_id").unwrap(), "app_schema_version");
    assert_eq!(filter.get_document("version").unwrap(), &doc! { "$eq": "0.8.0" });
    assert_eq!(filter.get_document("history").unwrap(), &doc! { "$size": 2_i64 });
    assert_eq!(filter.get_document("journal").unwrap(), &doc! { "$exists": false });
    assert_eq!(update.keys().collect::<Vec<_>>(), ["$push", "$set"]);
    assert_eq!(update.get_document("$set").unwrap(), &doc! { "version": "0.9.0" });
    let pushed = update.get_document("$push").unwrap().get_document("history").unwrap();
    let pushed = pushed.get_array("$each").unwrap();
    assert_eq!(pushed.len(), 1);
    assert_eq!(pushed[0].as_document().unwrap().get_str("version").unwrap(), "0.9.0");
}

#[test]
fn the_same_version_once_more_sets_no_version() {
    let from = readable(&stored("0.8.0", &[]));
    let (filter, update) = update(&from, &from.stamped(&version("0.8.0"), &writer()));
    assert_eq!(filter.get_document("history.0").unwrap(), &doc! { "$exists": false });
    assert_eq!(update.keys().collect::<Vec<_>>(), ["$push"]);
}

#[test]
fn a_record_that_stays_is_an_update_all_the_same() {
    let from = readable(&stored("0.8.0", &["stamp 0.8.0"]));
    let (_, update) = self::update(&from, &from);
    assert_eq!(update, doc! { "$set": { "version": "0.8.0" } });
}

#[test]
fn a_capped_history_is_set_whole() {
    let entries: Vec<String> =
        (0..HISTORY_ENTRIES).map(|n| format!("auto_stamp 0.8.{n}")).collect();
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let from = readable(&stored("0.8.0", &entries));
    let to = from.stamped(&version("0.9.0"), &writer());
    let (filter, update) = update(&from, &to);
    assert_eq!(filter.get_document("history").unwrap(), &doc! { "$size": 500_i64 });
    assert_eq!(update.keys().collect::<Vec<_>>(), ["$set"]);
    let set = update.get_document("$set").unwrap();
    assert_eq!(set.get_array("history").unwrap().len(), HISTORY_ENTRIES);
    assert_eq!(set.get_str("version").unwrap(), "0.9.0");
    // one fewer, and it is pushed
    let from = readable(&stored("0.8.0", &entries[1..]));
    let (_, update) = self::update(&from, &from.stamped(&version("0.9.0"), &writer()));
    assert!(update.contains_key("$push"));
}

#[test]
fn two_states_of_a_capped_history_have_two_fences() {
    let from = readable(&stored("0.8.0", &vec!["auto_stamp 0.8.0"; HISTORY_ENTRIES]));
    let to = from.stamped(&version("0.8.0"), &writer());
    assert_eq!(from.history.len(), to.history.len());
    assert_ne!(from.fence(&names()), to.fence(&names()));
    assert!(!from.is_state(&to));
}

#[test]
fn a_journal_is_set_and_at_last_unset_and_fences_by_its_place() {
    let from = readable(&stored("0.7.0", &["initialise 0.7.0"]));
    let journal =
        Journal::begin("j".to_owned(), &upgrades().versions()[0], from.start(), &writer());
    let begun = from.journaled(journal);
    let (_, set) = update(&from, &begun);
    assert_eq!(set.keys().collect::<Vec<_>>(), ["$set"]);
    assert_eq!(set.get_document("$set").unwrap().keys().collect::<Vec<_>>(), ["journal"]);

    let on = begun.advanced(&Writer { run_id: "other".to_owned(), ..writer() }, |_| {});
    let (fence, _) = update(&begun, &on);
    assert_eq!(fence.get_str("journal.id").unwrap(), "j");
    assert_eq!(fence.get_i64("journal.seq").unwrap(), 0);
    assert_eq!(fence.get_str("journal.run_id").unwrap(), "run");
    assert!(!begun.is_state(&on));

    let (fence, done) = update(&on, &on.upgraded(&of_version("0.8.0"), &writer(), &applied(1)));
    assert_eq!(fence.get_i64("journal.seq").unwrap(), 1);
    assert_eq!(fence.get_str("journal.run_id").unwrap(), "other");
    assert_eq!(done.get_document("$unset").unwrap(), &doc! { "journal": "" });
    assert!(done.contains_key("$push"));
}

fn size(record: &Record) -> usize {
    record.history.iter().map(|entry| entry.document.as_bytes().len()).sum()
}

#[test]
fn capping_drops_stamps_first_and_keeps_the_oldest_and_the_newest() {
    let mut history = vec!["auto_stamp 0.1.0", "initialise 0.7.0", "upgrade 0.8.0"];
    history.resize(HISTORY_ENTRIES - 1, "auto_stamp 0.8.1");
    history.push("auto_stamp 0.8.2");
    let record = readable(&stored("0.8.2", &history)).stamped(&version("0.8.3"), &writer());
    let kept = texts(&record);
    assert_eq!(kept.len(), HISTORY_ENTRIES);
    assert_eq!(kept[..3], ["AutoStamp 0.1.0", "Initialise 0.7.0", "Upgrade 0.8.0"]);
    assert_eq!(kept[HISTORY_ENTRIES - 2..], ["AutoStamp 0.8.2", "AutoStamp 0.8.3"]);

    // any number from Python at once
    history.splice(3..3, vec!["auto_stamp 0.8.0.post1"; 10_000]);
    let record = readable(&stored("0.8.2", &history)).stamped(&version("0.8.3"), &writer());
    let kept = texts(&record);
    assert_eq!(kept.len(), HISTORY_ENTRIES);
    assert_eq!(kept[..3], ["AutoStamp 0.1.0", "Initialise 0.7.0", "Upgrade 0.8.0"]);
    assert_eq!(kept[HISTORY_ENTRIES - 1], "AutoStamp 0.8.3");
    assert_eq!(record.floor(), Some(version("0.8.0")));
}

#[test]
fn capping_drops_sweeps_before_stamps() {
    let mut history = vec!["initialise 0.8.0", "auto_stamp 0.8.1"];
    history.resize(HISTORY_ENTRIES - 1, "sweep 0.8.1 floor 0.8.0");
    history.extend(["auto_stamp 0.8.2", "sweep 0.8.2 floor 0.8.0"]);
    let record = readable(&stored("0.8.2", &history)).stamped(&version("0.8.3"), &writer());
    let kept = texts(&record);
    assert_eq!(kept.len(), HISTORY_ENTRIES);
    assert_eq!(kept[..3], ["Initialise 0.8.0", "AutoStamp 0.8.1", "Sweep 0.8.1"]);
    assert_eq!(kept[HISTORY_ENTRIES - 3..], ["AutoStamp 0.8.2", "Sweep 0.8.2", "AutoStamp 0.8.3"]);
}

#[test]
fn a_first_record_has_the_floor_of_its_table() {
    let floor = |upgrades: Upgrades, text: &str| {
        Record::begin(&version(text), &upgrades, &writer()).floor()
    };
    let oldest = || upgrades().reaching_from(Some(version("0.7.5")));
    assert_eq!(floor(oldest(), "0.8.5"), Some(version("0.8.0")));
    assert_eq!(floor(oldest(), "0.7.9"), Some(version("0.7.5")));
    assert_eq!(floor(oldest(), "0.7.0"), None);
    assert_eq!(floor(upgrades(), "0.7.9"), None);
}

#[test]
fn an_upgrades_entry_names_what_was_applied() {
    let record = Record::begin(&version("0.7.0"), &upgrades(), &writer());
    assert_eq!(record.history[0].applied_names(), None);
    let record = record.upgraded(&of_version("0.8.0"), &writer(), &applied(1));
    assert_eq!(record.history[1].applied_names(), Some(vec!["drop it"]));
    // a later gate may say more of each, and what is of another shape says nothing
    let mut entry = entry("upgrade 0.8.0 floor 0.8.0");
    entry.insert("upgrades", vec![doc! { "name": "a", "sha256": "0" }]);
    let named = |entry: &Document| {
        readable(&doc! { "version": "0.8.0", "history": [entry.clone()] }).history[0]
            .applied_names()
            .map(|names| names.len())
    };
    assert_eq!(named(&entry), Some(1));
    entry.insert("upgrades", vec!["a"]);
    assert_eq!(named(&entry), None);
}

#[test]
fn a_stamp_that_is_to_follow_is_stored_with_the_version_and_fences() {
    let names = Names {
        stamp: Some(Place {
            collection: "settings".to_owned(),
            field: "version".to_owned(),
            code_version: "0.9.0".to_owned(),
        }),
        ..names()
    };
    let from = readable(&stored("0.8.0", &["initialise 0.8.0"]));
    let stamping = Stamping { from: Some("0.8.0".to_owned()), to: "0.9.0".to_owned() };
    let moved = from.stamped(&version("0.9.0"), &writer()).stamping_along(Some(stamping.clone()));
    let change = |from: &Record, to: &Record| match Move::between(Some(from), to, &names).unwrap() {
        Move::Update { filter, update } => (filter, update),
        Move::Insert(_) | Move::Replace { .. } => panic!("not an update"),
    };
    let (fence, update) = change(&from, &moved);
    assert_eq!(fence.get_document("stamping").unwrap(), &doc! { "$exists": false });
    let set = update.get_document("$set").unwrap();
    assert_eq!(set.get_document("stamping").unwrap(), &doc! { "from": "0.8.0", "to": "0.9.0" });
    let (fence, update) = change(&moved, &moved.stamping_along(None));
    assert_eq!(fence.get_str("stamping.to").unwrap(), "0.9.0");
    assert_eq!(update, doc! { "$unset": { "stamping": "" } });
    assert!(!moved.is_state(&moved.stamping_along(None)));
    // it is read again, and whatever moves the version on ends it
    let mut document = stored("0.9.0", &["initialise 0.8.0", "auto_stamp 0.9.0"]);
    document.insert("stamping", doc! { "from": "0.8.0", "to": "0.9.0" });
    let reread = readable(&document);
    assert_eq!(reread.stamping(), Some(&stamping));
    assert_eq!(reread.stamped(&version("0.9.1"), &writer()).stamping(), None);
    document.insert("version", "0.9.1");
    assert_eq!(readable(&document).stamping(), None);
    document.insert("stamping", 1);
    assert!(unreadable(&document).reason.contains("its stamping"));
}

#[test]
fn capping_then_drops_what_came_before_the_newest_initialise() {
    let mut history = vec!["upgrade 0.1.0"; 400];
    history.push("initialise 0.7.0");
    history.extend(vec!["upgrade 0.8.0"; 100]);
    let record = readable(&stored("0.8.0", &history)).stamped(&version("0.8.3"), &writer());
    let kept = texts(&record);
    assert_eq!(kept.len(), HISTORY_ENTRIES);
    assert_eq!(kept[0], "Upgrade 0.1.0");
    assert_eq!(kept.iter().filter(|text| **text == "Upgrade 0.8.0").count(), 100);
    assert_eq!(kept.iter().filter(|text| **text == "Initialise 0.7.0").count(), 1);
    assert_eq!(kept.last().unwrap(), "AutoStamp 0.8.3");
}

#[test]
fn capping_never_drops_what_tells_the_floor_or_a_disagreement() {
    // no word of an operator, and more upgrades than are kept: each was applied
    let versions: Vec<String> = (0..700).map(|n| format!("upgrade 0.{n}.0")).collect();
    let mut history = vec!["auto_stamp 0.0.0"];
    history.extend(versions.iter().map(String::as_str));
    let record = readable(&stored("0.699.0", &history));
    let after = record.stamped(&version("0.700.0"), &writer());
    assert_eq!(texts(&after)[..701], texts(&record));
    assert_eq!(after.floor(), record.floor());
}

#[test]
fn a_history_is_bounded_in_bytes_by_what_the_oldest_upgrades_did() {
    let mut record = Record::begin(&version("0.0.0"), &upgrades(), &writer());
    let mut largest = 0;
    for n in 1..=60 {
        let next = version(&format!("0.{n}.0"));
        record = record.upgraded(&of_version(&next.to_string()), &writer(), &applied(100_000));
        largest = largest.max(size(&record));
        assert_eq!(record.history.len(), n + 1);
        assert_eq!(record.floor(), Some(next));
    }
    assert!(largest <= HISTORY_BYTES, "{largest}");
    assert!(size(&record) > HISTORY_BYTES / 2, "no more is forgotten than must be");
    let newest = Document::try_from(&record.history[60].document).unwrap();
    assert_eq!(newest.get_array("actions").unwrap().len(), 1);
    let oldest = Document::try_from(&record.history[1].document).unwrap();
    assert!(!oldest.contains_key("actions"));
    assert_eq!(oldest.get_str("action").unwrap(), "upgrade");
    assert_eq!(oldest.get_i64("duration_ms").unwrap(), 1);
    let reread = Move::between(None, &record, &names()).unwrap();
    let Move::Insert(document) = reread else { panic!("not an insert") };
    assert_eq!(Recorded::parse(Some(&document)), Recorded::Readable(record));
}

#[test]
fn what_python_wrote_is_not_shortened() {
    let mut large = entry("upgrade 0.8.0");
    large.insert("actions", "x".repeat(HISTORY_BYTES));
    let document = doc! { "version": "0.8.0", "history": [large.clone()] };
    let record = readable(&document).upgraded(&of_version("0.9.0"), &writer(), &applied(1));
    assert_eq!(Document::try_from(&record.history[0].document).unwrap(), large);
}

#[test]
fn actions_that_are_no_bson_leave_the_entry_whole_without_them() {
    let mut applied = applied(1);
    applied.actions[0].details = doc! { "a\0b": 1 };
    let record = Record::begin(&version("0.7.0"), &upgrades(), &writer());
    let record = record.upgraded(&of_version("0.8.0"), &writer(), &applied);
    let newest = Document::try_from(&record.history[1].document).unwrap();
    assert_eq!(newest.get_str("version").unwrap(), "0.8.0");
    assert!(!newest.contains_key("actions"));
}

#[test]
fn late_documents_are_added_to_the_newest_entry() {
    let record = Record::begin(&version("0.7.0"), &upgrades(), &writer());
    let record = record.upgraded(&of_version("0.8.0"), &writer(), &applied(1));
    let late = record.found_late(2).found_late(3);
    let newest = Document::try_from(&late.history[1].document).unwrap();
    assert_eq!(newest.get_i64("late").unwrap(), 5);
    assert_eq!(late.history[0], record.history[0]);
    let (_, update) = update(&record, &late);
    let newest = doc! { "history.1": newest };
    assert_eq!(update, doc! { "$set": newest }, "and the others are not sent again");
}

#[test]
fn a_sweep_grows_one_entry_that_says_nothing_of_the_floor() {
    let (names, writer) = (names(), writer());
    let python = ["initialise 0.7.0", "upgrade 0.8.0a3", "auto_stamp v0.8.0"];
    let record = readable(&stored("v0.8.0", &python));
    let swept = |documents| Swept { documents, actions: applied(1).actions, duration_ms: 3 };
    let once = record.swept(&writer, &swept(2));
    assert_eq!(texts(&once)[3..], ["Sweep 0.8.0"]);
    assert_eq!((&once.text, once.floor()), (&record.text, record.floor()));
    let newest = Document::try_from(&once.history[3].document).unwrap();
    assert_eq!(newest.get_str("version").unwrap(), "v0.8.0", "as it is stored");
    assert_eq!(newest.get_str("floor").unwrap(), "0.8.0-alpha.3");
    assert_eq!(newest.get_i64("documents").unwrap(), 2);
    let Move::Update { update, .. } = Move::between(Some(&record), &once, &names).unwrap() else {
        panic!("an insert")
    };
    assert_eq!(update.keys().collect::<Vec<_>>(), ["$push"]);

    let twice = once.swept(&writer, &swept(5));
    assert_eq!(twice.history.len(), 4);
    assert_eq!((twice.swept_by("run"), twice.swept_by("another")), (5, 0));
    assert!(!twice.is_state(&once));
    assert_eq!(twice.without_sweep(&writer), Some(record.clone()));
    assert_eq!(record.without_sweep(&writer), None);
    // another run's is another entry
    let other = Writer { run_id: "other".to_owned(), ..writer.clone() };
    assert_eq!(twice.swept(&other, &swept(1)).history.len(), 5);
    assert_eq!(twice.without_sweep(&other), None);
}

#[test]
fn a_repair_starts_from_exactly_what_is_stored_and_keeps_it() {
    let mut stored = stored("latest", &["initialise 0.7.0", "upgrade 0.8.0"]);
    stored.get_array_mut("history").unwrap().push(Bson::Int32(7));
    stored.insert("journal", doc! { "odd": true });
    stored.insert("another field", 1);
    let raw = RawDocumentBuf::try_from(&stored).unwrap();
    let change = Move::repair(&raw, &version("0.8.0"), &upgrades(), &writer(), &names()).unwrap();
    let Move::Update { filter, update } = change else { panic!("an insert") };
    let same = doc! { "$cmp": ["$$ROOT", { "$literal": stored.clone() }] };
    assert_eq!(filter.get_document("$expr").unwrap(), &doc! { "$eq": [same, 0] });
    assert_eq!(update.get_document("$unset").unwrap(), &doc! { "journal": "" });
    let set = update.get_document("$set").unwrap();
    assert_eq!(set.keys().collect::<Vec<_>>(), ["version", "history"]);
    let history = set.get_array("history").unwrap();
    assert_eq!(history[..2], stored.get_array("history").unwrap()[..2]);
    let newest = history[2].as_document().unwrap();
    assert_eq!(newest.get_str("action").unwrap(), "initialise");
    assert!(newest.get_bool("repair").unwrap());
    assert_eq!(newest.get_str("replaced").unwrap(), "latest");
    assert_eq!(newest.get_str("floor").unwrap(), "0.8.0");
    assert_eq!(newest.get_document("journal").unwrap(), &doc! { "odd": true });
    assert_eq!(newest.get_array("unreadable_history").unwrap(), &[Bson::Int32(7)]);
}

#[test]
fn an_entry_with_an_array_of_any_length_is_read() {
    let mut history = RawArrayBuf::new();
    for _ in 0..10_000 {
        history.push(rawdoc! { "version": "0.8.0", "action": "auto_stamp" });
    }
    let document = rawdoc! { "version": "0.8.0", "history": history };
    let Recorded::Readable(record) = Recorded::parse(Some(&document)) else {
        panic!("not readable")
    };
    assert_eq!(record.history.len(), 10_000);
}

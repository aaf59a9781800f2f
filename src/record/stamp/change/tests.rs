use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};

use super::*;

fn place(field: &str, code_version: &str) -> Place {
    let (field, code_version) = (field.to_owned(), code_version.to_owned());
    Place { collection: "settings".to_owned(), field, code_version }
}

fn read(field: &str, documents: &[Document]) -> Stamp {
    let raw: Vec<RawDocumentBuf> =
        documents.iter().map(|document| RawDocumentBuf::try_from(document).unwrap()).collect();
    let raw: Vec<&RawDocument> = raw.iter().map(|document| &**document).collect();
    place(field, "0.9.0").read(&raw).unwrap()
}

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

#[test]
fn a_stamp_is_a_text_of_one_document() {
    let id = ObjectId::new();
    let stamp = read("app.version", &[doc! { "_id": id, "app": { "version": "v0.7.0rc1" } }]);
    assert_eq!(stamp.version(), Some(&version("0.7.0-rc.1")));
    assert_eq!(stamp.text(), Some("v0.7.0rc1"));
    assert_eq!(stamp.unreadable(), None);
    assert_eq!(read("version", &[]).value, Value::Missing);
}

#[test]
fn what_is_no_version_is_said_without_what_it_is_and_replaced_only_where_it_could_be_one() {
    let long = "9".repeat(1000);
    for (value, reason, repairable) in [
        (Bson::from("latest"), "\"latest\"", true),
        (Bson::from(""), "\"\"", true),
        (Bson::from(long), "a text of 1000 bytes", true),
        (Bson::Null, "null", true),
        (Bson::from(7), "a number", false),
        (Bson::from(0.7), "a number", false),
        (doc! { "major": 0 }.into(), "a document", false),
        (Bson::Array(vec!["0.7.0".into()]), "an array", false),
        (Bson::from(true), "another type", false),
    ] {
        let stamp = read("version", &[doc! { "_id": 1, "version": value.clone() }]);
        assert!(stamp.unreadable().unwrap().contains(reason), "{value}: {stamp:?}");
        assert_eq!(stamp.is_repairable(), repairable, "{value}");
        assert_eq!(stamp.version(), None);
        // only the operator's declaration replaces it
        let moved = Change {
            expected: Expected::AtMost(version("0.9.0")),
            to: version("0.9.0"),
            adds: Adds::Document,
        };
        assert_eq!(moved.write(&stamp), Write::Refused);
        let repaired = Change::repair(&version("0.9.0")).write(&stamp);
        assert_eq!(matches!(repaired, Write::Replace { .. }), repairable, "{value}");
    }
    let inside = read("app.version", &[doc! { "_id": 1, "app": [{ "version": "0.7.0" }] }]);
    assert!(inside.unreadable().unwrap().contains("inside an array"));
    let two = read(
        "version",
        &[doc! { "_id": 1, "version": "0.7.0" }, doc! { "_id": 2, "version": "0.7.0" }],
    );
    assert!(two.unreadable().unwrap().contains("more than one document"));
    assert_eq!(Change::repair(&version("0.9.0")).write(&two), Write::Refused);
}

#[test]
fn a_stamp_stays_as_the_application_writes_it() {
    for (code, to, stored, expected) in [
        // the code version as it was built in
        ("0.9.0", "0.9.0", Some("0.8.0"), "0.9.0"),
        ("1.0", "1.0.0", Some("0.1.5"), "1.0"),
        ("0.9.0rc1", "0.9.0-rc.1", Some("0.8.0"), "0.9.0rc1"),
        ("0.9.0-rc.1", "0.9.0-rc.1", Some("0.8.0"), "0.9.0-rc.1"),
        ("v0.9.0", "0.9.0", None, "0.9.0"),
        // a leading v where there was one
        ("0.9.0", "0.9.0", Some("v0.8.0"), "v0.9.0"),
        ("v0.9.0", "0.9.0", Some("0.8.0"), "0.9.0"),
        // other versions in the manner of what is there
        ("0.9.0", "0.8.5", Some("0.8.0"), "0.8.5"),
        ("0.9.0", "0.8.0-rc.2", Some("0.8.0rc1"), "0.8.0rc2"),
        ("0.9.0", "0.8.0-rc.2", Some("0.8.0-rc.1"), "0.8.0-rc.2"),
        ("0.9.0a3", "0.8.0-beta.2", Some("0.8.0"), "0.8.0b2"),
        ("0.9.0", "0.8.0-beta.2", None, "0.8.0-beta.2"),
    ] {
        assert_eq!(
            place("version", code).spelled(&version(to), stored),
            expected,
            "{code} {to} {stored:?}"
        );
    }
}

#[test]
fn a_move_overwrites_only_what_it_started_from() {
    let stamp = |text: &str| read("version", &[doc! { "_id": 1, "version": text }]);
    let change = |expected| Change { expected, to: version("0.9.0"), adds: Adds::Document };
    let exactly = change(Expected::Exactly(version("0.8.0")));
    assert!(matches!(exactly.write(&stamp("v0.8")), Write::Replace { to, .. } if to == "v0.9.0"));
    for other in ["0.7.0", "0.9.0", "0.9.1"] {
        assert_eq!(exactly.write(&stamp(other)), Write::Refused, "{other}");
    }
    assert_eq!(exactly.write(&read("version", &[])), Write::Add("0.9.0".to_owned()));
    let most = change(Expected::AtMost(version("0.9.0")));
    assert!(matches!(most.write(&stamp("0.7.0")), Write::Replace { .. }));
    assert_eq!(most.write(&stamp("0.9")), Write::Nothing);
    assert_eq!(most.write(&stamp("0.9.1")), Write::Refused);
    // what a database begins with is left to the application
    let begins = Change { adds: Adds::Nothing, ..change(Expected::Exactly(version("0.9.0"))) };
    assert_eq!(begins.write(&read("version", &[])), Write::Nothing);
}

#[test]
fn the_rest_of_a_write_is_done_once() {
    let stamp = |text: &str| read("version", &[doc! { "_id": 1, "version": text }]);
    let stamping = Stamping { from: Some("0.8.0".to_owned()), to: "0.9.0".to_owned() };
    assert!(matches!(Write::rest(&stamping, &stamp("0.8.0")), Write::Replace { .. }));
    assert_eq!(Write::rest(&stamping, &stamp("0.9.0")), Write::Nothing);
    assert_eq!(Write::rest(&stamping, &stamp("0.8.5")), Write::Refused);
    assert_eq!(Write::rest(&stamping, &read("version", &[])), Write::Add("0.9.0".to_owned()));
}

#[test]
fn a_stamp_has_a_field_that_can_be_set() {
    for field in ["", "_id", "_id.version", "a..b", ".a", "a.", "$set", "a.$[]", "a\0"] {
        assert!(place(field, "0.9.0").mistake().unwrap().contains("cannot be"), "{field:?}");
    }
    assert_eq!(place("a.b", "0.9.0").mistake(), None);
    let nameless = Place { collection: String::new(), ..place("a", "0.9.0") };
    assert!(nameless.mistake().unwrap().contains("no name"));
}

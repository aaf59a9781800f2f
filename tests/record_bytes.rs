//! Records that only their bytes tell all of: text that is not UTF-8, repeated fields, and very large ones. Every
//! mode says so, and mode `record` repairs them, with all the rest kept.

mod apps;
mod support;

use apps::{METADATA, assert_code, history, record, scenario};
use mongodb::Database;
use mongodb::bson::raw::cstr;
use mongodb::bson::{RawArrayBuf, RawDocumentBuf, rawdoc};
use support::{Fresh, Gate, Run, Server, db_hash};

const MIB: usize = 1024 * 1024;

/// A document of elements as they are.
fn of(elements: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    elements.iter().for_each(|element| bytes.extend_from_slice(element));
    bytes.push(0);
    let length = i32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

fn element(kind: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[kind], name, &[0], value].concat()
}

fn text(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = i32::try_from(value.len() + 1).unwrap();
    element(2, name, &[&length.to_le_bytes(), value, &[0]].concat())
}

fn entry(more: &[&[u8]]) -> Vec<u8> {
    let own = [text(b"version", b"0.7.0"), text(b"action", b"initialise")];
    let own: Vec<&[u8]> = own.iter().map(Vec::as_slice).collect();
    of(&[&own, more].concat())
}

fn entries(entries: &[Vec<u8>]) -> Vec<u8> {
    let elements: Vec<Vec<u8>> = entries
        .iter()
        .enumerate()
        .map(|(n, entry)| element(3, n.to_string().as_bytes(), entry))
        .collect();
    element(4, b"history", &of(&elements.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

fn stored(elements: &[&[u8]]) -> RawDocumentBuf {
    let id = text(b"_id", b"scenario_schema_version");
    RawDocumentBuf::from_bytes(of(&[&[id.as_slice()], elements].concat())).unwrap()
}

async fn put(database: &Database, record: &RawDocumentBuf) {
    let mut insert = RawDocumentBuf::new();
    insert.append(cstr!("insert"), METADATA);
    insert.append(cstr!("documents"), RawArrayBuf::from_iter([record.clone()]));
    insert.append(cstr!("writeConcern"), rawdoc! { "w": "majority" });
    let answer = database.run_raw_command(insert).await.unwrap();
    assert_eq!(answer.get_i32("n").unwrap(), 1, "{answer}");
}

fn gate(database: &Fresh, mode: &str) -> Gate {
    scenario(&database.uri, "0.8.0", "0.8.0=move_field").unset("GATE_FROM_VERSION").mode(mode)
}

fn repair(database: &Fresh, expect: &str) -> Gate {
    gate(database, "record").set("GATE_RECORD_VERSION", "0.7.0").set("GATE_EXPECT_VERSION", expect)
}

fn is_short(run: &Run) {
    for text in [&run.stdout, &run.stderr] {
        assert!(text.lines().all(|line| line.len() < 8192), "a line of {} bytes", text.len());
        assert!(!text.contains('\u{fffd}') && !text.contains("panicked"), "{run}");
    }
}

async fn bytes(database: &Database) -> Vec<u8> {
    let records = database.collection::<RawDocumentBuf>(METADATA);
    let id = mongodb::bson::doc! { "_id": "scenario_schema_version" };
    records.find_one(id).await.unwrap().unwrap().into_bytes()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Records, the text of their version, what is said of them, and what must still be there afterwards.
fn records() -> Vec<(RawDocumentBuf, String, &'static str, Vec<&'static [u8]>)> {
    let good = text(b"version", b"0.7.0");
    let other = text(b"version", b"0.8.0");
    let history = entries(&[entry(&[])]);
    let odd_note = text(b"note", b"odd \xff note");
    let odd = entries(&[entry(&[]), entry(&[&odd_note])]);
    let more = entries(&[entry(&[&text(b"note", b"the second history")])]);
    let twice = entries(&[entry(&[&text(b"version", b"0.6.0")])]);
    let rest = text(b"rest", b"kept \xfe\xff as it is");
    let odd_name = element(16, b"na\xffme", &7_i32.to_le_bytes());
    let journal = |note: &[u8]| element(3, b"journal", &of(&[&text(b"note", note)]));
    let int = element(16, b"version", &8_i32.to_le_bytes());
    let nested = element(3, b"version", &of(&[&text(b"x", b"\xff")]));
    let long = text(b"version", "0.8.ü".repeat(5000).as_bytes());
    let kept: &[u8] = b"kept \xfe\xff as it is";
    let no_utf8 = text(b"version", b"0.7.\xff\x1b[31m");
    vec![
        (
            stored(&[&no_utf8, &history, &rest]),
            "0.7.\\xff\\u{1b}[31m".into(),
            "version",
            vec![kept],
        ),
        (
            stored(&[&good, &history, &other, &rest]),
            "0.7.0|0.8.0".into(),
            "more than once",
            vec![kept],
        ),
        (stored(&[&int, &rest, &good, &history]), "8|0.7.0".into(), "more than once", vec![kept]),
        (stored(&[&nested, &history]), "invalid".into(), "version", vec![]),
        (
            stored(&[&good, &history, &more, &rest]),
            "0.7.0".into(),
            "history more than once",
            vec![kept, b"the second history"],
        ),
        (stored(&[&good, &odd, &rest]), "0.7.0".into(), "not UTF-8", vec![kept, b"odd \xff note"]),
        (stored(&[&good, &twice]), "0.7.0".into(), "version more than once", vec![b"0.6.0"]),
        (
            stored(&[&odd_name, &good, &history]),
            "0.7.0".into(),
            "name is not UTF-8",
            vec![b"na\xffme"],
        ),
        (
            stored(&[&good, &history, &journal(b"a\xff"), &journal(b"b\xff")]),
            "0.7.0".into(),
            "journal more than once",
            vec![b"a\xff", b"b\xff"],
        ),
        (stored(&[&long, &history, &rest]), String::new(), "0.8.ü", vec![kept]),
        (
            stored(&[&element(4, b"version", &of(&[&text(b"0", &vec![b'x'; 100_000])])), &history]),
            String::new(),
            "xxx",
            vec![],
        ),
    ]
}

/// What the remedy says that `GATE_EXPECT_VERSION` is.
fn expected(run: &Run) -> String {
    let next = run.report["next"].as_str().unwrap();
    let (_, after) = next.split_once("GATE_EXPECT_VERSION=").unwrap();
    let end = after.find(", GATE_DISCARD").or(after.find(", and")).unwrap_or(after.len());
    after[..end].to_owned()
}

#[tokio::test]
async fn a_record_of_any_bytes_is_15_in_every_mode_and_is_repaired_with_the_rest_kept() {
    let (set, alone) = tokio::join!(Server::replica_set(), Server::standalone());
    for server in [&set, &alone] {
        for (document, version, reason, kept) in records() {
            let database = server.database().await;
            put(&database, &document).await;
            let before = db_hash(&database).await;
            let mut said = None;
            for mode in ["check", "wait", "plan", "upgrade"] {
                let run = gate(&database, mode).run().await;
                assert_code(&run, 15);
                is_short(&run);
                let message = run.report["message"].as_str().unwrap();
                assert!(message.contains(reason), "{reason}: {run}");
                said = Some(run);
            }
            let said = said.unwrap();
            let shown = expected(&said);
            let expect = if version.is_empty() { shown } else { version };
            let discard = said.report["next"].as_str().unwrap().contains("GATE_DISCARD_JOURNAL");
            assert_code(&repair(&database, "something").run().await, 16);
            if discard {
                assert_code(&repair(&database, &expect).run().await, 16);
            }
            assert_eq!(db_hash(&database).await, before, "{reason}");
            let mut gate_of = repair(&database, &expect);
            if discard {
                gate_of = gate_of.set("GATE_DISCARD_JOURNAL", "unreadable");
            }
            let run = gate_of.run().await;
            assert_code(&run, 10);
            is_short(&run);
            let after = bytes(&database).await;
            for part in kept {
                assert!(holds(&after, part), "{reason}: {part:?} is lost");
            }
            // a healthy record, from which the next run goes on
            assert_code(&gate(&database, "upgrade").run().await, 0);
            assert_code(&gate(&database, "check").run().await, 0);
        }
    }
}

#[tokio::test]
async fn a_record_that_nears_16_mib_is_repaired() {
    let (set, alone) = tokio::join!(Server::replica_set(), Server::standalone());
    for server in [&set, &alone] {
        let good = text(b"version", b"latest");
        let note = text(b"note", &vec![b'x'; 1000]);
        let many = entries(&vec![entry(&[&note]); 15_700]);
        let odd = entries(&vec![entry(&[&text(b"note", &vec![0xff; 1000])]); 15_700]);
        let blob = text(b"blob", &vec![b'y'; 16 * MIB - 2000]);
        for elements in [[&good, &many], [&good, &odd], [&good, &blob]] {
            let document = stored(&[elements[0], elements[1]]);
            assert!(document.as_bytes().len() > 15 * MIB);
            let database = server.database().await;
            put(&database, &document).await;
            let run = gate(&database, "check").run().await;
            assert_code(&run, 15);
            is_short(&run);
            let run = repair(&database, "latest").run().await;
            assert_code(&run, 10);
            is_short(&run);
            let record = record_text(&database).await;
            assert_eq!(record, "0.7.0");
            assert_code(&gate(&database, "upgrade").run().await, 0);
        }
    }
}

async fn record_text(database: &Database) -> String {
    let stored = RawDocumentBuf::from_bytes(bytes(database).await).unwrap();
    stored.get_str("version").unwrap().to_owned()
}

#[tokio::test]
async fn an_ordinary_record_is_repaired_as_before() {
    let server = Server::standalone().await;
    let database = server.database().await;
    put(&database, &stored(&[&text(b"version", b"latest"), &entries(&[entry(&[])])])).await;
    assert_code(&repair(&database, "latest").run().await, 10);
    assert_eq!(history(&record(&database).await), ["initialise 0.7.0", "initialise 0.7.0"]);
}

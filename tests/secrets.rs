//! What no output holds: a password with every special character left as it is, in the connection string and in the
//! place of other settings, and characters that deceive whoever reads a terminal or a log.

mod apps;
mod support;

use apps::{METADATA, fill, record_old, scenario};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use support::{Fresh, Gate, Run, Server};

/// What no output may hold.
const MARK: &str = "Tr0ub4dor";

/// What separates the parts of a connection string, or nothing.
const SEPARATORS: [&str; 12] = ["", "/", "@", ":", "?", "#", "%", "&", ",", "[", "=", "?a=1&b="];

fn gate(uri: &str) -> Gate {
    scenario(uri, "0.8.0", "0.8.0=move_field")
        .mode("check")
        .unset("GATE_FROM_VERSION")
        .set("GATE_LOG", "trace")
        .set("GATE_CONNECT_TIMEOUT", "50ms")
        .set("GATE_TIMEOUT", "50ms")
}

/// Runs it, and reads everything that it says.
async fn is_silent(gate: &Gate, what: &str) -> Run {
    let file = std::env::temp_dir().join(format!("upgrade-gate-{}", ObjectId::new()));
    std::fs::write(&file, "").unwrap();
    let run = gate.clone().set("GATE_REPORT_FILE", file.to_str().unwrap()).run().await;
    let report = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    for said in [&run.stdout, &run.stderr, &report] {
        assert!(!said.contains(MARK), "{what}: {run}");
    }
    assert!(report.contains("exit_code"), "{what}: {run}");
    run
}

#[tokio::test]
async fn a_password_with_any_separators_is_never_printed() {
    for before in SEPARATORS {
        for after in SEPARATORS {
            let uri = format!("mongodb://user:x{before}{MARK}{after}y@127.0.0.1:1/lab");
            let run = is_silent(&gate(&uri), &uri).await;
            assert!(matches!(run.code, Some(16 | 20)), "{uri}: {run}");
        }
    }
}

#[tokio::test]
async fn a_connection_string_in_the_place_of_another_setting_is_never_printed() {
    let misplaced = format!("mongodb://user:{MARK}@db.example/lab");
    for setting in [
        "GATE_APP_VERSION",
        "GATE_BATCH_DOCUMENTS",
        "GATE_CONNECT_TIMEOUT",
        "GATE_DATABASE",
        "GATE_DISCARD_JOURNAL",
        "GATE_EVENTS",
        "GATE_EXPECT_VERSION",
        "GATE_FROM_VERSION",
        "GATE_INITIALISE",
        "GATE_LOCK_LEASE",
        "GATE_LOCK_WAIT",
        "GATE_MODE",
        "GATE_MONGODB_URI_FILE",
        "GATE_QUIESCE",
        "GATE_RECORD_VERSION",
        "GATE_REPORT_FORMAT",
        "GATE_RESUME",
        "GATE_SKIP_CONDITIONS",
        "GATE_TARGET_VERSION",
        "GATE_TIMEOUT",
        "GATE_UNKNOWN",
    ] {
        for mode in ["check", "record", "upgrade"] {
            let gate = gate("mongodb://127.0.0.1:1/lab").mode(mode);
            let gate = match (mode, setting) {
                ("record", "GATE_DISCARD_JOURNAL") => {
                    gate.set("GATE_RECORD_VERSION", "0.7.0").set("GATE_EXPECT_VERSION", "0.7.0")
                }
                ("record", "GATE_EXPECT_VERSION") => gate.set("GATE_RECORD_VERSION", "0.7.0"),
                _ => gate,
            };
            let run = is_silent(&gate.set(setting, &misplaced), setting).await;
            assert_ne!(run.code, Some(0), "{setting}: {run}");
        }
    }
}

/// Each begins a sequence of a terminal, reorders text, or shows nothing.
const DECEIVING: [char; 8] =
    ['\u{9b}', '\u{1b}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{2028}', '\u{feff}', '\u{7f}'];

/// A name or a value of what deceives.
fn deceiving(name: &str) -> String {
    DECEIVING.iter().fold(name.to_owned(), |text, character| format!("{text}{character}31m"))
}

/// Runs it for machines and for people; both times it ends with `code` and no deceiving character. Returns all that
/// was said.
async fn is_clean(gate: &Gate, code: i32, what: &str) -> [String; 2] {
    let mut all = [String::new(), String::new()];
    for (format, said) in ["json", "text"].into_iter().zip(&mut all) {
        let file = std::env::temp_dir().join(format!("upgrade-gate-{}", ObjectId::new()));
        let gate = gate.clone().set("GATE_LOG_FORMAT", format);
        let run = gate.set("GATE_REPORT_FILE", file.to_str().unwrap()).run().await;
        let report = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(run.code, Some(code), "{what}: {run:?}");
        *said = format!("{}{}{report}", run.stdout, run.stderr);
        let raw = said.chars().find(|character| DECEIVING.contains(character));
        assert_eq!(raw, None, "{what}, {format}: {run:?}");
    }
    all
}

/// The same, and it says the deceiving text visibly.
async fn shows(gate: &Gate, code: i32, what: &str) {
    for said in is_clean(gate, code, what).await {
        for visible in ["202e", "9b"] {
            assert!(said.contains(visible), "{what}, without {visible}: {said:?}");
        }
    }
}

async fn recorded(record: Document) -> Fresh {
    let database = Server::shared().await.database().await;
    let mut document = doc! { "_id": "scenario_schema_version" };
    document.extend(record);
    fill(&database, METADATA, [document]).await;
    database
}

fn on(database: &Fresh) -> Gate {
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=refuse").unset("GATE_FROM_VERSION");
    gate.set("GATE_TIMEOUT", "0s").set("GATE_LOCK_WAIT", "0s")
}

#[tokio::test]
async fn characters_that_deceive_in_a_record_are_shown() {
    let text = deceiving("0.7.0");
    for (what, record) in [
        ("version", doc! { "version": &text }),
        (
            "history",
            doc! { "version": "0.7.0", "history": [{ "version": &text, "action": "upgrade" }] },
        ),
    ] {
        let database = recorded(record).await;
        for mode in ["check", "plan", "upgrade"] {
            shows(&on(&database).mode(mode), 15, what).await;
        }
    }
    let database = recorded(doc! { "version": &text }).await;
    let repair = on(&database).mode("record").set("GATE_RECORD_VERSION", "0.7.0");
    shows(&repair.set("GATE_EXPECT_VERSION", "0.7.0"), 16, "the version to replace").await;

    let journal = doc! {
        "id": &text, "version": "0.8.0", "code_version": &text, "started": DateTime::now(),
        "from": { "version": "0.7.0", "history": 0_i64 }, "seq": 1_i64, "run_id": &text, "host": &text,
        "steps": [{ "name": &text, "kind": "transform" }], "step": 0_i64, "pass": "first",
    };
    let database = recorded(doc! { "version": "0.7.0", "journal": journal }).await;
    for mode in ["check", "upgrade"] {
        shows(&on(&database).mode(mode), 12, "journal").await;
    }

    let database = Server::shared().await.database().await;
    record_old(&database).await;
    let later = DateTime::from_millis(DateTime::now().timestamp_millis() + 20_000);
    let lock = doc! { "_id": "upgrade_lock", "run_id": &text, "host": &text, "expires": later };
    fill(&database, METADATA, [lock]).await;
    for mode in ["check", "upgrade"] {
        shows(&on(&database).mode(mode), 21, "lock").await;
    }
}

#[tokio::test]
async fn characters_that_deceive_in_names_and_ids_are_shown() {
    let text = deceiving("name");
    let server = Server::shared().await;
    let database = server.database().await;
    fill(&database, &text, [doc! { "_id": 1 }]).await;
    shows(&on(&database).set("GATE_INITIALISE", "fresh"), 11, "collection").await;

    let database = server.database().await;
    record_old(&database).await;
    fill(&database, "things", [doc! { "_id": &text, "bad": true }]).await;
    for mode in ["plan", "upgrade"] {
        shows(&on(&database).mode(mode), 14, "_id").await;
    }

    let database = server.database().await;
    record_old(&database).await;
    let mark = if database.uri.contains('?') { '&' } else { '?' };
    // no option has such a name: it is not repeated
    let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let option = on(&database).uri(&format!("{}{mark}{encoded}=1", database.uri)).mode("check");
    is_clean(&option, 10, "option").await;
    shows(&on(&database).set("GATE_MODE", &text), 16, "setting").await;
    is_clean(&on(&database).set(&format!("GATE_{text}"), "1"), 16, "name of a setting").await;
    shows(&on(&database).set("GATE_DATABASE", &text), 11, "database").await;
}

//! A password with every special character left as it is, in the connection string and in the place of other
//! settings: it is never printed.

mod apps;
mod support;

use apps::scenario;
use mongodb::bson::oid::ObjectId;
use support::{Gate, Run};

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

//! What an operator sees: the report as text, at a terminal and elsewhere, mode `status`, messages in the words of the
//! deployment, and the pictures of the guide.

mod apps;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use apps::{METADATA, assert_code, fill, record, record_old, scenario};
use mongodb::Database;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::Value;
use support::guide::pages;
use support::terminal::{Shown, at_terminal, picture};
use support::{Fresh, Gate, Run, Server, db_hash, fixture};

const DATALAB: &str = env!("CARGO_BIN_EXE_datalab-upgrade");

/// An empty database on a replica set, and one on a standalone.
async fn databases(alone: &Server) -> [Fresh; 2] {
    [Server::shared().await.database().await, alone.database().await]
}

/// Runs a gate for its text, with its report as JSON from the file.
async fn as_text(gate: &Gate) -> Run {
    let file = std::env::temp_dir().join(format!("upgrade-gate-{}", ObjectId::new()));
    let gate = gate.clone().set("GATE_REPORT_FORMAT", "text");
    let mut run = gate.set("GATE_REPORT_FILE", file.to_str().unwrap()).run().await;
    run.report = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    fs::remove_file(&file).unwrap();
    run
}

/// Every text and number of a report; what is only in a longer one aside.
fn facts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let worded = ["state", "exact", "alive", "action_type"];
            let fields = fields
                .iter()
                .filter(|(name, _)| !worded.contains(&name.as_str()) && !name.ends_with("_ms"));
            fields.for_each(|(_, value)| facts(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| facts(item, found)),
        Value::String(text) => found.push(text.clone()),
        Value::Number(number) => found.push(number.to_string()),
        Value::Null | Value::Bool(_) => {}
    }
}

/// The text says what the JSON says, ends with what to do next, and is the last of all that is written.
async fn assert_text(gate: &Gate, code: i32) -> String {
    let run = as_text(gate).await;
    assert_code(&run, code);
    let mut said = Vec::new();
    facts(&run.report, &mut said);
    for fact in said {
        assert!(run.stdout.contains(&fact), "{fact:?} is missing in {run}");
    }
    let last = run.stdout.lines().last().unwrap();
    match run.report["next"].as_str() {
        Some(next) => assert_eq!(last, format!("next: {next}"), "{run}"),
        None => assert!(last.starts_with("next: "), "{run}"),
    }
    assert!(!run.stdout.contains('\x1b'), "{run}");
    // the log is what it is without the text
    assert!(run.log.iter().all(Value::is_object), "{run}");
    assert_eq!(run.last()["exit_code"], code, "{run}");
    run.stdout
}

#[tokio::test]
async fn the_text_states_what_the_json_states_in_every_mode_and_for_every_outcome() {
    let alone = Server::standalone().await;
    for database in databases(&alone).await {
        let uri = &database.uri;
        let gate = |upgrades: &str| scenario(uri, "0.8.0", upgrades);
        let things = (0..5).map(|n| doc! { "_id": n, "a": n, "n": n });
        let move_field = gate("0.8.0=move_field,index");
        assert_text(&move_field.clone().mode("check"), 11).await;
        fill(&database, "things", things).await;
        fill(&database, "tasks", [doc! { "_id": 1, "locked": true }]).await;
        assert_text(&move_field.clone().unset("GATE_FROM_VERSION").mode("plan"), 11).await;
        assert_text(&move_field.clone().set("GATE_LOCK_WAIT", "5M"), 16).await;
        assert_text(&gate("0.8.0=strict"), 13).await;
        let nobody = move_field.clone().uri("mongodb://127.0.0.1:1/lab").set("GATE_TIMEOUT", "0s");
        assert_text(&nobody, 20).await;

        let plan = assert_text(&move_field.clone().mode("plan"), 10).await;
        for line in [
            "0.8.0 would be applied: ",
            "  - Move 5 field(s) a to b (things, update, moved 5)",
            "  counts: exact",
            "remaining: 0.8.0",
            "closed (exit 10, pending): 1 upgrade is pending: 0.8.0",
        ] {
            assert!(plan.contains(&format!("\n{line}")), "{line:?}: {plan}");
        }
        assert_eq!(record(&database).await, doc! {}, "a plan writes nothing");

        let upgrade = assert_text(&move_field, 0).await;
        for line in [
            "recorded version: 0.7.0 before, 0.8.0 now",
            "0.8.0 applied in ",
            "  - Move 5 field(s) a to b (things, update, moved 5)",
            "open (exit 0): ",
            "next: nothing is left to do here: the application may start",
        ] {
            assert!(upgrade.contains(&format!("\n{line}")), "{line:?}: {upgrade}");
        }
        assert_text(&move_field.clone().mode("check"), 0).await;
        assert_text(&move_field.clone().mode("wait"), 0).await;
        let older = scenario(uri, "0.7.0", "").mode("wait");
        assert_text(&older, 12).await;
        let repair = move_field.unset("GATE_FROM_VERSION").mode("record");
        let repair = repair.set("GATE_RECORD_VERSION", "0.7.0");
        assert_text(&repair.clone().set("GATE_EXPECT_VERSION", "0.7.5"), 16).await;
        assert_text(&repair.set("GATE_EXPECT_VERSION", "0.8.0"), 10).await;
        let broken = doc! { "$set": { "version": "x\u{1b}[2J\u{202e}" } };
        let records = database.collection::<Document>(METADATA);
        records.update_one(doc! { "_id": "scenario_schema_version" }, broken).await.unwrap();
        let run = as_text(&gate("").mode("check")).await;
        assert_code(&run, 15);
        assert!(run.stdout.contains("x\\u{1b}[2J\\u{202e}"), "{run}");
    }
}

#[tokio::test]
async fn the_text_comes_after_all_else_where_both_streams_end_up_in_one() {
    let database = Server::shared().await.database().await;
    let together = |gate: Gate| {
        let shell = Gate::new("/bin/sh").with_settings_of(&gate).arg("-c").arg("exec \"$0\" 2>&1");
        shell.arg(gate.binary().to_str().unwrap())
    };
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field").mode("check");
    let run = together(gate.clone().set("GATE_REPORT_FORMAT", "text")).run().await;
    assert_code(&run, 11);
    let lines: Vec<&str> = run.stdout.lines().collect();
    let log = lines.iter().rposition(|line| line.starts_with('{')).unwrap();
    assert!(lines[log].contains("gate closed"), "{run}");
    assert_eq!(lines[log + 1], format!("scenario 0.8.0, mode check, database {}", database.name()));
    assert!(lines.last().unwrap().starts_with("next: "), "{run}");
    // where it is not asked for, there is none
    let run = together(gate).run().await;
    assert!(run.stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{run}");
}

/// A text without what differs from run to run.
fn normalised(text: &str) -> String {
    let mut normal = String::new();
    for word in text.split_inclusive([' ', '\n']) {
        let (word, space) = word.split_at(word.trim_end_matches([' ', '\n']).len());
        let bare = word.trim_end_matches([',', ';', ':', ')']);
        let is_time = bare.len() > 16 && bare.starts_with("20") && bare.ends_with('Z');
        let is_id = bare.len() == 24 && bare.chars().all(|c| c.is_ascii_hexdigit());
        let number = bare.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let is_duration = number.parse::<u64>().is_ok()
            && ["ms", "us", "s", "m"].contains(&&bare[number.len()..]);
        match () {
            // a duration may have several parts
            () if is_duration && normal.ends_with("<time> ") => {
                normal.pop();
                normal += &format!("{}{space}", &word[bare.len()..]);
            }
            () if word.starts_with("duration_ms=") => {
                normal += &format!("duration_ms=<time>{space}")
            }
            () if is_duration => normal += &format!("<time>{}{space}", &word[bare.len()..]),
            () if is_time => normal += &format!("<date>{}{space}", &word[bare.len()..]),
            () if is_id => normal += &format!("<id>{}{space}", &word[bare.len()..]),
            () => normal += &format!("{word}{space}"),
        }
    }
    normal
}

#[tokio::test]
async fn at_a_terminal_of_any_width_the_report_is_text_and_names_the_next_command() {
    let alone = Server::standalone().await;
    for database in databases(&alone).await {
        fixture::load(&database).await;
        let untouched = db_hash(&database).await;
        let mut settings = BTreeMap::from([
            ("GATE_MONGODB_URI", database.uri.clone()),
            ("GATE_FROM_VERSION", "0.6.0".to_owned()),
            ("HOSTNAME", "lab".to_owned()),
        ]);
        let run = async |columns, arguments: &[&str], settings: &BTreeMap<&str, String>| {
            at_terminal(columns, Path::new(DATALAB), arguments, settings).await
        };
        let wide = run(200, &["plan"], &settings).await;
        assert_eq!(wide.code, 10, "{wide:?}");
        let report = wide.report();
        assert!(report.starts_with("\ndatalab 0.8.0, mode plan, database "), "{wide:?}");
        let last = "next: run datalab-upgrade upgrade to apply what is listed here\n";
        assert!(report.ends_with(last), "{wide:?}");
        // the outcome is said once
        assert!(!wide.output.contains("gate closed"), "{wide:?}");
        assert!(wide.output.contains("\x1b[32m"), "the log is coloured: {wide:?}");
        let narrow = run(20, &["plan"], &settings).await;
        assert_eq!(normalised(&narrow.report()), normalised(&report));
        settings.insert("NO_COLOR", "1".to_owned());
        let plain = run(80, &["plan"], &settings).await;
        assert!(!plain.output.contains("\x1b[32m"), "{plain:?}");
        // for programs
        settings.insert("GATE_REPORT_FORMAT", "json".to_owned());
        let json = run(80, &["plan"], &settings).await;
        let (_, line) = json.output.split_once("{\"app\":").unwrap();
        let line = format!("{{\"app\":{}", line.lines().next().unwrap());
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["exit_code"], 10);
        assert!(json.output.contains("gate closed"), "{json:?}");
        // what is wrong before the settings are read
        settings.insert("GATE_REPORT_FORMAT", "text".to_owned());
        for (arguments, mode) in [(&["plan", "plan"][..], ""), (&["plan"], "upgrade")] {
            settings.insert("GATE_MODE", mode.to_owned());
            let wrong = run(80, arguments, &settings).await;
            assert_eq!(wrong.code, 16, "{wrong:?}");
            assert!(wrong.report().contains("closed (exit 16, setting_wrong): the "), "{wrong:?}");
        }
        assert_eq!(db_hash(&database).await, untouched);
    }
}

#[tokio::test]
async fn messages_name_settings_as_the_deployment_does() {
    let database = Server::shared().await.database().await;
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field").mode("check");
    let gate = gate.unset("GATE_FROM_VERSION");
    let names = "GATE_FROM_VERSION=gate.settings.fromVersion,GATE_INITIALISE=gate.settings.initialise,\
                 GATE_LOCK_WAIT=gate.settings.lockWait,GATE_UPGRADES=gate.upgrades";
    let named = gate.clone().set("GATE_SETTING_NAMES", names);
    let run = named.run().await;
    assert_code(&run, 11);
    let next = run.report["next"].as_str().unwrap();
    assert!(next.contains("set gate.settings.fromVersion (GATE_FROM_VERSION) to"), "{run}");
    assert!(next.contains("set gate.settings.initialise=fresh"), "{run}");
    assert_eq!(run.last()["next"], next, "{run}");
    let run = named.set("GATE_LOCK_WAIT", "5M").run().await;
    assert_code(&run, 16);
    let message = run.report["message"].as_str().unwrap();
    assert!(message.starts_with("gate.settings.lockWait (GATE_LOCK_WAIT) is"), "{run}");
    let run = gate.clone().run().await;
    assert!(run.report["next"].as_str().unwrap().contains("set GATE_FROM_VERSION to"), "{run}");
    let run = gate.set("GATE_SETTING_NAMES", "fromVersion").run().await;
    assert_code(&run, 16);
    assert!(run.report["message"].as_str().unwrap().contains("GATE_SETTING_NAMES"), "{run}");
}

/// Runs mode `status`, which writes nothing, exits with 0, and says what `check` says; returns its part of the report.
async fn status_of(database: &Database, gate: &Gate) -> Value {
    let before = db_hash(database).await;
    let run = gate.clone().mode("status").run().await;
    assert_code(&run, 0);
    assert_eq!(run.report["outcome"], "read", "{run}");
    assert_eq!(run.last()["message"], "status", "{run}");
    let status = run.report["status"].clone();
    // a gate of another version than the application is refused only after the settings are read
    let check = gate.clone().mode("check").run().await;
    for fact in ["exit_code", "outcome", "message", "next"] {
        assert_eq!(status["check"][fact], check.report[fact], "{fact}: {run}{check}");
    }
    assert_text(&gate.clone().mode("status"), 0).await;
    assert_eq!(db_hash(database).await, before, "{run}");
    status
}

#[tokio::test]
async fn status_tells_the_whole_story_and_what_check_would_say() {
    let alone = Server::standalone().await;
    for database in databases(&alone).await {
        let gate = scenario(&database.uri, "0.8.0", "0.7.5=index;0.8.0=move_field");
        let undeclared = gate.clone().unset("GATE_FROM_VERSION");
        let records = database.collection::<Document>(METADATA);
        let is = doc! { "_id": "scenario_schema_version" };
        // nothing
        let status = status_of(&database, &undeclared).await;
        assert_eq!(status["check"]["exit_code"], 11);
        assert_eq!((&status["recorded"], &status["lock"]), (&Value::Null, &Value::Null));
        assert_eq!(status["history_entries"], 0);
        fill(&database, "things", (0..3).map(|n| doc! { "_id": n, "a": n })).await;
        // declared, and not recorded yet
        let status = status_of(&database, &gate).await;
        assert_eq!(status["check"]["exit_code"], 10);
        let pending = |status: &Value| {
            let pending = status["pending"].as_array().unwrap().iter();
            pending.map(|it| it["version"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(pending(&status), ["0.7.5", "0.8.0"]);
        assert_eq!(status["pending"][1]["description"], "move a to b in things");
        // upgraded
        assert_code(&gate.run().await, 0);
        let status = status_of(&database, &undeclared).await;
        assert_eq!(
            (status["recorded"].as_str(), status["floor"].as_str()),
            (Some("0.8.0"), Some("0.8.0"))
        );
        assert_eq!(status["check"]["exit_code"], 0);
        assert!(pending(&status).is_empty());
        let history = status["history"].as_array().unwrap();
        let entries: Vec<String> = history
            .iter()
            .map(|it| format!("{} {}", it["action"], it["version"]).replace('"', ""))
            .collect();
        assert_eq!(entries, ["upgrade 0.8.0", "upgrade 0.7.5", "initialise 0.7.0"], "newest first");
        let newest = &history[0];
        assert_eq!(newest["actions"][0]["description"], "Move 3 field(s) a to b");
        assert_eq!(newest["actions"][0]["details"]["moved"], 3);
        assert_eq!(newest["upgrades"][0], "move a to b in things");
        for said in ["timestamp", "code_version", "run_id", "host", "duration_ms", "floor"] {
            assert!(!newest[said].is_null(), "{said}: {newest}");
        }
        // older code, and newer code
        let older = status_of(&database, &scenario(&database.uri, "0.7.0", "")).await;
        assert_eq!(older["check"]["exit_code"], 12);
        let newer = scenario(&database.uri, "0.9.0", "0.7.5=index;0.8.0=move_field;0.9.0=twice");
        let status = status_of(&database, &newer.unset("GATE_FROM_VERSION")).await;
        assert_eq!(pending(&status), ["0.9.0"]);
        // another application
        let other = undeclared.clone().set("GATE_APP_VERSION", "0.9.0");
        let status = status_of(&database, &other).await;
        assert_eq!(status["check"]["exit_code"], 16);
        assert_eq!(status["recorded"], "0.8.0");
        // workloads that were stopped, and a run that holds the lock, and then died with it
        let entry = doc! {
            "namespace": "lab", "uid": "u", "name": "deployment/web", "replicas": 2, "version": "0.7.0",
            "at": DateTime::from_millis(1_700_000_000_000), "run_id": "r",
        };
        let stopped =
            doc! { "_id": "scenario_schema_version.quiesced", "seq": 1_i64, "workloads": [entry] };
        let minute =
            |sign: i64| DateTime::from_millis(DateTime::now().timestamp_millis() + sign * 60_000);
        let lock = |expires| doc! { "_id": "upgrade_lock", "run_id": "holder", "host": "there", "expires": expires };
        records.insert_many([stopped, lock(minute(1))]).await.unwrap();
        let status = status_of(&database, &undeclared).await;
        assert_eq!(status["check"]["exit_code"], 21);
        assert_eq!(status["lock"]["alive"], true);
        assert_eq!(
            (status["lock"]["run_id"].as_str(), status["lock"]["host"].as_str()),
            (Some("holder"), Some("there"))
        );
        let workload = &status["workloads"][0];
        assert_eq!(
            (workload["name"].as_str(), workload["replicas"].as_u64()),
            (Some("deployment/web"), Some(2))
        );
        assert_eq!(workload["stopped"], "2023-11-14T22:13:20Z");
        records.replace_one(doc! { "_id": "upgrade_lock" }, lock(minute(-1))).await.unwrap();
        let status = status_of(&database, &undeclared).await;
        assert_eq!(
            (&status["lock"]["alive"], &status["check"]["exit_code"]),
            (&false.into(), &0.into())
        );
        assert!(status["lock"]["lease_ms"].as_i64().unwrap() < -50_000, "{status}");
        // something else has the lock's name
        let foreign = doc! { "_id": "upgrade_lock", "owner": "me" };
        records.replace_one(doc! { "_id": "upgrade_lock" }, foreign).await.unwrap();
        let status = status_of(&database, &undeclared).await;
        assert_eq!((&status["lock"], &status["check"]["exit_code"]), (&Value::Null, &15.into()));
        assert_eq!(status["recorded"], "0.8.0");
        records.delete_one(doc! { "_id": "upgrade_lock" }).await.unwrap();
        // a record that cannot be read, with the rest of it
        records.update_one(is.clone(), doc! { "$set": { "version": 8 } }).await.unwrap();
        let status = status_of(&database, &undeclared).await;
        assert_eq!((&status["recorded"], &status["check"]["exit_code"]), (&"8".into(), &15.into()));
        assert!(status["unreadable"].as_str().unwrap().contains("its version is 8"), "{status}");
        assert_eq!(status["history_entries"], 3);
    }
}

#[tokio::test]
async fn status_tells_how_far_an_unfinished_upgrade_is_whoever_began_it() {
    let alone = Server::standalone().await;
    for database in databases(&alone).await {
        record_old(&database).await;
        let index =
            doc! { "key": { "unique_key": 1 }, "name": "unique", "unique": true, "sparse": true };
        let create = doc! { "createIndexes": "things", "indexes": [index] };
        database.run_command(create).await.unwrap();
        let things = (1..6).map(|n| doc! { "_id": n, "n": n });
        fill(&database, "things", things).await;
        fill(
            &database,
            "things",
            [doc! { "_id": 6, "n": 6, "clash": true }, doc! { "_id": 7, "unique_key": 0 }],
        )
        .await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=index,clash,seed");
        let gate = gate.unset("GATE_FROM_VERSION").set("GATE_BATCH_DOCUMENTS", "2");
        assert_code(&gate.run().await, 14);
        for (gate, code) in [
            (gate.clone(), 10),
            (scenario(&database.uri, "0.8.0", "0.8.0=index").unset("GATE_FROM_VERSION"), 12),
        ] {
            let status = status_of(&database, &gate).await;
            assert_eq!(status["check"]["exit_code"], code);
            let unfinished = &status["unfinished"];
            assert_eq!(unfinished["version"], "0.8.0", "{status}");
            let steps = unfinished["steps"].as_array().unwrap();
            let states: Vec<_> = steps.iter().map(|step| step["state"].as_str().unwrap()).collect();
            assert_eq!(states, ["done", "under_way", "waiting"], "{status}");
            assert_eq!(steps[1]["name"], "keys");
            let changed =
                apps::count(&database, "things", doc! { "unique_key": { "$gt": 0 } }).await;
            assert_eq!(steps[1]["documents"], changed, "{status}");
            let stored = record(&database).await;
            let journal = stored.get_document("journal").unwrap();
            assert_eq!(unfinished["journal"], journal.get_str("id").unwrap());
        }
    }
}

#[tokio::test]
async fn a_long_history_is_whole_on_stdout_short_as_text_and_fits_the_report_file() {
    let database = Server::shared().await.database().await;
    let entry = |n: i32| doc! { "version": format!("0.7.{n}"), "action": "auto_stamp", "timestamp": DateTime::now() };
    // what Python wrote, what nobody knows, and what is not an entry at all
    let mut history: Vec<Bson> = (0..300).map(|n| entry(n).into()).collect();
    history.insert(0, doc! { "version": "0.7.0", "action": "repaint", "timestamp": "noon" }.into());
    let record =
        doc! { "_id": "scenario_schema_version", "version": "0.7.299", "history": history };
    let records = database.collection::<Document>(METADATA);
    records.insert_one(record).await.unwrap();
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field")
        .unset("GATE_FROM_VERSION")
        .mode("status");
    let run = gate.run().await;
    let status = &run.report["status"];
    assert_eq!(status["history"].as_array().unwrap().len(), 301, "{run}");
    assert_eq!(status["history"][300]["timestamp"], "noon");
    assert_eq!(status["history"][0]["version"], "0.7.299");
    let run = as_text(&gate).await;
    assert!(run.stdout.lines().count() <= 50, "one screen: {run}");
    assert!(run.stdout.contains("and 291 older entries (301 in all"), "{run}");
    let status = &run.report["status"];
    assert_eq!(
        (&status["history_entries"], &status["check"]["exit_code"]),
        (&301.into(), &10.into())
    );
    assert!(status["history"].as_array().unwrap().len() < 301, "{run}");
    let not_an_entry = doc! { "$push": { "history": 7 } };
    records.update_one(doc! {}, not_an_entry).await.unwrap();
    let run = gate.run().await;
    assert_code(&run, 0);
    assert_eq!(run.report["status"]["check"]["exit_code"], 15, "{run}");
    assert_eq!(run.report["status"]["history"][0]["version"], "unknown", "{run}");
}

#[tokio::test]
async fn status_is_closed_only_where_it_cannot_read() {
    let server = Server::standalone().await;
    let database = server.database().await;
    let gate = scenario(&database.uri, "0.8.0", "").mode("status").set("GATE_TIMEOUT", "1s");
    assert_code(&gate.run().await, 0);
    let wrong = gate.clone().set("GATE_FROM_VERSION", "soon").run().await;
    assert_code(&wrong, 16);
    assert_eq!(wrong.report.get("status"), None, "{wrong}");
    server.kill(0);
    let run = gate.run().await;
    assert_code(&run, 20);
    assert_eq!(run.last()["message"], "gate closed", "{run}");
    assert_eq!(run.report.get("status"), None, "{run}");
}

const COLUMNS: u32 = 124;

/// The lines of a picture, as they were before the terminal's edge broke them.
fn lines(picture: &str) -> String {
    let mut text = String::new();
    for line in picture.lines().filter(|line| line.starts_with("<text class=\"")) {
        let (head, rest) = line.split_once('>').unwrap();
        let mut inner = String::new();
        let mut tag = false;
        for character in rest.chars() {
            match character {
                '<' => tag = true,
                '>' => tag = false,
                _ if !tag => inner.push(character),
                _ => {}
            }
        }
        let more = head.contains("class=\"more\"") || head.contains("class=\"typed more\"");
        if !more && !text.is_empty() {
            text.push('\n');
        }
        let inner = if head.contains("typed more") { inner.trim_start() } else { &inner };
        text += inner;
    }
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

/// The pictures of the guide: a run of the program at a terminal, on the database that a real datalab left.
#[tokio::test]
async fn the_guides_pictures_are_what_the_program_says() {
    let server = Server::shared().await;
    let database = server.client().await.database("datalabvue");
    database.drop().await.unwrap();
    fixture::load(&database).await;
    let update = std::env::var("UPDATE").is_ok_and(|update| update == "1");
    let session = async |commands: &[(&str, &[(&str, &str)])]| {
        let mut shown = Vec::new();
        for (mode, set) in commands {
            let mut settings = BTreeMap::from([
                ("GATE_MONGODB_URI", server.uri("datalabvue")),
                ("HOSTNAME", "lab".to_owned()),
                // so that the program does not start once more for it
                ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=262144".to_owned()),
            ]);
            let typed: String =
                set.iter().map(|(name, value)| format!("{name}={value} ")).collect();
            settings.extend(set.iter().map(|(name, value)| (*name, (*value).to_owned())));
            let ran = at_terminal(COLUMNS, Path::new(DATALAB), &[mode], &settings).await;
            let typed = format!("{typed}datalab-upgrade {mode}");
            shown.push(Shown { typed, output: ran.output });
        }
        picture(COLUMNS, &shown)
    };
    let from = [("GATE_FROM_VERSION", "0.6.0")];
    let pictures = [
        ("plan.svg", session(&[("plan", &from[..])]).await),
        ("upgrade.svg", session(&[("upgrade", &from[..])]).await),
        ("status.svg", session(&[("status", &[][..])]).await),
    ];
    for (name, drawn) in pictures {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures").join(name);
        if update {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, drawn).unwrap();
            continue;
        }
        let stored = fs::read_to_string(&path).unwrap();
        let (stored, drawn) = (normalised(&lines(&stored)), normalised(&lines(&drawn)));
        assert!(stored.contains("\nnext: ") && stored.contains("<time>"), "{stored}");
        assert_eq!(stored, drawn, "docs/pictures/{name} is stale: make readme draws it");
        let shown = format!("](pictures/{name})");
        assert!(pages().iter().any(|(_, page)| page.contains(&shown)), "no page shows {name}");
    }
    database.drop().await.unwrap();
}

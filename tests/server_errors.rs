//! Every error of the server that the guide lists, injected into the commands of each mode, and the lasting
//! states of real servers that lead to some of them: exit code, cause, remedy, and what is left.

mod apps;
mod support;

#[allow(dead_code, reason = "the campaign uses all of it")]
#[path = "chaos/faults.rs"]
mod faults;

use apps::{METADATA, history, record, record_old, scenario};
use faults::{Members, arm, disarm};
use mongodb::bson::doc;
use mongodb::{Client, Database};
use support::guide::generated;
use support::{Gate, Run, Server};

/// A line of the guide's table.
#[derive(Clone, Debug)]
struct Line {
    code: i32,
    exit: i32,
    /// Whether it is 14 in an upgrade's own work.
    gates_own: bool,
    remedy: String,
}

fn lines() -> Vec<Line> {
    let table = generated("docs/server-errors.md", "server errors");
    let rows = table.lines().skip(2).map(|row| {
        row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    });
    rows.flat_map(|cells| {
        let exit = cells[1].split(';').next().unwrap().parse().unwrap();
        let errors: Vec<String> = cells[0].split(", ").map(str::to_owned).collect();
        errors.into_iter().filter_map(move |error| {
            let number = error.split(' ').next().unwrap();
            Some(Line {
                // what is told apart by its message has no number of its own here
                code: number.parse().ok().filter(|_| !cells[0].contains(", of "))?,
                exit,
                gates_own: cells[1].contains("14"),
                remedy: cells[3].clone(),
            })
        })
    })
    .collect()
}

/// Errors that a fail point cannot make: the server gives them details of their own, or is another one.
const NEEDS_MORE: &[i32] = &[63, 121, 150, 249, 8000, 11000, 13388];

/// The commands of each mode, and whether they are an upgrade's own work.
const COMMANDS: &[(&str, &str, bool)] = &[
    ("check", "aggregate", false),
    ("upgrade", "aggregate", false),
    ("upgrade", "connectionStatus", false),
    ("upgrade", "findAndModify", false),
    ("upgrade", "find", true),
    ("upgrade", "count", true),
    ("upgrade", "update", true),
    ("upgrade", "commitTransaction", true),
    ("record", "find", false),
    ("record", "connectionStatus", false),
    ("record", "findAndModify", false),
    ("record", "update", false),
    ("record", "aggregate", false),
];

fn gate(uri: &str, mode: &str) -> Gate {
    let gate = scenario(uri, "0.8.0", "0.8.0=increment").unset("GATE_FROM_VERSION").mode(mode);
    let gate = gate.set("GATE_TIMEOUT", "10s");
    match mode {
        "record" => gate.set("GATE_EXPECT_VERSION", "0.7.0").set("GATE_RECORD_VERSION", "0.7.1"),
        _ => gate,
    }
}

async fn old(server: &Server) -> support::Fresh {
    let database = server.database().await;
    record_old(&database).await;
    apps::fill(&database, "counters", [doc! { "_id": 1, "n": 0 }]).await;
    database
}

/// Runs the gate on a database of its own while a command ends with an error.
async fn run_with(
    server: &Server,
    member: &Database,
    line: &Line,
    (mode, command): (&str, &str),
    how_often: impl Into<mongodb::bson::Bson>,
    patience: &str,
) -> (support::Fresh, Run) {
    let database = old(server).await;
    let error = doc! { "failCommands": [command], "errorCode": line.code };
    arm(member, how_often, error).await.unwrap();
    let gate = gate(&database.uri, mode).set("GATE_TIMEOUT", patience);
    let run = gate.run().await;
    disarm(member).await.unwrap();
    (database, run)
}

async fn is_as_it_was(database: &Database) -> bool {
    let counted = apps::count(database, "counters", doc! { "n": 0 }).await;
    counted == 1 && history(&record(database).await) == ["initialise 0.7.0"]
}

#[tokio::test]
async fn every_lasting_error_of_every_command_ends_with_its_code_and_its_remedy() {
    let server = Server::replica_set().await;
    let members = Members::of(&server).await;
    let member = members.primary().await.unwrap();
    let mut lasting: Vec<Line> = lines().into_iter().filter(|line| line.exit != 20).collect();
    lasting.retain(|line| !NEEDS_MORE.contains(&line.code));
    assert!(lasting.len() > 20, "{lasting:?}");
    let mut before = String::new();
    for line in &lasting {
        // of each meaning one at every command, the others at one of each mode
        let first = std::mem::replace(&mut before, line.remedy.clone()) != line.remedy;
        let some = ["aggregate", "findAndModify", "find"];
        let commands =
            COMMANDS.iter().filter(|(_, command, own)| first || (!own && some.contains(command)));
        for &(mode, command, own) in commands {
            let (database, run) =
                run_with(&server, member, line, (mode, command), "alwaysOn", "10s").await;
            let what = format!("{} at {command} of {mode}: {run}", line.code);
            match (own, line.gates_own) {
                // about a document of the upgrade, or about the record
                (true, true) => assert!(matches!(run.code, Some(14 | 18)), "{what}"),
                _ => assert_eq!(run.code, Some(line.exit), "{what}"),
            }
            // a missing privilege is named
            if run.code == Some(line.exit) && line.code != 13 {
                // which also says where the connection string came from
                let next = run.report["next"].as_str().unwrap().replace(" of GATE_MONGODB_URI", "");
                assert!(next.contains(&line.remedy.replace(" of GATE_MONGODB_URI", "")), "{what}");
                let message = run.report["message"].as_str().unwrap();
                assert!(message.contains(&line.code.to_string()), "{what}");
            }
            assert_eq!(run.report.get("in_doubt"), None, "{what}");
            // the repair may be done before it is read back
            if (mode, command) != ("record", "aggregate") {
                assert!(is_as_it_was(&database).await, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn every_passing_error_is_tried_again_and_is_20_where_it_does_not_pass() {
    let server = Server::replica_set().await;
    let members = Members::of(&server).await;
    let member = members.primary().await.unwrap();
    let mut passing: Vec<Line> = lines().into_iter().filter(|line| line.exit == 20).collect();
    passing.retain(|line| !NEEDS_MORE.contains(&line.code));
    assert!(passing.len() > 30, "{passing:?}");
    for line in &passing {
        for place in [("check", "aggregate"), ("upgrade", "findAndModify")] {
            let (database, run) = run_with(&server, member, line, place, "alwaysOn", "100ms").await;
            let what = format!("{} at {place:?}: {run}", line.code);
            assert_eq!(run.code, Some(20), "{what}");
            assert!(!run.report["next"].as_str().unwrap().is_empty(), "{what}");
            assert!(is_as_it_was(&database).await, "{what}");
        }
    }
    // one of each meaning
    passing.dedup_by_key(|line| line.remedy.clone());
    for line in &passing {
        for &(mode, command, _) in COMMANDS {
            let once = doc! { "times": 1 };
            let place = (mode, command);
            let (_, run) = run_with(&server, member, line, place, once, "30s").await;
            let opened = if mode == "upgrade" { 0 } else { 10 };
            let what = format!("{} at {place:?}, once: {run}", line.code);
            // a look at the documents is not begun again: the next run does that
            let looking = matches!(command, "count" | "find") && run.code == Some(20);
            assert!(looking || run.code == Some(opened), "{what}");
        }
    }
}

fn says(run: &Run, code: i32, parts: &[&str]) {
    assert_eq!(run.code, Some(code), "{run}");
    let text = format!("{} {}", run.report["message"], run.report["next"]);
    parts.iter().for_each(|part| assert!(text.contains(part), "{part}: {run}"));
}

#[tokio::test]
async fn a_server_without_a_journal_is_18_before_any_write() {
    let server = Server::standalone_with("--nojournal").await;
    let database = old(&server).await;
    says(&gate(&database.uri, "upgrade").run().await, 18, &["journal", "--nojournal"]);
    assert!(is_as_it_was(&database).await);
    says(&gate(&database.uri, "record").run().await, 18, &["journal", "--nojournal"]);
    says(&gate(&database.uri, "check").run().await, 18, &["journal", "--nojournal"]);
}

#[tokio::test]
async fn a_collection_that_cannot_hold_the_record_is_18_in_every_mode() {
    let server = Server::replica_set().await;
    for create in [
        doc! { "create": METADATA, "viewOn": "counters", "pipeline": [] },
        doc! { "create": METADATA, "timeseries": { "timeField": "t" } },
    ] {
        let database = server.database().await;
        database.run_command(create).await.unwrap();
        for mode in ["check", "plan", "upgrade"] {
            let gate = gate(&database.uri, mode).set("GATE_INITIALISE", "fresh");
            says(&gate.run().await, 18, &[METADATA, "drop or rename"]);
        }
    }
    let validator = doc! { "create": METADATA, "validator": { "zz": { "$exists": true } } };
    let unique = doc! {
        "createIndexes": METADATA,
        "indexes": [{ "key": { "zz": 1 }, "name": "in the way", "unique": true }],
    };
    for (command, part) in [(validator, "validator"), (unique, "unique index")] {
        let database = server.database().await;
        database.run_command(command).await.unwrap();
        // with a unique index the lock is the one document that it lets pass
        let gate = gate(&database.uri, "upgrade").set("GATE_INITIALISE", "fresh");
        says(&gate.run().await, 18, &[part]);
        assert_eq!(record(&database).await, doc! {});
    }
}

/// MongoDB 4.4 starts without majority reads; later ones refuse the option, so that no such server is met.
#[tokio::test]
async fn a_server_without_majority_reads_is_18_before_any_write() {
    if support::mongod_version() >= (5, 0) {
        let refused = std::process::Command::new(support::mongod())
            .args(["--enableMajorityReadConcern=false", "--dbpath", "/nowhere"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
        assert!(said.contains("MajorityReadConcern"), "{said}");
        // what such a server answers
        let server = Server::replica_set().await;
        let members = Members::of(&server).await;
        let member = members.primary().await.unwrap();
        for mode in ["check", "wait", "plan", "upgrade"] {
            let database = old(&server).await;
            let error = doc! { "failCommands": ["aggregate"], "errorCode": 148 };
            arm(member, "alwaysOn", error).await.unwrap();
            let run = gate(&database.uri, mode).run().await;
            disarm(member).await.unwrap();
            says(&run, 18, &["majority reads", "enableMajorityReadConcern=false"]);
            assert!(is_as_it_was(&database).await);
        }
        return;
    }
    let server = Server::standalone_with("--enableMajorityReadConcern=false").await;
    let database = old(&server).await;
    for mode in ["check", "wait", "plan", "upgrade", "record"] {
        let run = gate(&database.uri, mode).run().await;
        says(&run, 18, &["majority reads", "enableMajorityReadConcern=false"]);
        assert!(is_as_it_was(&database).await);
    }
}

#[tokio::test]
async fn a_capped_collection_of_the_record_is_18() {
    let server = Server::replica_set().await;
    let database = server.database().await;
    let capped = doc! { "create": METADATA, "capped": true, "size": 1_000_000 };
    database.run_command(capped).await.unwrap();
    record_old(&database).await;
    apps::fill(&database, "counters", [doc! { "_id": 1, "n": 0 }]).await;
    says(&gate(&database.uri, "check").run().await, 10, &["0.8.0"]);
    says(&gate(&database.uri, "upgrade").run().await, 18, &["capped", "ordinary one"]);
    assert!(is_as_it_was(&database).await);
    // a repair is no transaction; from 6.0 on documents of such a collection may grow and be deleted
    for server in [server, Server::standalone().await] {
        let database = server.database().await;
        let capped = doc! { "create": METADATA, "capped": true, "size": 1_000_000 };
        database.run_command(capped).await.unwrap();
        record_old(&database).await;
        let run = gate(&database.uri, "record").run().await;
        if support::mongod_version() < (6, 0) {
            says(&run, 18, &["capped", "ordinary one"]);
            assert_eq!(history(&record(&database).await), ["initialise 0.7.0"]);
            continue;
        }
        assert_eq!(run.code, Some(10), "{run}");
        assert_eq!(history(&record(&database).await), ["initialise 0.7.0", "initialise 0.7.1"]);
        assert_eq!(apps::lock(&database).await, None);
    }
}

/// The server refuses it in a transaction, but that is the step's own doing, not the gate's.
#[tokio::test]
async fn a_step_that_writes_to_a_capped_collection_is_14_and_names_the_step() {
    let server = Server::replica_set().await;
    let database = old(&server).await;
    let capped = doc! { "create": "auxiliary", "capped": true, "size": 1_000_000 };
    database.run_command(capped).await.unwrap();
    let run = scenario(&database.uri, "0.8.0", "0.8.0=singleton").run().await;
    says(&run, 14, &["0.8.0", "singleton", "auxiliary", "263"]);
    assert!(is_as_it_was(&database).await);
    // the twin: an ordinary one
    database.collection::<mongodb::bson::Document>("auxiliary").drop().await.unwrap();
    let run = scenario(&database.uri, "0.8.0", "0.8.0=singleton").run().await;
    assert_eq!(run.code, Some(0), "{run}");
}

/// Clustered collections came with MongoDB 5.3.
#[tokio::test]
async fn a_clustered_collection_holds_the_record_as_any_other() {
    for server in [Server::replica_set().await, Server::standalone().await] {
        let database = server.database().await;
        let clustered = doc! {
            "create": METADATA,
            "clusteredIndex": { "key": { "_id": 1 }, "unique": true },
        };
        if support::mongod_version() < (5, 3) {
            assert!(database.run_command(clustered).await.is_err());
            return;
        }
        database.run_command(clustered).await.unwrap();
        record_old(&database).await;
        apps::fill(&database, "things", [doc! { "_id": 1, "a": 1 }]).await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field").unset("GATE_FROM_VERSION");
        for (mode, code) in [("check", 10), ("plan", 10), ("upgrade", 0), ("check", 0)] {
            let run = gate.clone().mode(mode).run().await;
            assert_eq!(run.code, Some(code), "{run}");
        }
        let repair = gate.mode("record").set("GATE_EXPECT_VERSION", "0.8.0");
        let run = repair.set("GATE_RECORD_VERSION", "0.7.0").run().await;
        assert_eq!(run.code, Some(10), "{run}");
        let expected = ["initialise 0.7.0", "upgrade 0.8.0", "initialise 0.7.0"];
        assert_eq!(history(&record(&database).await), expected);
        assert_eq!(apps::lock(&database).await, None);
    }
}

#[tokio::test]
async fn a_database_that_differs_only_in_case_is_16_and_never_fresh() {
    let server = Server::replica_set().await;
    let database = old(&server).await;
    let upper = database.name().to_uppercase();
    let uri = server.uri(&upper);
    for mode in ["check", "plan", "upgrade"] {
        let run = gate(&uri, mode).set("GATE_INITIALISE", "fresh").run().await;
        says(&run, 16, &[&upper, database.name(), "GATE_DATABASE"]);
        assert!(!run.stdout.contains("GATE_INITIALISE=fresh"), "{run}");
        says(&gate(&uri, mode).run().await, 16, &[database.name()]);
    }
    assert!(is_as_it_was(&database).await);
    // the twin: the name as the server has it
    says(&gate(&database.uri, "check").run().await, 10, &["0.8.0"]);
}

#[tokio::test]
async fn a_server_that_requires_an_api_version_is_18() {
    let server = Server::replica_set().await;
    let database = old(&server).await;
    let admin = database.client().database("admin");
    admin.run_command(doc! { "setParameter": 1, "requireApiVersion": true }).await.unwrap();
    for mode in ["check", "upgrade", "record"] {
        says(&gate(&database.uri, mode).run().await, 18, &["requireApiVersion"]);
    }
}

#[tokio::test]
async fn writes_that_are_blocked_for_the_user_are_17() {
    let server = Server::with_auth().await;
    let database = old(&server).await;
    let uri = server.uri_with_roles(database.name(), &["readWrite"]).await;
    let admin = Client::with_uri_str(server.uri("")).await.unwrap().database("admin");
    let block = |global: bool| doc! { "setUserWriteBlockMode": 1, "global": global };
    admin.run_command(block(true)).await.unwrap();
    for mode in ["upgrade", "record"] {
        says(&gate(&uri, mode).run().await, 17, &["setUserWriteBlockMode"]);
    }
    says(&gate(&uri, "check").run().await, 10, &["0.8.0"]);
    assert!(is_as_it_was(&database).await);
    admin.run_command(block(false)).await.unwrap();
    let run = gate(&uri, "upgrade").set("GATE_TIMEOUT", "1m").run().await;
    assert_eq!(run.code, Some(0), "{run}");
}

/// So that the guide's names are the server's.
#[tokio::test]
async fn the_guide_names_each_error_as_the_server_does() {
    let server = Server::replica_set().await;
    let member = server.client().await.database("admin");
    let table = generated("docs/server-errors.md", "server errors");
    for line in lines() {
        let fail = doc! {
            "configureFailPoint": "failCommand",
            "mode": { "times": 1 },
            "data": { "failCommands": ["ping"], "errorCode": line.code },
        };
        member.run_command(fail).await.unwrap();
        let error = member.run_command(doc! { "ping": 1 }).await.unwrap_err();
        let mongodb::error::ErrorKind::Command(error) = *error.kind else { panic!("{error}") };
        // one that this server does not know has no name there
        if NEEDS_MORE.contains(&line.code) || error.code_name == "Location384" {
            continue;
        }
        let named = format!("{} {}", line.code, error.code_name);
        assert!(table.contains(&named), "{named}");
    }
}

//! Wrong settings and unusable servers, through the built binaries: the code, what is said of them, and
//! that no password is.

mod apps;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use apps::{METADATA, assert_code};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use support::guide::generated;
use support::{Fresh, Gate, Run, Server, db_hash};

/// Every password of these tests holds it.
const PASSWORD: &str = "Tr0ub4dor";
const URI: &str = "mongodb://gate:Tr0ub4dor@127.0.0.1:1/lab";
/// Far more than any of these runs may take.
const SOON: Duration = Duration::from_secs(30);

/// datalab's own gate.
fn datalab() -> Gate {
    Gate::new(env!("CARGO_BIN_EXE_datalab-upgrade"))
}

fn scenario(uri: &str, upgrades: &str) -> Gate {
    apps::scenario(uri, "0.8.0", upgrades)
}

/// A gate that opens on an empty database.
fn fresh(uri: &str) -> Gate {
    scenario(uri, "0.8.0=move_field").set("GATE_INITIALISE", "fresh")
}

/// Runs a gate, and makes sure of what holds for every run: its last words agree, and hold no password.
async fn run(gate: &Gate) -> Run {
    let file = std::env::temp_dir().join(format!("upgrade-gate-{}", ObjectId::new()));
    let run = gate.clone().set("GATE_REPORT_FILE", file.to_str().unwrap()).run().await;
    let report =
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("no report file: {error}: {run}"));
    fs::remove_file(&file).unwrap();
    assert!(report.len() <= 4096, "{} bytes in GATE_REPORT_FILE", report.len());
    if run.stdout.trim_end().len() <= 4096 {
        assert_eq!(report.trim_end(), run.stdout.trim_end(), "the report in GATE_REPORT_FILE");
    }
    for text in [&run.stdout, &run.stderr, &report] {
        assert!(!text.contains(PASSWORD), "the password is shown: {run}");
    }
    let last = run.last();
    assert_eq!(last["exit_code"], run.code.unwrap(), "{run}");
    assert_eq!(last["reason"], run.report["message"], "{run}");
    assert_eq!(
        last["message"],
        if run.code == Some(0) { "gate open" } else { "gate closed" },
        "{run}"
    );
    assert!(run.elapsed < SOON, "{run}");
    run
}

fn told(run: &Run) -> String {
    let text = |field: &str| run.report[field].as_str().unwrap_or_default().to_owned();
    text("message") + " | " + &text("next")
}

#[track_caller]
fn assert_says(run: &Run, parts: &[&str]) {
    for part in parts {
        assert!(told(run).contains(part), "{part:?} is missing in {run}");
    }
}

/// Closed for a wrong setting before anything else was done.
#[track_caller]
fn assert_refused(run: &Run, parts: &[&str]) {
    assert_code(run, 16);
    assert_eq!(run.report["outcome"], "setting_wrong", "{run}");
    assert!(run.report["database"].is_null(), "{run}");
    assert_eq!(run.log.len(), 1, "{run}");
    assert_says(run, parts);
}

struct File(PathBuf);

impl File {
    fn with(text: &str) -> File {
        let path = std::env::temp_dir().join(format!("upgrade-gate-{}", ObjectId::new()));
        fs::write(&path, text).unwrap();
        File(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Settings, and what is said of them.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

#[tokio::test]
async fn a_wrong_setting_is_named_and_ends_the_run_before_it_connects() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        (&[("GATE_MONGODB_URI", "")],                   &["GATE_MONGODB_URI", "GATE_MONGODB_URI_FILE", "mongodb://host:27017/database"]),
        (&[("GATE_MONGODB_URI_SOURCE", URI)],           &["GATE_MONGODB_URI_SOURCE", "set GATE_MONGODB_URI instead"]),
        (&[("GATE_MONGODB_URI_FILE", "/nowhere")],      &["both GATE_MONGODB_URI and GATE_MONGODB_URI_FILE", "unset one"]),
        (&[("GATE_MONGODB_URI", "mongodb://127.0.0.1:1/admin")],
                                                        &["has admin in its path", "authSource", "GATE_DATABASE"]),
        (&[("GATE_DATABASE", "config")],                &["GATE_DATABASE is config", "MongoDB's own"]),
        (&[("GATE_APP_VERSION", "99.0.0")],             &["but the application is 99.0.0"]),
        (&[("GATE_MONGODB_URI", "mongodb://127.0.0.1:1/lab?authMechanism=GSSAPI"), ("GATE_MONGODB_URI_SOURCE", "key uri of Secret mongo")],
                                                        &["GATE_MONGODB_URI (key uri of Secret mongo)", "authMechanism=GSSAPI"]),
        (&[("GATE_MONGODB_URI", ""), ("GATE_MONGODB_URI_FILE", URI)],
                                                        &["GATE_MONGODB_URI_FILE", "set GATE_MONGODB_URI instead"]),
        (&[("GATE_MONGODB_URI", ""), ("GATE_MONGODB_URI_FILE", "user:secret@host/db")],
                                                        &["GATE_MONGODB_URI_FILE", "set GATE_MONGODB_URI instead"]),
        (&[("GATE_MONGODB_URI", "mongodb://127.0.0.1:1")],
                                                        &["no database is named", "GATE_DATABASE"]),
        (&[("GATE_MONGODB_URI", "mongodb://127.0.0.1:1/?replicaSet=rs0")],
                                                        &["no database is named", "GATE_DATABASE"]),
        (&[("GATE_DATABASE", "a.b")],                   &["GATE_DATABASE", "contains '.'"]),
        (&[("GATE_DATABASE", URI)],                     &["GATE_DATABASE"]),
        (&[("GATE_INITIALIZE", "fresh")],               &["GATE_INITIALIZE is not a setting", "nearest one is GATE_INITIALISE"]),
        (&[("GATE_INITIALISE", "yes")],                 &["GATE_INITIALISE cannot be \"yes\"", "no or fresh"]),
        (&[("GATE_MODUS", "check")],                    &["GATE_MODUS is not a setting", "nearest one is GATE_MODE"]),
        (&[("GATE_TIME_OUT", "1m")],                    &["GATE_TIME_OUT is not a setting", "nearest one is GATE_TIMEOUT"]),
        (&[("GATE_LOCKWAIT", "1m")],                    &["GATE_LOCKWAIT is not a setting", "nearest one is GATE_LOCK_WAIT"]),
        (&[("GATE_MONGO_URI", URI)],                    &["GATE_MONGO_URI is not a setting", "nearest one is GATE_MONGODB_URI"]),
        (&[("GATE_TIMEOUT", "90")],                     &["GATE_TIMEOUT", "has no unit", "90s"]),
        (&[("GATE_TIMEOUT", "soon")],                   &["GATE_TIMEOUT", "not a duration"]),
        (&[("GATE_TIMEOUT", URI)],                      &["GATE_TIMEOUT"]),
        (&[("GATE_CONNECT_TIMEOUT", "0s")],             &["GATE_CONNECT_TIMEOUT", "100ms or more"]),
        (&[("GATE_LOCK_WAIT", "-1s")],                  &["GATE_LOCK_WAIT", "not a duration"]),
        (&[("GATE_LOCK_LEASE", "0s")],                  &["GATE_LOCK_LEASE", "100ms or more"]),
        (&[("GATE_LOCK_LEASE", "99ms")],                &["GATE_LOCK_LEASE", "100ms or more"]),
        (&[("GATE_BATCH_DOCUMENTS", "0")],              &["GATE_BATCH_DOCUMENTS", "from 1 to 100000"]),
        (&[("GATE_MODE", "chekc")],                     &["GATE_MODE cannot be \"chekc\"", "the nearest is check"]),
        (&[("GATE_SKIP_CONDITIONS", "1")],              &["GATE_SKIP_CONDITIONS", "true or false"]),
        (&[("GATE_FROM_VERSION", "latest")],            &["GATE_FROM_VERSION", "\"latest\"", "X.Y.Z"]),
        (&[("GATE_FROM_VERSION", "0.7.0-1")],           &["GATE_FROM_VERSION", "0.7.0-1"]),
        (&[("GATE_FROM_VERSION", URI)],                 &["GATE_FROM_VERSION"]),
        (&[("GATE_TARGET_VERSION", "99.0.0")],          &["GATE_TARGET_VERSION is 99.0.0, but this binary is"]),
        (&[("GATE_TARGET_VERSION", "0.7.0"), ("GATE_MODE", "wait")],
                                                        &["GATE_TARGET_VERSION has no meaning in mode wait"]),
        (&[("GATE_LOG", "loud")],                       &["GATE_LOG is \"loud\"", "error, warn, info"]),
        (&[("GATE_LOG_FORMAT", "xml")],                 &["GATE_LOG_FORMAT", "text or json"]),
        (&[("GATE_MODE", "record")],                    &["GATE_MODE=record needs both GATE_RECORD_VERSION and GATE_EXPECT_VERSION"]),
        (&[("GATE_MODE", "record"), ("GATE_RECORD_VERSION", "99.0.0"), ("GATE_EXPECT_VERSION", "x")],
                                                        &["GATE_RECORD_VERSION is 99.0.0, but this binary is"]),
        (&[("GATE_RECORD_VERSION", "0.7.0")],           &["GATE_RECORD_VERSION has no meaning in mode upgrade", "mode record"]),
        (&[("GATE_DISCARD_JOURNAL", "x")],              &["GATE_DISCARD_JOURNAL has no meaning in mode upgrade", "mode record"]),
        (&[("GATE_TIMEOUT", "90"), ("GATE_MOD", "x"), ("GATE_LOG", "loud")],
                                                        &["GATE_TIMEOUT", "GATE_MOD is not", "GATE_LOG"]),
    ];
    for (settings, says) in cases {
        let gate =
            settings.iter().fold(datalab().uri(URI), |gate, (name, value)| gate.set(name, *value));
        assert_refused(&run(&gate).await, says);
    }
    println!("{} wrong settings", cases.len());
}

#[tokio::test]
async fn settings_that_are_not_wrong_go_on_to_the_server() {
    let file = File::with(&format!("{URI}\n"));
    let from_file = datalab().set("GATE_MONGODB_URI_FILE", file.path());
    let named = datalab().uri("mongodb://127.0.0.1:1").set("GATE_DATABASE", "lab");
    let linked = datalab()
        .uri(URI)
        .set("GATE_SERVICE_HOST", "10.0.0.1")
        .set("GATE_PORT_8080_TCP_ADDR", "10.0.0.1")
        .set("GATE_PORT", "tcp://10.0.0.1:8080")
        .set("GATE_INITIALIZE", "")
        .set("INITIALIZE", "fresh");
    for gate in [from_file, named, linked] {
        let run = run(&gate.set("GATE_CONNECT_TIMEOUT", "200ms")).await;
        assert_code(&run, 20);
        assert_eq!(run.report["database"], "lab", "{run}");
    }
}

#[tokio::test]
async fn a_development_version_is_refused_before_connecting_and_names_the_variable() {
    for code in
        ["0.8.0.dev4", "0.8.0-dev.1", "0.8.0+g12ab", "unknown", "", "0.8.0-1", "0.8.0.post1"]
    {
        let gate = apps::scenario(URI, code, "0.8.0=move_field").unset("GATE_FROM_VERSION");
        let run = run(&gate).await;
        assert_refused(&run, &["SCENARIO_VERSION", "unusable code version"]);
        if !code.is_empty() {
            assert_says(&run, &[code]);
        }
    }
    // it is told before any wrong setting is
    let gate = apps::scenario(URI, "0.8.0.dev4", "").set("GATE_TIMEOUT", "soon");
    assert_refused(&run(&gate).await, &["SCENARIO_VERSION"]);
    for code in ["0.8.0", "v0.8.0", "0.8.0rc1", "0.8.0-rc.1"] {
        let gate = apps::scenario(URI, code, "").set("GATE_CONNECT_TIMEOUT", "200ms");
        assert_code(&run(&gate).await, 20);
    }
}

#[tokio::test]
async fn a_wrong_table_of_upgrades_is_a_bug_that_names_the_upgrades() {
    for (upgrades, says) in [
        ("0.9.0=move_field", &["0.9.0", "above the code version 0.8.0"][..]),
        ("0.8.0=move_field;0.7.0=increment", &["0.7.0", "after 0.8.0", "order the table"]),
        ("0.8.0=move_field,move_field", &["0.8.0", "twice"]),
        ("0.8.0.dev1=move_field", &["0.8.0.dev1"]),
    ] {
        let run = run(&apps::scenario(URI, "0.8.0", upgrades)).await;
        assert_code(&run, 1);
        assert_says(&run, says);
    }
}

#[tokio::test]
async fn help_names_every_setting_of_the_table_and_version_the_code() {
    for argument in ["--help", "-h"] {
        // whatever the settings are
        let run = datalab().set("GATE_MODE", "nonsense").arg(argument).run().await;
        assert_code(&run, 0);
        assert!(run.stderr.is_empty(), "{run}");
        let table = generated("docs/settings.md", "settings");
        let names = table.lines().filter_map(|row| row.strip_prefix("| `")?.split_once('`'));
        let names: Vec<_> = names.map(|(name, _)| name).collect();
        assert!(names.len() > 15 && names.contains(&"GATE_TIMEOUT"), "{names:?}");
        for name in names {
            // the upgrades of this program are compiled into it
            let has = name != "GATE_UPGRADES";
            assert_eq!(run.stdout.contains(&format!("\n  {name} ")), has, "{name} in {run}");
        }
        for code in [0, 1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23] {
            assert!(run.stdout.contains(&format!("\n  {code:>2} ")), "{code} is missing in {run}");
        }
    }
    for argument in ["--version", "-V"] {
        let run = datalab().arg(argument).run().await;
        assert_code(&run, 0);
        let version = run.stdout.strip_prefix("datalab-upgrade ").unwrap().trim_end();
        upgrade_gate::Version::parse_code(version).unwrap();
    }
    let run = apps::scenario(URI, "1.2.3", "").arg("--version").run().await;
    assert_eq!(run.stdout, "scenario 1.2.3\n");
}

#[tokio::test]
async fn the_mode_may_be_an_argument_that_does_not_contradict_the_setting() {
    let server = Server::shared().await;
    let database = server.database().await;
    let gate = datalab().set("GATE_MONGODB_URI", &*database.uri);
    let before = db_hash(&database).await;
    for (gate, code) in [
        (gate.clone().arg("plan"), 11),
        (gate.clone().arg("check").set("GATE_MODE", "check"), 11),
        (gate.clone().arg("plan").set("GATE_MODE", ""), 11),
        (gate.clone().arg("plan").set("GATE_MODE", "upgrade"), 16),
        (gate.clone().arg("plan").arg("check"), 16),
        (gate.clone().arg("plam"), 16),
        (gate.clone().arg("plan").set("GATE_LOCK_WAIT", "5M"), 16),
    ] {
        assert_code(&gate.run().await, code);
    }
    let run = gate.arg("plan").set("GATE_MODE", "upgrade").run().await;
    assert!(run.stdout.contains("GATE_MODE is set to another mode"), "{run}");
    assert_eq!(db_hash(&database).await, before);
}

#[tokio::test]
async fn any_other_argument_is_refused_and_not_repeated() {
    for arguments in
        [&["plan", URI][..], &[URI], &["--uri", URI], &["--version", URI], &["--", "--help"], &[""]]
    {
        let gate = arguments.iter().fold(datalab().uri(URI), |gate, argument| gate.arg(argument));
        assert_refused(&run(&gate).await, &["takes one argument at most", "see --help"]);
    }
}

#[tokio::test]
async fn a_password_is_shown_by_no_malformed_connection_string() {
    let strings = [
        "Tr0ub4dor",
        "gate:Tr0ub4dor@127.0.0.1/lab",
        "http://gate:Tr0ub4dor@127.0.0.1/lab",
        "mongodb:/gate:Tr0ub4dor@127.0.0.1/lab",
        "mongodb://gate:Tr0ub4dor@/lab",
        "mongodb://gate:Tr0ub4dor@:27017/lab",
        "mongodb://gate:Tr0ub4dor@127.0.0.1:port/lab",
        "mongodb://gate:Tr0ub4dor@127.0.0.1:99999/lab",
        "mongodb://gate:Tr0ub4dor@127.0.0.1:1:2/lab",
        "mongodb://gate:x/Tr0ub4dor@127.0.0.1/lab",
        "mongodb://gate:Tr0ub4dor/x@127.0.0.1/lab",
        "mongodb://gate:x@Tr0ub4dor@127.0.0.1/lab",
        "mongodb://gate:x:Tr0ub4dor@127.0.0.1/lab",
        "mongodb://gate:x?Tr0ub4dor@127.0.0.1/lab",
        "mongodb://gate:x#Tr0ub4dor@127.0.0.1:1/lab",
        "mongodb://gate:x%Tr0ub4dor@127.0.0.1:1/lab",
        "mongodb://gate:%ZZTr0ub4dor@127.0.0.1:1/lab",
        "mongodb://gate:%FFTr0ub4dor@127.0.0.1:1/lab",
        "mongodb://:Tr0ub4dor@127.0.0.1:1/lab",
        "mongodb://Tr0ub4dor@127.0.0.1:1/lab",
        "mongodb://Tr0ub4dor:27017/lab",
        "mongodb://gate:Tr0ub4dor",
        "mongodb://gate:Tr0ub4dor/lab",
        "mongodb://gate:[Tr0ub4dor]@127.0.0.1:1/lab",
        "mongodb+srv://gate:Tr0ub4dor@127.0.0.1:27017/lab",
        "mongodb+srv://gate:Tr0ub4dor@127.0.0.1/lab",
        "mongodb+srv://gate:Tr0ub4dor@a.invalid,b.invalid/lab",
        "mongodb://gate:x@127.0.0.1:1/lab?authMechanism=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?authMechanismProperties=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:Tr0ub4dor,x",
        "mongodb://gate:x@127.0.0.1:1/lab?maxPoolSize=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?tls=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?w=-1&journal=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?readPreference=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?compressors=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?Tr0ub4dor=1@",
        "mongodb://gate:Tr0ub4dor?a=1&b=2@127.0.0.1:1/lab",
        "mongodb://gate:12?Tr0ub4dor=1@127.0.0.1:1/lab",
        "mongodb://gate:x?Tr0ub4dor@127.0.0.1:1/lab",
        "\"mongodb://gate:Tr0ub4dor@127.0.0.1:1/lab\"",
        "mongodb://gate:x@127.0.0.1:1/lab?Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?a=b=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?serverSelectionTimeoutMS=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?tls=true&tlsCertificateKeyFile=/nowhere.pem&tlsCertificateKeyFilePassword=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?tlsCertificateKeyFilePassword=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/lab?proxyHost=127.0.0.1&proxyPassword=Tr0ub4dor",
        "mongodb://gate:x@127.0.0.1:1/Tr0ub4dor.lab",
        "mongodb://gate:Tr0ub4dor@127.0.0.1:1/lab?replicaSet=",
        "mongodb://gate:Tr0ub4dor@127.0.0.1:1/lab?authSource=",
        "mongodb://gate:Tr0ub4dor@127.0.0.1:1/lab?directConnection=true&loadBalanced=true",
    ];
    for uri in strings {
        let gate = datalab().uri(uri).set("GATE_LOG", "trace").set("GATE_CONNECT_TIMEOUT", "200ms");
        let run = run(&gate).await;
        assert!(matches!(run.code, Some(16 | 20)), "{uri}: {run}");
        assert!(!run.report["next"].as_str().unwrap().is_empty(), "{run}");
        if run.code == Some(16) {
            assert_says(&run, &["GATE_MONGODB_URI"]);
        }
    }
    println!("{} malformed connection strings", strings.len());
    // nor by one in the place of another setting
    for setting in [
        "GATE_LOG",
        "GATE_LOG_FORMAT",
        "GATE_MODE",
        "GATE_BATCH_DOCUMENTS",
        "GATE_INITIALISE",
        "GATE_MODDE",
    ] {
        assert_refused(&run(&datalab().uri(URI).set(setting, URI)).await, &[setting]);
    }
    let run = datalab().uri("mongodb://127.0.0.1:1/lab").set("GATE_CONNECT_TIMEOUT", "100ms");
    let run = run.set("GATE_REPORT_FILE", URI).run().await;
    assert_code(&run, 20);
    assert!(!run.stderr.contains(PASSWORD) && !run.stdout.contains(PASSWORD), "{run}");
    assert_eq!(run.log[1]["message"], "GATE_REPORT_FILE could not be written", "{run}");
}

/// A server that says `answer` to whoever connects, or nothing, and what names it.
fn impostor(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 512]);
                if answer.is_empty() {
                    // says nothing until the other side goes away
                    let _ = stream.read_to_end(&mut Vec::new());
                }
                let _ = stream.write_all(answer);
            });
        }
    });
    format!("mongodb://gate:{PASSWORD}@{address}/lab")
}

fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Ends in every mode with this code, soon, and says this.
async fn assert_unusable(uri: &str, code: i32, says: &[&str]) {
    let gate = |mode| {
        let gate = scenario(uri, "0.8.0=move_field").mode(mode);
        // what would not end by itself must end in time
        match code {
            20 => gate.set("GATE_CONNECT_TIMEOUT", "1500ms").set("GATE_TIMEOUT", "3s"),
            _ => gate,
        }
    };
    let gates = ["check", "upgrade", "plan", "wait"].map(gate);
    let [check, upgrade, plan, wait] = &gates;
    let (check, upgrade, plan, wait) = tokio::join!(run(check), run(upgrade), run(plan), run(wait));
    // what time can mend is waited for, and nothing else
    let waited = wait.log.iter().any(|line| line["message"] == "waiting for the gate to open");
    assert_eq!(waited, code == 20, "{wait}");
    for run in [check, upgrade, plan, wait] {
        assert_code(&run, code);
        assert!(!run.report["next"].as_str().unwrap().is_empty(), "{run}");
        assert_says(&run, says);
    }
}

#[tokio::test]
async fn no_server_is_20_in_the_configured_time_and_says_what_to_check() {
    let nobody = format!("mongodb://gate:{PASSWORD}@127.0.0.1:{}/lab", closed_port());
    assert_unusable(&nobody, 20, &["check host and port"]).await;
    let set = format!("{nobody}?replicaSet=rs0");
    assert_unusable(&set, 20, &["no member", "hosts and ports"]).await;
    let unknown = format!("mongodb://gate:{PASSWORD}@no-such-host.invalid/lab");
    assert_unusable(&unknown, 20, &["check host"]).await;
    assert_unusable(&impostor(b""), 20, &["check host and port"]).await;
    // also where the name of the server is not known yet
    let srv = format!("mongodb+srv://gate:{PASSWORD}@no.such.host.invalid/lab");
    for mode in ["check", "upgrade", "wait"] {
        let gate = scenario(&srv, "").mode(mode).set("GATE_TIMEOUT", "2s");
        let run = run(&gate).await;
        assert_code(&run, 20);
        assert_says(&run, &["check"]);
        let waited = run.log.iter().any(|line| line["message"] == "waiting for the server");
        assert!(waited && run.elapsed >= Duration::from_secs(2), "{run}");
    }
}

#[tokio::test]
async fn a_server_that_is_waited_for_in_vain_is_not_asked_once_more_for_what_may_be_missing() {
    let nobody = format!("mongodb://127.0.0.1:{}/lab", closed_port());
    let gate = scenario(&nobody, "").mode("check").set("GATE_INITIALISE", "fresh");
    let run = run(&gate.set("GATE_CONNECT_TIMEOUT", "4s")).await;
    assert_code(&run, 20);
    assert!(run.elapsed < Duration::from_secs(7), "{run}");
}

#[tokio::test]
async fn what_is_no_mongodb_is_20_and_said_to_be_none() {
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"-ERR unknown command\r\n",
    ] {
        assert_unusable(&impostor(answer), 20, &["not a MongoDB"]).await;
    }
}

#[tokio::test]
async fn the_other_end_of_time_is_gate_timeout() {
    let nobody = format!("mongodb://127.0.0.1:{}/lab", closed_port());
    let gate = scenario(&nobody, "").mode("check").set("GATE_CONNECT_TIMEOUT", "10m");
    assert_code(&run(&gate.clone().set("GATE_TIMEOUT", "300ms")).await, 20);
    assert_code(&run(&gate.clone().mode("wait").set("GATE_TIMEOUT", "300ms")).await, 20);
    assert_code(&run(&gate.set("GATE_TIMEOUT", "0s")).await, 20);
}

#[tokio::test]
async fn no_primary_is_20_and_the_set_is_to_blame() {
    let server = Server::three_members().await;
    let primary = server.primary().await;
    let uri = server.uri("lab");
    assert_code(&run(&fresh(&uri)).await, 0);
    for member in (0..3).filter(|member| *member != primary) {
        server.kill(member);
    }
    assert_unusable_once_the_primary_notices(&uri).await;
}

/// A primary that lost its set says so only after a second.
async fn assert_unusable_once_the_primary_notices(uri: &str) {
    support::eventually("the primary to step down", || async {
        let gate = scenario(uri, "").mode("check").set("GATE_CONNECT_TIMEOUT", "1s");
        (gate.run().await.code == Some(20)).then_some(())
    })
    .await;
    assert_unusable(uri, 20, &["no primary", "check its members"]).await;
}

#[tokio::test]
async fn a_wrong_name_of_the_set_is_20_and_names_the_option() {
    let standalone = Server::standalone().await;
    let uri = format!("{}?replicaSet=rs0", standalone.uri("lab"));
    assert_unusable(&uri, 20, &["option replicaSet"]).await;
    assert_code(&run(&fresh(&standalone.uri("lab"))).await, 0);

    let set = Server::replica_set().await;
    let set = set.uri("lab").replace("replicaSet=rs0", "replicaSet=another");
    assert_unusable(&set, 20, &["option replicaSet"]).await;
}

#[tokio::test]
async fn tls_that_does_not_fit_is_20_and_names_the_options() {
    let server = Server::with_tls().await;
    let uri = server.uri("lab");
    assert_code(&run(&fresh(&uri)).await, 0);

    let (plain, options) = uri.split_once("&tls=true").unwrap();
    let authority = options.split_once("tlsCAFile=").unwrap().1;
    // none, another authority's, none at all
    assert_unusable(plain, 20, &["tls"]).await;
    let other = Server::with_tls().await;
    let others = other.uri("lab").split_once("tlsCAFile=").unwrap().1.to_owned();
    assert_unusable(&format!("{plain}&tls=true&tlsCAFile={others}"), 20, &["tls", "tlsCAFile"])
        .await;
    assert_unusable(&format!("{plain}&tls=true"), 20, &["tls", "tlsCAFile"]).await;
    // a file that holds no certificate, or is not there
    let nothing = File::with("no certificate");
    let with_file = |file: &str| format!("{plain}&tls=true&tlsCAFile={file}");
    assert_unusable(&with_file(nothing.path()), 20, &["tlsCAFile"]).await;
    let nowhere = "/nowhere/ca.pem";
    assert_unusable(&with_file(nowhere), 16, &["GATE_MONGODB_URI", nowhere]).await;
    // TLS to a server that has none
    let plain = Server::replica_set().await;
    let plain = plain.uri("lab");
    assert_unusable(&format!("{plain}&tls=true&tlsCAFile={authority}"), 20, &["tls"]).await;
}

/// A user of `database` who may do this and nothing else, as its connection string.
async fn user_who_may(server: &Server, database: &str, privileges: &[Privilege]) -> String {
    let (name, password) = (ObjectId::new().to_hex(), format!("{PASSWORD}{}", ObjectId::new()));
    let privileges: Vec<_> = privileges
        .iter()
        .map(|(action, collection)| {
            doc! { "resource": { "db": database, "collection": collection }, "actions": [action] }
        })
        .collect();
    let admin = server.client().await.database("admin");
    let role = doc! { "createRole": &name, "privileges": privileges, "roles": [] };
    admin.run_command(role).await.unwrap();
    let user = doc! { "createUser": &name, "pwd": &password, "roles": [&name] };
    admin.run_command(user).await.unwrap();
    server.uri_as(&name, &password, database)
}

/// An action on a collection; on the whole database where that is empty.
type Privilege = (&'static str, &'static str);

/// The least role for the upgrades below.
const LEAST: &[Privilege] = &[
    ("find", METADATA),
    ("insert", METADATA),
    ("update", METADATA),
    ("remove", METADATA),
    // its transforms, with a look-up and a condition
    ("find", "things"),
    ("update", "things"),
    ("find", "people"),
    ("find", "tasks"),
    // its transaction
    ("find", "auxiliary"),
    ("insert", "auxiliary"),
    ("update", "auxiliary"),
    ("remove", "auxiliary"),
    // its commands
    ("listIndexes", "things"),
    ("createIndex", "things"),
    ("dropIndex", "things"),
    ("collMod", "things"),
    ("createCollection", "things"),
    ("listCollections", ""),
    ("renameCollectionSameDB", ""),
    ("dropCollection", "blocks"),
];
const EVERYTHING: &str =
    "0.7.8=move_field,owners,idle,singleton;0.7.9=index,validator,rename;0.8.0=unindex,drop_blocks";

async fn with_documents(server: &Server) -> Fresh {
    let database = server.database().await;
    let things = [doc! { "_id": 1, "a": 1, "owner": "ada" }, doc! { "_id": 2, "a": 2 }];
    database.collection("things").insert_many(things).await.unwrap();
    database.collection("people").insert_one(doc! { "_id": 7, "name": "ada" }).await.unwrap();
    for collection in ["old", "blocks", "tasks"] {
        database.collection(collection).insert_one(doc! { "_id": collection }).await.unwrap();
    }
    database
}

#[tokio::test]
async fn each_privilege_that_is_missing_is_named_before_anything_is_written() {
    let server = Server::with_auth().await;
    for missing in LEAST {
        let database = with_documents(&server).await;
        let before = db_hash(&database).await;
        let rest: Vec<_> = LEAST.iter().copied().filter(|privilege| privilege != missing).collect();
        let uri = user_who_may(&server, database.name(), &rest).await;
        let run = run(&scenario(&uri, EVERYTHING)).await;
        assert_code(&run, 17);
        let (action, collection) = missing;
        let on = match *collection {
            "" => format!("the database {}", database.name()),
            collection => format!("{}.{collection}", database.name()),
        };
        assert_says(&run, &[&format!("{action} on {on}")]);
        assert_eq!(before, db_hash(&database).await, "{missing:?}: {run}");
    }
    println!("{} privileges", LEAST.len());

    let database = with_documents(&server).await;
    let uri = user_who_may(&server, database.name(), LEAST).await;
    for (mode, code) in [("plan", 10), ("check", 10), ("upgrade", 0), ("check", 0)] {
        assert_code(&run(&scenario(&uri, EVERYTHING).mode(mode)).await, code);
    }
}

#[tokio::test]
async fn reading_needs_little_and_says_what() {
    let server = Server::with_auth().await;
    let database = with_documents(&server).await;
    let name = database.name();
    let find = format!("find on {name}.{METADATA}");
    apps::record_old(&database).await;

    let reader = user_who_may(&server, name, &[("find", METADATA)]).await;
    for mode in ["check", "wait"] {
        let gate = scenario(&reader, "0.8.0=move_field").mode(mode).set("GATE_TIMEOUT", "3s");
        assert_code(&run(&gate).await, 10);
    }
    let stranger = user_who_may(&server, name, &[("find", "things")]).await;
    for mode in ["check", "wait", "plan", "upgrade"] {
        let run = run(&scenario(&stranger, "0.8.0=move_field").mode(mode)).await;
        assert_code(&run, 17);
        assert_says(&run, &[&find]);
    }
    let run = run(&scenario(&stranger, "0.8.0=move_field")
        .mode("record")
        .unset("GATE_FROM_VERSION")
        .set("GATE_RECORD_VERSION", "0.8.0")
        .set("GATE_EXPECT_VERSION", "0.7.0"))
    .await;
    assert_code(&run, 17);
    assert_says(&run, &[&find]);
}

#[tokio::test]
async fn a_plan_needs_to_read_what_it_counts() {
    let server = Server::with_auth().await;
    let database = with_documents(&server).await;
    let name = database.name();
    apps::record_old(&database).await;
    let uri = user_who_may(&server, name, &[("find", METADATA)]).await;
    let run = run(&scenario(&uri, "0.8.0=move_field").mode("plan")).await;
    assert_code(&run, 17);
    assert_says(&run, &[&format!("find on {name}.things")]);
    let uri = user_who_may(&server, name, &[("find", METADATA), ("find", "things")]).await;
    assert_code(&self::run(&scenario(&uri, "0.8.0=move_field").mode("plan")).await, 10);

    // a transaction is planned by running it: with a writer's privileges
    let reads: Vec<_> = LEAST.iter().copied().filter(|(action, _)| *action == "find").collect();
    let uri = user_who_may(&server, name, &reads).await;
    let run = self::run(&scenario(&uri, "0.8.0=singleton").mode("plan")).await;
    assert_code(&run, 17);
    assert_says(&run, &[&format!("insert on {name}.auxiliary")]);
}

#[tokio::test]
async fn whether_a_database_is_fresh_needs_its_collections() {
    let server = Server::with_auth().await;
    let database = server.database().await;
    let name = database.name();
    let writer =
        [("find", METADATA), ("insert", METADATA), ("update", METADATA), ("remove", METADATA)];
    let uri = user_who_may(&server, name, &writer).await;
    let fresh = |uri: &str| {
        scenario(uri, "0.8.0=move_field").unset("GATE_FROM_VERSION").set("GATE_INITIALISE", "fresh")
    };
    let run = run(&fresh(&uri)).await;
    assert_code(&run, 17);
    assert_says(&run, &[&format!("listCollections on the database {name}")]);

    // a collection that cannot be looked into may hold anything
    database.collection("things").insert_one(doc! { "_id": 1 }).await.unwrap();
    let listing = [&writer[..], &[("listCollections", "")]].concat();
    let uri = user_who_may(&server, name, &listing).await;
    let run = self::run(&fresh(&uri)).await;
    assert_code(&run, 17);
    assert_says(&run, &[&format!("find on {name}.things")]);

    database.collection::<Document>("things").drop().await.unwrap();
    assert_code(&self::run(&fresh(&uri)).await, 0);
}

#[tokio::test]
async fn a_wrong_user_is_17_and_the_password_stays_secret() {
    let server = Server::with_auth().await;
    let database = server.database().await;
    let right = user_who_may(&server, database.name(), LEAST).await;
    let (address, hosts) = right.rsplit_once('@').unwrap();
    let (user, _) = address.rsplit_once(':').unwrap();
    let wrong = format!("{user}:wrong{PASSWORD}@{hosts}");
    let nobody = format!("mongodb://nobody:{PASSWORD}@{hosts}");
    let elsewhere = right.replace("authSource=admin", "authSource=lab");
    for uri in [&wrong, &nobody, &elsewhere] {
        assert_unusable(uri, 17, &["check user, password and authSource"]).await;
    }
    // no user at all
    let anonymous = format!("mongodb://{}", hosts.replace("&authSource=admin", ""));
    assert_unusable(&anonymous, 17, &["user"]).await;
    apps::fill(&database, "things", [doc! { "_id": 1 }]).await;
    assert_code(&run(&scenario(&right, "").mode("check")).await, 0);
}

#[tokio::test]
async fn the_privileges_of_built_in_roles_suffice() {
    let server = Server::with_auth().await;
    for roles in [&["readWrite", "dbAdmin"][..], &["dbOwner"]] {
        let database = with_documents(&server).await;
        let uri = server.uri_with_roles(database.name(), roles).await;
        assert_code(&run(&scenario(&uri, EVERYTHING)).await, 0);
    }
    let database = with_documents(&server).await;
    let before = db_hash(&database).await;
    let uri = server.uri_with_roles(database.name(), &["read"]).await;
    let run = run(&scenario(&uri, EVERYTHING)).await;
    assert_code(&run, 17);
    assert_says(&run, &[&format!("insert on {}.{METADATA}", database.name())]);
    assert_eq!(before, db_hash(&database).await);
}

#[tokio::test]
async fn the_report_goes_to_stdout_and_the_file_whatever_the_log() {
    let database = Server::shared().await.database().await;
    apps::fill(&database, "things", [doc! { "_id": 1 }]).await;
    let gate = apps::scenario(&database.uri, "0.8.0", "").mode("check");
    for log in ["off", "error", "warn"] {
        let run = gate.clone().set("GATE_LOG", log).run().await;
        assert_code(&run, 0);
        assert_eq!(run.report["exit_code"], 0, "{run}");
        assert!(run.stderr.is_empty(), "{run}");
    }
    let text = gate.clone().set("GATE_LOG_FORMAT", "text").run().await;
    assert!(text.stderr.contains("gate open") && !text.stderr.contains('{'), "{text}");
    // a text of its own, with nothing of the file before
    let file = File::with(&"x".repeat(10_000));
    let run = gate.set("GATE_REPORT_FILE", file.path()).run().await;
    let report: Document = serde_json::from_str(&fs::read_to_string(file.path()).unwrap()).unwrap();
    assert_eq!(report.get("outcome"), Some(&Bson::from("open")), "{run}");
}

#[tokio::test]
async fn a_connection_string_that_something_may_still_provide_is_20_and_names_who() {
    let source = "key uri of Secret mongo";
    // the environment of a process does not change: every mode ends at once
    for mode in ["check", "upgrade", "wait", "plan", "status", "sweep", "resume"] {
        for uri in ["", " "] {
            let gate = datalab().uri(uri).set("GATE_MONGODB_URI_SOURCE", source).mode(mode);
            let run = run(&gate).await;
            assert_code(&run, 20);
            assert_says(&run, &["GATE_MONGODB_URI is not set", source, "missing or empty"]);
            assert_eq!(run.log.len(), 1, "{run}");
        }
    }
    // a wrong setting comes first
    let gate = datalab().set("GATE_MONGODB_URI_SOURCE", source).set("GATE_TIMEOUT", "soon");
    assert_refused(&run(&gate).await, &["GATE_TIMEOUT", source]);
    assert_refused(&run(&datalab()).await, &["neither GATE_MONGODB_URI nor"]);
    // a file may be filled
    let empty = File::with(" \n");
    for (path, what) in [("/nowhere/uri", "is missing"), (empty.path(), "is empty")] {
        let gate = datalab().set("GATE_MONGODB_URI_FILE", path).set("GATE_TIMEOUT", "300ms");
        let run = run(&gate.set("GATE_MONGODB_URI_SOURCE", source)).await;
        assert_code(&run, 20);
        assert_says(&run, &["GATE_MONGODB_URI_FILE", path, source, what]);
        assert!(run.log.iter().any(|line| line["message"] == "waiting for the connection string"));
    }
    let once = datalab().set("GATE_MONGODB_URI_FILE", "/nowhere/uri").set("GATE_TIMEOUT", "0s");
    assert_code(&run(&once).await, 20);
}

#[tokio::test]
async fn a_file_that_is_filled_in_time_is_used_and_a_signal_ends_the_wait() {
    let server = Server::replica_set().await;
    let database = server.database().await;
    let file = File::with("");
    let gate = fresh("").unset("GATE_MONGODB_URI").set("GATE_MONGODB_URI_FILE", file.path());
    let mut waiting = gate.spawn();
    waiting.logged("waiting for the connection string").await;
    fs::write(&file.0, &database.uri).unwrap();
    assert_code(&waiting.wait().await, 0);

    fs::write(&file.0, "").unwrap();
    let mut waiting = gate.spawn();
    waiting.logged("waiting for the connection string").await;
    waiting.signal("TERM");
    assert_code(&waiting.wait().await, 22);
}

#[tokio::test]
async fn whatever_the_report_file_is_the_run_ends_as_it_would() {
    let folder = std::env::temp_dir().join(format!("upgrade-gate-{}", ObjectId::new()));
    fs::create_dir(&folder).unwrap();
    let pipe = folder.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let none = folder.join("none/report");
    for file in [&pipe, &folder, &none, &PathBuf::from("/dev/full")] {
        let gate = datalab().uri(URI).set("GATE_TIMEOUT", "soon");
        let run = gate.set("GATE_REPORT_FILE", file.to_str().unwrap()).run().await;
        assert_code(&run, 16);
        assert_eq!(run.log[0]["message"], "GATE_REPORT_FILE could not be written", "{run}");
        assert_eq!(run.last()["message"], "gate closed", "{run}");
        assert!(run.elapsed < SOON, "{run}");
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_database_without_documents_is_not_what_the_declaration_means() {
    let server = Server::replica_set().await;
    let database = server.database().await;
    let empty = db_hash(&database).await;
    for upgrades in ["0.8.0=move_field", ""] {
        for mode in ["upgrade", "check", "plan"] {
            let run = run(&scenario(&database.uri, upgrades).mode(mode)).await;
            assert_code(&run, 11);
            assert_says(&run, &["GATE_FROM_VERSION is 0.7.0", database.name(), "no documents"]);
        }
        let wait = scenario(&database.uri, upgrades).mode("wait").set("GATE_TIMEOUT", "1s");
        assert_code(&run(&wait).await, 11);
    }
    // an index, or a view, is no document
    database.create_collection("items").await.unwrap();
    database.create_collection("seen").view_on("items".to_owned()).await.unwrap();
    assert_code(&run(&scenario(&database.uri, "0.8.0=move_field")).await, 11);
    assert_ne!(empty, "");
    assert_eq!(apps::record(&database).await, doc! {});
    // one document is
    apps::fill(&database, "items", [doc! { "_id": 1 }]).await;
    assert_code(&run(&scenario(&database.uri, "0.8.0=move_field")).await, 0);
}

#[tokio::test]
async fn a_user_who_sees_nothing_cannot_say_that_a_database_is_empty() {
    let server = Server::with_auth().await;
    let database = with_documents(&server).await;
    let gates_own =
        [("find", METADATA), ("insert", METADATA), ("update", METADATA), ("remove", METADATA)];
    let uri = user_who_may(&server, database.name(), &gates_own).await;
    for mode in ["check", "upgrade", "plan"] {
        let run = run(&scenario(&uri, "").mode(mode)).await;
        assert_code(&run, 17);
        assert_says(&run, &["sees no documents", database.name(), "find on the application's"]);
    }
    // the role for upgrades suffices
    let role = [&gates_own[..], &[("find", "things"), ("update", "things")]].concat();
    let uri = user_who_may(&server, database.name(), &role).await;
    assert_code(&run(&scenario(&uri, "0.8.0=move_field")).await, 0);
}

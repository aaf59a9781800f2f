//! Steps whose edits a program computes: real processes on real servers, the good ones and those that fail in every way.

mod apps;
#[allow(dead_code)]
#[path = "../src/bin/datalab-upgrade/pin_item_references.rs"]
mod pin_item_references;
#[allow(dead_code)]
#[path = "datalab/shapes.rs"]
mod shapes;
mod support;

#[path = "programs/authors.rs"]
mod authors;
#[path = "programs/isolation.rs"]
mod isolation;
#[path = "programs/memory.rs"]
mod memory;
#[path = "programs/processes.rs"]
mod processes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apps::{fill, record_old, scenario};
use mongodb::bson::{Document, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};
use support::folder::Folder;
use support::{Fresh, Server, db_hash, dump, eventually, fixture, python};
use upgrade_gate::harness::Harness;
use upgrade_gate::{Gate, Keys, Lookup, Program, Report, Settings, Upgrade, Version};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The contents of a document, which nothing may say.
const SECRET: &str = "s3cret";

/// What programs need that speak without the helper: messages as bytes.
const WIRE: &str = r#"
import os, sys, time
READY = b"\x10\0\0\0\x10ready\0\1\0\0\0\0"
NOTHING = b"\5\0\0\0\0"
DONE = b"\x19\0\0\0\3set\0\x0f\0\0\0\x10done\0\1\0\0\0\0\0"

def take(n):
    got = b""
    while len(got) < n:
        more = os.read(0, n - len(got))
        if not more:
            return None
        got += more
    return got

def messages():
    while (size := take(4)) is not None:
        yield size + take(int.from_bytes(size, "little") - 4)

def send(answer):
    while answer:
        answer = answer[os.write(1, answer):]

def right(message):
    return NOTHING if b"\x10done\0" in message else DONE

def begin():
    all = messages()
    next(all)
    send(READY)
    return all
"#;

/// Right answers to the end.
const SERVE: &str = "for message in begin(): send(right(message))\n";

/// A folder with a program of this source.
fn program(name: &str, source: &str) -> Folder {
    let folder = Folder::new(name);
    folder.write("program.py", &format!("{WIRE}\n{source}"));
    folder
}

/// The step that starts a program of a folder.
fn step(folder: &Folder, file: &str) -> Program {
    let path = folder.path().join(file);
    let filter = doc! { "done": { "$exists": false } };
    Program::new("things", filter, ["python3", path.to_str().unwrap()])
}

/// The same with the modules of the helper.
fn helped(folder: &Folder) -> Program {
    python();
    step(folder, "program.py")
        .env("PYTHONPATH", format!("{ROOT}/.cache/python:{ROOT}/clients/python"))
}

async fn database(server: &Server) -> Fresh {
    let database = server.database().await;
    fill(&database, "things", (0..30).map(|n| doc! { "_id": n, "name": SECRET })).await;
    let entry = doc! { "version": "0.7.0", "action": "initialise", "floor": null };
    let record = doc! { "_id": "lab_schema_version", "version": "0.7.0", "history": [entry] };
    database.collection("database_metadata").insert_one(record).await.unwrap();
    database
}

fn gate(step: Program) -> Gate {
    Gate::new("lab", "0.8.0").upgrades([Upgrade::new("0.8.0", "an upgrade").step(step)])
}

async fn run(database: &Fresh, step: Program, mode: &str, batch: &str) -> Report {
    let vars = [
        ("GATE_MONGODB_URI", database.uri.as_str()),
        ("GATE_MODE", mode),
        ("GATE_BATCH_DOCUMENTS", batch),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let code: Version = Version::parse("0.8.0").unwrap();
    gate(step).run(&Settings::from_vars(vars, &code).unwrap()).await
}

/// The processes that a program of this folder is running in, and the zombies of this process.
fn left(folder: &Path) -> Vec<String> {
    let own = format!("PPid:\t{}\n", std::process::id());
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        let zombie = status.contains(&own) && status.contains("State:\tZ");
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        if zombie || command.contains(folder.to_str().unwrap()) {
            left.push(format!("{} {command} {status}", entry.path().display()));
        }
    }
    left
}

/// Nothing of a program is left; tests that run at the same time may have zombies for a moment.
async fn nothing_is_left(folder: &Folder) {
    eventually("no process of the program", || {
        let left = left(folder.path());
        if !left.is_empty() {
            println!("{left:?}");
        }
        async move { left.is_empty().then_some(()) }
    })
    .await;
}

/// A program that is wrong: its source, and what is said of it.
type Wrong = (&'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip]
const WRONG: &[Wrong] = &[
    ("never answers the greeting", "time.sleep(600)", &["did not answer the greeting within 30s", "flush"]),
    ("forgets to flush", "begin = lambda: sys.stdout.buffer.write(READY); begin(); time.sleep(600)",
        &["did not answer the greeting within 30s", "flush"]),
    ("hangs at the first document", "for _ in begin(): time.sleep(600)",
        &["document 0 of things", "did not answer within 1s", "timeout"]),
    ("hangs at a later document", "for n, message in enumerate(begin()): time.sleep(600 if n == 5 else 0); send(right(message))",
        &["document 5 of things", "did not answer within 1s"]),
    ("waits for two messages before it answers", "
all = begin()
for message in all:
    other = next(all)
    send(right(message) + right(other))", &["document 0 of things", "did not answer within 1s", "before it waits"]),
    ("does not begin", "sys.exit(3)", &["ended with exit code 3 before it answered", "GATE_LOG=debug"]),
    ("has a mistake in its code", "raise ValueError('s3cret')", &["ended with exit code 1 before it answered"]),
    ("refuses to begin", "next(messages()); send(b'\\x17\\0\\0\\0\\2refuse\\0\\6\\0\\0\\0later\\0\\0'); time.sleep(600)",
        &["refuses to begin: later"]),
    ("ends in the middle with 0", "for n, message in enumerate(begin()): n < 5 or sys.exit(0); send(right(message))",
        &["document 5 of things", "ended with exit code 0 before it answered"]),
    ("is killed", "for n, message in enumerate(begin()): n < 5 or os.kill(os.getpid(), 9); send(right(message))",
        &["ended with signal 9 (SIGKILL) before it answered", "memory limit"]),
    ("closes its output", "begin(); os.close(1); time.sleep(600)", &["closed its standard output"]),
    ("closes its input", "begin(); os.close(0); time.sleep(600)", &["did not answer within 1s"]),
    ("ends within an answer", "begin(); send(DONE[:9]); sys.exit(0)", &["before it answered"]),
    ("prints before it begins", "print('hello', flush=True)\nfor message in begin(): send(right(message))",
        &["wrote text to standard output", "stderr"]),
    ("prints less than a length", "print('ok', flush=True)\ntime.sleep(600)", &["wrote text to standard output"]),
    ("prints between answers", "for message in begin(): send(right(message)); print('s3cret', flush=True)",
        &["document ", "wrote text to standard output"]),
    ("answers what is no BSON", "for message in begin(): send(b'\\3\\0\\0\\0')", &["cannot read: it is not BSON"]),
    ("answers BSON that lies of its lengths", "for message in begin(): send(DONE[:9] + b'\\x7f' + DONE[10:])",
        &["cannot read: it is not valid BSON"]),
    ("answers more than any answer may have", "for message in begin(): send(b'\\0\\0\\0\\x7f')", &["more than 33 MiB"]),
    ("answers with a field that no answer has", "for message in begin(): send(DONE.replace(b'set', b'Set'))",
        &["no answer has a field `Set`"]),
    ("greets as if it were another protocol", "next(messages()); send(READY.replace(b'\\1', b'\\2')); time.sleep(9)",
        &["not { ready: 1 }"]),
    ("answers twice", "for message in begin(): send(right(message) * 2)", &["more often than it was asked"]),
    ("answers before it is asked", "begin(); send(DONE * 1000); time.sleep(600)", &["more often than it was asked"]),
    ("says something at the end", "for message in begin(): send(right(message))\nsend(NOTHING)", &["more often than it was asked"]),
    ("prints at the end", "for message in begin(): send(right(message))\nprint('bye')", &["wrote text"]),
    ("ends with an error", "for message in begin(): send(right(message))\nsys.exit(4)",
        &["ended with exit code 4 after it had answered everything", "exit with 0"]),
    ("does not end", "import signal; signal.signal(15, signal.SIG_IGN)\nfor message in begin(): send(right(message))\ntime.sleep(600)",
        &["did not end within 5s"]),
    ("remembers what it saw", "
for n, message in enumerate(begin()):
    send(right(message).replace(b'\\1\\0\\0\\0', bytes([n % 100 + 1, 0, 0, 0])))", &["differently", "clock"]),
    ("throws dice", "
for n, message in enumerate(begin()):
    send(right(message).replace(b'\\1\\0\\0\\0', os.urandom(4)))", &["differently"]),
    ("answers the question before", "
last = b''
for message in begin():
    send(right(message) if b'\\x10_id\\0\\0\\0\\0\\0' in last else NOTHING)
    last = message", &["differently", "order"]),
    ("changes what it made", "
for message in begin():
    send(b'\\x1d\\0\\0\\0\\4unset\\0\\x11\\0\\0\\0\\x020\\0\\5\\0\\0\\0done\\0\\0\\0' if right(message) == NOTHING else DONE)",
        &["given its own output it edits `done` again"]),
];

/// Tries each of these programs: each ends with 14, says what is the matter, writes nothing and leaves no process.
async fn try_all(
    server: &Server,
    mode: &str,
    folder: &Folder,
    programs: &[(&str, Program, &[&str])],
) {
    let mut missed: Vec<String> = Vec::new();
    for (name, step, says) in programs {
        let database = database(server).await;
        let before = db_hash(&database).await;
        let report = run(&database, step.clone(), mode, "7").await;
        let text = format!("{} / {}", report.message, report.next.as_deref().unwrap_or_default());
        let told = says.iter().all(|part| text.contains(part)) && text.contains("program things");
        if report.exit_code != 14 || !told {
            missed.push(format!("a program that {name}, {mode}: {} {text}", report.exit_code));
        }
        assert!(!text.contains(SECRET), "{text}");
        assert_eq!(db_hash(&database).await, before, "a program that {name} left something");
        nothing_is_left(folder).await;
        // a program that does what the message says
        folder.write("right.py", &format!("{WIRE}\n{SERVE}"));
        let report = run(&database, self::step(folder, "right.py"), "upgrade", "7").await;
        assert_eq!(report.exit_code, 0, "{name}: {}", report.message);
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// The wrong programs of which `which` says so by their names.
fn wrong_programs(
    folder: &Folder,
    which: impl Fn(&str) -> bool,
) -> Vec<(&'static str, Program, &'static [&'static str])> {
    let mut all = Vec::new();
    for (n, (name, source, says)) in WRONG.iter().enumerate().filter(|(_, wrong)| which(wrong.0)) {
        let file = format!("wrong-{n}.py");
        folder.write(&file, &format!("{WIRE}\n{source}\n"));
        // the others have time, however busy the machine is
        let time = if says.iter().any(|part| part.contains("within")) { 1 } else { 60 };
        all.push((*name, step(folder, &file).timeout(Duration::from_secs(time)), *says));
    }
    all
}

/// Those that do not begin, and are given half a minute.
const SILENT: [&str; 2] = ["never answers the greeting", "forgets to flush"];

#[tokio::test]
async fn every_wrong_program_ends_the_run_before_anything_is_written() {
    let folder = Folder::new("wrong-programs");
    let programs = wrong_programs(&folder, |name| !SILENT.contains(&name));
    try_all(Server::shared().await, "upgrade", &folder, &programs).await;
}

#[tokio::test]
async fn programs_that_do_not_begin_are_given_half_a_minute() {
    let folder = Folder::new("silent-programs");
    let server = Server::shared().await;
    let programs = wrong_programs(&folder, |name| SILENT.contains(&name));
    let [one, other] = &programs[..] else { panic!("there are two") };
    let [one, other] = [std::slice::from_ref(one), std::slice::from_ref(other)];
    let (plan, upgrade) =
        (try_all(server, "plan", &folder, one), try_all(server, "upgrade", &folder, other));
    tokio::join!(plan, upgrade);
}

#[tokio::test]
async fn wrong_programs_end_a_plan_and_runs_of_a_standalone_too() {
    let folder = Folder::new("wrong-programs-alone");
    let server = Server::standalone().await;
    let some = ["hangs at a later document", "is killed", "throws dice", "ends with an error"];
    let programs = wrong_programs(&folder, |name| some.contains(&name));
    try_all(&server, "upgrade", &folder, &programs).await;
    try_all(&server, "plan", &folder, &programs).await;
}

#[tokio::test]
async fn a_command_that_cannot_be_started_or_is_none_is_said_by_its_name() {
    let database = database(Server::shared().await).await;
    let folder = program("no-programs", SERVE);
    let path = folder.path().join("program.py");
    let of = |command: &[&str]| Program::new("things", doc! {}, command.iter().copied());
    for (step, code, says) in [
        (of(&["no-such-program"]), 14, "cannot be started: no such file"),
        (of(&[path.to_str().unwrap()]), 14, "cannot be started: permission denied"),
        (of(&[]), 1, "names no program"),
        (of(&["a\0b"]), 1, "zero byte"),
        (of(&["true"]).env("A=B", ""), 1, "no variable can be called"),
        (of(&["true"]).timeout(Duration::ZERO), 1, "its timeout is zero"),
    ] {
        let before = db_hash(&database).await;
        let report = run(&database, step, "upgrade", "7").await;
        let text = format!("{} / {:?}", report.message, report.next);
        assert!(report.exit_code == code && text.contains(says), "{} {text}", report.exit_code);
        assert_eq!(db_hash(&database).await, before);
    }
    // one that may be executed
    let shell = format!("#!/bin/sh\nexec python3 {}\n", path.display());
    folder.write("program", &shell);
    let path = folder.path().join("program");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let filter = doc! { "done": { "$exists": false } };
    let step = Program::new("things", filter, [path.to_str().unwrap()]);
    let report = run(&database, step, "upgrade", "7").await;
    assert_eq!(report.exit_code, 0, "{}", report.message);
}

/// What each of these answers to every document that is not done is refused.
#[tokio::test]
async fn answers_that_break_a_rule_of_the_step_name_it() {
    let server = Server::shared().await;
    let folder = Folder::new("rules");
    for (n, (body, says)) in [
        ("document['a.b'] = 1", "`a.b`"),
        ("document['_id'] = 5", "_id"),
        ("del document['_id']", "_id"),
        ("count('others')", "counts \"others\""),
        ("insert('elsewhere', {'_id': document['_id']})", "inserts into elsewhere"),
        ("delete()", "deletes"),
        ("document['name'] = 'x'", "which look-up \"twin\" reads"),
        ("document['load'] = 'x' * (17 << 20)", "16 MiB"),
        ("refuse('no list has it')", "no list has it"),
        ("document['s3cret']", "KeyError in rule-9.py, line 6"),
    ]
    .into_iter()
    .enumerate()
    {
        let source = format!(
            "from upgrade_gate import *\n@transform\ndef f(document, found):\n    if 'done' not in document:\n        \
             document['done'] = 1\n        {body}\n    return document\n"
        );
        let file = format!("rule-{n}.py");
        folder.write(&file, &source);
        python();
        let twin = |document: &RawDocument, keys: &mut Keys| {
            if let Ok(Some(name)) = document.get("name") {
                keys.add(name);
            }
        };
        let twin = Lookup::new("twin", "things", "name", twin).fields(["other"]);
        let step = step(&folder, &file)
            .env("PYTHONPATH", format!("{ROOT}/.cache/python:{ROOT}/clients/python"))
            .lookup(twin);
        let database = database(server).await;
        let before = db_hash(&database).await;
        let report = run(&database, step, "upgrade", "7").await;
        assert!(
            report.exit_code == 14 && report.message.contains(says),
            "{body}: {}",
            report.message
        );
        assert!(!report.message.contains(SECRET) || body.contains(SECRET), "{}", report.message);
        assert_eq!(db_hash(&database).await, before, "{body}");
    }
}

/// Keeps what it is sent.
const RECORDER: &str = r#"
log = open(os.path.dirname(__file__) + "/messages", "ab", buffering=0)
all = messages()
log.write(next(all))
send(READY)
for message in all:
    log.write(message)
    send(right(message))
"#;

#[tokio::test]
async fn a_program_is_sent_the_messages_that_the_guide_shows_and_has_the_variables_it_is_given() {
    let folder = program("recorder", RECORDER);
    let database = self::database(Server::shared().await).await;
    database.collection::<Document>("things").drop().await.unwrap();
    fill(&database, "things", [doc! { "_id": 1, "name": "a" }]).await;
    fill(&database, "people", [doc! { "_id": 5, "name": "a" }]).await;
    // the variables that it was started with; an interpreter may add its own
    let at = folder.path().display();
    let line = format!("cat /proc/$$/environ >{at}/variables; exec python3 {at}/program.py");
    let filter = doc! { "done": { "$exists": false } };
    let step = Program::new("things", filter, ["/bin/sh", "-c", &line])
        .lookup(Lookup::by_field("owner", "people", "name", "name"))
        .env("MODE", "fast");
    let report = run(&database, step, "upgrade", "7").await;
    assert_eq!(report.exit_code, 0, "{}", report.message);

    let sent = fs::read(folder.path().join("messages")).unwrap();
    let mut left = &sent[..];
    let mut messages: Vec<Document> = Vec::new();
    while !left.is_empty() {
        messages.push(Document::from_reader(&mut left).unwrap());
    }
    let greeting = doc! {
        "gate": 1, "version": "0.8.0", "step": "program things", "collection": "things",
    };
    let owner = doc! { "owner": [{ "_id": 5, "name": "a" }] };
    let asked = doc! { "document": { "_id": 1, "name": "a" }, "found": &owner };
    let own = doc! { "document": { "_id": 1, "name": "a", "done": 1 }, "found": &owner };
    assert_eq!(messages[..2], [greeting.clone(), asked.clone()]);
    assert!(messages.contains(&own), "{messages:?}");
    // one start for the preflight, one to write, one to look for what old code wrote during the upgrade
    assert_eq!(messages.iter().filter(|message| **message == greeting).count(), 3);
    let others = messages.iter().filter(|it| ![&greeting, &asked, &own].contains(it));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&Document>::new());

    let variables = fs::read_to_string(folder.path().join("variables")).unwrap();
    let variables = variables.split_terminator('\0');
    let mut variables: Vec<&str> = variables.map(|it| it.split('=').next().unwrap()).collect();
    variables.sort_unstable();
    let expected = ["HOME", "LANG", "MODE", "PATH"].into_iter();
    let expected = expected.filter(|it| *it == "MODE" || std::env::var_os(it).is_some());
    assert_eq!(variables, expected.collect::<Vec<_>>());
}

/// Moves the order of things to their place, adds a document for each part, deletes what is empty, and looks up owners.
const CARDS: &str = r#"
from upgrade_gate import count, delete, insert, transform

@transform
def card(document, found):
    if "done" in document:
        return document
    if document["n"] % 5 == 0:
        count("deleted")
        return delete()
    for n, part in enumerate(document.pop("parts")):
        insert("parts", {"_id": f"{document['_id']}-{n}", "part": part})
    document["owner"] = [one["_id"] for one in found["owner"]]
    document["done"] = 1
    count("done")
    return document
"#;

#[tokio::test]
async fn a_program_sets_unsets_adds_deletes_counts_and_looks_up_on_both_kinds_of_server() {
    let standalone = Server::standalone().await;
    let folder = program("cards", CARDS);
    for server in [Server::shared().await, &standalone] {
        for batch in ["2000", "3"] {
            let database = database(server).await;
            database.collection::<Document>("things").drop().await.unwrap();
            let raw = |n: i32| {
                // what Python cannot hold stays as it is
                let twice = rawdoc! { "a": 1, "a": 2, "undefined": RawBson::Undefined };
                rawdoc! { "_id": n, "twice": twice, "n": n, "name": format!("p{}", n % 3), "parts": [n, "x"] }
            };
            let things = database.collection::<RawDocumentBuf>("things");
            things.insert_many((0..20).map(raw)).await.unwrap();
            fill(&database, "people", (0..3).map(|n| doc! { "_id": n, "name": format!("p{n}") }))
                .await;
            let owner = Lookup::new("owner", "people", "name", |document, keys: &mut Keys| {
                if let Ok(Some(name)) = document.get("name") {
                    keys.add(name);
                }
            });
            let step = helped(&folder)
                .lookup(owner)
                .inserts_into("parts")
                .deletes()
                .report("done", "Do {n} card(s)")
                .report("deleted", "Delete {n} card(s)");
            let plan = run(&database, step.clone(), "plan", batch).await;
            let report = run(&database, step, "upgrade", batch).await;
            assert_eq!(report.exit_code, 0, "{} {:?}", report.message, report.next);
            let told = |report: &Report| -> Vec<String> {
                let actions = report.upgrades.iter().flat_map(|upgrade| &upgrade.actions);
                actions.map(|action| action.description.clone()).collect()
            };
            assert_eq!(told(&report), ["Do 16 card(s)", "Delete 4 card(s)"]);
            assert_eq!(told(&plan), told(&report));
            let after = dump(&database).await;
            let expected: Vec<RawDocumentBuf> = (0..20)
                .filter(|n| n % 5 != 0)
                .map(|n| {
                    let twice = rawdoc! { "a": 1, "a": 2, "undefined": RawBson::Undefined };
                    let name = format!("p{}", n % 3);
                    rawdoc! { "_id": n, "twice": twice, "n": n, "name": name, "owner": [n % 3], "done": 1 }
                })
                .collect();
            assert_eq!(after["things"].len(), 16);
            for one in &expected {
                // new fields are appended in the order in which the server appends them
                let stored = after["things"]
                    .iter()
                    .find(|other| other.get_i32("_id").unwrap() == one.get_i32("_id").unwrap());
                let sorted = |document: &RawDocumentBuf| {
                    let mut fields: Vec<Vec<u8>> = document
                        .iter()
                        .map(|field| field.unwrap())
                        .map(|(name, value)| {
                            RawDocumentBuf::from_iter([(name, value)]).into_bytes()
                        })
                        .collect();
                    fields.sort();
                    fields
                };
                assert_eq!(sorted(stored.unwrap()), sorted(one));
            }
            assert_eq!(after["parts"].len(), 32);
        }
    }
    nothing_is_left(&folder).await;
}

/// datalab's upgrade by the files of the example as they are, but for the packages of the tests, which an image has
/// installed.
fn datalab_in_python() -> (Gate, Folder) {
    python();
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("programs-datalab-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = Folder::new(&name);
    support::folder::copy(&Path::new(ROOT).join("examples/files/datalab"), folder.path());
    let file = "0.8.0-pin-item-references.yaml";
    let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
    let packages = format!("{ROOT}/.cache/python:{ROOT}/clients/python");
    let program = "  program: [python3, pin.py]\n";
    let with_packages = format!("{program}  env: {{ PYTHONPATH: \"{packages}\" }}\n");
    assert!(text.contains(program), "{text}");
    folder.write(file, &text.replace(program, &with_packages));
    let files = upgrade_gate::files::read(folder.path(), None);
    assert_eq!(files.mistakes, []);
    (files.gate().unwrap(), folder)
}

/// Whether Python can hold all of a document.
fn is_held(document: &RawDocument) -> bool {
    use mongodb::bson::spec::ElementType::{Array, DbPointer, EmbeddedDocument, Symbol, Undefined};
    document.iter_elements().all(|element| {
        let element = element.unwrap();
        match element.element_type() {
            Undefined | Symbol | DbPointer => false,
            EmbeddedDocument | Array => match element.value().unwrap() {
                RawBsonRef::Document(inner) => is_held(inner),
                RawBsonRef::Array(inner) => {
                    is_held(RawDocument::from_bytes(inner.as_bytes()).unwrap())
                }
                _ => true,
            },
            _ => true,
        }
    })
}

async fn upgraded(database: &Fresh, gate: &Gate) -> (Vec<RawDocumentBuf>, Vec<String>) {
    let vars = [
        ("GATE_MONGODB_URI", database.uri.as_str()),
        ("GATE_FROM_VERSION", "0.7.0"),
        ("GATE_SKIP_CONDITIONS", "true"),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let code = Version::parse("0.8.0").unwrap();
    let report = gate.run(&Settings::from_vars(vars, &code).unwrap()).await;
    assert_eq!(report.exit_code, 0, "{} {:?}", report.message, report.next);
    let actions = report.upgrades.iter().flat_map(|upgrade| &upgrade.actions);
    let told = actions.map(|action| action.description.clone()).collect();
    (dump(database).await.remove("items").unwrap_or_default(), told)
}

#[tokio::test]
async fn datalabs_upgrade_in_python_makes_the_same_documents_byte_for_byte() {
    let standalone = Server::standalone().await;
    let rust = || Gate::new("datalab", "0.8.0").upgrades([pin_item_references::upgrade()]);
    let (by_python, _folder) = datalab_in_python();
    for server in [Server::shared().await, &standalone] {
        for seed in 0..6 {
            let (one, other) = (server.database().await, server.database().await);
            for database in [&one, &other] {
                match seed {
                    0 => fixture::load(database).await,
                    _ => {
                        let items = shapes::random(seed);
                        let items = items.into_iter().filter(|item| is_held(item));
                        let collection = database.collection::<RawDocumentBuf>("items");
                        collection.insert_many(items).await.unwrap();
                    }
                }
            }
            let (one, other) = (upgraded(&one, &rust()).await, upgraded(&other, &by_python).await);
            assert_eq!(one.1, other.1, "seed {seed}");
            assert!(!one.0.is_empty() && one.0 == other.0, "seed {seed}");
        }
    }
}

#[tokio::test]
async fn datalabs_upgrade_in_python_survives_kills_on_both_kinds_of_server() {
    let standalone = Server::standalone().await;
    for uri in [Server::shared().await.uri(""), standalone.uri("")] {
        let (gate, _folder) = datalab_in_python();
        let harness = Harness::new(gate, uri)
            .set("GATE_FROM_VERSION", "0.0.1")
            .set("GATE_BATCH_DOCUMENTS", "40")
            .boundaries(12)
            .instants(3)
            .within(Duration::from_secs(120))
            .seed(7);
        let filled = harness.run(async |database| {
            fixture::load(database).await;
            Ok(())
        });
        let survived = filled.await.unwrap();
        println!("{survived:?}");
        assert!(survived.kills > 0);
    }
}

/// A thing for each of a program's answers to wait a while, and who it is.
const SLOW: &str = r#"
import time
from upgrade_gate import transform
@transform
def slow(document, found):
    time.sleep(600 if document["_id"] == 50 else 0)
    document["b"] = document.pop("a")
    return document
"#;

#[tokio::test]
async fn a_signal_ends_the_run_and_the_program_at_once() {
    python();
    let folder = program("slow", SLOW);
    let path = folder.path().join("program.py");
    let database = Server::shared().await.database().await;
    fill(&database, "things", (0..100).map(|n| doc! { "_id": n, "a": n })).await;
    record_old(&database).await;
    let before = db_hash(&database).await;
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=program")
        .set("SCENARIO_PROGRAM", path.to_str().unwrap())
        .set("PATH", std::env::var("PATH").unwrap());
    let running = gate.spawn();
    eventually("the program to run", || {
        let runs = !left(folder.path()).is_empty();
        async move { runs.then_some(()) }
    })
    .await;
    running.signal("TERM");
    let run = running.wait().await;
    assert_eq!(run.code, Some(22), "{run}");
    assert_eq!(left(folder.path()), Vec::<String>::new(), "it is gone when the gate is");
    assert_eq!(db_hash(&database).await, before);
}

#[tokio::test]
async fn a_program_that_writes_without_end_to_stderr_does_no_harm() {
    let flood = format!("os.write(2, b'{SECRET} ' * 10000)");
    let source = format!("for message in begin():\n    {flood}\n    send(right(message))\n");
    let folder = program("flood", &source);
    let database = database(Server::shared().await).await;
    let report = run(&database, step(&folder, "program.py"), "upgrade", "7").await;
    assert_eq!(report.exit_code, 0, "{}", report.message);
    nothing_is_left(&folder).await;
}

//! Programs as authors get them wrong, with the helper for Python and without: each is told what to do, at its document.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use upgrade_gate::Program;

use super::apps::fill;
use super::support::folder::Folder;
use super::support::{Fresh, Server, db_hash, python};
use super::{ROOT, SECRET, SERVE, WIRE, database, nothing_is_left, run};

fn old() -> Document {
    doc! { "done": { "$exists": false } }
}

fn of(command: &[&str]) -> Program {
    Program::new("things", old(), command.iter().copied())
}

/// A program of the helper for Python.
fn helped(file: &Path) -> Program {
    python();
    let modules = format!("{ROOT}/.cache/python:{ROOT}/clients/python");
    of(&["python3", file.to_str().unwrap()]).env("PYTHONPATH", modules)
}

/// What the helper answers in a file with these lines before the function, and these in it.
fn source(before: &str, inside: &str) -> String {
    format!(
        "import os, sys, time\nfrom upgrade_gate import transform\n{before}\n@transform\ndef pin(document, found):\n    \
         {inside}\n    document['done'] = 1\n    return document\n"
    )
}

#[tokio::test]
async fn programs_of_the_helper_that_are_misused_are_told_of_before_anything_is_written() {
    let server = Server::shared().await;
    let folder = Folder::new("misused");
    folder.write("pin.py", &source("", "pass"));
    for (n, (before, inside, says)) in [
        (
            "",
            "sys.exit(0)",
            &["document 0 of things", "raised SystemExit in misused-0.py, line 6"][..],
        ),
        ("", "return {'done': 1}", &["document 0 of things", "without its `_id`"]),
        ("", "return [document]", &["returned a list, and not a document"]),
        ("", "found['other']", &["KeyError in misused-3.py, line 6"]),
        ("", "document['n'] = {1}", &["field `n` cannot be written as BSON"]),
        // with answers held back, the gate cannot know which one it was
        (
            "",
            "document['_id'] == 20 and os._exit(3)",
            &["ended with exit code 3 before it answered", " after it: the program"],
        ),
        (
            "",
            "document['_id'] == 20 and time.sleep(600)",
            &["did not answer within 2s", " after it: the program"],
        ),
        (
            "@transform\ndef other(document, found):\n    return document\n",
            "pass",
            &["ended with exit code 1 after it had answered everything"],
        ),
        // the function of a module is not the program
        (
            "import pin\nsys.exit()",
            "pass",
            &["exit code 0 before it answered", "@transform in the file that is started"],
        ),
        ("import no_such_module", "pass", &["exit code 1 before it answered", "GATE_LOG=debug"]),
        (
            "import threading\nthreading.Thread(target=time.sleep, args=(600,)).start()",
            "pass",
            &["did not end within 5s after the end of its input"],
        ),
        ("os.close(2)\nprint('x' * 100)", "print('y' * 100)", &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let file = format!("misused-{n}.py");
        folder.write(&file, &source(before, inside));
        let database = database(server).await;
        let hash = db_hash(&database).await;
        let step = helped(&folder.path().join(&file)).timeout(Duration::from_secs(2));
        let report = run(&database, step, "upgrade", "2000").await;
        let text = format!("{} / {}", report.message, report.next.as_deref().unwrap_or_default());
        let told = says.iter().all(|part| text.contains(part));
        let code = if says.is_empty() { 0 } else { 14 };
        assert!(told && report.exit_code == code, "{before} {inside}: {} {text}", report.exit_code);
        assert!(!text.contains(SECRET), "{text}");
        assert_eq!(db_hash(&database).await == hash, code == 14, "{before} {inside}");
        nothing_is_left(&folder).await;
    }
}

#[tokio::test]
async fn a_line_for_a_shell_is_told_from_a_program_that_is_missing() {
    let database = database(Server::shared().await).await;
    let folder = Folder::new("a line");
    folder.write("pin.py", &format!("{WIRE}\n{SERVE}"));
    let file = folder.path().join("pin.py");
    let line = format!("python3 '{}'", file.display());
    let before = db_hash(&database).await;
    let report = run(&database, of(&[&line]), "upgrade", "2000").await;
    let next = report.next.unwrap_or_default();
    assert!(report.exit_code == 14 && next.contains("as an item of its own"), "{next}");
    assert_eq!(db_hash(&database).await, before);
    // as the message says
    let report = run(&database, of(&["python3", file.to_str().unwrap()]), "upgrade", "2000").await;
    assert_eq!(report.exit_code, 0, "{}", report.message);
}

#[tokio::test]
async fn programs_with_odd_names_links_and_variables_are_started_as_they_are() {
    let server = Server::shared().await;
    let folder = Folder::new("odd names ü");
    let script = format!(
        "#!/usr/bin/env python3\n{WIRE}\nexpected = {{'A': 'x=y\\nz \\u00fc ', 'EMPTY': '', 'LANG': 'odd', 'a b': '1'}}\n\
         assert all(os.environ.get(name) == value for name, value in expected.items())\n\
         assert sys.argv[1:] == ['', 'two words', '$HOME', '*'], sys.argv\n{SERVE}"
    );
    fs::create_dir(folder.path().join("a folder")).unwrap();
    folder.write("a folder/the program 'x'", &script);
    let real = folder.path().join("a folder/the program 'x'");
    fs::set_permissions(&real, PermissionsExt::from_mode(0o755)).unwrap();
    symlink("a folder/the program 'x'", folder.path().join("link")).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    // by its place, by a link, and by a name that only the step's own PATH knows
    for name in [real.to_str().unwrap(), folder.path().join("link").to_str().unwrap(), "link"] {
        let database = database(server).await;
        let step = of(&[name, "", "two words", "$HOME", "*"])
            .env("A", "x=y\nz ü ")
            .env("EMPTY", "")
            .env("LANG", "odd")
            .env("a b", "1")
            .env("PATH", &*path);
        let report = run(&database, step, "upgrade", "2000").await;
        assert_eq!(report.exit_code, 0, "{name}: {} {:?}", report.message, report.next);
    }
    // the twin: without the step's variables it ends, and is told of
    let database = database(server).await;
    let before = db_hash(&database).await;
    let report = run(&database, of(&[real.to_str().unwrap()]), "upgrade", "2000").await;
    assert!(report.exit_code == 14 && report.message.contains("exit code 1"), "{}", report.message);
    assert_eq!(db_hash(&database).await, before);
    nothing_is_left(&folder).await;
}

/// What a document may hold that no program may change: of every type, odd ones included.
const KEPT: &str = r#"
import struct
def raw(*fields):
    inner = b"".join(fields)
    return struct.pack("<i", len(inner) + 5) + inner + b"\0"
"#;

#[tokio::test]
async fn answers_that_the_server_would_refuse_are_refused_before_anything_is_written() {
    let server = Server::shared().await;
    let alone = Server::standalone().await;
    let folder = Folder::new("unstorable");
    let text = r#"b"\2\0\0\0x\0""#;
    for (n, (value, what)) in [
        (r#"b"\x08v\0\2""#.to_owned(), "a boolean that is neither"),
        (r#"b"\2v\0\2\0\0\0xy""#.to_owned(), "text without its end"),
        (
            format!(r#"b"\x0fv\0" + struct.pack("<i", 15) + {text} + b"\x7f\0\0\0\0""#),
            "a scope that lies of its length",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let file = format!("unstorable-{n}.py");
        let answer = format!(
            "ANSWER = raw(b'\\3set\\0' + raw(b'\\x10done\\0\\1\\0\\0\\0', b'\\3in\\0' + raw({value})))\n\
             for message in begin(): send(NOTHING if b'\\x10done\\0' in message else ANSWER)\n"
        );
        folder.write(&file, &format!("{WIRE}\n{KEPT}\n{answer}"));
        for server in [server, &alone] {
            let database = database(server).await;
            let before = db_hash(&database).await;
            let path = folder.path().join(&file);
            for mode in ["plan", "upgrade"] {
                let step = of(&["python3", path.to_str().unwrap()]);
                let report = run(&database, step, mode, "7").await;
                let told = report.message.contains("document 0 of things")
                    && report.message.contains("not valid BSON");
                assert!(report.exit_code == 14 && told, "{what}: {}", report.message);
                assert_eq!(db_hash(&database).await, before, "{what}");
            }
        }
    }
}

/// Adds documents for each thing, `COUNT` of them with an `_id` of so many bytes, without holding them.
const SPREAD: &str = r#"
import struct
def text(name, value): return b"\2" + name + b"\0" + struct.pack("<i", len(value) + 1) + value + b"\0"
def spread(first, count, size):
    head = struct.pack("<i", 5 + 4 + 1 + 4 + size + 1)
    one = lambda n, id: b"\3" + str(n).encode() + b"\0" + head + text(b"_id", str(id).encode().zfill(size)) + b"\0"
    parts = b"".join(one(n, first + n) for n in range(count))
    parts = b"\4parts\0" + struct.pack("<i", len(parts) + 5) + parts + b"\0"
    parts = b"\3insert\0" + struct.pack("<i", len(parts) + 5) + parts + b"\0"
    body = DONE[4:-1] + parts
    return struct.pack("<i", len(body) + 5) + body + b"\0"
count, size = map(int, sys.argv[1:3])
for message in begin():
    own = message.index(b"\x10_id\0") + 5
    own = int.from_bytes(message[own : own + 4], "little")
    if b"\x10done\0" in message: send(NOTHING)
    elif sys.argv[3] == "each": send(spread(own * count, count, size))
    else: send(spread(0, count, size) if own == 0 else DONE)
"#;

#[tokio::test]
async fn one_document_may_become_as_many_as_an_answer_holds() {
    let shared = Server::shared().await;
    let alone = Server::standalone().await;
    let folder = Folder::new("spread");
    folder.write("spread.py", &format!("{WIRE}\n{SPREAD}"));
    let path = folder.path().join("spread.py");
    let spread = |count: u64, size: u64, which: &str| {
        let (count, size) = (count.to_string(), size.to_string());
        of(&["python3", path.to_str().unwrap(), &count, &size, which]).inserts_into("parts")
    };
    let parts = async |database: &Fresh| {
        database.collection::<Document>("parts").count_documents(doc! {}).await.unwrap()
    };
    // more `_id`s than one command may hold, and more documents than one insert may have
    for (server, count, size) in [(&alone, 25_000, 800), (shared, 40_000, 8)] {
        let database = super::database(server).await;
        let report = run(&database, spread(count, size, "first"), "upgrade", "2000").await;
        assert_eq!(report.exit_code, 0, "{count} of {size}: {} {:?}", report.message, report.next);
        assert_eq!(parts(&database).await, count);
    }
    // more than the small cache of a server holds in one transaction: told, and done by what the message says
    let small = Server::replica_set().await;
    let database = super::database(&small).await;
    let report = run(&database, spread(25_000, 1200, "first"), "upgrade", "2000").await;
    let next = report.next.unwrap_or_default();
    let told = report.message.contains("cannot hold what is written for it in one transaction");
    assert!(report.exit_code == 14 && told, "{} {next}", report.message);
    assert!(next.contains("adds fewer or smaller documents"), "{next}");
    assert_eq!(parts(&database).await, 0);
    let report = run(&database, spread(2_500, 1200, "first"), "upgrade", "2000").await;
    assert_eq!(report.exit_code, 0, "{}", report.message);
    assert_eq!(parts(&database).await, 2_500);
    // many documents together: fewer at a time are tried
    let database = super::database(&small).await;
    fill(&database, "things", (30..2030).map(|n| doc! { "_id": n })).await;
    let report = run(&database, spread(60, 8, "each"), "upgrade", "2000").await;
    assert_eq!(report.exit_code, 0, "{}", report.message);
    assert_eq!(parts(&database).await, 2030 * 60);
    // more than an answer may have
    let database = super::database(shared).await;
    let before = db_hash(&database).await;
    let report = run(&database, spread(45_000, 800, "first"), "upgrade", "2000").await;
    let next = report.next.unwrap_or_default();
    assert!(
        report.exit_code == 14 && report.message.contains("more than 33 MiB"),
        "{}",
        report.message
    );
    assert!(next.contains("fewer or smaller documents"), "{next}");
    assert_eq!(db_hash(&database).await, before);
    nothing_is_left(&folder).await;
}

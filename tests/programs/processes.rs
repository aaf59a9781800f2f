//! Programs that are no proper programs, and processes that behave oddly around their answers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use mongodb::bson::doc;
use upgrade_gate::Program;

use super::support::folder::Folder;
use super::support::{Server, db_hash, eventually};
use super::{SERVE, WIRE, database, left, nothing_is_left, program, run, step};

#[tokio::test]
async fn a_file_that_is_no_program_says_what_it_lacks() {
    let database = database(Server::shared().await).await;
    let folder = Folder::new("no-program");
    let files = [
        ("windows", "#!/usr/bin/env python3\r\npass\r\n", 0o755, "env"),
        ("missing", "#!/no/such/interpreter\n", 0o755, "first line name an interpreter"),
        ("crlf", "#!/bin/sh\r\nexit 0\r\n", 0o755, "ends as on Windows"),
        ("foreign", "\x7fELF\x02\x01\x01 of another machine", 0o755, "build it for this"),
        ("nothing", "pass\n", 0o644, "may execute"),
    ];
    for (name, content, mode, _) in &files {
        folder.write(name, content);
        let path = folder.path().join(name);
        fs::set_permissions(path, PermissionsExt::from_mode(*mode)).unwrap();
    }
    fs::create_dir(folder.path().join("folder")).unwrap();
    let before = db_hash(&database).await;
    let names = files.iter().map(|(name, _, _, says)| (*name, *says));
    for (name, says) in names.chain([("folder", "may execute")]) {
        let path = folder.path().join(name);
        let step = Program::new("things", doc! {}, [path.to_str().unwrap()]);
        let report = run(&database, step, "upgrade", "7").await;
        let text = format!("{} / {}", report.message, report.next.as_deref().unwrap_or_default());
        // env itself starts, and finds no interpreter of this name
        let told = text.contains(if says == "env" { "exit code 127" } else { says });
        assert!(report.exit_code == 14 && told && text.contains(name), "{name}: {text}");
        assert_eq!(db_hash(&database).await, before);
    }
}

/// Starts a process that outlives it and holds its standard output, in its own group or in another.
const PARENT: &str = r#"
if os.fork() == 0:
    if sys.argv[1] == "session": os.setsid()
    os.close(0)
    open(os.path.dirname(__file__) + "/child", "w").write(str(os.getpid()))
    time.sleep(600)
    os._exit(0)
while not os.path.exists(os.path.dirname(__file__) + "/child"): time.sleep(0.01)
for n, message in enumerate(begin()):
    n < 5 or sys.argv[2] == "serves" or os._exit(0)
    send(right(message))
os._exit(0)
"#;

#[tokio::test]
async fn processes_that_a_program_leaves_behind_are_ended_or_told_of() {
    let folder = program("parent", PARENT);
    let server = Server::shared().await;
    for (group, ends, code, says) in [
        ("group", "serves", 0, ""),
        ("group", "stops", 14, "ended with exit code 0 before it answered"),
        ("session", "serves", 14, "kept its standard output open for 5s"),
        ("session", "stops", 14, "ended with exit code 0 before it answered"),
    ] {
        let database = database(server).await;
        let before = db_hash(&database).await;
        let file = folder.path().join("program.py");
        let command = ["python3", file.to_str().unwrap(), group, ends];
        let step = Program::new("things", doc! { "done": { "$exists": false } }, command)
            .timeout(Duration::from_secs(3));
        let report = run(&database, step, "upgrade", "7").await;
        let told = report.exit_code == code && report.message.contains(says);
        assert!(told, "{group} {ends}: {} {}", report.exit_code, report.message);
        assert_eq!(db_hash(&database).await == before, code == 14, "{group} {ends}");
        if group == "session" {
            // the only ones that can escape; the message says so
            let child = fs::read_to_string(folder.path().join("child")).unwrap();
            let child = nix::unistd::Pid::from_raw(child.parse().unwrap());
            nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        let gone = || {
            let left = left(folder.path());
            async move { left.is_empty().then_some(()) }
        };
        eventually("no process of the program", gone).await;
        fs::remove_file(folder.path().join("child")).unwrap();
    }
}

#[tokio::test]
async fn programs_that_answer_in_their_own_way_but_rightly_are_taken() {
    let server = Server::shared().await;
    let folder = Folder::new("own-way");
    let slow = "
for message in begin():
    for byte in right(message): os.write(1, bytes([byte]))";
    let late = "
all = messages(); next(all); time.sleep(4); send(READY)
for message in all: send(right(message))";
    let deaf = format!("import signal; signal.signal(15, signal.SIG_IGN)\n{SERVE}");
    let noisy = "
for n, message in enumerate(begin()):
    if n == 5:
        for _ in range(3000): os.write(2, b's3cret ' * 10000)
    send(right(message))";
    for (n, source) in [slow, late, &deaf, noisy].into_iter().enumerate() {
        let database = database(server).await;
        let file = format!("own-{n}.py");
        folder.write(&file, &format!("{WIRE}\n{source}\n"));
        let report = run(&database, step(&folder, &file), "upgrade", "7").await;
        assert_eq!(report.exit_code, 0, "{source}: {} {:?}", report.message, report.next);
        nothing_is_left(&folder).await;
    }
}

/// Answers with these bytes, which are the elements of the answer's document, in Python.
const ANSWER: &str = r#"
import struct
def doc(*elements):
    inner = b"".join(elements)
    return struct.pack("<i", len(inner) + 5) + inner + b"\0"
def int32(name, n=1): return b"\x10" + name + b"\0" + struct.pack("<i", n)
def text(name, value): return b"\2" + name + b"\0" + struct.pack("<i", len(value) + 1) + value + b"\0"
def sub(name, *elements): return b"\3" + name + b"\0" + doc(*elements)
def names(*all): return b"\4unset\0" + doc(*(text(str(n).encode(), name) for n, name in enumerate(all)))
def deep(levels): return int32(b"x") if levels == 0 else sub(b"d", deep(levels - 1))
DONE = int32(b"done")
for message in begin():
    send(NOTHING if b"\x10done\0" in message else doc(*ANSWER))
"#;

#[tokio::test]
async fn answers_that_no_document_can_take_are_refused_before_the_first_write() {
    let server = Server::shared().await;
    let alone = Server::standalone().await;
    let folder = Folder::new("no-answers");
    let mut missed: Vec<String> = Vec::new();
    for (n, (answer, says)) in [
        (
            "[sub(b'set', DONE, int32(b'a', 1), int32(b'a', 2))]",
            "`a`: another edit touches the same field",
        ),
        ("[sub(b'set', DONE, int32(b'a')), names(b'a')]", "`a`"),
        ("[sub(b'set', DONE), names(b'name', b'name')]", "another edit touches the same field"),
        ("[sub(b'set', DONE), names(b'_id')]", "_id"),
        ("[sub(b'set', DONE, int32(b'_id', 77))]", "_id"),
        ("[sub(b'set', DONE, int32(b'a.b'))]", "`a.b`"),
        ("[sub(b'set', DONE, int32(b'$a'))]", "$a"),
        ("[sub(b'set', DONE, int32(b''))]", "a part of the path is empty"),
        ("[sub(b'set', DONE, deep(190))]", "nest"),
        ("[sub(b'set', DONE, deep(300))]", "not valid BSON"),
        ("[sub(b'set', DONE), int32(b'also')]", "no answer has a field `also`"),
        ("[sub(b'set', DONE), sub(b'set', DONE)]", "the field `set` twice"),
        ("[b'\\x08delete\\0\\1', sub(b'set', DONE)]", "delete"),
    ]
    .into_iter()
    .enumerate()
    {
        let file = format!("answer-{n}.py");
        folder.write(
            &file,
            &format!("{WIRE}\nANSWER = None\n{}", ANSWER.replace("*ANSWER", &format!("*{answer}"))),
        );
        // a standalone writes in another way
        let servers = if n % 3 == 0 { vec![server, &alone] } else { vec![server] };
        for server in servers {
            let database = database(server).await;
            let before = db_hash(&database).await;
            let report = run(&database, step(&folder, &file), "upgrade", "7").await;
            let told = report.exit_code == 14 && report.message.contains(says);
            assert_eq!(db_hash(&database).await, before, "{answer}: {}", report.message);
            if !told {
                missed.push(format!("{answer}: {} {}", report.exit_code, report.message));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

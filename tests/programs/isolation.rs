//! What a program can see of the gate, tried by an unprivileged user, and what it inherits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};

use mongodb::bson::doc;

use super::apps::{fill, record_old, scenario};
use super::support::folder::Folder;
use super::support::{Gate, Server, eventually};
use super::{SECRET, WIRE};

/// Writes down what it finds, then does its work.
const SPY: &str = r#"
import json, signal
folder = os.path.dirname(__file__)
def reads(pid, name):
    try:
        path = f"/proc/{pid}/{name}"
        return os.listdir(path) != [] if name in ("fd", "map_files") else open(path, "rb").read(1000) != b""
    except OSError:
        return False
fds = sorted(map(int, os.listdir("/proc/self/fd")))
status = dict(line.split(":\t", 1) for line in open("/proc/self/status"))
mask = os.umask(0); os.umask(mask)
other = int(open(folder + "/other").read())
seen = {
    "uid": os.getuid(),
    "variables": sorted(os.environ),
    "gate": {name: reads(os.getppid(), name) for name in ("environ", "mem", "maps", "fd", "auxv")},
    "other": reads(other, "environ"),
    "descriptors": [fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")],
    "blocked": int(status["SigBlk"], 16),
    "ignored": [n for n in range(1, 32) if int(status["SigIgn"], 16) >> (n - 1) & 1],
    "umask": mask,
    "folder": os.getcwd(),
}
json.dump(seen, open(folder + "/seen", "w"))
BROKEN = os.path.exists(folder + "/broken")
for message in begin(): send(ANSWER)
sys.exit(4 if BROKEN else 0)
"#;

/// `{ set: { b: 1 }, unset: [ "a" ] }` for documents that have an `a`.
const ANSWER: &str = r#"ANSWER = b"\5\0\0\0\0""#;

/// Another process of the gate's user that anybody of that user may read.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a shell runs to be an unprivileged user: nothing, where it is one already.
fn unprivileged() -> &'static str {
    if nix::unistd::geteuid().is_root() {
        "setpriv --reuid 65534 --regid 65534 --clear-groups"
    } else {
        "env"
    }
}

fn spying(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.write("program.py", &format!("{WIRE}\n{ANSWER}\n{SPY}"));
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    folder
}

/// A gate whose shell did something first.
fn after(first: &str, gate: &Gate) -> Gate {
    let line =
        format!("{first}; exec env --ignore-signal=HUP,CHLD,QUIT,USR1 {} \"$0\"", unprivileged());
    let shell = Gate::new("/bin/sh").with_settings_of(gate).arg("-c").arg(&line);
    shell.arg(gate.binary().to_str().unwrap())
}

#[tokio::test]
async fn a_program_of_an_unprivileged_user_sees_nothing_of_the_gate_and_inherits_nothing() {
    let folder = spying("spy");
    let database = Server::shared().await.database().await;
    fill(&database, "things", [doc! { "_id": 1, "a": 1 }]).await;
    record_old(&database).await;
    // what such a process shows where it does nothing against it
    let sleep = format!("exec {} sleep 600", unprivileged());
    let other = Command::new("sh").args(["-c", &sleep]).env("SPIED", SECRET).spawn().unwrap();
    let other = Other(other);
    let command = format!("/proc/{}/cmdline", other.0.id());
    eventually("the other process", || {
        let runs = fs::read(&command).unwrap().starts_with(b"sleep");
        async move { runs.then_some(()) }
    })
    .await;
    folder.write("other", &other.0.id().to_string());
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=program")
        .set("SCENARIO_PROGRAM", folder.path().join("program.py").to_str().unwrap())
        .set("PATH", std::env::var("PATH").unwrap())
        .set("GATE_NO_SUCH_SETTING_SERVICE_HOST", SECRET)
        .mode("plan");
    let open = "cd /; umask 027; exec 3</etc/passwd 7>/dev/null";
    let run = after(open, &gate).run().await;
    assert_eq!(run.code, Some(10), "{run}");
    let seen = fs::read_to_string(folder.path().join("seen")).unwrap();
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    assert_ne!(seen["uid"], 0, "{seen}");
    for (file, read) in seen["gate"].as_object().unwrap() {
        assert_eq!(read, false, "{file} of the gate is readable: {seen}");
    }
    assert_eq!(seen["other"], true, "nothing is readable here for any process: {seen}");
    let names = seen["variables"].to_string();
    assert!(!names.contains("GATE") && !names.contains("SCENARIO"), "{seen}");
    assert_eq!(seen["descriptors"], serde_json::json!([0, 1, 2]), "{seen}");
    assert_eq!(seen["blocked"], 0, "{seen}");
    // what whoever started the gate wants all that it starts to ignore, except what the gate itself needs
    let ignored = seen["ignored"].as_array().unwrap();
    assert!(!ignored.iter().any(|n| [15, 17].contains(&n.as_i64().unwrap())), "{seen}");
    assert_eq!((&seen["umask"], &seen["folder"]), (&0o027.into(), &"/".into()), "{seen}");
    // how it ends is seen although whoever started the gate ignores the ends of processes
    folder.write("broken", "");
    let run = after(open, &gate).run().await;
    assert_eq!(run.code, Some(14), "{run}");
    assert!(run.report["message"].to_string().contains("exit code 4"), "{run}");
}

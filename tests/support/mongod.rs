//! One `mongod` process, which dies with the process that started it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use mongodb::bson::oid::ObjectId;

/// Starts and signals the server as told on its standard input, answering each word with the
/// server's pid. The input ends when the test process does, whichever way: a panic, a SIGKILL.
/// Until it has waited for the server, no other process can have that pid.
const SUPERVISOR: &str = r#"
while read -r word; do
    case $word in
        start) rm -f log; "$@" </dev/null >output 2>&1 & pid=$! ;;
        KILL) kill -KILL $pid; wait $pid; pid= ;;
        *) kill -$word $pid ;;
    esac
    echo "$pid"
done
[ -z "$pid" ] || kill -KILL $pid
wait
rm -rf "$PWD"
"#;

const ARGUMENTS: &str = "--dbpath . --logpath log --nounixsocket \
    --wiredTigerCacheSizeGB 0.25 --wiredTigerEngineConfigString log=(file_max=8MB,prealloc=false) \
    --setParameter enableTestCommands=1 --setParameter diagnosticDataCollectionEnabled=false";

/// A server in a directory of its own, on a free port of the loopback interface and of [`super::host`].
/// Dropping it returns once the process and the directory are gone.
pub struct Mongod {
    supervisor: Child,
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub directory: PathBuf,
    pub port: u16,
    /// None once it was killed.
    pub pid: Option<u32>,
    /// Neither killed nor stopped.
    pub running: bool,
}

impl Mongod {
    /// A server that listens. Files that its arguments name are made by `prepare`, a script that
    /// runs in the server's directory, as the server itself does.
    pub async fn start(prepare: &str, arguments: &str) -> Mongod {
        for _ in 0..10 {
            let mut server = Mongod::supervised(prepare, arguments);
            server.signal("start");
            match super::eventually("mongod", || async { server.listening() }).await {
                Ok(()) => return server,
                Err(log) if log.contains("Address already in use") => continue,
                Err(log) => panic!("{} did not start: {log}", super::mongod().display()),
            }
        }
        panic!("found no free port for mongod in ten attempts");
    }

    fn supervised(prepare: &str, arguments: &str) -> Mongod {
        let id = ObjectId::new();
        let directory = std::env::temp_dir().join(format!("upgrade-gate-{id}"));
        fs::create_dir(&directory).unwrap();
        let mut shell = Command::new("sh");
        let prepared = shell.args(["-ec", prepare]).current_dir(&directory).output().unwrap();
        assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));

        // Below the ports that the system gives to outgoing connections, and rarely the same.
        let [.., high, low] = id.bytes();
        let port = 12_000 + u16::from_be_bytes([high, low]) % 20_000;
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(super::mongod())
            .args(["--port", &port.to_string(), "--bind_ip", &addresses()])
            .args(ARGUMENTS.split_whitespace().chain(arguments.split_whitespace()))
            .current_dir(&directory)
            // Ctrl-C at the terminal is for the tests: the supervisor stays to clean up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let words = supervisor.stdin.take();
        let answers = BufReader::new(supervisor.stdout.take().unwrap());
        Mongod { supervisor, words, answers, directory, port, pid: None, running: false }
    }

    /// Whether it has begun to listen, or else (as the error) what it said before it ended.
    pub fn listening(&self) -> Option<Result<(), String>> {
        let read = |name| fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        let process = fs::read_to_string(format!("/proc/{}/stat", self.pid?)).unwrap_or_default();
        let log = read("log");
        if log.contains("\"Waiting for connections\"") {
            return Some(Ok(()));
        }
        process.contains(") Z ").then(|| Err(read("output") + &log))
    }

    /// Sends a signal by its name: `KILL` (it has ended when this returns), `STOP`, `CONT`.
    /// `start` starts it, again.
    pub fn signal(&mut self, name: &str) {
        let mut answer = String::new();
        writeln!(self.words.as_mut().unwrap(), "{name}").unwrap();
        self.answers.read_line(&mut answer).unwrap();
        self.pid = answer.trim().parse().ok();
        self.running = matches!(name, "start" | "CONT");
    }
}

fn addresses() -> String {
    let host = super::host();
    if host == super::LOOPBACK { host } else { format!("{},{host}", super::LOOPBACK) }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        self.words.take();
        // Nothing to do about a failure, least of all while a failed test unwinds.
        let _ = self.supervisor.wait();
    }
}

//! The gate as its users run it: a process with an environment.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mongodb::bson::oid::ObjectId;
use serde_json::Value;

use super::eventually;

/// A gate yet to be run. Its environment is empty but for what is set here.
#[derive(Clone)]
pub struct Gate {
    binary: PathBuf,
    arguments: Vec<String>,
    settings: BTreeMap<String, String>,
}

impl Gate {
    /// `binary` is `env!("CARGO_BIN_EXE_datalab-upgrade")`, which only tests can say.
    pub fn new(binary: impl Into<PathBuf>) -> Gate {
        let (binary, arguments, settings) = (binary.into(), Vec::new(), BTreeMap::new());
        Gate { binary, arguments, settings }.set("GATE_LOG_FORMAT", "json")
    }

    pub fn uri(self, uri: &str) -> Gate {
        self.set("GATE_MONGODB_URI", uri)
    }

    pub fn mode(self, mode: &str) -> Gate {
        self.set("GATE_MODE", mode)
    }

    pub fn set(mut self, name: &str, value: impl Into<String>) -> Gate {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    pub fn unset(mut self, name: &str) -> Gate {
        self.settings.remove(name);
        self
    }

    pub fn arg(mut self, argument: &str) -> Gate {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn with_settings_of(mut self, other: &Gate) -> Gate {
        self.settings.clone_from(&other.settings);
        self
    }

    /// Runs it to its end.
    pub async fn run(&self) -> Run {
        self.spawn().wait().await
    }

    /// Starts it, and leaves it running.
    pub fn spawn(&self) -> Running {
        let file = || std::env::temp_dir().join(format!("upgrade-gate-{}", ObjectId::new()));
        let (stdout, stderr) = (file(), file());
        let process = Command::new(&self.binary)
            .args(&self.arguments)
            .env_clear()
            .envs(&self.settings)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        Running { process, stdout, stderr, started: Instant::now() }
    }
}

/// A gate that runs. It is killed when dropped.
pub struct Running {
    process: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    started: Instant,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal by its name: `TERM`, `KILL`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success(), "could not send {name}");
    }

    /// Waits for a log line that contains `text`.
    pub async fn logged(&mut self, text: &str) -> Value {
        eventually(&format!("the log line {text:?}"), || {
            let ended = self.process.try_wait().unwrap().is_some();
            let log = fs::read_to_string(&self.stderr).unwrap();
            // Not a line that is still being written.
            let mut lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let found = lines.find(|line| line.contains(text)).map(json);
            assert!(found.is_some() || !ended, "the gate never logged {text:?}:\n{log}");
            async { found }
        })
        .await
    }

    /// Waits for its end; more than two minutes are a failure.
    pub async fn wait(mut self) -> Run {
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            let elapsed = self.started.elapsed();
            let log = || fs::read_to_string(&self.stderr).unwrap();
            assert!(elapsed < Duration::from_secs(120), "the gate ran for {elapsed:?}:\n{}", log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let elapsed = self.started.elapsed();
        let stdout = fs::read_to_string(&self.stdout).unwrap();
        let stderr = fs::read_to_string(&self.stderr).unwrap();
        Run {
            code: status.code(),
            signal: status.signal(),
            report: serde_json::from_str(&stdout).unwrap_or_default(),
            log: stderr.lines().map(json).collect(),
            stdout,
            stderr,
            elapsed,
        }
    }
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| line.into())
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.stdout);
        let _ = fs::remove_file(&self.stderr);
    }
}

/// What a gate that has ended left.
#[derive(Debug)]
pub struct Run {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// What it wrote on stdout; null when that is not one JSON value.
    pub report: Value,
    /// Its lines on stderr; one that is not JSON is a string.
    pub log: Vec<Value>,
    pub elapsed: Duration,
}

impl Run {
    /// The last log line: the outcome. Null when it logged nothing.
    pub fn last(&self) -> &Value {
        self.log.last().unwrap_or(&Value::Null)
    }
}

/// For the message of an assertion.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { code, signal, stdout, stderr, elapsed, .. } = self;
        write!(f, "code {code:?}, signal {signal:?}, {elapsed:?}\n{stdout}\n{stderr}")
    }
}

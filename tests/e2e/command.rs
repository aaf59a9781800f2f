//! The programs that users type, and what they answer.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// A setting of `tests/cluster/run.sh`.
pub fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// One that must be there.
#[track_caller]
pub fn required(name: &str) -> String {
    setting(name).unwrap_or_else(|| panic!("{name} is not set: use tests/cluster/run.sh"))
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Which Helm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helm {
    /// The last of the old line.
    Three,
    /// The new one, with server-side apply.
    Four,
}

impl Helm {
    /// Its program.
    pub fn program(self) -> &'static str {
        match self {
            Helm::Three => "helm3",
            Helm::Four => "helm4",
        }
    }

    /// The flag that rolls a failed upgrade back.
    pub fn rollback_flag(self) -> &'static str {
        match self {
            Helm::Three => "--atomic",
            Helm::Four => "--rollback-on-failure",
        }
    }
}

impl fmt::Display for Helm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// A program of the cluster's, to be run with these arguments.
pub fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(&required("E2E_BIN")).join(program));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

/// What a program left.
#[derive(Clone, Debug)]
pub struct Output {
    line: String,
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Asserts that it succeeded.
    #[track_caller]
    pub fn ok(self) -> Output {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// Asserts that it failed.
    #[track_caller]
    pub fn failed(self) -> Output {
        assert_ne!(self.code, Some(0), "{self}");
        self
    }

    /// Asserts that it printed this.
    #[track_caller]
    pub fn says(self, text: &str) -> Output {
        assert!(self.text().contains(text), "does not say {text:?}: {self}");
        self
    }

    /// All that it printed, without the backslashes that JSON puts before quotes, and Helm 4 once more where
    /// it quotes what a hook's container said.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr).replace('\\', "")
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output { line, code, stdout, stderr } = self;
        write!(f, "$ {line}\n{stdout}{stderr}[{code:?}]")
    }
}

/// A program that runs. It is killed when dropped.
pub struct Running {
    line: String,
    child: Child,
}

impl Running {
    /// Starts it, with `input` on its standard input.
    pub async fn start(mut command: Command, input: Option<&str>) -> Running {
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let line = line(&command);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        if let Some(input) = input {
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(input.as_bytes()).await.unwrap();
        }
        Running { line, child }
    }

    /// Sends a signal by its name, as Ctrl-C at a terminal sends `INT`.
    pub fn signal(&self, name: &str) {
        let Some(pid) = self.child.id() else { return };
        let kill = ["-c", &format!("kill -{name} {pid}")].map(str::to_owned);
        assert!(std::process::Command::new("sh").args(kill).status().unwrap().success());
    }

    /// Waits for its end.
    pub async fn end(self) -> Output {
        let output = self.child.wait_with_output().await.unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Output { line: self.line, code: output.status.code(), stdout, stderr }
    }
}

/// What a user would type.
fn line(command: &Command) -> String {
    let command = command.as_std();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

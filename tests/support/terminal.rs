//! The gate at a terminal: a pseudo-terminal of `tests/tools/terminal`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

const TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/terminal");

/// What a program wrote at a terminal.
#[derive(Debug, Deserialize)]
pub struct Typed {
    pub code: i32,
    /// With the terminal's own line ends and controls.
    pub output: String,
}

impl Typed {
    /// The report: what follows the log and the bars, each of which begins by clearing its line.
    pub fn report(&self) -> String {
        let report = match self.output.rsplit_once("\x1b[K") {
            None => &self.output,
            Some((_, bar)) if bar.starts_with("\x1b[?7l") => bar.split_once("\x1b[?7h").unwrap().1,
            Some((_, line)) => line.split_once('\n').map_or("", |(_, rest)| rest),
        };
        report.replace("\r\n", "\n")
    }
}

/// Runs a program at a terminal of so many columns, with no other environment than this.
pub async fn at_terminal(
    columns: u32,
    program: &Path,
    arguments: &[&str],
    settings: &BTreeMap<&str, String>,
) -> Typed {
    let mut command = Command::new("python3");
    command
        .args([TOOL, "run", &columns.to_string()])
        .arg(program)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm-256color")
        .envs(settings)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    // the test's own clients go on meanwhile
    let ran = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(ran.status.success(), "tests/tools/terminal failed");
    serde_json::from_slice(&ran.stdout).unwrap()
}

/// One command of a picture.
#[derive(Serialize)]
pub struct Shown {
    pub typed: String,
    pub output: String,
}

/// The picture of a session.
pub fn picture(columns: u32, session: &[Shown]) -> String {
    let mut tool = Command::new("python3")
        .args([TOOL, "picture", &columns.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let session = serde_json::to_vec(session).unwrap();
    tool.stdin.take().unwrap().write_all(&session).unwrap();
    let drawn = tool.wait_with_output().unwrap();
    assert!(drawn.status.success(), "tests/tools/terminal failed");
    String::from_utf8(drawn.stdout).unwrap()
}

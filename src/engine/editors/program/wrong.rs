//! What a program can do wrong, and what to do then.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use crate::authoring::editor::Run;

/// What a program did wrong. Holds nothing of what it was asked, or wrote.
#[derive(Debug)]
pub(super) enum Wrong {
    NotStarted(io::Error),
    /// It answered nothing for so long.
    Silent(Duration),
    /// It refused the greeting.
    Refuses(String),
    /// It answered nothing at all, not even the greeting.
    NotReady(Duration),
    /// It closed its standard output.
    Closed,
    /// It ended within a message.
    CutOff,
    Ended(ExitStatus),
    Text,
    TooLarge,
    NoMessage(String),
    TooMuch,
    Differently,
    /// It ended after its last answer, but not well.
    Failed(ExitStatus),
    /// It did not end at all.
    Endless(Duration),
    /// It ended, and another process holds its standard output open.
    LeftBehind(Duration),
}

/// How a program ended, as people say it.
fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => {
            let name = nix::sys::signal::Signal::try_from(signal).map(|signal| signal.as_str());
            format!("signal {signal} ({})", name.unwrap_or("unknown"))
        }
        (None, None) => "an unknown status".to_owned(),
    }
}

/// A time as an author writes it.
fn seconds(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// Where the program itself says more.
const ITS_STDERR: &str =
    "GATE_LOG=debug shows the last lines of its stderr: correct it, deploy it, then run it again";

impl Wrong {
    /// What happened.
    pub(super) fn what(&self, run: &Run) -> String {
        let program = run.command.first().map_or("", String::as_str);
        let what = match self {
            Wrong::NotStarted(error) => format!("cannot be started: {}", reason(error)),
            Wrong::Refuses(why) => format!("refuses to begin: {why}"),
            Wrong::NotReady(time) => {
                format!("did not answer the greeting within {}", seconds(*time))
            }
            Wrong::Silent(time) => {
                format!("did not answer within {}, its timeout for a document", seconds(*time))
            }
            Wrong::Closed => "closed its standard output before it answered".to_owned(),
            Wrong::CutOff => "ended its output within an answer".to_owned(),
            Wrong::Ended(status) => format!("ended with {} before it answered", ended(*status)),
            Wrong::Text => "wrote text to standard output, where its answers belong".to_owned(),
            Wrong::TooLarge => "gave an answer of more than 33 MiB".to_owned(),
            Wrong::NoMessage(why) => format!("gave an answer that the gate cannot read: {why}"),
            Wrong::TooMuch => "answered more often than it was asked".to_owned(),
            Wrong::Differently => "answered the same input differently the second time".to_owned(),
            Wrong::Failed(status) => {
                format!("ended with {} after it had answered everything", ended(*status))
            }
            Wrong::Endless(time) => format!(
                "did not end within {} after the end of its input, and was killed",
                seconds(*time)
            ),
            Wrong::LeftBehind(time) => format!(
                "ended, but a process that it started kept its standard output open for {}",
                seconds(*time)
            ),
        };
        format!("the program {program:?} {what}")
    }

    /// Whether answers are missing that the program may have held back: those of documents that it had dealt with.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Wrong::Silent(_) | Wrong::Closed | Wrong::CutOff | Wrong::Ended(_))
    }

    /// What to do next.
    pub(super) fn next(&self, run: &Run) -> String {
        match self {
            Wrong::NotStarted(error) if is_there(run, error) => {
                "let its first line name an interpreter that the image has (a line that ends as on Windows names none), \
                 or build it for this image, then run it again"
            }
            Wrong::NotStarted(error) if is_a_line(run, error) => {
                "write the program and each of its arguments as an item of its own ([python3, pin.py]), as no shell reads \
                 them; then run it again"
            }
            Wrong::NotStarted(error) if error.kind() == io::ErrorKind::NotFound => {
                "run the gate from an image that has this program (the stock image has none: copy the gate's binary \
                 into an image of your language), or correct the name, then run it again"
            }
            Wrong::NotStarted(error) if error.raw_os_error() == Some(nix::libc::ENOEXEC) => {
                "begin it with a line that names its interpreter (#!/usr/bin/env python3), or build it for this \
                 machine, then run it again"
            }
            Wrong::NotStarted(_) => {
                "make it a file that the gate's user may execute, on a volume that is not mounted noexec, or name its \
                 interpreter before it ([python3, pin.py]), then run it again"
            }
            Wrong::Refuses(_) => "correct what it names, then run it again",
            Wrong::NotReady(_) => {
                "let it answer the greeting { gate: 1, … } with { ready: 1 } before it waits for anything else, and \
                 flush; or give it more time with the step's timeout; then run it again"
            }
            Wrong::Silent(_) => {
                "let it answer every message before it waits for the next one, and flush; or give it more time with \
                 the step's timeout; then run it again"
            }
            Wrong::Closed => {
                "let it keep standard output open until its input ends, deploy it, then run it again"
            }
            Wrong::Ended(status) if status.signal() == Some(9) => {
                "if it was killed for its memory, raise the container's memory limit; otherwise find what killed it; \
                 then run it again"
            }
            Wrong::Ended(status) if status.success() => {
                "let it answer until its input ends: a program with the helper for Python has @transform in the file that \
                 is started, and one with the helper for Node calls transform once; deploy it, then run it again"
            }
            Wrong::CutOff | Wrong::Ended(_) => ITS_STDERR,
            Wrong::Text => {
                "let it print to stderr only (the helpers for Python and Node see to that once transform is called), \
                 deploy it, then run it again"
            }
            Wrong::TooLarge => {
                "let it set less than a document may hold, 16 MiB, and add fewer or smaller documents for one document; \
                 deploy it, then run it again"
            }
            Wrong::NoMessage(_) => {
                "let it answer as the documentation of program steps says (the helpers for Python and Node do), \
                 deploy it, then run it again"
            }
            Wrong::TooMuch => {
                "let it write exactly one answer for each message, in their order, deploy it, then run it again"
            }
            Wrong::Differently => {
                "let its answers depend on the document and on what was found alone: no clock, no random numbers, no \
                 order of a set, nothing that it remembers, and answers in the order of the messages; deploy it, then \
                 run it again"
            }
            Wrong::Failed(_) => {
                "let it exit with 0 at the end of its input; GATE_LOG=debug shows the last lines of its stderr; deploy \
                 it, then run it again"
            }
            Wrong::Endless(_) => {
                "let it exit when its input ends, deploy it, then run it again"
            }
            Wrong::LeftBehind(_) => {
                "let it wait for what it starts, and start nothing in a session of its own; end the process that is \
                 left; deploy the program, then run it again"
            }
        }
        .to_owned()
    }
}

/// Whether a program that the system does not find is there all the same: then its interpreter is not.
fn is_there(run: &Run, error: &io::Error) -> bool {
    let program = run.command.first().map(Path::new);
    error.kind() == io::ErrorKind::NotFound
        && program.is_some_and(|program| program.components().count() > 1 && program.exists())
}

/// Whether a program that is not there is named as a line for a shell.
fn is_a_line(run: &Run, error: &io::Error) -> bool {
    let named = run.command.first().is_some_and(|program| program.contains(char::is_whitespace));
    named && error.kind() == io::ErrorKind::NotFound
}

/// An error of the system without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

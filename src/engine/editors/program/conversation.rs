//! A running program, and the messages between it and the gate. The gate reads answers while it writes questions, and
//! writes only a bounded number of questions ahead: a program whose answers nobody reads stops reading as well.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use mongodb::bson::RawDocument;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::time::{Instant, sleep_until, timeout};

use super::messages;
use super::output::Output;
use super::process::{Pipes, Process};
use super::wrong::Wrong;
use crate::authoring::editor::Run;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;

/// How long a program may take to start, where its timeout for a document is shorter.
const START: Duration = Duration::from_secs(30);

/// How many messages, and bytes of them, the gate is ahead of the answers at most: on a busy machine each change from one
/// process to the other takes as long as many answers.
const AHEAD: usize = 2048;
const AHEAD_BYTES: usize = 1024 * 1024;

/// How many bytes are joined to be written at once.
const CHUNK: usize = 1 << 16;

/// How long a program may take to end after the end of its input, and then after SIGTERM.
const END: Duration = Duration::from_secs(5);
const TERMINATED: Duration = Duration::from_secs(1);

/// How long to wait for how a program ended that has closed its output.
const MOMENT: Duration = Duration::from_millis(500);

/// A program that was started and has answered the greeting.
pub(super) struct Running {
    process: Process,
    stdin: ChildStdin,
    output: Output,
    /// Whether it has answered any question: the first one is asked alone.
    has_answered: bool,
}

/// What is sent to ask about one document, and its hash.
pub(super) struct Question<'a> {
    pub(super) parts: Vec<Cow<'a, [u8]>>,
    pub(super) input: u64,
}

/// What a program did wrong, and at which question.
pub(super) struct Fault {
    pub(super) position: Option<usize>,
    /// How many of the questions after that one it had been asked: one that holds answers back may have come as far.
    pub(super) behind: usize,
    pub(super) wrong: Wrong,
}

/// Whether more answers are wanted.
#[derive(PartialEq, Eq)]
pub(super) enum More {
    Yes,
    No,
}

/// A question that was not answered yet.
struct Open {
    input: u64,
    bytes: usize,
    /// Up to where the conversation must have been written before it can be answered.
    end: usize,
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Self {
        Fault { position: None, behind: 0, wrong }
    }
}

impl Running {
    /// Starts a program and greets it.
    pub(super) async fn start(
        run: &Run,
        upgrade: &VersionUpgrade,
        transform: &Transform,
    ) -> Result<Self, Wrong> {
        let step = transform.name();
        let (process, pipes) = Process::start(run, &step).map_err(Wrong::NotStarted)?;
        let Pipes { stdin, stdout } = pipes;
        let output = Output::new(stdout);
        let mut running = Running { process, stdin, output, has_answered: false };
        let version = upgrade.version.to_string();
        let greeting = messages::greeting(&version, &step, &transform.collection);
        // one that does not read it has ended, or does not answer it
        let _ = running.stdin.write_all(greeting.as_bytes()).await;
        let time = run.timeout.max(START);
        let ready = match timeout(time, running.output.next()).await {
            Ok(Ok(answer)) => messages::ready(&answer),
            Ok(Err(wrong)) => Err(running.why(wrong).await),
            Err(_) => Err(running.output.stalled().unwrap_or(Wrong::NotReady(time))),
        };
        ready.map(|()| running)
    }

    /// Asks so many questions, and gives each answer to `each` with the position and the hash of its question, until it
    /// wants no more. If the future is dropped, the program must be dropped with it: its next answer would be to another
    /// question.
    pub(super) async fn ask_all<'a>(
        &mut self,
        questions: usize,
        question: impl Fn(usize) -> Question<'a>,
        time: Duration,
        mut each: impl FnMut(usize, u64, &RawDocument) -> Result<More, Wrong>,
    ) -> Result<(), Fault> {
        let (mut asked, mut answered, mut more) = (0, 0, More::Yes);
        let (mut open, mut open_bytes) = (VecDeque::<Open>::new(), 0);
        let (mut ready, mut at) = (VecDeque::<Cow<'a, [u8]>>::new(), 0);
        let (mut made, mut written) = (0, 0);
        let mut until = Instant::now() + time;
        loop {
            let most = if self.has_answered { AHEAD } else { 1 };
            // many at a time: each write may wake the program up
            if ready.is_empty() && open.len() <= most / 2 && open_bytes <= AHEAD_BYTES / 2 {
                while more == More::Yes
                    && asked < questions
                    && open.len() < most
                    && open_bytes < AHEAD_BYTES
                {
                    let Question { parts, input } = question(asked);
                    let bytes = parts.iter().map(|part| part.len()).sum();
                    parts.into_iter().for_each(|part| join(&mut ready, part));
                    (asked, open_bytes, made) = (asked + 1, open_bytes + bytes, made + bytes);
                    open.push_back(Open { input, bytes, end: made });
                }
            }
            let Some(next) = open.front() else { break };
            let fault = |wrong: Wrong| {
                let asked = open.iter().filter(|open| wrong.is_silence() && open.end <= written);
                let behind = asked.count().saturating_sub(1);
                Fault { position: Some(answered), behind, wrong }
            };
            let front = ready.front().map_or(&[][..], |part| &part[at..]);
            tokio::select! {
                biased;
                answer = self.output.next() => {
                    let answer = match answer {
                        Ok(answer) => answer,
                        Err(wrong) => return Err(fault(self.why(wrong).await)),
                    };
                    if next.end > written {
                        // before it can have read the question
                        return Err(fault(Wrong::TooMuch));
                    }
                    // what comes after enough is asked about again
                    if more == More::Yes {
                        more = each(answered, next.input, &answer).map_err(fault)?;
                    }
                    open_bytes -= next.bytes;
                    open.pop_front();
                    answered += 1;
                    self.has_answered = true;
                    until = Instant::now() + time;
                }
                result = self.stdin.write(front), if !front.is_empty() => {
                    match result {
                        Ok(bytes) => (at, written) = (at + bytes, written + bytes),
                        // it reads no more: its output says the rest
                        Err(_) => ready.clear(),
                    }
                    if ready.front().is_some_and(|part| at >= part.len()) {
                        ready.pop_front();
                        at = 0;
                    }
                }
                () = sleep_until(until) => {
                    // another process may hold its output open
                    let ended = || self.process.has_ended().map(Wrong::Ended);
                    let wrong = self.output.stalled().or_else(ended);
                    return Err(fault(wrong.unwrap_or(Wrong::Silent(time))));
                }
            }
        }
        match self.output.unasked() {
            Some(wrong) => Err(Fault { position: answered.checked_sub(1), behind: 0, wrong }),
            None => Ok(()),
        }
    }

    /// Ends the program: its input ends, and it is to exit with 0 in time.
    pub(super) async fn end(self) -> Result<(), Wrong> {
        let Running { process, stdin, mut output, .. } = self;
        drop(stdin);
        let ending = async { (output.rest().await, process.ended().await) };
        match timeout(END, ending).await {
            Ok((Some(wrong), _)) => Err(wrong),
            Ok((None, Some(status))) if !status.success() => Err(Wrong::Failed(status)),
            Ok((None, _)) => Ok(()),
            Err(_) if let Some(status) = process.has_ended() => match status.success() {
                true => Err(Wrong::LeftBehind(END)),
                false => Err(Wrong::Failed(status)),
            },
            Err(_) => {
                process.terminate();
                let _ = timeout(TERMINATED, process.ended()).await;
                Err(Wrong::Endless(END))
            }
        }
    }

    /// What is wrong, where a program whose output ended may have ended itself.
    async fn why(&self, wrong: Wrong) -> Wrong {
        match wrong {
            Wrong::Closed | Wrong::CutOff => {}
            wrong => return wrong,
        }
        match timeout(MOMENT, self.process.ended()).await {
            Ok(Some(status)) => Wrong::Ended(status),
            _ => wrong,
        }
    }
}

/// Appends a part of a message to what is to be written; small ones become one.
fn join<'a>(ready: &mut VecDeque<Cow<'a, [u8]>>, part: Cow<'a, [u8]>) {
    match (ready.back_mut(), part) {
        (Some(Cow::Owned(last)), Cow::Owned(part)) if last.len() < CHUNK => last.extend(part),
        (_, part) => ready.push_back(part),
    }
}

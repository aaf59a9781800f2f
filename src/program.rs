//! The process around a run: arguments, settings, log, report and exit status.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::engine::failing::closed;
use crate::gate::Gate;
use crate::modes::run::{POLL, SAY};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::report::Report;
use crate::process::settings::{
    Arguments, LogFormat, Mode, Settings, Unread, arguments, default_report_file, help,
};
use crate::process::{allocator, blocking, log};
use crate::server::retry::jittered;
use crate::server::stop::Stop;
use crate::version::Version;

/// How long the report file may take: nobody may be there to read a named pipe.
const SOON: Duration = Duration::from_secs(2);

impl Gate {
    /// The whole of an application's gate: reads arguments and settings, runs, reports, and returns the
    /// process's exit status.
    pub fn main(self) -> ExitCode {
        let name = std::env::args_os().next();
        let program = name
            .as_deref()
            .and_then(|path| Path::new(path).file_name())
            .map_or("upgrade-gate".into(), |name| name.to_string_lossy());
        match arguments(std::env::args_os().skip(1)) {
            Ok(Arguments::Run(mode)) => {
                allocator::settle(mode);
                self.run_process(mode)
            }
            Ok(Arguments::Help) => printed(&help(&program, &self.code_version)),
            Ok(Arguments::Version) => printed(&format!("{program} {}", self.code_version)),
            Err(failure) => self.refuse(failure),
        }
    }

    fn run_process(self, mode: Option<Mode>) -> ExitCode {
        // what a panic says may hold a document's contents
        std::panic::set_hook(Box::new(|panic| {
            let location = panic.location().map(ToString::to_string);
            tracing::error!(location, "a panic");
        }));
        // before anything that may take its time: from here on a signal ends the run, not the process
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return self.refuse(Failure::bug(format!("no runtime: {error}"))),
        };
        let stop = Stop::new();
        let listening = {
            let _inside = runtime.enter();
            stop.on_signals()
        };
        if let Err(failure) = listening {
            return self.refuse(failure);
        }
        // a code version that cannot be recorded is told before any setting is
        let code = match self.check() {
            Ok(code) => code,
            Err(failure) => return self.refuse(failure),
        };
        let settings = match runtime.block_on(settings_in_time(&code, mode, &stop)) {
            Ok(settings) => settings,
            Err(failure) => return self.refuse(failure),
        };
        log::init(&settings.log, settings.log_format);
        self.tell_start(&settings, &code);
        let report = runtime.block_on(self.run_until(&settings, stop));
        // what the driver still has under way does not matter any more
        runtime.shutdown_background();
        finish(&report, settings.report_file.as_deref())
    }

    fn tell_start(&self, settings: &Settings, code: &Version) {
        let target = settings.target_version.as_ref().unwrap_or(code);
        tracing::info!(
            app = self.app,
            mode = %settings.mode,
            database = settings.database,
            target = %target,
            "started"
        );
    }

    /// Ends a process that could not begin a run.
    fn refuse(&self, failure: Failure) -> ExitCode {
        let format = match std::env::var("GATE_LOG_FORMAT").as_deref() {
            Ok("text") => Some(LogFormat::Text),
            Ok("json") => Some(LogFormat::Json),
            _ => None,
        };
        log::init(&Targets::new().with_default(LevelFilter::INFO), format);
        let mut report = self.blank_report();
        report.end(failure.outcome, failure.message, Some(failure.next));
        // what else is wrong, this one can be read
        let file = std::env::var_os("GATE_REPORT_FILE").filter(|file| !file.is_empty());
        finish(&report, file.map(PathBuf::from).or_else(default_report_file).as_deref())
    }
}

/// The settings, waiting for a file of the connection string that something else may fill.
async fn settings_in_time(
    code: &Version,
    mode: Option<Mode>,
    stop: &Stop,
) -> Result<Settings, Failure> {
    let began = Instant::now();
    let mut said: Option<Instant> = None;
    loop {
        let (failure, waits) = match Settings::read_env(code, mode) {
            Ok(settings) => return Ok(settings),
            Err(Unread { failure, waits: Some(waits) }) => (failure, waits),
            Err(Unread { failure, waits: None }) => return Err(failure),
        };
        if waits.timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
            return Err(failure);
        }
        if said.is_none_or(|said| said.elapsed() >= SAY) {
            log::init(&waits.log, waits.log_format);
            tracing::info!(reason = failure.message, "waiting for the connection string");
            said = Some(Instant::now());
        }
        let rest = waits.timeout.map_or(POLL, |timeout| timeout.saturating_sub(began.elapsed()));
        stop.sleep(jittered(POLL).min(rest)).await.map_err(|error| closed(error, "waiting"))?;
    }
}

fn printed(text: &str) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    ExitCode::SUCCESS
}

/// Writes a file, unless that takes long. What went wrong holds no path, which may be anything.
fn write_soon(file: &Path, text: String) -> Result<(), String> {
    let path = file.to_owned();
    match blocking::within(SOON, move || std::fs::write(path, text)) {
        Some(written) => written.map_err(|error| error.to_string()),
        None => Err(format!("nothing took it within {} s", SOON.as_secs())),
    }
}

/// Writes the report and, as the last line of the log, the outcome.
fn finish(report: &Report, file: Option<&Path>) -> ExitCode {
    if let Some(file) = file
        && let Err(error) = write_soon(file, report.to_termination_message())
    {
        tracing::warn!(error, "GATE_REPORT_FILE could not be written");
    }
    let _ = writeln!(std::io::stdout(), "{}", report.to_json());
    let Report { app, database, from, to, outcome, exit_code, message, duration_ms, .. } = report;
    if *exit_code == Outcome::Open.code() {
        tracing::info!(
            app,
            database,
            from,
            recorded = to,
            outcome,
            exit_code,
            duration_ms,
            reason = message,
            "gate open"
        );
    } else {
        tracing::error!(
            app,
            database,
            from,
            recorded = to,
            outcome,
            exit_code,
            duration_ms,
            reason = message,
            next = report.next,
            "gate closed"
        );
    }
    ExitCode::from(*exit_code)
}

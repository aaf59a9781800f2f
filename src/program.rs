//! The process around a run: arguments, settings, log, report and exit status.

#[cfg(feature = "files")]
mod files;
#[cfg(feature = "files")]
mod test;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
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
use crate::process::report::{Report, VALIDATE};
use crate::process::settings::{
    Arguments, LogFormat, Mode, Program, ReportFormat, SettingNames, Settings, Unread, arguments,
    default_report_file, help,
};
use crate::process::{allocator, blocking, log, text};
use crate::server::retry::jittered;
use crate::server::stop::Stop;
use crate::version::Version;

#[cfg(feature = "files")]
pub use files::run_files;

/// How long the report file may take: nobody may be there to read a named pipe.
const SOON: Duration = Duration::from_secs(2);

impl Gate {
    /// The whole of an application's gate: reads arguments and settings, runs, reports, and returns the
    /// process's exit status.
    pub fn main(self) -> ExitCode {
        let program = program_name();
        match arguments(std::env::args_os().skip(1)) {
            Ok(Arguments::Run(mode)) => {
                allocator::settle(mode);
                self.run_process(mode, &program)
            }
            Ok(Arguments::Help) => printed(&help(&program, &self.code_version, self.program)),
            Ok(Arguments::Version) => printed(&format!("{program} {}", self.code_version)),
            Err(failure) => self.refuse(failure, &program),
        }
    }

    fn run_process(self, mode: Option<Mode>, program: &str) -> ExitCode {
        // what a panic says may hold a document's contents
        std::panic::set_hook(Box::new(|panic| {
            let location = panic.location().map(ToString::to_string);
            tracing::error!(location, "a panic");
        }));
        // before anything that may take its time: from here on a signal ends the run, not the process
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                return self.refuse(Failure::bug(format!("no runtime: {error}")), program);
            }
        };
        let stop = Stop::new();
        let listening = {
            let _inside = runtime.enter();
            stop.on_signals()
        };
        if let Err(failure) = listening {
            return self.refuse(failure, program);
        }
        // a code version that cannot be recorded is told before any setting is
        let code = match self.check() {
            Ok(code) => code,
            Err(failure) => return self.refuse(failure, program),
        };
        let settings = match runtime.block_on(settings_in_time(&code, mode, self.program, &stop)) {
            Ok(settings) => settings,
            Err(failure) => return self.refuse(failure, program),
        };
        log::init(&settings.log, settings.log_format);
        self.tell_start(&settings, &code);
        let report = runtime.block_on(self.run_until(&settings, stop));
        // what the driver still has under way does not matter any more
        runtime.shutdown_background();
        Telling {
            program,
            file: settings.report_file.as_deref(),
            format: settings.report_format,
            log_format: settings.log_format,
        }
        .finish(&report)
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
    fn refuse(&self, failure: Failure, program: &str) -> ExitCode {
        let names = SettingNames::from_env();
        let mut report = self.blank_report();
        report.end(
            failure.outcome,
            names.named(&failure.message),
            Some(names.named(&failure.next)),
        );
        tell_without_settings(&report, program)
    }
}

/// Tells how a process ended for which no settings were read.
fn tell_without_settings(report: &Report, program: &str) -> ExitCode {
    // whatever else is wrong, these can be read
    let log_format = chosen("GATE_LOG_FORMAT").and_then(|text| text.parse::<LogFormat>().ok());
    let format = chosen("GATE_REPORT_FORMAT").and_then(|text| text.parse::<ReportFormat>().ok());
    log::init(&Targets::new().with_default(LevelFilter::INFO), log_format);
    let file = set("GATE_REPORT_FILE").map(PathBuf::from).or_else(default_report_file);
    Telling { program, file: file.as_deref(), format, log_format }.finish(report)
}

/// A variable of the environment, unless it is empty.
fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The same, as text.
fn chosen(name: &str) -> Option<String> {
    set(name)?.into_string().ok()
}

/// What this program was called as.
fn program_name() -> String {
    let name = std::env::args_os().next();
    let name = name.as_deref().and_then(|path| Path::new(path).file_name());
    name.map_or("upgrade-gate".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The settings, waiting for a file of the connection string that something else may fill.
async fn settings_in_time(
    code: &Version,
    mode: Option<Mode>,
    program: Program,
    stop: &Stop,
) -> Result<Settings, Failure> {
    let began = Instant::now();
    let mut said: Option<Instant> = None;
    loop {
        let (failure, waits) = match Settings::read_env(code, mode, program) {
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

/// How a process tells how it ended.
struct Telling<'a> {
    program: &'a str,
    file: Option<&'a Path>,
    format: Option<ReportFormat>,
    log_format: Option<LogFormat>,
}

impl Telling<'_> {
    /// Writes the report and, as the last line of the log, the outcome. Text for people comes after that, so that it
    /// is the last thing to be read wherever both streams end up in one.
    fn finish(self, report: &Report) -> ExitCode {
        if let Some(file) = self.file
            && let Err(error) = write_soon(file, report.to_termination_message())
        {
            tracing::warn!(error, "GATE_REPORT_FILE could not be written");
        }
        let terminal = io::stdout().is_terminal();
        let format = self.format.unwrap_or(match terminal {
            true => ReportFormat::Text,
            false => ReportFormat::Json,
        });
        match format {
            ReportFormat::Json => {
                let _ = writeln!(io::stdout(), "{}", report.to_json());
                tell_end(report);
            }
            ReportFormat::Text => {
                let text = report.to_text();
                let both = terminal && io::stderr().is_terminal();
                // whoever sits at the terminal reads all of it in the text
                if !both || self.log_format == Some(LogFormat::Json) {
                    tell_end(report);
                }
                let text = match terminal {
                    // set apart from the log
                    true => format!("\n{}", text::as_typed(&text, self.program)),
                    false => text,
                };
                let mut stdout = io::stdout().lock();
                let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
            }
        }
        ExitCode::from(report.exit_code)
    }
}

/// The last line of the log.
fn tell_end(report: &Report) {
    let Report { app, database, from, to, outcome, exit_code, message, duration_ms, .. } = report;
    if report.mode == VALIDATE && *exit_code == Outcome::Open.code() {
        tracing::info!(app, outcome, exit_code, duration_ms, reason = message, "validated");
    } else if report.status.is_some() {
        tracing::info!(
            app,
            database,
            recorded = to,
            outcome,
            exit_code,
            duration_ms,
            reason = message,
            "status"
        );
    } else if *exit_code == Outcome::Open.code() {
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
}

//! The process around a run: arguments, settings, log, report and exit status.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::exit::Outcome;
use crate::failure::Failure;
use crate::gate::Gate;
use crate::log;
use crate::report::Report;
use crate::settings::{Arguments, LogFormat, Settings, arguments, default_report_file, help};
use crate::stop::Stop;
use crate::version::Version;

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
            Ok(Arguments::Run) => self.run_process(),
            Ok(Arguments::Help) => printed(&help(&program, &self.code_version)),
            Ok(Arguments::Version) => printed(&format!("{program} {}", self.code_version)),
            Err(failure) => self.refuse(failure),
        }
    }

    fn run_process(self) -> ExitCode {
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
            Ok((code, _)) => code,
            Err(failure) => return self.refuse(failure),
        };
        let settings = match Settings::from_env(&code) {
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

fn printed(text: &str) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    ExitCode::SUCCESS
}

/// Writes the report and, as the last line of the log, the outcome.
fn finish(report: &Report, file: Option<&Path>) -> ExitCode {
    if let Some(file) = file {
        let is_termination_message = default_report_file().as_deref() == Some(file);
        let text =
            if is_termination_message { report.to_termination_message() } else { report.to_json() };
        if let Err(error) = std::fs::write(file, text) {
            tracing::warn!(error = %error, "GATE_REPORT_FILE could not be written");
        }
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

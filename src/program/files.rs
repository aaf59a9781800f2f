//! The program whose upgrades are files: `upgrade-gate`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::time::Instant;

use super::test::test;
use super::{chosen, printed, program_name, set, tell_without_settings};
use crate::files::{Files, read};
use crate::gate::Gate;
use crate::process::allocator;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::report::{Report, TEST, VALIDATE};
use crate::process::settings::{Arguments, Program, UPGRADES, UPGRADES_DIRECTORY, arguments, help};
use crate::process::text::counted;

/// How a run of that mode ended that found nothing wrong.
const VALID: &str = "valid";

/// The whole of the program `upgrade-gate`: reads the upgrades from the directory that `GATE_UPGRADES` names, and does
/// with them what [`Gate::main`](crate::Gate::main) does; with the argument `validate` it only checks them, and with
/// `test` it runs their tests on databases of its own.
pub fn run_files() -> ExitCode {
    let program = program_name();
    let given: Vec<_> = std::env::args_os().skip(1).collect();
    let first = |argument| given.first().is_some_and(|first| first == argument);
    let helps = given.iter().any(|arg| arg == "--help" || arg == "-h");
    let validates = first(VALIDATE);
    if validates && !helps {
        return match validated(&given[1..]) {
            Ok(directory) => validate(&directory, &program),
            Err(failure) => unknown_gate().refuse(failure, &program),
        };
    }
    if first(TEST) && !helps {
        return match named(TEST, &given[1..]) {
            Ok(directory) => test(&directory, &program),
            Err(failure) => unknown_gate().refuse(failure, &program),
        };
    }
    let asked = arguments(given.iter().filter(|arg| !validates || *arg != VALIDATE));
    match asked {
        Ok(Arguments::Run(None)) if chosen("GATE_MODE").as_deref() == Some(VALIDATE) => {
            validate(&directory(), &program)
        }
        Ok(Arguments::Run(mode)) => {
            allocator::settle(mode);
            let files = read(directory(), chosen("GATE_APP_VERSION").as_deref());
            match files.gate() {
                Ok(gate) => gate.run_process(mode, &program),
                Err(failure) => files.named_gate().refuse(failure, &program),
            }
        }
        Ok(Arguments::Help) => printed(&help(&program, env!("CARGO_PKG_VERSION"), Program::Files)),
        Ok(Arguments::Version) => {
            let files = read(directory(), chosen("GATE_APP_VERSION").as_deref());
            let of = files.app.zip(files.version);
            let of = of.map(|(app, version)| format!("\n{app} {version}")).unwrap_or_default();
            printed(&format!("{program} {}{of}", env!("CARGO_PKG_VERSION")))
        }
        Err(mut failure) => {
            failure.message += ", or validate or test with a directory";
            unknown_gate().refuse(failure, &program)
        }
    }
}

/// The directory of upgrades.
fn directory() -> PathBuf {
    set(UPGRADES).map_or(UPGRADES_DIRECTORY.into(), PathBuf::from)
}

/// The directory that is to be checked.
fn validated<A: AsRef<OsStr>>(rest: &[A]) -> Result<PathBuf, Failure> {
    if chosen("GATE_MODE").is_some_and(|mode| mode != VALIDATE) {
        return Err(Failure::new(
            Outcome::SettingWrong,
            "the argument says validate, but GATE_MODE is set to another mode",
            "leave out one of the two, or set GATE_MODE to validate as well",
        ));
    }
    named(VALIDATE, rest)
}

/// The directory that may follow this argument.
fn named<A: AsRef<OsStr>>(argument: &str, rest: &[A]) -> Result<PathBuf, Failure> {
    match rest {
        [] => Ok(directory()),
        [directory] if !directory.as_ref().as_encoded_bytes().starts_with(b"-") => {
            Ok(directory.as_ref().into())
        }
        _ => Err(Failure::new(
            Outcome::SettingWrong,
            format!("{argument} takes one argument at most, the directory of upgrades"),
            "other settings are environment variables, see --help",
        )),
    }
}

/// Says what is wrong with the files.
fn validate(directory: &Path, program: &str) -> ExitCode {
    let began = Instant::now();
    let files = read(directory, chosen("GATE_APP_VERSION").as_deref());
    let mut report = files.named_gate().blank_report();
    report.mode = VALIDATE.to_owned();
    judge(&mut report, &files);
    report.duration_ms = began.elapsed().as_millis() as u64;
    report.mistakes = files.mistakes;
    tell_without_settings(&report, program)
}

fn judge(report: &mut Report, files: &Files) {
    let warnings = files.mistakes.len().saturating_sub(files.errors);
    let warned = match warnings {
        0 => String::new(),
        n => format!(", {}", counted(n as u64, "warning", "warnings")),
    };
    if files.errors == 0 {
        let upgrades = counted(files.upgrades as u64, "upgrade", "upgrades");
        report.end(Outcome::Open, format!("{upgrades}, no mistakes{warned}"), None);
        // nothing was asked of a database
        report.outcome = VALID.to_owned();
        return;
    }
    let mistakes = counted(files.errors as u64, "mistake", "mistakes");
    let message = format!("the files of upgrades are wrong: {mistakes}{warned}");
    let next = "correct what is shown, then validate again";
    report.end(Outcome::SettingWrong, message, Some(next.to_owned()));
}

fn unknown_gate() -> Gate {
    Gate::new("upgrade-gate", env!("CARGO_PKG_VERSION")).of_files()
}

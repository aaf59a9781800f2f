//! The command line: the mode, `--help` and `--version`.

use std::ffi::OsStr;

use strum::VariantNames;

use super::choices::{Mode, Program};
use super::table::{Fallback, SETTINGS};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;

const WIDTH: usize = 100;

/// What people type: what stands before the program's name, the mode, what stands after it, and what it is for.
const EXAMPLES: &[(&str, &str, &str, &str)] = &[
    ("", "status", "", "where is the database, and how did it get there?"),
    ("", "plan", "", "what would an upgrade do? Writes nothing"),
    ("GATE_FROM_VERSION=1.2.3 ", "plan", "", "where there is no record: it last ran 1.2.3"),
    ("", "upgrade", "", "bring the database up to date"),
    ("", "check", "", "may the application start? 0 says yes"),
    ("GATE_REPORT_FORMAT=text ", "plan", " | tee plan.txt", "keep what it says"),
];

/// What is typed more where upgrades are files.
const EXAMPLES_OF_FILES: &[(&str, &str, &str, &str)] = &[
    ("", "validate", " ./upgrades", "are the files of upgrades right? Needs no server"),
    (
        "",
        "test",
        " ./upgrades",
        "do they survive kills, and leave what their tests expect? On databases of its own",
    ),
    ("GATE_UPGRADES=./upgrades ", "plan", "", "what would these files do? Writes nothing"),
];

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// A run, in the mode that is named here or else in the settings.
    Run(Option<Mode>),
    /// `--help` or `-h`.
    Help,
    /// `--version` or `-V`.
    Version,
}

/// Reads the arguments that follow the program's name.
///
/// # Errors
///
/// [`Outcome::SettingWrong`] for any other argument, which is not repeated: it may be a secret.
pub fn arguments<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Result<Arguments, Failure> {
    let modes = Mode::VARIANTS.join(", ");
    let mut asked = Arguments::Run(None);
    for arg in args {
        let word = arg.as_ref().to_str().unwrap_or_default();
        let mode = word.parse().ok();
        asked = match (word, mode, asked) {
            ("--help" | "-h", ..) => return Ok(Arguments::Help),
            ("--version" | "-V", ..) => Arguments::Version,
            (_, Some(mode), Arguments::Run(None)) => Arguments::Run(Some(mode)),
            _ => {
                return Err(Failure::new(
                    Outcome::SettingWrong,
                    format!("the gate takes one argument at most, the mode: {modes}"),
                    "other settings are environment variables, see --help",
                ));
            }
        };
    }
    Ok(asked)
}

/// The text of `--help`, for a program and its code version.
pub(crate) fn help(program: &str, version: &str, kind: Program) -> String {
    let about = "Decides, from one document in MongoDB, whether an application may start on its \
                 database, and brings the database up to date first when told to. Its exit status \
                 opens the gate (0) or closes it (any other).";
    let mut text = format!("{program} {version}\n\n");
    for line in wrapped(about, WIDTH) {
        text += &format!("{line}\n");
    }
    text +=
        "\nExamples:\n\n  export GATE_MONGODB_URI=mongodb://user:password@host:27017/database\n\n";
    let of_files = match kind {
        Program::Compiled => &[],
        Program::Files => EXAMPLES_OF_FILES,
    };
    text += &columns(of_files.iter().chain(EXAMPLES).map(|(before, mode, after, meaning)| {
        [format!("{before}{program} {mode}{after}"), String::new(), (*meaning).into()]
    }));
    text += "\nSettings are environment variables; durations are written like 90s or 10m:\n\n";
    let settings = SETTINGS.iter().filter(|setting| setting.is_of(kind));
    text += &columns(settings.map(|setting| {
        let (Fallback::Value(default) | Fallback::Words(default)) = setting.default;
        [setting.name.into(), default.into(), setting.description().replace(['`', '*'], "")]
    }));
    text += "\nExit codes:\n\n";
    text += &columns(Outcome::ALL.iter().map(|outcome| {
        let retry = if outcome.retry_can_help() { "retry" } else { "" };
        [format!("{:>2}", outcome.code()), retry.into(), outcome.meaning().into()]
    }));
    text += "\nArguments: the mode, in place of GATE_MODE; --help; --version\n";
    if kind == Program::Files {
        text += "           validate [DIRECTORY], test [DIRECTORY], in place of GATE_UPGRADES\n";
    }
    text
}

/// Rows in aligned columns, the last of which is wrapped.
fn columns(rows: impl Iterator<Item = [String; 3]>) -> String {
    let rows: Vec<_> = rows.collect();
    let widest = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (first, second) = (widest(0), widest(1));
    let mut text = String::new();
    for [one, two, rest] in &rows {
        let mut head = match second {
            0 => format!("  {one:first$}  "),
            _ => format!("  {one:first$}  {two:second$}  "),
        };
        for line in wrapped(rest, WIDTH - head.len()) {
            text += &format!("{head}{line}\n");
            head = " ".repeat(head.len());
        }
    }
    text
}

/// Lines of at most `width` characters, broken between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_setting_and_exit_code_within_its_width() {
        let compiled = help("datalab-upgrade", "0.8.0", Program::Compiled);
        assert!(!compiled.contains("GATE_UPGRADES") && !compiled.contains("validate ["));
        let text = help("datalab-upgrade", "0.8.0", Program::Files);
        assert!(text.starts_with("datalab-upgrade 0.8.0\n"));
        for mode in EXAMPLES.iter().map(|(_, mode, ..)| mode) {
            assert!(mode.parse::<Mode>().is_ok(), "{mode}");
            assert!(text.contains(&format!("datalab-upgrade {mode}")), "{text}");
        }
        for line in text.lines() {
            assert!(line.len() <= WIDTH, "{line}");
            assert_eq!(line, line.trim_end(), "{line}");
        }
        for setting in SETTINGS {
            assert!(text.contains(&format!("\n  {} ", setting.name)), "{}", setting.name);
        }
        for &outcome in Outcome::ALL {
            assert!(text.contains(&format!("\n  {:>2} ", outcome.code())), "{outcome}");
        }
    }

    #[test]
    fn understands_its_arguments_and_none() {
        for (args, expected) in [
            (vec![], Arguments::Run(None)),
            (vec!["plan"], Arguments::Run(Some(Mode::Plan))),
            (vec!["plan", "--help"], Arguments::Help),
            (vec!["--help"], Arguments::Help),
            (vec!["-h"], Arguments::Help),
            (vec!["--version"], Arguments::Version),
            (vec!["-V"], Arguments::Version),
            (vec!["--version", "--help"], Arguments::Help),
        ] {
            assert_eq!(arguments(args), Ok(expected));
        }
    }

    #[test]
    fn refuses_any_other_argument_without_repeating_it() {
        for args in [
            vec!["mongodb://u:s3cret@host/db"],
            vec!["plan", "s3cret"],
            vec!["plan", "upgrade"],
            vec!["--version", "s3cret"],
        ] {
            let failure = arguments(args).unwrap_err();
            assert_eq!(failure.outcome, Outcome::SettingWrong);
            assert!(!failure.to_string().contains("s3cret"));
            assert!(failure.to_string().contains("see --help"));
        }
    }
}

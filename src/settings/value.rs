//! How single values are read, and what is said of wrong ones.

use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::exit::Outcome;
use crate::failure::Failure;
use crate::version::{Version, VersionError};

pub(super) fn wrong(message: impl Into<String>, next: impl Into<String>) -> Failure {
    Failure::new(Outcome::SettingWrong, message, next)
}

/// A value for an error message. A connection string may have strayed into any setting.
pub(super) fn shown(value: &str) -> String {
    if value.contains("://") { "a connection string".into() } else { format!("{value:?}") }
}

pub(super) fn choice<T: Copy>(name: &str, text: &str, choices: &[(&str, T)]) -> Result<T, Failure> {
    let chosen = choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    chosen.map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        wrong(
            format!("{name} cannot be {}", shown(text)),
            format!("set {name} to {}", words.join(" or ")),
        )
    })
}

/// A version that can be written to the record.
pub(super) fn version(name: &str, text: &Option<String>) -> Result<Option<Version>, Failure> {
    let parsed = text.as_deref().map(Version::parse_code).transpose();
    parsed.map_err(|error| {
        let message = match &error {
            VersionError::Unreadable(text) => format!("{name} is {}, no version", shown(text)),
            _ => format!("{name}: {error}"),
        };
        let next = match error {
            VersionError::Development(_) => "the release before it",
            _ => "a version X.Y.Z or X.Y.Z-rc.N",
        };
        wrong(message, format!("set {name} to {next}"))
    })
}

pub(super) fn version_up_to(
    code: &Version,
    name: &str,
    text: &Option<String>,
) -> Result<Option<Version>, Failure> {
    match version(name, text)? {
        Some(version) if version > *code => Err(wrong(
            format!("{name} is {version}, but this binary is {code}"),
            format!("set {name} to {code} or earlier, or use a newer binary"),
        )),
        version => Ok(version),
    }
}

pub(super) fn duration(name: &str, text: &str) -> Result<Duration, Failure> {
    let refused = |reason| {
        let message = format!("{name} is {}, which {reason}", shown(text));
        Err(wrong(message, format!("set {name} to a number with its unit, as in 90s or 10m")))
    };
    if text.trim().parse::<f64>().is_ok() {
        return refused("has no unit");
    }
    humantime::parse_duration(text).or_else(|_| refused("is no duration"))
}

/// A duration from 100 ms, in less a living server or holder would look dead, to an hour, in more a
/// dead one alive.
pub(super) fn short_duration(name: &str, text: &str) -> Result<Duration, Failure> {
    match duration(name, text)? {
        duration if duration < Duration::from_millis(100) => Err(wrong(
            format!("{name} is {text}, in which nothing can happen"),
            format!("set {name} to 100ms or more, as in 30s"),
        )),
        duration if duration > Duration::from_secs(60 * 60) => Err(wrong(
            format!("{name} is {text}, more than an hour"),
            format!("set {name} to 1h or less, as in 30s"),
        )),
        duration => Ok(duration),
    }
}

/// A whole number from 1 to `most`.
pub(super) fn count(name: &str, text: &str, most: usize) -> Result<usize, Failure> {
    text.parse().ok().filter(|count| (1..=most).contains(count)).ok_or_else(|| {
        wrong(
            format!("{name} is {}, which is no whole number from 1 to {most}", shown(text)),
            format!("set {name} to a number from 1 to {most}"),
        )
    })
}

/// A lone word is a level: as the name of a module it would silence everything else.
pub(super) fn log(text: &str) -> Result<Targets, Failure> {
    let is_level = |word: &str| !word.is_empty() && LevelFilter::from_str(word).is_ok();
    let has_level = |part: &str| part.contains('=') || is_level(part.trim());
    Targets::from_str(text).ok().filter(|_| text.split(',').all(has_level)).ok_or_else(|| {
        wrong(
            format!("GATE_LOG is {}, which is no level", shown(text)),
            "set GATE_LOG to error, warn, info, debug, trace or off, or by module, as in \
             info,upgrade_gate=debug",
        )
    })
}

//! How single values are read, and what is said of wrong ones.

use std::str::FromStr;
use std::time::Duration;

use derive_more::Display;
use strum::{EnumString, VariantNames};
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::version::{Version, VersionError};

/// What the names of all settings begin with.
pub(super) const PREFIX: &str = "GATE_";

pub(super) fn wrong(message: impl Into<String>, next: impl Into<String>) -> Failure {
    Failure::new(Outcome::SettingWrong, message, next)
}

/// More of a wrong value is never shown.
const SHOWN: usize = 100;

/// Whether a value looks like a connection string or a part of one, which may have strayed into any
/// setting.
pub(super) fn is_secretive(value: &str) -> bool {
    value.contains("://") || value.contains('@') || value.to_ascii_lowercase().contains("mongodb:")
}

/// A value for an error message.
pub(super) fn shown(value: &str) -> String {
    if is_secretive(value) {
        return "a value that is not shown, as it looks like a connection string".into();
    }
    let mut text = value.to_owned();
    crate::visible::cut(&mut text, SHOWN);
    format!("{text:?}")
}

pub(super) fn choice<T: FromStr + VariantNames>(name: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| {
        wrong(
            format!("{name} cannot be {}", shown(text)),
            format!("set {name} to {}", T::VARIANTS.join(" or ")),
        )
    })
}

/// A version that can be written to the record.
pub(super) fn version(name: &str, text: &Option<String>) -> Result<Option<Version>, Failure> {
    let parsed = text.as_deref().map(Version::parse_code).transpose();
    parsed.map_err(|error| {
        let message = match (&error, text) {
            (VersionError::Unreadable(text), _) => {
                format!("{name} is {}, which is not a version", shown(text))
            }
            (_, Some(text)) if is_secretive(text) => format!("{name} is {}", shown(text)),
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
    if !has_known_units(text) {
        return refused("is not a duration in ms, s, m, h and d");
    }
    humantime::parse_duration(text).or_else(|_| refused("is not a duration"))
}

/// A time with its unit, which no setting holds.
#[cfg(feature = "files")]
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    humantime::parse_duration(text).ok().filter(|_| has_known_units(text))
}

/// Whether a text is whole numbers, each with its unit: `M` would be months, and `min` is not ours.
fn has_known_units(text: &str) -> bool {
    let mut rest = text.trim();
    while !rest.is_empty() {
        let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let unit_end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let known = ["ms", "s", "m", "h", "d"].contains(&&after[..unit_end]);
        if after.len() == rest.len() || !known {
            return false;
        }
        rest = after[unit_end..].trim_start_matches(' ');
    }
    true
}

/// A duration from 100 ms (with less, a living server or holder would seem dead) to an hour (with more, a
/// dead one would seem alive).
pub(super) fn short_duration(name: &str, text: &str) -> Result<Duration, Failure> {
    match duration(name, text)? {
        duration if duration < Duration::from_millis(100) => Err(wrong(
            format!("{name} is {}, which is too short", shown(text)),
            format!("set {name} to 100ms or more, as in 30s"),
        )),
        duration if duration > Duration::from_secs(60 * 60) => Err(wrong(
            format!("{name} is {}, more than an hour", shown(text)),
            format!("set {name} to 1h or less, as in 30s"),
        )),
        duration => Ok(duration),
    }
}

/// A whole number from 1 to `most`.
pub(super) fn count(name: &str, text: &str, most: usize) -> Result<usize, Failure> {
    text.parse().ok().filter(|count| (1..=most).contains(count)).ok_or_else(|| {
        wrong(
            format!("{name} is {}, which is not a whole number from 1 to {most}", shown(text)),
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
            format!("GATE_LOG is {}, which is not a log level", shown(text)),
            "set GATE_LOG to error, warn, info, debug, trace or off, or by module, as in \
             info,upgrade_gate=debug",
        )
    })
}

/// A workload of the gate's own namespace, written as `GATE_QUIESCE` and kubectl have it.
#[derive(Clone, Debug, Display, PartialEq, Eq)]
#[display("{kind}/{name}")]
pub struct WorkloadName {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

/// The kinds of workload that can be stopped.
#[derive(Clone, Copy, Debug, strum::Display, EnumString, PartialEq, Eq)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
}

/// Workloads as `kind/name`, separated by commas.
pub(super) fn workloads(name: &str, text: Option<&str>) -> Result<Vec<WorkloadName>, Failure> {
    let parts = text.filter(|text| !text.eq_ignore_ascii_case("off")).unwrap_or_default();
    let mut workloads = Vec::new();
    for part in parts.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let named = workload(part).map_err(|reason| {
            wrong(
                format!("{name} names {}, {reason}", shown(part)),
                format!("set {name} to deployment/NAME or statefulset/NAME, separated by commas"),
            )
        })?;
        if !workloads.contains(&named) {
            workloads.push(named);
        }
    }
    Ok(workloads)
}

fn workload(text: &str) -> Result<WorkloadName, &'static str> {
    let Some((kind, name)) = text.split_once('/') else { return Err("without its kind") };
    if name.contains('/') {
        return Err("with a namespace, but only workloads of the gate's own can be stopped");
    }
    let kind = kind.parse().map_err(|_| "which is of a kind that cannot be stopped")?;
    match is_object_name(name) {
        true => Ok(WorkloadName { kind, name: name.to_owned() }),
        false => Err("and no workload can have that name"),
    }
}

/// What the downward API puts in: a name or a UID.
pub(super) fn object_name(name: &str, text: Option<String>) -> Result<Option<String>, Failure> {
    match text {
        Some(text) if !is_object_name(&text) => Err(wrong(
            format!(
                "{name} is {}, which cannot be the name of an object in Kubernetes",
                shown(&text)
            ),
            format!("let the downward API set {name}, as the chart does, or unset it"),
        )),
        text => Ok(text),
    }
}

fn is_object_name(text: &str) -> bool {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (1..=253).contains(&text.len()) && text.chars().all(valid)
}

/// Refuses a gate whose application has another version than its code.
pub(super) fn app_version(code: &Version, text: &Option<String>) -> Result<(), Failure> {
    const NAME: &str = "GATE_APP_VERSION";
    let Some(text) = text else { return Ok(()) };
    match Version::parse(text) {
        Ok(version) if version == *code => Ok(()),
        Ok(version) => Err(wrong(
            format!("this gate belongs to {code} but the application is {version} ({NAME})"),
            format!(
                "deploy the gate of {version} (its image, or its files with that version in gate.yaml), or the \
                 application of {code}: both move together"
            ),
        )),
        Err(error) => Err(wrong(
            match (&error, is_secretive(text)) {
                (VersionError::Unreadable(_), _) | (_, true) => {
                    format!("{NAME} is {}, which is not a version", shown(text))
                }
                _ => format!("{NAME}: {error}"),
            },
            format!("set {NAME} to the version of the application that is about to start"),
        )),
    }
}

//! The settings, read from the environment once, and checked together.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use strum::VariantNames;
use tracing_subscriber::filter::Targets;

use super::choices::*;
use super::names::SettingNames;
use super::table::{self, Fallback, Raw, SETTINGS, Scope};
use super::uri::{self, Connection};
use super::value::{
    PREFIX, app_version, choice, count, duration, log, object_name, short_duration, version,
    version_up_to, workloads, wrong,
};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::version::Version;

const MODE: &str = "GATE_MODE";
/// What Kubernetes sets in every pod.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
/// More documents in one transaction than a server should be asked for.
const MOST_DOCUMENTS: usize = 100_000;
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How long a run with a `GATE_TIMEOUT` of zero waits for the one answer that it asks for, at most.
const ONE_ANSWER: Duration = Duration::from_secs(5);

impl Settings {
    /// Reads the settings from the process's environment.
    ///
    /// # Errors
    ///
    /// Those of [`Settings::from_vars`], and the same outcome for a value that is not UTF-8.
    pub fn from_env(code_version: &Version) -> Result<Self, Failure> {
        Self::read_env(code_version, None, Program::Compiled).map_err(|unread| unread.failure)
    }

    /// The same, with the mode that the command line names, and with how long to wait for a file that may
    /// be filled.
    pub(crate) fn read_env(
        code_version: &Version,
        named: Option<Mode>,
        program: Program,
    ) -> Result<Self, Unread> {
        let mut vars = utf8(std::env::vars_os())?;
        if let Some(named) = named {
            let set = vars.iter().find(|(name, value)| name == MODE && !value.is_empty());
            if let Some((_, value)) = set
                && value != named.word()
            {
                return Err(wrong(
                    format!("the argument says {named}, but {MODE} is set to another mode"),
                    format!("leave out one of the two, or set {MODE} to {named} as well"),
                )
                .into());
            }
            vars.push((MODE.to_owned(), named.word().to_owned()));
        }
        Self::read_vars(vars, code_version, program)
    }

    /// How long one wait for a server may take.
    pub(crate) fn patience(&self) -> Duration {
        let timeout = self.timeout.map(|timeout| timeout.max(Duration::from_millis(1)));
        timeout.map_or(self.connect_timeout, |timeout| self.connect_timeout.min(timeout))
    }

    /// Reads the settings from environment variables, of which others than the gate's are ignored.
    ///
    /// # Errors
    ///
    /// [`SettingWrong`](crate::process::exit::Outcome::SettingWrong), naming every setting that is wrong and
    /// showing no secret; [`NoServer`](crate::process::exit::Outcome::NoServer) where the connection string is all
    /// that is missing, and whoever is to provide it may still do so.
    pub fn from_vars(
        vars: impl IntoIterator<Item = (String, String)>,
        code_version: &Version,
    ) -> Result<Self, Failure> {
        Self::read_vars(vars, code_version, Program::Compiled).map_err(|unread| unread.failure)
    }

    fn read_vars(
        vars: impl IntoIterator<Item = (String, String)>,
        code_version: &Version,
        program: Program,
    ) -> Result<Self, Unread> {
        let vars: Vec<(String, String)> = vars.into_iter().collect();
        let in_cluster = vars.iter().any(|(name, value)| name == IN_CLUSTER && !value.is_empty());
        let set: BTreeMap<String, String> = vars
            .into_iter()
            .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
            .filter(|(name, _)| !is_service_link(name))
            .collect();
        let raw = Raw::with_defaults(&set)?;
        let mut problems = Problems::default();
        let mode = problems.keep(mode(&raw.mode).map(Some));
        for name in set.keys() {
            problems.keep(check_scope(name, mode, program));
        }
        let of_file = raw.mongodb_uri_file.is_some();
        let mode = mode.unwrap_or_default();
        let waits = raw.waits(mode);
        let settings = raw.read(mode, code_version, &mut problems);
        let can_ask = in_cluster && cfg!(feature = "kubernetes");
        if !can_ask {
            problems.keep(needs_cluster(&settings));
        }
        if problems.0.is_empty() {
            return Ok(settings);
        }
        let failure = problems.into_failure();
        let waits = waits.filter(|_| of_file && failure.outcome == Outcome::NoServer);
        Err(Unread { failure, waits })
    }
}

/// Why the settings could not be read.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) failure: Failure,
    /// Where a file may be filled: for how long to read it again, and how to log that.
    pub(crate) waits: Option<Waits>,
}

/// How a run waits for the file of its connection string.
#[derive(Debug)]
pub(crate) struct Waits {
    /// None is without end.
    pub(crate) timeout: Option<Duration>,
    pub(crate) log: Targets,
    pub(crate) log_format: Option<LogFormat>,
}

impl From<Failure> for Unread {
    fn from(failure: Failure) -> Self {
        Unread { failure, waits: None }
    }
}

impl Raw {
    fn with_defaults(set: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let texts = SETTINGS.iter().filter_map(|setting| {
            let text = match (set.get(setting.name), setting.default) {
                (Some(text), _) => text,
                (None, Fallback::Value(text)) => text,
                (None, Fallback::Words(_)) => return None,
            };
            Some((setting.name.to_string(), text.to_string()))
        });
        envy::prefixed(PREFIX)
            .from_iter(texts)
            .map_err(|_| Failure::bug("the table of settings lacks a default"))
    }

    fn timeout(&self, mode: Mode) -> Result<Option<Duration>, Failure> {
        match &self.timeout {
            Some(text) => duration("GATE_TIMEOUT", text).map(Some),
            None => Ok((mode != Mode::Wait).then_some(TIMEOUT)),
        }
    }

    fn log_format(&self) -> Result<Option<LogFormat>, Failure> {
        self.log_format.as_deref().map(|text| choice("GATE_LOG_FORMAT", text)).transpose()
    }

    /// How to wait for a file; `None` if any of this is wrong.
    fn waits(&self, mode: Mode) -> Option<Waits> {
        let timeout = self.timeout(mode).ok()?;
        Some(Waits { timeout, log: log(&self.log).ok()?, log_format: self.log_format().ok()? })
    }

    /// Of use only if there was no problem.
    fn read(self, mode: Mode, code: &Version, problems: &mut Problems) -> Settings {
        // the directory of upgrades was read before, because the code version may be in it
        let _ = &self.upgrades;
        let Connection { uri, database, origin } = problems.keep(uri::connection(
            &self.mongodb_uri,
            &self.mongodb_uri_source,
            &self.mongodb_uri_file,
            &self.database,
        ));
        let app = app_version(code, &self.app_version);
        let other_application = match mode {
            Mode::Status => app.err(),
            _ => {
                problems.keep(app);
                None
            }
        };
        let mut settings = Settings {
            uri,
            origin,
            database,
            mode,
            initialise: problems.keep(choice("GATE_INITIALISE", &self.initialise)),
            from_version: problems.keep(version("GATE_FROM_VERSION", &self.from_version)),
            target_version: problems.keep(version_up_to(
                code,
                "GATE_TARGET_VERSION",
                &self.target_version,
            )),
            conditions: problems.keep(choice("GATE_SKIP_CONDITIONS", &self.skip_conditions)),
            timeout: problems.keep(self.timeout(mode)),
            asking: Asking::Again,
            connect_timeout: problems
                .keep(short_duration("GATE_CONNECT_TIMEOUT", &self.connect_timeout)),
            lock_wait: problems.keep(duration("GATE_LOCK_WAIT", &self.lock_wait)),
            lock_lease: problems.keep(short_duration("GATE_LOCK_LEASE", &self.lock_lease)),
            batch_documents: problems.keep(count(
                "GATE_BATCH_DOCUMENTS",
                &self.batch_documents,
                MOST_DOCUMENTS,
            )),
            log_format: problems.keep(self.log_format()),
            log: problems.keep(log(&self.log)),
            repair: match mode {
                Mode::Record => problems.keep(self.repair(code).map(Some)),
                _ => None,
            },
            events: problems.keep(choice("GATE_EVENTS", &self.events)),
            quiesce: problems.keep(workloads("GATE_QUIESCE", self.quiesce.as_deref())),
            quiesce_timeout: problems
                .keep(short_duration("GATE_QUIESCE_TIMEOUT", &self.quiesce_timeout)),
            resume: problems.keep(choice("GATE_RESUME", &self.resume)),
            pod: Pod {
                namespace: problems.keep(object_name("GATE_NAMESPACE", self.namespace)),
                name: problems.keep(object_name("GATE_POD_NAME", self.pod_name)),
                uid: problems.keep(object_name("GATE_POD_UID", self.pod_uid)),
                job_name: problems.keep(object_name("GATE_JOB_NAME", self.job_name)),
                job_uid: problems.keep(object_name("GATE_JOB_UID", self.job_uid)),
            },
            report_format: problems.keep(
                self.report_format
                    .as_deref()
                    .map(|text| choice("GATE_REPORT_FORMAT", text))
                    .transpose(),
            ),
            other_application,
            names: problems.keep(SettingNames::parse(self.setting_names.as_deref())),
            report_file: self.report_file.or_else(default_report_file),
        };
        if settings.timeout == Some(Duration::ZERO) {
            settings.asking = Asking::Once;
            settings.timeout = Some(settings.connect_timeout.min(ONE_ANSWER));
            settings.lock_wait = Duration::ZERO;
        }
        settings
    }

    fn repair(&self, code: &Version) -> Result<Repair, Failure> {
        let version = version_up_to(code, "GATE_RECORD_VERSION", &self.record_version)?;
        let (Some(version), Some(expect)) = (version, self.expect_version.clone()) else {
            return Err(wrong(
                "GATE_MODE=record needs both GATE_RECORD_VERSION and GATE_EXPECT_VERSION",
                "set GATE_RECORD_VERSION to the version to record, and GATE_EXPECT_VERSION to what \
                 is stored now",
            ));
        };
        Ok(Repair { version, expect, discard_journal: self.discard_journal.clone() })
    }
}

/// All that is wrong, in the order in which it was found.
#[derive(Default)]
struct Problems(Vec<Failure>);

impl Problems {
    /// The value, or one in its place that nobody will see.
    fn keep<T: Default>(&mut self, result: Result<T, Failure>) -> T {
        result.unwrap_or_else(|problem| {
            self.0.push(problem);
            T::default()
        })
    }

    fn into_failure(self) -> Failure {
        // what is wrong comes before what is only not there yet
        let (wrong, missing): (Vec<Failure>, Vec<Failure>) =
            self.0.into_iter().partition(|problem| problem.outcome != Outcome::NoServer);
        let mut problems = wrong.into_iter().chain(missing);
        let Some(first) = problems.next() else {
            return Failure::bug("a setting was dropped without a reason");
        };
        problems.fold(first, |mut all, problem| {
            all.message += &format!("; also, {}", problem.message);
            if !all.next.contains(&problem.next) {
                all.next += &format!("; {}", problem.next);
            }
            all
        })
    }
}

/// The variables as texts; other programs' need not be.
fn utf8(
    vars: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, Failure> {
    let mut texts = Vec::new();
    for (name, value) in vars {
        let name = name.to_string_lossy().into_owned();
        match value.into_string() {
            Ok(value) => texts.push((name, value)),
            Err(_) if name.starts_with(PREFIX) => {
                return Err(wrong(
                    format!("{name} is not UTF-8"),
                    format!("set {name} to text in UTF-8"),
                ));
            }
            Err(_) => {}
        }
    }
    Ok(texts)
}

/// Whether Kubernetes sets a variable of this name for a Service called `gate` or `gate-…`.
fn is_service_link(name: &str) -> bool {
    let ends = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];
    let parts = ["_SERVICE_PORT_", "_PORT_"];
    ends.iter().any(|end| name.ends_with(end)) || parts.iter().any(|part| name.contains(part))
}

/// Whether a setting is known, and may be set in this mode.
fn check_scope(name: &str, mode: Option<Mode>, program: Program) -> Result<(), Failure> {
    let mut known = SETTINGS.iter().filter(|setting| setting.is_of(program));
    let Some(setting) = known.find(|setting| setting.name == name) else {
        if SETTINGS.iter().any(|setting| setting.name == name) {
            return Err(wrong(
                format!("{name} is a setting of upgrade-gate, which reads upgrades from files"),
                format!("unset {name}: the upgrades of this program are compiled into it"),
            ));
        }
        // a name that went wrong may hold what was meant as its value
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || name.len() > 64 {
            return Err(wrong(
                "a variable that begins with GATE_ has other characters than letters, digits and _ in \
                 its name, or too many",
                "write settings as NAME=value; --help lists all names",
            ));
        }
        let known = SETTINGS.iter().filter(|setting| setting.is_of(program));
        let known = known.filter_map(|setting| setting.name.strip_prefix(PREFIX));
        let (nearest, _) = table::nearest(&name[PREFIX.len()..], known).unwrap_or_default();
        return Err(wrong(
            format!("{name} is not a setting"),
            format!("the nearest one is {PREFIX}{nearest}, and --help lists all"),
        ));
    };
    match (setting.scope, mode) {
        (Scope::Only(modes), Some(mode)) if !modes.contains(&mode) => Err(wrong(
            format!("{name} has no meaning in mode {mode}, only in {}", table::in_modes(modes)),
            format!("unset {name} or change GATE_MODE"),
        )),
        (Scope::Except(modes), Some(mode)) if modes.contains(&mode) => Err(wrong(
            format!("{name} has no meaning in mode {mode}"),
            format!("unset {name} or change GATE_MODE"),
        )),
        _ => Ok(()),
    }
}

/// Refuses outside Kubernetes what only Kubernetes can do.
fn needs_cluster(settings: &Settings) -> Result<(), Failure> {
    let name = match settings {
        Settings { quiesce, .. } if !quiesce.is_empty() => "GATE_QUIESCE",
        Settings { events: Events::Tell, .. } => "GATE_EVENTS",
        _ => return Ok(()),
    };
    if !cfg!(feature = "kubernetes") {
        return Err(wrong(
            format!("{name} is set, but this program was built without Kubernetes"),
            format!("unset {name}, or build it with the cargo feature `kubernetes`"),
        ));
    }
    Err(wrong(
        format!(
            "{name} is set, but the gate does not run in a pod of a Kubernetes cluster ({IN_CLUSTER} is not set)"
        ),
        format!("unset {name}, or run the gate in a pod"),
    ))
}

fn mode(text: &str) -> Result<Mode, Failure> {
    choice(MODE, text).map_err(|problem| {
        match table::nearest(text, Mode::VARIANTS.iter().copied()) {
            Some((word, likeness)) if likeness >= 0.5 => {
                wrong(problem.message, format!("{}; the nearest is {word}", problem.next))
            }
            _ => problem,
        }
    })
}

#[cfg(test)]
mod tests;

//! What the operator can choose.

use std::path::PathBuf;
use std::time::Duration;

use strum::{Display, EnumString, IntoStaticStr, VariantNames};
use tracing_subscriber::filter::Targets;

use super::names::SettingNames;
use super::uri::{Origin, Secret};
use super::value::WorkloadName;
use crate::process::failure::Failure;
use crate::version::Version;

/// Where Kubernetes reads a container's last words.
pub(super) const TERMINATION_LOG: &str = "/dev/termination-log";

/// What one run is to do, checked as far as that needs neither a server nor a record.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The connection string, with a scheme that the driver knows; the driver checks the rest.
    pub(crate) uri: Secret,
    /// Where the connection string comes from, for messages about it.
    pub(crate) origin: Origin,
    /// The application's database.
    pub(crate) database: String,
    /// What to do.
    pub(crate) mode: Mode,
    /// Whether an empty database may be recorded.
    pub(crate) initialise: Initialise,
    /// What an unrecorded, existing database last ran. Writable; may be above the code version.
    pub(crate) from_version: Option<Version>,
    /// Where to stop, if not at the code version. Writable, and at most the code version.
    pub(crate) target_version: Option<Version>,
    /// Whether skippable conditions are asked.
    pub(crate) conditions: Conditions,
    /// The bound on all waiting; `None` is unlimited.
    pub(crate) timeout: Option<Duration>,
    /// Whether what is not there at once is not waited for.
    pub(crate) asking: Asking,
    /// The bound on waiting for a server. Not zero.
    pub(crate) connect_timeout: Duration,
    /// The bound on waiting for another run's lock.
    pub(crate) lock_wait: Duration,
    /// How long a lock lives without renewal. Not zero.
    pub(crate) lock_lease: Duration,
    /// The most documents to change in one transaction. At least 1.
    pub(crate) batch_documents: usize,
    /// What is logged.
    pub(crate) log: Targets,
    /// How it is logged; when none, as stderr needs it.
    pub(crate) log_format: Option<LogFormat>,
    /// How the report is written to stdout; when none, as that needs it.
    pub(crate) report_format: Option<ReportFormat>,
    /// In mode `status`, which says it as what mode `check` would: that the gate is not the application's.
    pub(crate) other_application: Option<Failure>,
    /// How the deployment calls the settings.
    pub(crate) names: SettingNames,
    /// Where the report is also written.
    pub(crate) report_file: Option<PathBuf>,
    /// What mode `record` writes; some in that mode only.
    pub(crate) repair: Option<Repair>,
    /// Whether Kubernetes is told how the run goes.
    pub(crate) events: Events,
    /// The workloads to stop while upgrades are applied; empty is off.
    pub(crate) quiesce: Vec<WorkloadName>,
    /// The bound on waiting for pods to stop, or to be ready. Not zero.
    pub(crate) quiesce_timeout: Duration,
    /// When stopped workloads get their replicas back.
    pub(crate) resume: Resume,
    /// What the gate's pod knows of itself.
    #[cfg_attr(
        not(feature = "kubernetes"),
        expect(dead_code, reason = "only Kubernetes has pods")
    )]
    pub(crate) pod: Pod,
}

/// Where a program's upgrades come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Program {
    /// They are compiled into it.
    #[default]
    Compiled,
    /// It reads them from files.
    Files,
}

/// What a run does, written as `GATE_MODE` has it.
#[derive(
    Clone, Copy, Debug, Default, Display, EnumString, IntoStaticStr, VariantNames, PartialEq, Eq,
)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum Mode {
    /// Brings the database up to date.
    #[default]
    Upgrade,
    /// Says whether the gate is open.
    Check,
    /// Checks until the gate is open.
    Wait,
    /// Lists what an upgrade would do.
    Plan,
    /// Says what is stored.
    Status,
    /// Upgrades what old code has written since the upgrade.
    Sweep,
    /// Repairs the record.
    Record,
    /// Gives the workloads that an upgrade stopped their replicas back.
    Resume,
}

/// Whether an unrecorded database that holds no documents may be recorded.
#[derive(Clone, Copy, Debug, Default, EnumString, VariantNames, PartialEq, Eq)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum Initialise {
    /// It may not.
    #[default]
    No,
    /// At the code version.
    Fresh,
}

/// Which conditions an upgrade asks.
#[derive(Clone, Copy, Debug, Default, EnumString, VariantNames, PartialEq, Eq)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum Conditions {
    /// Those that do not declare themselves skippable.
    #[strum(serialize = "true")]
    SkipSkippable,
    /// All of them.
    #[default]
    #[strum(serialize = "false")]
    Ask,
}

/// How often a server, a lock or an open gate is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// Again and again, until the time is over.
    Again,
    /// Once: `GATE_TIMEOUT` is zero.
    Once,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, EnumString, VariantNames, PartialEq, Eq)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, one object a line.
    Json,
}

/// How the report is written to stdout.
#[derive(Clone, Copy, Debug, Default, EnumString, VariantNames, PartialEq, Eq)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum ReportFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, as one object.
    Json,
}

/// Whether Kubernetes is told how a run goes.
#[derive(Clone, Copy, Debug, Default, EnumString, VariantNames, PartialEq, Eq)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum Events {
    /// By Events of the gate's Job, or else of its pod.
    #[strum(serialize = "true")]
    Tell,
    /// It is not.
    #[default]
    #[strum(serialize = "false")]
    Off,
}

/// When an open gate gives stopped workloads their replicas back.
#[derive(Clone, Copy, Debug, Default, EnumString, VariantNames, PartialEq, Eq)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum Resume {
    /// At the end of the run that opens it.
    #[strum(serialize = "true")]
    AtEnd,
    /// In mode `resume` only: usually the release that follows does it.
    #[default]
    #[strum(serialize = "false")]
    Later,
}

/// What the downward API says of the gate's own pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// The namespace; when none, the service account's.
    pub namespace: Option<String>,
    /// The pod's name.
    pub name: Option<String>,
    /// The pod's UID.
    pub uid: Option<String>,
    /// The name of the Job that the pod belongs to.
    pub job_name: Option<String>,
    /// The UID of that Job.
    pub job_uid: Option<String>,
}

/// A repair of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The version to record. Writable, and at most the code version.
    pub version: Version,
    /// What is stored now, as text; it need not be a version.
    pub expect: String,
    /// The id of the unfinished upgrade to give up.
    pub discard_journal: Option<String>,
}

impl Mode {
    /// The mode as `GATE_MODE` has it.
    pub(super) fn word(self) -> &'static str {
        self.into()
    }
}

/// Where the report is also written when nothing else was set, or could be read.
pub fn default_report_file() -> Option<PathBuf> {
    Some(PathBuf::from(TERMINATION_LOG)).filter(|path| path.exists())
}

//! The gate of an application: its name, its code version and its upgrades.

use std::sync::Arc;

use mongodb::bson::DateTime;
use mongodb::bson::oid::ObjectId;
use tokio::time::Instant;

use crate::authoring::step::Step;
use crate::authoring::table::Upgrades;
use crate::authoring::upgrade::Upgrade;
use crate::engine::failing::closed;
use crate::modes::run::{POLL, Quiesce, Run, SAY};
use crate::process::activity::Activity;
use crate::process::checkpoint::{Checkpoints, NoCheckpoints};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::report::Report;
#[cfg(feature = "kubernetes")]
use crate::process::settings::Events;
use crate::process::settings::{Asking, Mode, Program, Settings};
#[cfg(feature = "kubernetes")]
use crate::quiesce::kubernetes::{events::JobEvents, workloads::Cluster};
use crate::quiesce::observer::{Notice, Observer, Occasion, Tone};
use crate::quiesce::quiesced::Quiesced;
use crate::quiesce::workloads::Workloads;
use crate::record::doubt::Doubt;
use crate::record::history::Writer;
use crate::record::lock::{LOCK_ID, Lock};
use crate::record::names::Names;
use crate::record::remembered::Memory;
use crate::record::stamp::stamped::Place;
use crate::record::store::Store;
use crate::server::connection::{Connected, connect};
use crate::server::diagnosis::{explained, no_name_server};
use crate::server::retry::jittered;
use crate::server::stop::{Stop, catch_panics, within};
use crate::version::Version;

/// How a run of mode `status` ended that could read.
const READ: &str = "read";

/// An application's gate: its name, the version of its code and its upgrades.
#[derive(Clone, Debug)]
pub struct Gate {
    pub(crate) app: String,
    pub(crate) code_version: String,
    version_variable: Option<String>,
    pub(crate) program: Program,
    names: Names,
    oldest: Option<String>,
    upgrades: Vec<Upgrade>,
    workloads: Option<Arc<dyn Workloads>>,
    observer: Option<Arc<dyn Observer>>,
    /// The start of every run, as the author's code sees it; if `None`, each run's own.
    began: Option<DateTime>,
}

impl Gate {
    /// The gate of the application `app`, whose code has the version `code_version`.
    ///
    /// The record is the document `<app>_schema_version` of the collection `database_metadata`.
    pub fn new(app: impl Into<String>, code_version: impl Into<String>) -> Self {
        let app = app.into();
        let names = Names {
            collection: "database_metadata".to_owned(),
            record: format!("{app}_schema_version"),
            code_version: format!("{app}_version"),
            stamp: None,
        };
        Gate {
            app,
            code_version: code_version.into(),
            version_variable: None,
            program: Program::Compiled,
            names,
            oldest: None,
            upgrades: vec![],
            workloads: None,
            observer: None,
            began: None,
        }
    }

    /// Names the record's collection and `_id`, where they are not the usual ones.
    pub fn record(mut self, collection: impl Into<String>, id: impl Into<String>) -> Self {
        self.names.collection = collection.into();
        self.names.record = id.into();
        self
    }

    /// Names the variable from which the code version is taken when the program is built, as with
    /// `option_env!`: whoever builds it with a version that cannot be recorded is told to set that one.
    pub fn version_from(mut self, variable: impl Into<String>) -> Self {
        self.version_variable = Some(variable.into());
        self
    }

    /// The table of upgrades, by ascending version.
    pub fn upgrades(mut self, upgrades: impl IntoIterator<Item = Upgrade>) -> Self {
        self.upgrades = upgrades.into_iter().collect();
        self
    }

    /// Names the one document of `collection` that has `field` (dotted for an embedded one) as where the
    /// application itself keeps its version.
    ///
    /// A database without a record is taken to be at that version, as if `GATE_FROM_VERSION` said so. Whenever
    /// the recorded version moves, the field moves with it in the same transaction (without transactions right
    /// after it, and finished by the next run where this one dies in between), so that the application's own
    /// check agrees. It is a text, and stays as the application writes it: the code version as
    /// [`Gate::new`] has it, a leading `v` where there was one. Where record and field name different
    /// versions, something else moved one of them, and the gate stays closed until mode `record` writes both.
    ///
    /// Where no document has the field, an upgrade, a newer code version or mode `record` adds one with nothing
    /// else in it; an application whose document has a particular `_id` creates it in an upgrade. Recording
    /// what a database last ran, or that it is fresh, adds none: the application does at its first start.
    pub fn stamp(mut self, collection: impl Into<String>, field: impl Into<String>) -> Self {
        self.names.stamp = Some(Place {
            collection: collection.into(),
            field: field.into(),
            code_version: self.code_version.clone(),
        });
        self
    }

    /// The oldest recorded version that the table can upgrade from. When upgrades are removed from the old end of the
    /// table, set it to the version of the newest one removed.
    ///
    /// An older database is refused until a release in between, which still has those upgrades, has upgraded it. A
    /// table without it claims to upgrade from every version.
    pub fn oldest(mut self, version: impl Into<String>) -> Self {
        self.oldest = Some(version.into());
        self
    }

    /// What runs the application's old code, to be stopped while upgrades are applied; overrides
    /// `GATE_QUIESCE`.
    pub fn workloads(mut self, workloads: Arc<dyn Workloads>) -> Self {
        self.workloads = Some(workloads);
        self
    }

    /// Who is notified of a run's progress; overrides `GATE_EVENTS`.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The gate as one whose upgrades are files.
    #[cfg(feature = "files")]
    pub(crate) fn of_files(mut self) -> Self {
        self.program = Program::Files;
        self
    }

    /// Lets the author's code see this time as the start of every run.
    pub(crate) fn began(mut self, began: DateTime) -> Self {
        self.began = Some(began);
        self
    }

    /// Checks the code version, which it returns, and the table of upgrades; a test of the application should call this.
    ///
    /// # Errors
    ///
    /// [`Outcome::SettingWrong`] for a code version that cannot be recorded, naming the variable from
    /// which it is built in; [`Outcome::Bug`] for a wrong table, naming the upgrades, or one that
    /// changes the collection of the record.
    pub fn check(&self) -> Result<Version, Failure> {
        Ok(self.checked()?.0)
    }

    /// The code version and the table, as [`check`](Self::check) says.
    pub(crate) fn checked(&self) -> Result<(Version, Upgrades), Failure> {
        let code = Version::parse_code(&self.code_version).map_err(|error| {
            Failure::new(
                Outcome::SettingWrong,
                format!("this binary was built with an unusable code version: {error}"),
                match &self.version_variable {
                    Some(variable) => {
                        format!("build it with {variable} set to a released version")
                    }
                    None => "give Gate::new a released version, as X.Y.Z or X.Y.Z-rc.1".to_owned(),
                },
            )
        })?;
        let wrong = |what: String| {
            Failure::new(
                Outcome::Bug,
                format!("the table of upgrades is wrong: {what}"),
                "correct the table of upgrades, or the code version with which this is built",
            )
        };
        let upgrades = Upgrades::new(self.upgrades.iter().cloned(), &code)
            .map_err(|error| wrong(error.to_string()))?
            .reaching_from(self.checked_oldest(&code).map_err(wrong)?);
        if self.names.record == LOCK_ID {
            return Err(Failure::bug(format!(
                "the record cannot be named {LOCK_ID}, as the lock is"
            )));
        }
        if let Some(mistake) = self.names.stamp.as_ref().and_then(Place::mistake) {
            return Err(Failure::bug(mistake));
        }
        for upgrade in upgrades.versions() {
            if let Some(mistake) = upgrade.steps().find_map(|step| self.step_mistake(step)) {
                return Err(wrong(format!("{}: {mistake}", upgrade.version)));
            }
        }
        Ok((code, upgrades))
    }

    /// Why a step cannot be one of this gate's.
    pub(crate) fn step_mistake(&self, step: &Step) -> Option<String> {
        let own = self.names.collection.as_str();
        if step.touches(own) {
            return Some(format!("\"{}\" changes {own}, which is the gate's", step.name()));
        }
        let place = self.names.stamp.as_ref()?;
        let (name, collection, field) = (step.name(), &place.collection, &place.field);
        if step.removes(collection) {
            return Some(format!(
                "\"{name}\" takes {collection} away, where the application's version is"
            ));
        }
        step.may_write(collection, field).then(|| {
            format!(
                "\"{name}\" writes or deletes {field} of {collection}, the application's version, which only the \
                 gate writes"
            )
        })
    }

    fn checked_oldest(&self, code: &Version) -> Result<Option<Version>, String> {
        let Some(text) = &self.oldest else { return Ok(None) };
        let oldest = Version::parse_code(text).map_err(|error| format!("oldest: {error}"))?;
        match oldest <= *code {
            true => Ok(Some(oldest)),
            false => Err(format!("oldest is {oldest}, above the code version {code}")),
        }
    }

    /// The names of the record.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Does one run and reports; never exits, and a panic of an upgrade's code is reported as
    /// [`Outcome::Bug`].
    ///
    /// From the first call on, SIGTERM and SIGINT do not end the process any more: they end the run.
    pub async fn run(&self, settings: &Settings) -> Report {
        let stop = Stop::new();
        let mut report = self.blank_report();
        if let Err(failure) = stop.on_signals() {
            report.end(failure.outcome, failure.message, Some(failure.next));
            return report;
        }
        self.run_until(settings, stop).await
    }

    /// Does one run, which `stop` ends.
    pub(crate) async fn run_until(&self, settings: &Settings, stop: Stop) -> Report {
        let gate = self.clone().in_kubernetes(settings);
        gate.run_with(settings, stop, Arc::new(NoCheckpoints)).await
    }

    /// The gate as it is: settings that ask for Kubernetes were refused.
    #[cfg(not(feature = "kubernetes"))]
    fn in_kubernetes(self, _: &Settings) -> Self {
        self
    }

    /// The gate with what the settings ask of Kubernetes; nothing of it is made otherwise.
    #[cfg(feature = "kubernetes")]
    fn in_kubernetes(mut self, settings: &Settings) -> Self {
        if self.workloads.is_none() && !settings.quiesce.is_empty() {
            self.workloads = Some(Arc::new(Cluster::new(settings)));
        }
        if self.observer.is_none() && settings.events == Events::Tell {
            self.observer = Some(Arc::new(JobEvents::new(settings)));
        }
        self
    }

    /// A report of nothing yet.
    pub(crate) fn blank_report(&self) -> Report {
        Report {
            app: self.app.clone(),
            code_version: self.code_version.clone(),
            run_id: ObjectId::new().to_hex(),
            host: host(),
            ..Report::default()
        }
    }

    pub(crate) async fn run_with(
        &self,
        settings: &Settings,
        stop: Stop,
        checkpoints: Arc<dyn Checkpoints>,
    ) -> Report {
        let began = Instant::now();
        let mut report = self.blank_report();
        report.mode = settings.mode.to_string();
        report.database = Some(settings.database.clone());
        for ignored in &settings.origin.ignored {
            let ignored = settings.names.named(ignored);
            tracing::warn!(reason = ignored, "warning");
            report.warnings.push(ignored);
        }
        let ended =
            catch_panics(Box::pin(self.try_run(settings, stop, checkpoints, &mut report))).await;
        match ended.and_then(|ended| ended) {
            Ok(message) => {
                report.end(Outcome::Open, message, None);
                if settings.mode == Mode::Status {
                    // it exits 0 also where the gate is closed
                    report.outcome = READ.to_owned();
                }
            }
            Err(failure) => {
                let failure = explained(failure, &settings.origin);
                let named = |text: &str| settings.names.named(text);
                report.end(failure.outcome, named(&failure.message), Some(named(&failure.next)));
            }
        }
        if let Some(observer) = self.observer.as_ref().filter(|_| settings.mode != Mode::Status) {
            observer.tell(last_notice(&report));
            observer.finish().await;
        }
        report.duration_ms = began.elapsed().as_millis() as u64;
        report
    }

    async fn try_run(
        &self,
        settings: &Settings,
        stop: Stop,
        checkpoints: Arc<dyn Checkpoints>,
        report: &mut Report,
    ) -> Result<String, Failure> {
        let (code, upgrades) = self.checked()?;
        let deadline = settings.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let Connected { database, direct } = stop
            .guard(connected(settings, deadline, &report.run_id))
            .await
            .map_err(|error| closed(error, "connecting"))?;
        let writer = Writer {
            run_id: report.run_id.clone(),
            host: report.host.clone(),
            code_version: code.to_string(),
            code_version_field: self.names.code_version.clone(),
        };
        let lock = Lock {
            database: database.clone(),
            collection: self.names.collection.clone(),
            run_id: writer.run_id.clone(),
            host: writer.host.clone(),
            lease: settings.lock_lease,
        };
        let doubt = Doubt::new(settings.connect_timeout, deadline);
        let store = Store { database, direct, names: self.names.clone(), doubt };
        // a sweep stops nothing, and so has nothing to give back
        let workloads = self.workloads.clone().filter(|_| settings.mode != Mode::Sweep);
        let quiesce = workloads.map(|workloads| Quiesce {
            memory: Memory::new(&store.database, &self.names),
            quiesced: Quiesced::new(workloads.clone()),
            workloads,
        });
        let mut run = Run {
            settings,
            code: &code,
            upgrades: &upgrades,
            began: self.began.unwrap_or_else(DateTime::now),
            store,
            lock,
            writer,
            stop,
            checkpoints,
            deadline,
            activity: Activity::default(),
            took_lock: false,
            transactions: true,
            started: false,
            quiesce,
            unanswered: Default::default(),
            observer: self.observer.clone(),
            report,
        };
        let ended = match settings.mode {
            Mode::Check => run.check().await,
            Mode::Wait => Box::pin(run.wait()).await,
            Mode::Plan => Box::pin(run.plan()).await,
            Mode::Status => Box::pin(run.status()).await,
            Mode::Upgrade => Box::pin(run.upgrade()).await,
            Mode::Sweep => Box::pin(run.sweep()).await,
            Mode::Record => run.record().await,
            Mode::Resume => Box::pin(run.resume_workloads()).await,
        };
        if !run.took_lock {
            run.end_operations().await;
        }
        if let Err(failure) = &ended
            && run.started
        {
            let message = settings.names.named(&failure.message);
            run.tell(Occasion::UpgradeFailed, Tone::Warning, message);
        }
        ended
    }
}

/// What an observer is told of the end.
fn last_notice(report: &Report) -> Notice {
    let Report { exit_code, outcome, message, next, .. } = report;
    match next {
        None => Notice {
            reason: Occasion::GateOpen,
            tone: Tone::Normal,
            note: format!("exit {exit_code}: {message}"),
        },
        Some(next) => Notice {
            reason: Occasion::GateClosed,
            tone: Tone::Warning,
            note: format!("exit {exit_code} ({outcome}): {message}: {next}"),
        },
    }
}

/// The database; asks again where no name server answers, for as long as a run waits for a server.
async fn connected(
    settings: &Settings,
    deadline: Option<Instant>,
    run_id: &str,
) -> Result<Connected, Failure> {
    let patience = settings.patience();
    let until = match settings.mode {
        Mode::Wait => deadline,
        _ => Instant::now().checked_add(patience),
    };
    let mut said: Option<Instant> = None;
    let mut last: Option<Failure> = None;
    let activity = Activity::default();
    // nothing else may take long before the first operation
    let _doing = (settings.origin.srv.as_deref())
        .map(|name| activity.doing(format!("looking up the mongodb+srv name {name}")));
    loop {
        let connecting = connect(settings.uri.expose(), &settings.database, patience, run_id);
        let failure = match within(until, connecting).await {
            Some(Err(failure)) if failure.outcome == Outcome::NoServer => failure,
            Some(ended) => return ended,
            // what was learnt before says more
            None => last.take().unwrap_or_else(no_name_server),
        };
        let over = settings.asking == Asking::Once;
        if over || until.is_some_and(|until| Instant::now() >= until) {
            return Err(failure);
        }
        if said.is_none_or(|said| said.elapsed() >= SAY) {
            tracing::info!(reason = failure.message, "waiting for the server");
            said = Some(Instant::now());
        }
        last = Some(failure);
        within(until, tokio::time::sleep(jittered(POLL))).await;
    }
}

/// The name of this host: a container's is its pod's.
fn host() -> String {
    std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authoring::command::Command;
    use crate::authoring::lookup::Lookup;
    use crate::authoring::transform::Transform;

    fn checked(step: impl Into<Step>) -> Result<(), String> {
        let gate = Gate::new("app", "0.1.0").record("versions", "version");
        let upgrades = [Upgrade::new("0.1.0", "change").step(step)];
        gate.upgrades(upgrades).check().map(|_| ()).map_err(|failure| failure.message)
    }

    fn transform(collection: &'static str) -> Transform {
        Transform::new(collection, |_, _, _| Ok(()))
    }

    #[test]
    fn no_step_may_change_the_gates_own_collection() {
        for step in [
            Step::from(transform("versions")),
            transform("things").inserts_into("versions").into(),
            Command::drop_collection("versions").into(),
            Command::rename("things", "versions").into(),
            Command::set_validator("versions", Default::default()).into(),
        ] {
            assert!(checked(step).unwrap_err().contains("changes versions"));
        }
        checked(transform("things")).unwrap();
        let reads = Lookup::new("version", "versions", "_id", |_, _| {});
        checked(transform("things").lookup(reads)).unwrap();
    }

    #[test]
    fn the_record_and_the_lock_have_names_of_their_own() {
        let gate = |id| Gate::new("app", "0.1.0").record("versions", id).check();
        assert!(gate(LOCK_ID).unwrap_err().message.contains(LOCK_ID));
        gate("version").unwrap();
    }

    #[test]
    fn no_lookup_reads_what_its_transform_may_change() {
        let lookup = || Lookup::new("it", "things", "name", |_, _| {});
        for (transform, lookup) in [
            (transform("things"), lookup().fields(["size"])),
            (transform("things").fields(["list"]), lookup()),
            (transform("things").fields(["list"]), lookup().fields(["list"])),
            (transform("things").fields(["name"]), lookup().fields(["size"])),
            (transform("people").inserts_into("things"), lookup().fields(["size"])),
        ] {
            assert!(checked(transform.lookup(lookup)).unwrap_err().contains("may change itself"));
        }
        checked(transform("things").fields(["list"]).lookup(lookup().fields(["size"]))).unwrap();
        checked(transform("people").lookup(lookup())).unwrap();
    }

    #[test]
    fn lookups_of_one_step_have_names_of_their_own() {
        let lookup = |name| Lookup::new(name, "people", "name", |_, _| {});
        let two = |name| checked(transform("things").lookup(lookup("a")).lookup(lookup(name)));
        assert!(two("a").unwrap_err().contains("lookups are named \"a\""));
        two("b").unwrap();
    }
}

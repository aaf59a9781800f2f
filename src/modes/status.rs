//! Mode `status`: the whole story of a database, and what mode `check` would make of it. It only reads.

use crate::modes::run::Run;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::status::{PendingUpgrade, StampStatus, Status, Verdict};
use crate::record::document::{Record, Recorded};
use crate::record::history::Action;
use crate::record::overview;
use crate::version::Version;

impl Run<'_> {
    /// Says what is stored, whatever that is.
    ///
    /// # Errors
    ///
    /// A closed gate only where it could not be read.
    pub(crate) async fn status(&mut self) -> Result<String, Failure> {
        let overview = match self.ask("reading the record", || self.store.overview()).await {
            Ok(overview) => overview,
            Err(error) => return Err(self.explain_reading(error).await),
        };
        let recorded = overview.recorded();
        self.note_recorded(&recorded);
        self.report.from.clone_from(&self.report.to);
        let check = self.verdict().await?;
        let mut status = Status {
            recorded: self.report.to.clone(),
            lock: overview.lock(),
            history: overview.history(&self.store.names),
            ..Status::default()
        };
        status.history_entries = status.history.len();
        match &recorded {
            Recorded::Absent => {}
            Recorded::Unreadable(unreadable) => status.unreadable = Some(unreadable.reason.clone()),
            Recorded::Readable(record) => {
                status.floor = record.floor().map(|floor| floor.to_string());
                status.unfinished = overview::unfinished(record);
                self.warn_of_changed(record);
            }
        }
        status.stamp = self.stamp_status().await;
        status.pending = self.pending(&recorded, status.stamp.as_ref());
        match overview.workloads() {
            Ok(workloads) => status.workloads = workloads,
            Err(reason) => self.warn(format!(
                "what runs remember of the workloads that they stopped cannot be read: {reason}"
            )),
        }
        self.report.remaining = status.pending.iter().map(|it| it.version.clone()).collect();
        let is = match (&status.recorded, &status.unreadable) {
            (_, Some(_)) => "the record cannot be read".to_owned(),
            (Some(version), None) => format!("the database is at {version}"),
            (None, None) => "the database has no record".to_owned(),
        };
        let would = format!("mode check would exit with {}", check.exit_code);
        status.check = check;
        self.report.status = Some(Box::new(status));
        Ok(format!("{is}; {would}"))
    }

    /// Warns of upgrades whose files were changed after they were applied, of each once.
    pub(super) fn warn_of_changed(&mut self, record: &Record) {
        for changed in self.changed_since(record) {
            if !self.report.warnings.contains(&self.settings.names.named(&changed)) {
                self.warn(changed);
            }
        }
    }

    /// The upgrades whose files do not say any more what they said when they were applied.
    fn changed_since(&self, record: &Record) -> Vec<String> {
        let all = self.upgrades.versions().iter();
        let files = all.flat_map(|of_version| {
            let files = of_version.upgrades.iter().filter_map(|upgrade| upgrade.file.as_ref());
            files.map(move |file| (&of_version.version, file))
        });
        let changed = files.filter(|(version, file)| {
            let mut entries = record.history.iter().rev();
            let newest = entries.find(|it| it.action == Action::Upgrade && it.version == **version);
            let applied = newest.and_then(|entry| entry.applied_sha256(&file.name));
            applied.is_some_and(|sha256| sha256 != file.sha256)
        });
        changed
            .map(|(version, file)| {
                format!(
                    "{} was changed after it was applied: the database keeps what it did then; write a \
                     change as a new upgrade, after {version}",
                    file.name
                )
            })
            .collect()
    }

    /// What mode `check` would say. If that cannot be determined, because no server answers or the run must stop,
    /// neither can what is stored.
    async fn verdict(&mut self) -> Result<Verdict, Failure> {
        let checked = match self.settings.other_application.clone() {
            Some(failure) => Err(failure),
            None => self.check().await,
        };
        let named = |text: &str| self.settings.names.named(text);
        match checked {
            Ok(message) => Ok(Verdict {
                exit_code: Outcome::Open.code(),
                outcome: Outcome::Open.to_string(),
                message: named(&message),
                next: None,
            }),
            Err(failure) if matches!(failure.outcome, Outcome::NoServer | Outcome::Interrupted) => {
                Err(failure)
            }
            Err(failure) => Ok(Verdict {
                exit_code: failure.outcome.code(),
                outcome: failure.outcome.to_string(),
                message: named(&failure.message),
                next: Some(named(&failure.next)),
            }),
        }
    }

    /// The application's own version; `None` if it keeps none, or if it cannot be read, which the verdict then says.
    async fn stamp_status(&self) -> Option<StampStatus> {
        let place = self.store.names.stamp.as_ref()?;
        let read = self.ask("reading the stamp", || self.store.stamp(place, None)).await;
        let version = read.ok()?.text().map(str::to_owned);
        Some(StampStatus { place: place.to_string(), version })
    }

    /// The upgrades between what the database is at, as far as that is known or declared, and the code.
    fn pending(&self, recorded: &Recorded, stamp: Option<&StampStatus>) -> Vec<PendingUpgrade> {
        let stamped = stamp.and_then(|stamp| Version::parse(stamp.version.as_ref()?).ok());
        let at = match recorded {
            Recorded::Readable(record) => Some(&record.version),
            Recorded::Unreadable(_) => None,
            Recorded::Absent => stamped.as_ref().or(self.settings.from_version.as_ref()),
        };
        let upgrades = at.map(|at| self.upgrades.between(at, self.code)).unwrap_or_default();
        let pending = upgrades.into_iter().map(|upgrade| PendingUpgrade {
            version: upgrade.version.to_string(),
            description: upgrade.description(),
        });
        pending.collect()
    }
}

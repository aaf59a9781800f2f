//! Commits that were sent and not answered: what a run finds out about them as it ends, and what it says
//! where it cannot.

use std::time::Duration;

use mongodb::ClientSession;
use mongodb::bson::Document;
use tokio::time::Instant;

use crate::modes::quiesce::RESTORE;
use crate::modes::run::Run;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::report::UpgradeState;
use crate::record::document::Recorded;
use crate::record::doubt::{CommitOutcome, Sent};
use crate::record::history::Action;
use crate::record::moves::Move;
use crate::record::observed::Observed;
use crate::server::answer;
use crate::server::connection::Deployment;
use crate::server::retry::Retry;
use crate::server::stop::{RunError, within};
use crate::version::Version;

/// How long a run that ends by itself asks for the outcome of its last commit.
const ASKING: Duration = Duration::from_secs(3);

/// How long after a signal it does.
const AFTER_SIGNAL: Duration = Duration::from_millis(750);

impl Run<'_> {
    /// Finds out, while the run still has its lock, the outcome of a commit that was not answered.
    pub(super) async fn find_out(
        &mut self,
        id: Option<&Document>,
        session: Option<&mut ClientSession>,
    ) {
        let Some(sent) = self.store.doubt.sent() else { return };
        let until = match &self.quiesce {
            // old code that nothing was done to is to run again
            Some(_) => Instant::now() + RESTORE,
            None => self.stop.way_out(AFTER_SIGNAL, ASKING),
        };
        tracing::warn!(version = sent.version, "finding out {}", sent.question());
        match within(Some(until), self.ask_outcome(&sent, id, session)).await {
            Some(Ok((observed, decided))) => {
                self.learn(&sent, &observed.recorded);
                if decided && sent.commit_outcome(&observed.recorded) == CommitOutcome::NotYet {
                    self.store.doubt.resolved();
                }
            }
            Some(Err(error)) => {
                let error = match &error {
                    RunError::Driver(error) => answer::describe(error),
                    _ => "the server has no primary".to_owned(),
                };
                tracing::warn!(error, "it cannot be found out");
            }
            None => tracing::warn!("it cannot be found out: no answer in time"),
        }
    }

    /// What a majority has; and whether nothing that was sent before can take effect any more.
    async fn ask_outcome(
        &self,
        sent: &Sent,
        id: Option<&Document>,
        session: Option<&mut ClientSession>,
    ) -> Result<(Observed, bool), RunError> {
        let decided = match (sent.again(), id) {
            (Some(change), _) => self.send_again(change).await?,
            (None, None) => false,
            (None, Some(_)) => {
                self.lock.end_session(id).await?;
                true
            }
        };
        // a majority that confirms this has all that came before
        match session {
            Some(session) => self.lock.renew_after(session).await?,
            None => {
                self.lock.renew().await?;
            }
        }
        Ok((self.store.observe(&self.lock.run_id).await?, decided))
    }

    /// Sends a move of the record again if no session can be asked about it, as on a standalone, where a write in
    /// progress cannot be ended. Whichever arrives first takes effect, and the other finds the record in another state.
    /// False if it was not sent because another run has the lock.
    async fn send_again(&self, change: &Move) -> Result<bool, RunError> {
        let sending = async || -> Result<bool, RunError> {
            Ok(self.lock.renew().await? && {
                self.store.attempt(change, None).await?;
                true
            })
        };
        Retry::default().run(sending).await
    }

    /// Takes note of what a majority's record says about a commit that was not answered.
    pub(super) fn learn(&mut self, sent: &Sent, recorded: &Recorded) {
        match sent.commit_outcome(recorded) {
            CommitOutcome::NotYet => return self.note_recorded(recorded),
            CommitOutcome::Overtaken => self.store.doubt.resolved(),
            CommitOutcome::Committed => {
                self.store.doubt.resolved();
                if let Recorded::Readable(record) = recorded
                    && let Some(entry) = sent.entry(record)
                    && entry.action == Action::Upgrade
                {
                    self.note_late_answer(&entry.version, entry.applied());
                }
            }
        }
        self.note_recorded(recorded);
    }

    /// The version was applied by this run, which only the record told it.
    fn note_late_answer(&mut self, version: &Version, applied: crate::record::history::Applied) {
        let text = version.to_string();
        let known = |upgrade: &crate::process::report::UpgradeReport| {
            upgrade.version == text && upgrade.state == UpgradeState::Applied
        };
        if self.report.upgrades.iter().any(known) {
            return;
        }
        if let Some(upgrade) = self.upgrades.of_version(version) {
            self.note_done(text, upgrade, applied);
        }
    }

    /// The end of a run whose last commit is in doubt.
    pub(super) fn in_doubt(&mut self, mut failure: Failure, deployment: Deployment) -> Failure {
        let Some(sent) = self.store.doubt.sent() else { return failure };
        if sent.concerns_version() {
            self.report.in_doubt = Some(sent.version.clone());
            self.report.remaining.retain(|version| *version != sent.version);
        }
        if !sent.is_part() {
            self.report.unfinished = None;
        }
        let known = match self.report.standing() {
            known if known.is_empty() => known,
            known => format!("; {known}"),
        };
        let (silent, answering) = match deployment {
            Deployment::Standalone => ("the server did not confirm it", "the server"),
            Deployment::WithTransactions => (
                "no majority of the server confirmed it",
                "a majority of the replica set's members",
            ),
        };
        failure.message = format!(
            "{}; in doubt: {} (the commit was sent, and {silent}){known}",
            failure.message,
            sent.question()
        );
        let next = format!(
            "once {answering} answers, run it again: it reads whether the commit took effect, and goes on from \
             there (GATE_MODE=check only reads it); until then start nothing that uses this database"
        );
        failure.next = match failure.outcome {
            Outcome::NoServer | Outcome::Locked | Outcome::Interrupted => next,
            _ => format!("{}; {next}", failure.next),
        };
        failure
    }
}

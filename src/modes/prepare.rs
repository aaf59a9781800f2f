//! What is made sure of before anything is written: the server, the privileges, the conditions.

use mongodb::ClientSession;
use mongodb::bson::Timestamp;

use crate::authoring::condition::{Asked, Condition};
use crate::authoring::table::VersionUpgrade;
use crate::engine::condition::ask;
use crate::engine::context::Context;
use crate::engine::editors::open::Editors;
use crate::engine::failing::{closed, closed_in_preflight};
use crate::modes::run::Run;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::settings::{Conditions, Initialise};
use crate::record::staged::Own;
use crate::server::answer;
use crate::server::compatibility::NamingByUuid;
use crate::server::connection::{Deployment, Server};
use crate::server::privileges::{self, Need, everywhere, on};
use crate::server::stop::RunError;

impl Run<'_> {
    pub(super) async fn context(&self) -> Result<Context, Failure> {
        let doing = "asking what the server can do";
        let server = self.ask(doing, || Server::ask(&self.store.database)).await;
        let server = server.map_err(|error| closed(error, doing))?;
        Ok(Context {
            store: self.store.clone(),
            lock: self.lock.clone(),
            writer: self.writer.clone(),
            server,
            stop: self.stop.clone(),
            batch_documents: self.settings.batch_documents,
            checkpoints: self.checkpoints.clone(),
            activity: self.activity.clone(),
            quiesced: self
                .quiesce
                .as_ref()
                .map(|quiesce| quiesce.quiesced.clone())
                .unwrap_or_default(),
            staged: Own::default(),
            editors: Editors::new(self.stop.clone()),
        })
    }

    pub(super) async fn session(
        &self,
        context: &Context,
    ) -> Result<Option<ClientSession>, Failure> {
        if context.server.deployment == Deployment::Standalone {
            return Ok(None);
        }
        self.stop
            .guard(self.store.database.client().start_session().into_future())
            .await
            .map(Some)
            .map_err(|error| closed(error, "starting a session"))
    }

    /// Whether this server can do what the pending upgrades need.
    pub(super) async fn check_server(
        &self,
        context: &Context,
        upgrades: &[&VersionUpgrade],
    ) -> Result<(), Failure> {
        let mut naming: Option<NamingByUuid> = None;
        for upgrade in upgrades {
            for step in upgrade.steps() {
                if context.server.deployment == Deployment::Standalone && step.needs_transactions()
                {
                    return Err(Failure::new(
                        Outcome::ServerUnsuitable,
                        format!(
                            "upgrade {}: \"{}\" needs transactions, and this server is a standalone",
                            upgrade.version,
                            step.name()
                        ),
                        "make the server a replica set of one member (start it with --replSet, then \
                         run rs.initiate() once), then run it again",
                    ));
                }
                if step.gone().is_some() {
                    let naming = match naming {
                        Some(naming) => naming,
                        None => *naming.insert(self.naming_by_uuid(context).await?),
                    };
                    let what = format!("upgrade {}: \"{}\"", upgrade.version, step.name());
                    naming.lacking(&what).map_or(Ok(()), Err)?;
                }
            }
        }
        Ok(())
    }

    async fn naming_by_uuid(&self, context: &Context) -> Result<NamingByUuid, Failure> {
        let doing = "asking for the feature compatibility version";
        let (database, collection) = (&self.store.database, &self.lock.collection);
        let version = context.server.wire_version;
        let asking = || NamingByUuid::ask(database, collection, version);
        self.ask(doing, asking).await.map_err(|error| closed(error, doing))
    }

    /// Whether the connection's user may do what the run needs, before anything is written.
    pub(super) async fn check_privileges(
        &self,
        upgrades: &[&VersionUpgrade],
    ) -> Result<(), Failure> {
        let mut needs = needs(&self.lock.collection, upgrades);
        if let Some(place) = &self.store.names.stamp {
            needs.extend(on(&["find", "insert", "update"], &place.collection));
        }
        self.require(&needs).await
    }

    /// Refuses a connection whose user lacks one of these privileges.
    pub(super) async fn require(&self, needs: &[Need]) -> Result<(), Failure> {
        let doing = "asking for the user's privileges";
        let missing =
            self.ask(doing, || privileges::missing_privilege(&self.store.database, needs)).await;
        match missing.map_err(|error| closed(error, doing))? {
            Some(need) => Err(privileges::lacks(&need, self.store.database.name())),
            None => Ok(()),
        }
    }

    /// The closed gate that an error in the preflight means; where a privilege was missing, which one of
    /// `needs`.
    pub(super) async fn explain(&self, error: RunError, doing: &str, needs: &[Need]) -> Failure {
        match self.lacking(&error, needs).await {
            Some(failure) => failure,
            None => closed_in_preflight(error, doing),
        }
    }

    /// The same of an error about the record.
    pub(super) async fn explain_reading(&self, error: RunError) -> Failure {
        let doing = "reading the record";
        if !is_unauthorised(&error) {
            return closed(error, doing);
        }
        let needs = self.reading_needs().await;
        self.lacking(&error, &needs).await.unwrap_or_else(|| closed(error, doing))
    }

    async fn lacking(&self, error: &RunError, needs: &[Need]) -> Option<Failure> {
        if !is_unauthorised(error) {
            return None;
        }
        let missing = async || privileges::missing_privilege(&self.store.database, needs).await;
        let need = self.ask("asking for the user's privileges", missing).await.ok()??;
        Some(privileges::lacks(&need, self.store.database.name()))
    }

    /// What deciding needs.
    async fn reading_needs(&self) -> Vec<Need> {
        let mut needs = on(&["find"], &self.lock.collection);
        if let Some(place) = &self.store.names.stamp {
            needs.extend(on(&["find"], &place.collection));
        }
        if self.settings.initialise == Initialise::Fresh {
            needs.push(everywhere("listCollections"));
            let names = async || self.store.database.list_collection_names().await;
            let names = self.ask("listing collections", names).await.unwrap_or_default();
            needs.extend(names.iter().flat_map(|name| on(&["find"], name)));
        }
        needs
    }

    /// What a plan needs: to read, and where it rehearses, to write what it takes back.
    pub(super) fn plan_needs(&self, upgrades: &[&VersionUpgrade]) -> Vec<Need> {
        let mut needs = upgrades_needs(upgrades);
        needs
            .sort_by_key(|need| !matches!(need.action, "find" | "listIndexes" | "listCollections"));
        needs
    }

    /// Checks the conditions that can be checked before any write, except of the first `begun` upgrades: journaled
    /// ones.
    pub(super) async fn ask_first_conditions(
        &mut self,
        context: &Context,
        upgrades: &[&VersionUpgrade],
        begun: usize,
        since: Option<Timestamp>,
    ) -> Result<(), Failure> {
        for index in begun..upgrades.len() {
            let upgrade = upgrades[index];
            let first = upgrade.conditions().filter(|c| !depends(c, &upgrades[..index]));
            self.ask_conditions(context, upgrade, first, since).await?;
        }
        Ok(())
    }

    /// Asks what can be asked of a version only after the `earlier` ones.
    pub(super) async fn ask_later_conditions(
        &mut self,
        context: &Context,
        upgrade: &VersionUpgrade,
        earlier: &[&VersionUpgrade],
        since: Option<Timestamp>,
    ) -> Result<(), Failure> {
        let later = upgrade.conditions().filter(|c| depends(c, earlier));
        self.ask_conditions(context, upgrade, later, since).await
    }

    pub(super) async fn ask_conditions(
        &mut self,
        context: &Context,
        upgrade: &VersionUpgrade,
        conditions: impl Iterator<Item = &Condition>,
        since: Option<Timestamp>,
    ) -> Result<(), Failure> {
        for condition in conditions {
            if condition.skippable && self.settings.conditions == Conditions::SkipSkippable {
                self.warn(format!(
                    "condition \"{}\" of {} was skipped",
                    condition.description, upgrade.version
                ));
            } else if let Err(error) = ask(context, upgrade, condition, since).await {
                let needs = on(&["find"], &condition.collection);
                let doing =
                    format!("condition \"{}\" of {}", condition.description, upgrade.version);
                return Err(self.explain(error, &doing, &needs).await);
            }
        }
        Ok(())
    }
}

/// Whether an earlier version may change what a condition comes to.
fn depends(condition: &Condition, earlier: &[&VersionUpgrade]) -> bool {
    let changes = |upgrade: &&VersionUpgrade| {
        upgrade.steps().any(|step| step.writes().contains(&&*condition.collection))
    };
    !earlier.is_empty()
        && (condition.asked == Asked::BeforeItsUpgrade || earlier.iter().any(changes))
}

fn is_unauthorised(error: &RunError) -> bool {
    matches!(error, RunError::Driver(error) if answer::code(error) == Some(answer::UNAUTHORISED))
}

/// The privileges that applying `upgrades` needs.
fn needs(metadata: &str, upgrades: &[&VersionUpgrade]) -> Vec<Need> {
    let mut needs = on(&["find", "insert", "update", "remove"], metadata);
    needs.extend(upgrades_needs(upgrades));
    needs
}

/// The privileges that the upgrades themselves need.
fn upgrades_needs(upgrades: &[&VersionUpgrade]) -> Vec<Need> {
    let mut needs = Vec::new();
    for upgrade in upgrades {
        for condition in upgrade.conditions() {
            needs.extend(on(&["find"], &condition.collection));
        }
        for step in upgrade.steps() {
            needs.extend(step.privileges());
        }
    }
    needs
}

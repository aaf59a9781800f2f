//! What is made sure of before anything is written: the server, the privileges, the conditions.

use mongodb::ClientSession;
use mongodb::bson::Document;

use crate::engine::{Context, closed, suits};
use crate::exit::Outcome;
use crate::failure::Failure;
use crate::run::Run;
use crate::server::{self, Deployment, Need, Server};
use crate::settings::Conditions;
use crate::upgrade::{Asked, Command, Condition, Step, Unit};

/// How many documents a failed condition counts at the most.
const COUNTED: u64 = 1000;

impl Run<'_> {
    pub(super) async fn context(&self) -> Result<Context, Failure> {
        let server = self
            .stop
            .guard(Server::ask(&self.store.database))
            .await
            .map_err(|halt| closed(halt, "asking what the server can do"))?;
        Ok(Context {
            store: self.store.clone(),
            lock: self.lock.clone(),
            writer: self.writer.clone(),
            server,
            stop: self.stop.clone(),
            batch_documents: self.settings.batch_documents,
            checkpoints: self.checkpoints.clone(),
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
            .map_err(|halt| closed(halt, "starting a session"))
    }

    /// Whether this server can do what the pending upgrades need.
    pub(super) fn check_server(&self, context: &Context, units: &[&Unit]) -> Result<(), Failure> {
        for unit in units {
            for step in unit.steps() {
                if !suits(context.server.deployment, step) {
                    return Err(Failure::new(
                        Outcome::ServerUnsuitable,
                        format!(
                            "upgrade {}: \"{}\" needs transactions, and this server is a standalone",
                            unit.version,
                            step.name()
                        ),
                        "make the server a replica set of one member (start it with --replSet, then \
                         run rs.initiate() once), then run it again",
                    ));
                }
                let by_uuid =
                    matches!(step, Step::Command(Command::Rename { .. } | Command::Drop { .. }));
                if by_uuid && !context.server.names_collections_by_uuid {
                    return Err(Failure::new(
                        Outcome::ServerUnsuitable,
                        format!("upgrade {}: \"{}\" needs MongoDB 6.0", unit.version, step.name()),
                        "update the server to MongoDB 6.0 or later, then run it again",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether the connection's user may do what the run needs, before anything is written.
    pub(super) async fn check_privileges(&self, units: &[&Unit]) -> Result<(), Failure> {
        let needs = needs(&self.lock.collection, units);
        let missing = self
            .stop
            .guard(server::missing_privilege(&self.store.database, &needs))
            .await
            .map_err(|halt| closed(halt, "asking for the user's privileges"))?;
        match missing {
            Some(need) => Err(server::lacks(&need, self.store.database.name())),
            None => Ok(()),
        }
    }

    pub(super) async fn ask_conditions(
        &mut self,
        context: &Context,
        units: &[&Unit],
        when: Asked,
    ) -> Result<(), Failure> {
        for unit in units {
            for condition in unit.conditions().filter(|condition| condition.asked == when) {
                if condition.skippable && self.settings.conditions == Conditions::SkipSkippable {
                    self.warn(format!(
                        "condition \"{}\" of {} was skipped",
                        condition.description, unit.version
                    ));
                } else {
                    ask(context, unit, condition).await?;
                }
            }
        }
        Ok(())
    }
}

async fn ask(context: &Context, unit: &Unit, condition: &Condition) -> Result<(), Failure> {
    let collection = context.store.database.collection::<Document>(condition.collection);
    let matching = context
        .stop
        .guard(collection.count_documents(condition.filter.clone()).limit(COUNTED).into_future())
        .await
        .map_err(|halt| closed(halt, "asking a condition"))?;
    if matching == 0 {
        return Ok(());
    }
    let more = if matching == COUNTED { " or more" } else { "" };
    let skip = if condition.skippable { ", or set GATE_SKIP_CONDITIONS=true" } else { "" };
    Err(Failure::new(
        Outcome::ConditionFailed,
        format!(
            "condition \"{}\" of {} does not hold: {matching}{more} in {} {} in the way",
            condition.description,
            unit.version,
            condition.collection,
            if matching == 1 { "document is" } else { "documents are" }
        ),
        format!("mend these documents, then run it again{skip}"),
    ))
}

/// The privileges that applying `units` needs.
fn needs(metadata: &str, units: &[&Unit]) -> Vec<Need> {
    let on = |actions: &[&'static str], collection: &str| -> Vec<Need> {
        actions
            .iter()
            .map(|action| Need { action, collection: Some(collection.to_owned()) })
            .collect()
    };
    let everywhere = |action| Need { action, collection: None };
    let mut needs = on(&["find", "insert", "update", "remove"], metadata);
    for unit in units {
        for condition in unit.conditions() {
            needs.extend(on(&["find"], condition.collection));
        }
        for step in unit.steps() {
            match step {
                Step::Transform(transform) => {
                    needs.extend(on(&["find", "update"], transform.collection));
                    for lookup in &transform.lookups {
                        needs.extend(on(&["find"], lookup.collection));
                    }
                    for collection in &transform.inserts_into {
                        needs.extend(on(&["find", "insert"], collection));
                    }
                }
                Step::Transaction(transaction) => {
                    for collection in &transaction.collections {
                        needs.extend(on(&["find", "insert", "update", "remove"], collection));
                    }
                }
                Step::Command(command) => needs.extend(match command {
                    Command::CreateIndex { collection, .. } => {
                        on(&["listIndexes", "createIndex"], collection)
                    }
                    Command::DropIndex { collection, .. } => {
                        on(&["listIndexes", "dropIndex"], collection)
                    }
                    Command::SetValidator { collection, .. } => {
                        let mut needs = on(&["collMod", "createCollection"], collection);
                        needs.push(everywhere("listCollections"));
                        needs
                    }
                    Command::Rename { .. } => {
                        vec![everywhere("renameCollectionSameDB"), everywhere("listCollections")]
                    }
                    Command::Drop { collection } => {
                        let mut needs = on(&["dropCollection"], collection);
                        needs.push(everywhere("listCollections"));
                        needs
                    }
                }),
            }
        }
    }
    needs
}

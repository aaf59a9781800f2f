//! Changes options of a collection.

use async_trait::async_trait;
use mongodb::Database;
use mongodb::bson::Document;
use mongodb::error::Error;

use crate::authoring::collections::Collections;
use crate::authoring::command::kind::{CommandKind, Probe, ProbeContext, ProbeError, Subject};
use crate::authoring::command::stored::{
    change_or_create, change_privileges, collection, has_options, option_mistake, option_names,
};
use crate::authoring::naming::Name;
use crate::process::action::ActionType;
use crate::server::privileges::Need;

/// The options that it can change.
const OPTIONS: &[&str] =
    &["validationLevel", "validationAction", "expireAfterSeconds", "changeStreamPreAndPostImages"];

/// See [`Command::set_options`](crate::Command::set_options).
#[derive(Debug)]
pub(super) struct SetOptions {
    pub(super) collection: Name,
    pub(super) options: Document,
}

#[async_trait(?Send)]
impl CommandKind for SetOptions {
    fn describe(&self) -> String {
        format!("Set {} of {}", option_names(&self.options), self.collection)
    }

    fn collections(&self) -> Vec<&str> {
        vec![&self.collection]
    }

    fn subject(&self) -> Subject<'_> {
        Subject::Options { collection: &self.collection }
    }

    fn reports(&self) -> (ActionType, Document) {
        (ActionType::SetOptions, self.options.clone())
    }

    fn mistake(&self) -> Option<String> {
        option_mistake(&self.options, OPTIONS)
    }

    fn privileges(&self) -> Vec<Need> {
        change_privileges(&self.collection)
    }

    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        collections.creates(&self.collection);
    }

    async fn probe(
        &self,
        on: &ProbeContext<'_>,
        _begun: Option<&Document>,
    ) -> Result<Probe, ProbeError> {
        let stored = collection(on.database, &self.collection).await?;
        let done = stored.is_some_and(|stored| has_options(&stored.options, &self.options));
        Ok(Probe::of(done))
    }

    async fn send(&self, database: &Database, _identity: &Document) -> Result<(), Error> {
        change_or_create(database, &self.collection, self.options.clone()).await
    }
}

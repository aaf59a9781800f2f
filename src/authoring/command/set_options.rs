//! Changes options of a collection.

use futures_util::future::BoxFuture;
use mongodb::Database;
use mongodb::bson::Document;
use mongodb::error::Error;

use crate::authoring::command::kind::{CommandKind, Probe, Scene, Subject, Unprobed};
use crate::authoring::command::stored::{
    change_or_create, change_privileges, collection, has_options, option_mistake, option_names,
};
use crate::authoring::naming::Name;
use crate::authoring::presence::Presence;
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

    fn foretell<'a>(&'a self, presence: &mut Presence<'a, '_>) {
        presence.creates(&self.collection);
    }

    fn probe<'a>(
        &'a self,
        on: &'a Scene<'a>,
        _begun: Option<&'a Document>,
    ) -> BoxFuture<'a, Result<Probe, Unprobed>> {
        Box::pin(async {
            let stored = collection(on.database, &self.collection).await?;
            let done = stored.is_some_and(|stored| has_options(&stored.options, &self.options));
            Ok(Probe::of(done))
        })
    }

    fn send<'a>(
        &'a self,
        database: &'a Database,
        _identity: &'a Document,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(change_or_create(database, &self.collection, self.options.clone()))
    }
}

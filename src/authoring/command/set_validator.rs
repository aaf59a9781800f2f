//! Sets a collection's validator.

use async_trait::async_trait;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::Error;

use crate::authoring::command::kind::{CommandKind, Left, Probe, Scene, Subject, Unprobed};
use crate::authoring::command::stored::{change_or_create, change_privileges, collection};
use crate::authoring::naming::Name;
use crate::authoring::presence::Presence;
use crate::process::action::ActionType;
use crate::server::privileges::Need;

/// See [`Command::set_validator`](crate::Command::set_validator).
#[derive(Debug)]
pub(super) struct SetValidator {
    pub(super) collection: Name,
    pub(super) validator: Document,
}

#[async_trait(?Send)]
impl CommandKind for SetValidator {
    fn describe(&self) -> String {
        format!("Set the validator of {}", self.collection)
    }

    fn collections(&self) -> Vec<&str> {
        vec![&self.collection]
    }

    fn subject(&self) -> Subject<'_> {
        Subject::Validator { collection: &self.collection }
    }

    fn leaves(&self) -> Option<Left<'_>> {
        Some(Left::Validator(&self.validator))
    }

    fn reports(&self) -> (ActionType, Document) {
        (ActionType::SetValidator, doc! {})
    }

    fn privileges(&self) -> Vec<Need> {
        change_privileges(&self.collection)
    }

    fn foretell<'a>(&'a self, presence: &mut Presence<'a, '_>) {
        presence.creates(&self.collection);
    }

    async fn probe(&self, on: &Scene<'_>, _begun: Option<&Document>) -> Result<Probe, Unprobed> {
        let stored = collection(on.database, &self.collection).await?;
        // an empty validator is stored as none at all
        Ok(Probe::of(stored.is_some_and(|stored| {
            stored.option("validator").cloned().unwrap_or_default() == self.validator
        })))
    }

    async fn send(&self, database: &Database, _identity: &Document) -> Result<(), Error> {
        let options = doc! { "validator": self.validator.clone() };
        change_or_create(database, &self.collection, options).await
    }
}

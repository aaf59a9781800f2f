//! Sets a collection's validator.

use async_trait::async_trait;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::Error;

use crate::authoring::collections::Collections;
use crate::authoring::command::kind::{
    CommandKind, EndState, Probe, ProbeContext, ProbeError, Subject,
};
use crate::authoring::command::stored::{change_or_create, change_privileges, collection};
use crate::authoring::naming::Name;
use crate::authoring::pipeline_mistakes::of_validator;
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

    fn end_state(&self) -> Option<EndState<'_>> {
        Some(EndState::Validator(&self.validator))
    }

    fn reports(&self) -> (ActionType, Document) {
        (ActionType::SetValidator, doc! {})
    }

    fn mistake(&self) -> Option<String> {
        of_validator(&self.validator).first().map(|mistake| format!("its filter: {mistake}"))
    }

    fn filter(&self) -> Option<&Document> {
        Some(&self.validator)
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

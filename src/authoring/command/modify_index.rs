//! Changes options of an index that is there.

use async_trait::async_trait;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::Error;

use crate::authoring::collections::Collections;
use crate::authoring::command::kind::{CommandKind, Probe, ProbeContext, ProbeError, Subject};
use crate::authoring::command::stored::{
    has_options, index, majority, option_mistake, option_names,
};
use crate::authoring::naming::Name;
use crate::process::action::ActionType;
use crate::server::privileges::{Need, on};

/// See [`Command::modify_index`](crate::Command::modify_index).
#[derive(Debug)]
pub(super) struct ModifyIndex {
    pub(super) collection: Name,
    pub(super) name: Name,
    pub(super) options: Document,
}

#[async_trait(?Send)]
impl CommandKind for ModifyIndex {
    fn describe(&self) -> String {
        let options = option_names(&self.options);
        format!("Set {options} of index {} on {}", self.name, self.collection)
    }

    fn collections(&self) -> Vec<&str> {
        vec![&self.collection]
    }

    fn subject(&self) -> Subject<'_> {
        Subject::Index { collection: &self.collection, name: &self.name }
    }

    fn reports(&self) -> (ActionType, Document) {
        let mut details = doc! { "index": &*self.name };
        details.extend(self.options.clone());
        (ActionType::ModifyIndex, details)
    }

    fn mistake(&self) -> Option<String> {
        option_mistake(&self.options, &["expireAfterSeconds", "hidden"])
    }

    fn privileges(&self) -> Vec<Need> {
        on(&["listIndexes", "collMod"], &self.collection)
    }

    // it fails by itself where there is none
    fn declare_collections<'a>(&'a self, _presence: &mut Collections<'a, '_>) {}

    async fn probe(
        &self,
        on: &ProbeContext<'_>,
        _begun: Option<&Document>,
    ) -> Result<Probe, ProbeError> {
        let stored = index(on.database, &self.collection, &self.name).await?;
        Ok(match stored {
            Some(stored) => Probe::of(has_options(&stored, &self.options)),
            None => Probe::Missing,
        })
    }

    async fn send(&self, database: &Database, _identity: &Document) -> Result<(), Error> {
        let mut index = doc! { "name": &*self.name };
        index.extend(self.options.clone());
        let set = doc! { "collMod": &*self.collection, "index": index };
        database.run_command(majority(set)).await.map(drop)
    }
}

//! Changes options of an index that is there.

use futures_util::future::BoxFuture;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::Error;

use crate::authoring::command::kind::{CommandKind, Probe, Scene, Subject, Unprobed};
use crate::authoring::command::stored::{
    has_options, index, majority, option_mistake, option_names,
};
use crate::authoring::naming::Name;
use crate::authoring::presence::Presence;
use crate::process::action::ActionType;
use crate::server::privileges::{Need, on};

/// See [`Command::modify_index`](crate::Command::modify_index).
#[derive(Debug)]
pub(super) struct ModifyIndex {
    pub(super) collection: Name,
    pub(super) name: Name,
    pub(super) options: Document,
}

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
    fn foretell<'a>(&'a self, _presence: &mut Presence<'a, '_>) {}

    fn probe<'a>(
        &'a self,
        on: &'a Scene<'a>,
        _begun: Option<&'a Document>,
    ) -> BoxFuture<'a, Result<Probe, Unprobed>> {
        Box::pin(async {
            let stored = index(on.database, &self.collection, &self.name).await?;
            Ok(match stored {
                Some(stored) => Probe::of(has_options(&stored, &self.options)),
                None => Probe::Missing,
            })
        })
    }

    fn send<'a>(
        &'a self,
        database: &'a Database,
        _identity: &'a Document,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async {
            let mut index = doc! { "name": &*self.name };
            index.extend(self.options.clone());
            let set = doc! { "collMod": &*self.collection, "index": index };
            database.run_command(majority(set)).await.map(drop)
        })
    }
}

//! Drops a collection.

use async_trait::async_trait;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::Error;

use crate::authoring::collections::Collections;
use crate::authoring::command::kind::{CommandKind, Probe, ProbeContext, ProbeError, Subject};
use crate::authoring::command::stored::{UUID, collection, majority, uuid};
use crate::authoring::naming::Name;
use crate::process::action::ActionType;
use crate::server::privileges::{Need, everywhere, on};

/// See [`Command::drop_collection`](crate::Command::drop_collection).
#[derive(Debug)]
pub(super) struct Drop {
    pub(super) collection: Name,
}

#[async_trait(?Send)]
impl CommandKind for Drop {
    fn describe(&self) -> String {
        format!("Drop {}", self.collection)
    }

    fn collections(&self) -> Vec<&str> {
        vec![&self.collection]
    }

    fn subject(&self) -> Subject<'_> {
        Subject::Collections { gone: &self.collection }
    }

    fn reports(&self) -> (ActionType, Document) {
        (ActionType::Drop, doc! {})
    }

    fn privileges(&self) -> Vec<Need> {
        let mut needs = on(&["dropCollection"], &self.collection);
        needs.push(everywhere("listCollections"));
        needs
    }

    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        collections.requires(&self.collection);
        collections.removes(&self.collection);
    }

    async fn probe(
        &self,
        on: &ProbeContext<'_>,
        begun: Option<&Document>,
    ) -> Result<Probe, ProbeError> {
        let stored = collection(on.database, &self.collection).await?;
        Ok(match (stored, begun.and_then(|begun| begun.get(UUID))) {
            (None, _) => Probe::Done,
            // a collection that came after the one to be dropped is the application's
            (Some(stored), Some(uuid)) if stored.uuid != *uuid => Probe::Done,
            (Some(stored), _) => Probe::Todo(doc! { UUID: stored.uuid }),
        })
    }

    async fn send(&self, database: &Database, identity: &Document) -> Result<(), Error> {
        let drop = doc! { "drop": &*self.collection, "collectionUUID": uuid(identity) };
        database.run_command(majority(drop)).await.map(std::mem::drop)
    }
}

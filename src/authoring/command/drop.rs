//! Drops a collection.

use futures_util::future::BoxFuture;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::Error;

use crate::authoring::command::kind::{CommandKind, Probe, Scene, Subject, Unprobed};
use crate::authoring::command::stored::{UUID, collection, majority, uuid};
use crate::authoring::naming::Name;
use crate::authoring::presence::Presence;
use crate::process::action::ActionType;
use crate::server::privileges::{Need, everywhere, on};

/// See [`Command::drop_collection`](crate::Command::drop_collection).
#[derive(Debug)]
pub(super) struct Drop {
    pub(super) collection: Name,
}

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

    fn foretell<'a>(&'a self, presence: &mut Presence<'a, '_>) {
        presence.works_on(&self.collection);
        presence.removes(&self.collection);
    }

    fn probe<'a>(
        &'a self,
        on: &'a Scene<'a>,
        begun: Option<&'a Document>,
    ) -> BoxFuture<'a, Result<Probe, Unprobed>> {
        Box::pin(async move {
            let stored = collection(on.database, &self.collection).await?;
            Ok(match (stored, begun.and_then(|begun| begun.get(UUID))) {
                (None, _) => Probe::Done,
                // a collection that came after the one to be dropped is the application's
                (Some(stored), Some(uuid)) if stored.uuid != *uuid => Probe::Done,
                (Some(stored), _) => Probe::Todo(doc! { UUID: stored.uuid }),
            })
        })
    }

    fn send<'a>(
        &'a self,
        database: &'a Database,
        identity: &'a Document,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async {
            let drop = doc! { "drop": &*self.collection, "collectionUUID": uuid(identity) };
            database.run_command(majority(drop)).await.map(std::mem::drop)
        })
    }
}

//! Renames a collection.

use async_trait::async_trait;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::Error;

use crate::authoring::collections::Collections;
use crate::authoring::command::kind::{CommandKind, Probe, ProbeContext, ProbeError, Subject};
use crate::authoring::command::stored::{UUID, collections, majority, uuid};
use crate::authoring::naming::Name;
use crate::process::action::ActionType;
use crate::server::privileges::{Need, everywhere};

/// What to do about collections that are in each other's way.
const IN_THE_WAY: &str =
    "compare the two collections, move the one that is in the way, then run it again";

/// See [`Command::rename`](crate::Command::rename).
#[derive(Debug)]
pub(super) struct Rename {
    pub(super) from: Name,
    pub(super) to: Name,
}

#[async_trait(?Send)]
impl CommandKind for Rename {
    fn describe(&self) -> String {
        format!("Rename {} to {}", self.from, self.to)
    }

    fn collections(&self) -> Vec<&str> {
        vec![&self.from, &self.to]
    }

    fn subject(&self) -> Subject<'_> {
        Subject::Collections { gone: &self.from }
    }

    fn reports(&self) -> (ActionType, Document) {
        (ActionType::Rename, doc! { "to": &*self.to })
    }

    fn mistake(&self) -> Option<String> {
        (self.from == self.to).then(|| "a collection cannot be renamed to itself".to_owned())
    }

    fn privileges(&self) -> Vec<Need> {
        vec![everywhere("renameCollectionSameDB"), everywhere("listCollections")]
    }

    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        if !collections.has(&self.to) {
            collections.requires(&self.from);
        }
        if collections.has(&self.from) {
            collections.removes(&self.from);
            collections.adds(&self.to);
        }
    }

    async fn probe(
        &self,
        on: &ProbeContext<'_>,
        begun: Option<&Document>,
    ) -> Result<Probe, ProbeError> {
        let (from, to) = (&*self.from, &*self.to);
        let stored = collections(on.database, &[from, to]).await?;
        let (source, target) = (stored.get(from), stored.get(to));
        let begun = begun.and_then(|begun| begun.get(UUID));
        let todo = |uuid| Ok(Probe::Todo(doc! { UUID: uuid }));
        match (source, target, begun) {
            (_, Some(target), Some(uuid)) if target.uuid == *uuid => Ok(Probe::Done),
            (Some(source), None, Some(uuid)) if source.uuid == *uuid => todo(source.uuid.clone()),
            (_, _, Some(_)) => Err(ProbeError::Conflict {
                reason: format!("{from} is not the collection it was, or {to} is another"),
                next: IN_THE_WAY,
            }),
            (None, _, None) => Ok(Probe::Done),
            (Some(source), None, None) => todo(source.uuid.clone()),
            (Some(_), Some(_), None) => {
                let reason = format!("{from} and {to} are both there");
                Err(ProbeError::Conflict { reason, next: IN_THE_WAY })
            }
        }
    }

    async fn send(&self, database: &Database, identity: &Document) -> Result<(), Error> {
        let name = database.name();
        let rename = doc! {
            "renameCollection": format!("{name}.{}", self.from),
            "to": format!("{name}.{}", self.to),
            "collectionUUID": uuid(identity),
        };
        let admin = database.client().database("admin");
        admin.run_command(majority(rename)).await.map(drop)
    }
}

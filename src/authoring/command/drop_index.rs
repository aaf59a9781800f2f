//! Drops an index.

use async_trait::async_trait;
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;

use crate::authoring::collections::Collections;
use crate::authoring::command::kind::{
    CommandKind, EndState, Probe, ProbeContext, ProbeError, Subject,
};
use crate::authoring::command::stored::{index_keys, indexes, majority};
use crate::authoring::naming::Name;
use crate::process::action::ActionType;
use crate::server::privileges::{Need, on};

/// The key under which the journal holds the keys of the index.
const KEYS: &str = "keys";

/// See [`Command::drop_index`](crate::Command::drop_index).
#[derive(Debug)]
pub(super) struct DropIndex {
    pub(super) collection: Name,
    pub(super) name: Name,
}

#[async_trait(?Send)]
impl CommandKind for DropIndex {
    fn describe(&self) -> String {
        format!("Drop index {} on {}", self.name, self.collection)
    }

    fn collections(&self) -> Vec<&str> {
        vec![&self.collection]
    }

    fn subject(&self) -> Subject<'_> {
        Subject::Index { collection: &self.collection, name: &self.name }
    }

    fn end_state(&self) -> Option<EndState<'_>> {
        Some(EndState::Index(None))
    }

    fn reports(&self) -> (ActionType, Document) {
        (ActionType::DropIndex, doc! { "index": &*self.name })
    }

    fn mistake(&self) -> Option<String> {
        let mistake = match &*self.name {
            "_id_" => "the index of _id cannot be dropped",
            "*" => "drop indexes one by one, by their names",
            "" => "an index needs a name",
            _ => return None,
        };
        Some(mistake.to_owned())
    }

    fn privileges(&self) -> Vec<Need> {
        on(&["listIndexes", "dropIndex"], &self.collection)
    }

    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        collections.requires(&self.collection);
    }

    async fn probe(
        &self,
        on: &ProbeContext<'_>,
        begun: Option<&Document>,
    ) -> Result<Probe, ProbeError> {
        let stored = indexes(on.database, &self.collection).await?;
        let named =
            |index: &&Document| index.get_str("name").is_ok_and(|stored| stored == self.name);
        let keys = |index: &Document| index.get_document("key").cloned().unwrap_or_default();
        let Some(keys) = stored.iter().find(named).map(keys) else { return Ok(Probe::Done) };
        // an index that came after the one to be dropped, under its name, is another
        match begun.and_then(|begun| begun.get_document(KEYS).ok()) {
            Some(begun) if *begun != keys => return Ok(Probe::Done),
            _ => {}
        }
        // named by its keys if these are unambiguous, because another index may have its name later; not if the table
        // later has an index with these keys and another name
        let plain = keys.iter().all(|(_, kind)| !matches!(kind, Bson::String(_)));
        let same = |index: &&Document| index.get_document("key").is_ok_and(|key| *key == keys);
        let alone = stored.iter().filter(same).count();
        let renamed = on.indexes.iter().any(|index| {
            let other = index.options.as_ref().and_then(|options| options.name.as_deref());
            index_keys(&index.keys).0 == index_keys(&keys).0 && other != Some(&*self.name)
        });
        Ok(match plain && alone == 1 && !renamed {
            true => Probe::Todo(doc! { KEYS: keys }),
            false => Probe::of(false),
        })
    }

    async fn send(&self, database: &Database, identity: &Document) -> Result<(), Error> {
        let index = match identity.get_document(KEYS) {
            Ok(keys) => Bson::from(keys.clone()),
            Err(_) => Bson::from(&*self.name),
        };
        let drop = doc! { "dropIndexes": &*self.collection, "index": index };
        database.run_command(majority(drop)).await.map(std::mem::drop)
    }
}

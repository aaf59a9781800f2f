//! Creates an index.

use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;
use mongodb::options::{Collation, IndexOptions};
use mongodb::{Database, IndexModel};

use crate::authoring::collections::Collections;
use crate::authoring::command::kind::{
    CommandKind, EndState, Probe, ProbeContext, ProbeError, Subject,
};
use crate::authoring::command::stored::{collection, index, indexes, is_same_index};
use crate::authoring::naming::Name;
use crate::authoring::pipeline_mistakes::of_partial;
use crate::process::action::ActionType;
use crate::server::privileges::{Need, on};

/// An index to create, with its options; see [`Command::create_index`](crate::Command::create_index).
#[derive(Clone, Debug)]
pub struct CreateIndex {
    pub(super) collection: Name,
    pub(super) index: IndexModel,
}

impl CreateIndex {
    /// No two documents may share these keys.
    pub fn unique(self) -> Self {
        self.with(|options| options.unique = Some(true))
    }

    /// Documents without any of the keys are left out.
    pub fn sparse(self) -> Self {
        self.with(|options| options.sparse = Some(true))
    }

    /// Only documents that match `filter` are in the index.
    pub fn partial(self, filter: Document) -> Self {
        self.with(|options| options.partial_filter_expression = Some(filter))
    }

    /// The server deletes a document this long after the time that its key holds.
    pub fn expire_after(self, time: Duration) -> Self {
        self.with(|options| options.expire_after = Some(time))
    }

    /// Strings are compared by this collation, instead of by the collection's.
    pub fn collation(self, collation: Collation) -> Self {
        self.with(|options| options.collation = Some(collation))
    }

    fn with(mut self, change: impl FnOnce(&mut IndexOptions)) -> Self {
        change(self.index.options.get_or_insert_default());
        self
    }

    /// Why the server takes these options for no index.
    fn option_mistake(&self) -> Option<String> {
        let options = self.index.options.as_ref()?;
        let partial = options.partial_filter_expression.as_ref();
        if let Some(mistake) = partial.map(of_partial).unwrap_or_default().first() {
            return Some(format!("its `partial`: {mistake}"));
        }
        let is_set = |option: Option<bool>| option == Some(true);
        let kinds = self.index.keys.values();
        let special = kinds.filter_map(Bson::as_str).find(|kind| ["hashed", "text"].contains(kind));
        let mistake = if is_set(options.sparse) && partial.is_some() {
            "an index is sparse or partial, and not both: let the filter say `$exists: true`"
        } else if options.expire_after.is_some() && self.index.keys.len() > 1 {
            "documents expire by an index of one field: make one for that field alone"
        } else if options.expire_after.is_some_and(|time| i32::try_from(time.as_secs()).is_err()) {
            "documents expire after at most 2147483647 seconds, 68 years"
        } else if is_set(options.unique) && special == Some("hashed") {
            "an index with hashed keys cannot be unique"
        } else {
            return None;
        };
        Some(mistake.to_owned())
    }

    /// The index's name; empty where its options give none.
    fn name(&self) -> &str {
        self.index.options.as_ref().and_then(|o| o.name.as_deref()).unwrap_or_default()
    }
}

/// Why the server takes these keys for no index.
fn key_mistake(keys: &Document) -> Option<String> {
    const KINDS: [&str; 5] = ["2d", "2dsphere", "geoHaystack", "hashed", "text"];
    keys.iter().find_map(|(field, kind)| {
        let is_wildcard = field == "$**" || field.ends_with(".$**");
        let wrong = |part: &str| part.is_empty() || part.starts_with('$');
        if !is_wildcard && field.split('.').any(wrong) {
            return Some(format!("no index can have the key `{field}`"));
        }
        let is_order = match kind {
            Bson::Int32(n) => *n != 0,
            Bson::Int64(n) => *n != 0,
            Bson::Double(n) => *n != 0.0 && !n.is_nan(),
            Bson::String(kind) => KINDS.contains(&kind.as_str()),
            _ => false,
        };
        (!is_order).then(|| {
            format!("the key `{field}` needs an order, 1 or -1, or one of {}", KINDS.join(", "))
        })
    })
}

#[async_trait(?Send)]
impl CommandKind for CreateIndex {
    fn describe(&self) -> String {
        format!("Create index {} on {}", self.name(), self.collection)
    }

    fn collections(&self) -> Vec<&str> {
        vec![&self.collection]
    }

    fn subject(&self) -> Subject<'_> {
        Subject::Index { collection: &self.collection, name: self.name() }
    }

    fn end_state(&self) -> Option<EndState<'_>> {
        Some(EndState::Index(Some(&self.index)))
    }

    fn reports(&self) -> (ActionType, Document) {
        (ActionType::CreateIndex, doc! { "index": self.name() })
    }

    fn mistake(&self) -> Option<String> {
        let mistake = match (self.index.keys.is_empty(), self.name()) {
            (true, _) => "an index needs keys",
            (false, "") => "an index needs a name in its options",
            (false, "*" | "_id_") => {
                "the server takes this name for other indexes: choose another one"
            }
            _ => return key_mistake(&self.index.keys).or_else(|| self.option_mistake()),
        };
        Some(mistake.to_owned())
    }

    fn filter(&self) -> Option<&Document> {
        self.index.options.as_ref()?.partial_filter_expression.as_ref()
    }

    fn privileges(&self) -> Vec<Need> {
        on(&["listIndexes", "createIndex"], &self.collection)
    }

    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        collections.creates(&self.collection);
    }

    async fn probe(
        &self,
        on: &ProbeContext<'_>,
        _begun: Option<&Document>,
    ) -> Result<Probe, ProbeError> {
        let Some(stored) = index(on.database, &self.collection, self.name()).await? else {
            return Ok(Probe::of(false));
        };
        // an index without a collation of its own has its collection's
        let there = match stored.contains_key("collation") {
            true => collection(on.database, &self.collection).await?,
            false => None,
        };
        let inherited = there.as_ref().and_then(|there| there.option("collation"));
        match is_same_index(&stored, &self.index, inherited) {
            true => Ok(Probe::Done),
            false => Err(ProbeError::Conflict {
                reason: "an index of that name with other keys or options is there".to_owned(),
                next: "drop it, by hand or with a step before, or choose another name",
            }),
        }
    }

    async fn send(&self, database: &Database, _identity: &Document) -> Result<(), Error> {
        let collection = database.collection::<Document>(&self.collection);
        collection.create_index(self.index.clone()).await.map(drop)
    }

    // an index that is being built is listed already: creating it again waits for it
    fn may_be_in_progress(&self) -> bool {
        true
    }

    // the server has one of two indexes only that differ in their names alone
    async fn conflicting_index(&self, database: &Database) -> Result<Option<String>, Error> {
        let stored = indexes(database, &self.collection).await?;
        let twin = stored.iter().find(|stored| {
            !stored.contains_key("collation")
                && stored.get_str("name").is_ok_and(|name| name != self.name())
                && is_same_index(stored, &self.index, None)
        });
        Ok(twin.and_then(|twin| twin.get_str("name").ok()).map(str::to_owned))
    }
}

//! Commands as their author writes them: what the server changes outside transactions.

use std::borrow::Cow;
use std::time::Duration;

use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::options::{Collation, IndexOptions};

use crate::authoring::action::{ActionType, UpgradeAction};
use crate::authoring::naming::Name;

/// A change that the server makes outside transactions, each with a probe that tells done from not done.
#[expect(clippy::large_enum_variant, reason = "a process holds a handful of them")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Command {
    /// Creates an index; done when an index of that name with those keys and options is there.
    #[non_exhaustive]
    CreateIndex {
        /// The collection.
        collection: Name,
        /// The index; its options must give a name.
        index: IndexModel,
    },
    /// Drops an index by name; done when there is none of that name.
    ///
    /// A later step or upgrade may create another index under that name, or with those keys under another one. The
    /// command may reach the server late, after another run finished: it names the index by its keys, or by its name
    /// where the table later has an index of another name with them. So it does not hit one that differs in either.
    /// One with the same name and keys, and only other options, has nothing but the lease to protect it, which is
    /// verified just before.
    #[non_exhaustive]
    DropIndex {
        /// The collection.
        collection: Name,
        /// The index's name.
        name: Name,
    },
    /// Sets a collection's validator; done when the validator is exactly that.
    ///
    /// The command may reach the server late, after another run finished: where several upgrades set
    /// the validator of one collection, let each accept what the later ones do.
    #[non_exhaustive]
    SetValidator {
        /// The collection; created where it does not exist.
        collection: Name,
        /// The validator, for instance `{ $jsonSchema: … }`.
        validator: Document,
    },
    /// Changes options of a collection; done when each of them is as it says.
    ///
    /// The command may reach the server late, after another run finished, as with a validator.
    #[non_exhaustive]
    SetOptions {
        /// The collection; created where it does not exist.
        collection: Name,
        /// The options, that [`Command::set_options`] names.
        options: Document,
    },
    /// Changes options of an index that is there; done when each of them is as it says.
    ///
    /// The command may reach the server late, after another run finished.
    #[non_exhaustive]
    ModifyIndex {
        /// The collection.
        collection: Name,
        /// The index's name.
        name: Name,
        /// The options, that [`Command::modify_index`] names.
        options: Document,
    },
    /// Renames a collection; done when the source is gone.
    #[non_exhaustive]
    Rename {
        /// The present name.
        from: Name,
        /// The new name; must not exist.
        to: Name,
    },
    /// Drops a collection; done when it is gone.
    #[non_exhaustive]
    Drop {
        /// The collection.
        collection: Name,
    },
}

impl Command {
    /// Creates an index of this name, with these keys; what it returns takes the usual options.
    ///
    /// ```
    /// # use upgrade_gate::{Command, bson::doc};
    /// Command::create_index("cards", "board_position", doc! { "board": 1, "position": 1 }).unique();
    /// ```
    pub fn create_index(
        collection: impl Into<Cow<'static, str>>,
        name: impl Into<String>,
        keys: Document,
    ) -> CreateIndex {
        let options = IndexOptions::builder().name(name.into()).build();
        let index = IndexModel::builder().keys(keys).options(options).build();
        CreateIndex { collection: collection.into(), index }
    }

    /// Creates an index with any option that the server has; the options must give a name.
    pub fn create_index_model(
        collection: impl Into<Cow<'static, str>>,
        index: IndexModel,
    ) -> Command {
        Command::CreateIndex { collection: collection.into(), index }
    }

    /// Drops an index by name.
    pub fn drop_index(
        collection: impl Into<Cow<'static, str>>,
        name: impl Into<Cow<'static, str>>,
    ) -> Command {
        Command::DropIndex { collection: collection.into(), name: name.into() }
    }

    /// Sets a collection's validator; an empty document removes it.
    pub fn set_validator(collection: impl Into<Cow<'static, str>>, validator: Document) -> Command {
        Command::SetValidator { collection: collection.into(), validator }
    }

    /// Changes how a collection is kept: `validationLevel`, `validationAction`, `expireAfterSeconds` (of a
    /// clustered or time series collection), `changeStreamPreAndPostImages`. The others stay.
    ///
    /// ```
    /// # use upgrade_gate::{Command, bson::doc};
    /// Command::set_options("cards", doc! { "validationLevel": "moderate", "validationAction": "warn" });
    /// ```
    pub fn set_options(collection: impl Into<Cow<'static, str>>, options: Document) -> Command {
        Command::SetOptions { collection: collection.into(), options }
    }

    /// Changes an index that is there: `expireAfterSeconds` or `hidden`.
    pub fn modify_index(
        collection: impl Into<Cow<'static, str>>,
        name: impl Into<Cow<'static, str>>,
        options: Document,
    ) -> Command {
        Command::ModifyIndex { collection: collection.into(), name: name.into(), options }
    }

    /// What is wrong with what it names.
    pub(crate) fn name_mistake(&self) -> Option<String> {
        let mistake = match self {
            Command::CreateIndex { index, .. } if index.keys.is_empty() => "an index needs keys",
            Command::DropIndex { name, .. } if name == "_id_" => {
                "the index of _id cannot be dropped"
            }
            Command::DropIndex { name, .. } if name == "*" => {
                "drop indexes one by one, by their names"
            }
            Command::DropIndex { name, .. } if name.is_empty() => "an index needs a name",
            Command::Rename { from, to } if from == to => {
                "a collection cannot be renamed to itself"
            }
            _ => return None,
        };
        Some(mistake.to_owned())
    }

    /// Why the server could not carry it out, as far as its options tell.
    pub(crate) fn option_mistake(&self) -> Option<String> {
        let (options, known) = match self {
            Command::CreateIndex { .. } if self.index_name().is_empty() => {
                return Some(format!("{} needs a name in its options", self.describe()));
            }
            Command::SetOptions { options, .. } => (options, COLLECTION_OPTIONS),
            Command::ModifyIndex { options, .. } => (options, INDEX_OPTIONS),
            _ => return None,
        };
        let describe = self.describe();
        if options.is_empty() {
            return Some(format!("\"{describe}\" changes no option"));
        }
        let unknown = options.keys().find(|name| !known.contains(&name.as_str()))?;
        let known = known.join(", ");
        Some(format!("\"{describe}\" changes {unknown}, and can change only {known}"))
    }

    /// Renames a collection; nothing may have the new name yet.
    pub fn rename(from: impl Into<Cow<'static, str>>, to: impl Into<Cow<'static, str>>) -> Command {
        Command::Rename { from: from.into(), to: to.into() }
    }

    /// Drops a collection.
    pub fn drop_collection(collection: impl Into<Cow<'static, str>>) -> Command {
        Command::Drop { collection: collection.into() }
    }

    /// One line that says what the command does, and names it in the journal.
    pub(crate) fn describe(&self) -> String {
        match self {
            Command::CreateIndex { collection, .. } => {
                format!("Create index {} on {collection}", self.index_name())
            }
            Command::DropIndex { collection, name } => format!("Drop index {name} on {collection}"),
            Command::SetValidator { collection, .. } => {
                format!("Set the validator of {collection}")
            }
            Command::SetOptions { collection, options } => {
                format!("Set {} of {collection}", names(options))
            }
            Command::ModifyIndex { collection, name, options } => {
                format!("Set {} of index {name} on {collection}", names(options))
            }
            Command::Rename { from, to } => format!("Rename {from} to {to}"),
            Command::Drop { collection } => format!("Drop {collection}"),
        }
    }

    /// The name of the index that is created or dropped; empty where there is none.
    pub(crate) fn index_name(&self) -> &str {
        match self {
            Command::CreateIndex { index, .. } => {
                index.options.as_ref().and_then(|o| o.name.as_deref()).unwrap_or_default()
            }
            Command::DropIndex { name, .. } | Command::ModifyIndex { name, .. } => name,
            _ => "",
        }
    }

    pub(crate) fn action(&self) -> UpgradeAction {
        let (action_type, details) = match self {
            Command::CreateIndex { .. } => {
                (ActionType::CreateIndex, doc! { "index": self.index_name() })
            }
            Command::DropIndex { name, .. } => (ActionType::DropIndex, doc! { "index": &**name }),
            Command::SetValidator { .. } => (ActionType::SetValidator, doc! {}),
            Command::SetOptions { options, .. } => (ActionType::SetOptions, options.clone()),
            Command::ModifyIndex { name, options, .. } => {
                let mut details = doc! { "index": &**name };
                details.extend(options.clone());
                (ActionType::ModifyIndex, details)
            }
            Command::Rename { to, .. } => (ActionType::Rename, doc! { "to": &**to }),
            Command::Drop { .. } => (ActionType::Drop, doc! {}),
        };
        UpgradeAction {
            description: self.describe(),
            collection: self.collections()[0].to_owned(),
            action_type,
            details,
        }
    }

    /// The collections concerned, the one that is changed first.
    pub(crate) fn collections(&self) -> Vec<&str> {
        match self {
            Command::CreateIndex { collection, .. }
            | Command::DropIndex { collection, .. }
            | Command::SetValidator { collection, .. }
            | Command::SetOptions { collection, .. }
            | Command::ModifyIndex { collection, .. }
            | Command::Drop { collection } => vec![collection],
            Command::Rename { from, to } => vec![from, to],
        }
    }
}

/// The options that [`Command::set_options`] can change.
pub(crate) const COLLECTION_OPTIONS: &[&str] =
    &["validationLevel", "validationAction", "expireAfterSeconds", "changeStreamPreAndPostImages"];

/// The options that [`Command::modify_index`] can change.
pub(crate) const INDEX_OPTIONS: &[&str] = &["expireAfterSeconds", "hidden"];

fn names(options: &Document) -> String {
    options.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// An index to create, with its options; see [`Command::create_index`].
#[derive(Clone, Debug)]
pub struct CreateIndex {
    collection: Name,
    index: IndexModel,
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
}

impl From<CreateIndex> for Command {
    fn from(CreateIndex { collection, index }: CreateIndex) -> Self {
        Command::CreateIndex { collection, index }
    }
}

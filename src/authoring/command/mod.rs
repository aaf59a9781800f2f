//! Commands: what the server changes outside transactions.
//!
//! A kind of command is one file: what it is, what it needs, how it is told done from not done, and how it is sent. To
//! add one, add its file, and the function that makes it here.
//!
//! - `create_index`, `drop_index`, `modify_index`: indexes. `set_validator`, `set_options`: how a collection is kept.
//!   `rename`, `drop`: whole collections.
//! - `kind`: what each of them says of itself. `stored`: what a server has.

mod create_index;
mod drop;
mod drop_index;
pub(crate) mod kind;
mod modify_index;
mod rename;
mod set_options;
mod set_validator;
mod stored;

use std::borrow::Cow;
use std::sync::Arc;

use mongodb::IndexModel;
use mongodb::bson::Document;
use mongodb::options::IndexOptions;

use crate::authoring::collections::Collections;
pub use crate::authoring::command::create_index::CreateIndex;
use crate::authoring::command::drop::Drop;
use crate::authoring::command::drop_index::DropIndex;
use crate::authoring::command::kind::CommandKind;
use crate::authoring::command::modify_index::ModifyIndex;
use crate::authoring::command::rename::Rename;
use crate::authoring::command::set_options::SetOptions;
use crate::authoring::command::set_validator::SetValidator;
use crate::authoring::naming::Name;
use crate::authoring::step_kind::StepKind;
use crate::process::action::UpgradeAction;
use crate::server::privileges::Need;

/// A change that the server makes outside transactions, each with a probe that tells done from not done.
#[derive(Clone, Debug)]
pub struct Command {
    kind: Arc<dyn CommandKind>,
    name: Option<Name>,
}

impl Command {
    /// Creates an index of this name, with these keys; what it returns takes the usual options. It is done when an
    /// index of that name with those keys and options is there.
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
        CreateIndex { collection: collection.into(), index }.into()
    }

    /// Drops an index by name; done when there is none of that name.
    ///
    /// A later step or upgrade may create another index under that name, or with those keys under another one. The
    /// command may reach the server late, after another run finished: it names the index by its keys, or by its name
    /// where the table later has an index of another name with them. So it does not hit one that differs in either.
    /// One with the same name and keys, and only other options, has nothing but the lease to protect it, which is
    /// verified just before.
    pub fn drop_index(
        collection: impl Into<Cow<'static, str>>,
        name: impl Into<Cow<'static, str>>,
    ) -> Command {
        Command::of(DropIndex { collection: collection.into(), name: name.into() })
    }

    /// Sets a collection's validator, for instance `{ $jsonSchema: … }`; an empty document removes it. The collection
    /// is created where it does not exist. Done when the validator is exactly that.
    ///
    /// The command may reach the server late, after another run finished: where several upgrades set
    /// the validator of one collection, let each accept what the later ones do.
    pub fn set_validator(collection: impl Into<Cow<'static, str>>, validator: Document) -> Command {
        Command::of(SetValidator { collection: collection.into(), validator })
    }

    /// Changes how a collection is kept: `validationLevel`, `validationAction`, `expireAfterSeconds` (of a
    /// clustered or time series collection), `changeStreamPreAndPostImages`. The others stay. The collection is
    /// created where it does not exist. Done when each option is as it says.
    ///
    /// The command may reach the server late, after another run finished, as with a validator.
    ///
    /// ```
    /// # use upgrade_gate::{Command, bson::doc};
    /// Command::set_options("cards", doc! { "validationLevel": "moderate", "validationAction": "warn" });
    /// ```
    pub fn set_options(collection: impl Into<Cow<'static, str>>, options: Document) -> Command {
        Command::of(SetOptions { collection: collection.into(), options })
    }

    /// Changes an index that is there: `expireAfterSeconds` or `hidden`. Done when each option is as it says.
    ///
    /// The command may reach the server late, after another run finished.
    pub fn modify_index(
        collection: impl Into<Cow<'static, str>>,
        name: impl Into<Cow<'static, str>>,
        options: Document,
    ) -> Command {
        let (collection, name) = (collection.into(), name.into());
        Command::of(ModifyIndex { collection, name, options })
    }

    /// Renames a collection; nothing may have the new name yet. Done when the source is gone.
    pub fn rename(from: impl Into<Cow<'static, str>>, to: impl Into<Cow<'static, str>>) -> Command {
        Command::of(Rename { from: from.into(), to: to.into() })
    }

    /// Drops a collection; done when it is gone.
    pub fn drop_collection(collection: impl Into<Cow<'static, str>>) -> Command {
        Command::of(Drop { collection: collection.into() })
    }

    fn of(kind: impl CommandKind + 'static) -> Command {
        Command { kind: Arc::new(kind), name: None }
    }

    /// Names the step, which has the name of what it does otherwise.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Command {
        self.name = Some(name.into());
        self
    }

    /// Whether it has a name of its own, which no other step of its version may have.
    pub(crate) fn is_named(&self) -> bool {
        self.name.is_some()
    }

    pub(crate) fn as_kind(&self) -> &dyn CommandKind {
        &*self.kind
    }
}

impl From<CreateIndex> for Command {
    fn from(index: CreateIndex) -> Self {
        Command::of(index)
    }
}

impl StepKind for Command {
    fn name(&self) -> String {
        match &self.name {
            Some(name) => name.clone().into_owned(),
            None => self.kind.describe(),
        }
    }

    fn kind(&self) -> &'static str {
        "command"
    }

    fn reads(&self) -> Vec<&str> {
        self.kind.collections()
    }

    fn writes(&self) -> Vec<&str> {
        if self.kind.gone().is_some() { self.kind.collections() } else { vec![] }
    }

    fn changes(&self) -> Vec<&str> {
        self.kind.collections()
    }

    fn collections(&self) -> Vec<&str> {
        self.kind.collections()
    }

    fn own_mistake(&self) -> Option<String> {
        self.kind.mistake()
    }

    fn privileges(&self) -> Vec<Need> {
        self.kind.privileges()
    }

    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        self.kind.declare_collections(collections);
    }

    fn unestimated_actions(&self) -> Vec<UpgradeAction> {
        vec![self.kind.action().detail("exact", false)]
    }
}

//! A transaction step: free code, inside one transaction.

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::authoring::collections::Collections;
use crate::authoring::handle::Handle;
use crate::authoring::naming::Name;
use crate::authoring::step_error::StepError;
use crate::authoring::step_kind::StepKind;
use crate::process::action::{ActionType, UpgradeAction};
use crate::server::privileges::{Need, on};

type Run = dyn for<'a> Fn(&'a mut Handle<'_>) -> BoxFuture<'a, Result<Vec<UpgradeAction>, StepError>>
    + Send
    + Sync;

/// Free code that runs inside one transaction, through a [`Handle`] that reaches nothing else.
///
/// It may be run several times before one run is committed, and once more for a plan.
#[derive(Clone, derive_more::Debug)]
#[debug("Transaction({name})")]
pub struct Transaction {
    pub(crate) name: Name,
    pub(crate) collections: Vec<Name>,
    pub(crate) run: Arc<Run>,
}

impl Transaction {
    /// A step that touches the named collections and no other.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        collections: impl IntoIterator<Item = impl Into<Cow<'static, str>>>,
        run: impl for<'a> Fn(&'a mut Handle<'_>) -> BoxFuture<'a, Result<Vec<UpgradeAction>, StepError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let collections = collections.into_iter().map(Into::into).collect();
        Transaction { name: name.into(), collections, run: Arc::new(run) }
    }
}

impl StepKind for Transaction {
    fn name(&self) -> String {
        self.name.clone().into_owned()
    }

    fn kind(&self) -> &'static str {
        "transaction"
    }

    fn reads(&self) -> Vec<&str> {
        self.collections.iter().map(|name| &**name).collect()
    }

    fn writes(&self) -> Vec<&str> {
        self.reads()
    }

    fn privileges(&self) -> Vec<Need> {
        let all = ["find", "insert", "update", "remove"];
        self.collections.iter().flat_map(|name| on(&all, name)).collect()
    }

    // what it finds missing it may create
    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        self.collections.iter().for_each(|name| collections.adds(name));
    }

    fn needs_transactions(&self) -> bool {
        true
    }

    fn unestimated_actions(&self) -> Vec<UpgradeAction> {
        let collections = self.collections.join(", ");
        vec![UpgradeAction::inexact(ActionType::Update, collections, &*self.name)]
    }
}

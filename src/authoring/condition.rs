//! Conditions: what must hold before the first write of an upgrade.

use std::borrow::Cow;

use mongodb::bson::Document;

use crate::authoring::naming::{Name, collection_mistake};
use crate::authoring::pipeline_mistakes::of_condition;

/// What must be true of a collection, asked before anything is written.
#[derive(Clone, Debug)]
pub struct Condition {
    pub(crate) description: Name,
    pub(crate) collection: Name,
    pub(crate) filter: Document,
    pub(crate) kind: Kind,
    pub(crate) skippable: bool,
    pub(crate) asked: Asked,
    /// What to do where it does not hold, if that is known.
    pub(crate) remedy: Option<Name>,
}

/// What is asked of the documents that match the condition's filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There are none.
    None,
    /// There is at least one.
    Some,
    /// No two of them share all of these fields.
    Unique(Vec<Name>),
}

/// When a condition is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    BeforeAnyWrite,
    BeforeItsUpgrade,
}

impl Condition {
    /// Holds while no document of `collection` matches `filter`; `description` says so in a line.
    pub fn no_document(
        collection: impl Into<Cow<'static, str>>,
        filter: Document,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        Condition::of(Kind::None, collection.into(), filter, description.into())
    }

    /// Holds while at least one document of `collection` matches `filter`; `description` says so in a line.
    pub fn some_document(
        collection: impl Into<Cow<'static, str>>,
        filter: Document,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        Condition::of(Kind::Some, collection.into(), filter, description.into())
    }

    /// Holds while no two documents of `collection`, of those that match `filter`, share all of `fields`;
    /// `description` says so in a line.
    ///
    /// They share what a unique index over these fields would refuse: each element of an array is a key,
    /// what is missing is null, and strings are compared by the collection's collation.
    ///
    /// ```
    /// # use upgrade_gate::{Condition, bson::doc};
    /// Condition::unique("cards", ["board", "position"], doc! {}, "no two cards share a position");
    /// ```
    pub fn unique(
        collection: impl Into<Cow<'static, str>>,
        fields: impl IntoIterator<Item = impl Into<Cow<'static, str>>>,
        filter: Document,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        let fields = fields.into_iter().map(Into::into).collect();
        Condition::of(Kind::Unique(fields), collection.into(), filter, description.into())
    }

    fn of(kind: Kind, collection: Name, filter: Document, description: Name) -> Self {
        let asked = Asked::BeforeAnyWrite;
        Condition { description, collection, filter, kind, skippable: false, asked, remedy: None }
    }

    /// What is wrong with its definition, if anything.
    pub(crate) fn mistake(&self) -> Option<String> {
        if let Some(mistake) = collection_mistake(&self.collection) {
            return Some(format!("condition \"{}\": {mistake}", self.description));
        }
        if let Some(mistake) = of_condition(&self.filter).first() {
            return Some(format!("condition \"{}\": its filter: {mistake}", self.description));
        }
        let Kind::Unique(fields) = &self.kind else { return None };
        let named = |what: String| Some(format!("condition \"{}\" {what}", self.description));
        if fields.is_empty() {
            return named("names no field that documents may not share".to_owned());
        }
        let wrong = |part: &str| part.is_empty() || part.starts_with('$');
        if let Some(field) = fields.iter().find(|field| field.split('.').any(wrong)) {
            return named(format!("names the field \"{field}\", and no field can be called so"));
        }
        // an index takes a number for a position in an array as well
        let position = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let field = fields.iter().find(|field| field.split('.').skip(1).any(position))?;
        named(format!("names a position: give \"{field}\" without it"))
    }

    /// The operator may skip it with `GATE_SKIP_CONDITIONS`.
    pub fn skippable(mut self) -> Self {
        self.skippable = true;
        self
    }

    /// What the operator is told to do where it does not hold, in place of the general advice: the command that
    /// corrects the documents, as in "run `lab fix-names`".
    pub fn remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Checks it just before its own upgrade, not at the start, because an earlier upgrade may change its outcome.
    pub fn after_earlier_upgrades(mut self) -> Self {
        self.asked = Asked::BeforeItsUpgrade;
        self
    }
}

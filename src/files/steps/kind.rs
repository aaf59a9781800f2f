//! What every kind of step has in a file.

use crate::authoring::step::Step;
use crate::files::node::{Node, Span};
use crate::files::reader::{Fields, Reader};

/// A kind of step: the key that a step of that kind begins with, and how the rest of it is read.
pub(crate) struct Kind {
    pub(crate) key: &'static str,
    pub(crate) read: fn(&mut Reader<'_, '_>, &mut Written<'_>) -> Option<Step>,
}

/// A step as it is written.
pub(crate) struct Written<'n> {
    /// Its other keys.
    pub(crate) fields: Fields<'n>,
    /// The key that names its kind, and what stands there.
    pub(crate) at: Span,
    pub(crate) subject: &'n Node,
    /// The name that it has, unless it says another one.
    pub(super) default_name: String,
}

impl<'n> Written<'n> {
    /// The collection that the step is about.
    pub(crate) fn collection(&self, reader: &mut Reader<'_, '_>) -> Option<String> {
        reader.collection(self.subject)
    }

    /// A key that must be there.
    pub(crate) fn required(
        &mut self,
        reader: &mut Reader<'_, '_>,
        key: &'static str,
        expected: &str,
    ) -> Option<&'n Node> {
        self.fields.required(reader, key, (&self.at, "the step"), expected)
    }

    /// The name by which the journal knows the step.
    pub(crate) fn name(&mut self, reader: &mut Reader<'_, '_>) -> Option<String> {
        match self.fields.optional("name") {
            Some(node) => reader.line(node).map(str::to_owned),
            None => Some(self.default_name.clone()),
        }
    }

    /// The name of a step whose key `name` is that of an index.
    pub(crate) fn default_name(&self) -> String {
        self.default_name.clone()
    }
}

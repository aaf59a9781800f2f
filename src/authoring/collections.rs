//! Which collections exist as the steps are applied one after another, and which ones a step needs but does not find.

use std::collections::HashSet;

/// The collections that are there when a step begins. The step says what it needs of them and what it leaves.
pub(crate) struct Collections<'a, 'b> {
    there: &'b mut HashSet<&'a str>,
    /// What is missed: a collection, a part of the step where it is not the step itself, and what follows.
    missed: &'b mut dyn FnMut(&'a str, Option<String>, &'static str),
}

impl<'a, 'b> Collections<'a, 'b> {
    pub(crate) fn new(
        there: &'b mut HashSet<&'a str>,
        missed: &'b mut dyn FnMut(&'a str, Option<String>, &'static str),
    ) -> Self {
        Collections { there, missed }
    }

    pub(crate) fn has(&self, collection: &str) -> bool {
        self.there.contains(collection)
    }

    pub(crate) fn adds(&mut self, collection: &'a str) {
        self.there.insert(collection);
    }

    pub(crate) fn removes(&mut self, collection: &str) {
        self.there.remove(collection);
    }

    /// The step works on what is in a collection.
    pub(crate) fn requires(&mut self, collection: &'a str) {
        self.misses(collection, None, "nothing to do there");
    }

    /// A look-up of the step reads a collection.
    pub(crate) fn looks_up(&mut self, collection: &'a str, lookup: &str) {
        let lookup = format!("look-up \"{lookup}\"");
        self.misses(collection, Some(lookup), "nothing is found there");
    }

    /// The step creates a collection that is not there.
    pub(crate) fn creates(&mut self, collection: &'a str) {
        self.misses(collection, None, "the step creates it");
        self.adds(collection);
    }

    fn misses(&mut self, collection: &'a str, part: Option<String>, so: &'static str) {
        if !self.has(collection) {
            (self.missed)(collection, part, so);
        }
    }
}

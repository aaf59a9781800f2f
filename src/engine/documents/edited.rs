//! What a transform makes of documents, and a batch of it.

use mongodb::bson::{Bson, RawDocument, RawDocumentBuf, rawdoc};
use mongodb::error::Error;

use crate::authoring::edit::{Counts, Inserts, Touched};
use crate::authoring::transform::Transform;
use crate::engine::author;
use crate::record::journal::Done;
use crate::server::connection::Deployment;

/// How many bytes of edited documents and of their edits a batch may hold; one document may need more.
pub(crate) const HELD_BYTES: usize = 8 * 1024 * 1024;

/// Whether the server is asked how large the documents are of which only some fields are read. It takes
/// the server a tenth of the reading.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sizes {
    Asked,
    NotAsked,
}

/// How many bytes of documents one transaction may change: far below what strains a small cache, and so few
/// that their `_id`s fit in one command.
pub(crate) const TRANSACTION_BYTES: usize = 12 * 1024 * 1024;

/// The names under which changed, deleted and added documents are counted if no counter of the author's counted them.
/// No author would choose them.
pub(crate) const CHANGED: &str = "(changed)";

pub(crate) const DELETED: &str = "(deleted)";

pub(crate) const ADDED: &str = "(added)";

/// By how much one document may be counted: a sum over all documents must fit into an int64.
pub(crate) const MOST_COUNTED: u64 = 1 << 31;

/// How a batch is read.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// To be written in a transaction.
    Write,
    /// To find out beforehand whether it could be.
    Preflight,
    /// To be written outside transactions, or to find out whether it could be.
    Guarded,
}

impl Purpose {
    /// How a batch is read to find out whether it could be written on such a server.
    pub(crate) fn of_preflight(deployment: Deployment) -> Self {
        match deployment {
            Deployment::WithTransactions => Purpose::Preflight,
            Deployment::Standalone => Purpose::Guarded,
        }
    }
}

/// Documents of a transform, read and computed together.
pub(crate) struct Batch {
    /// The documents that change, in `_id` order.
    pub(crate) edited: Vec<Edited>,
    /// How many documents were read.
    pub(crate) read: u64,
    /// The `_id` of the last document read; `None` at the end of the collection.
    pub(crate) last: Option<Bson>,
    /// Whether the documents hold their sizes.
    pub(crate) sizes: Sizes,
    /// What the transform makes of documents, as far as it is to be given to it once more and asks for
    /// more than was looked up.
    pub(crate) outputs: Vec<RawDocumentBuf>,
}

/// A document as it was read, and what its edits come to.
pub(crate) struct Edited {
    pub(crate) document: RawDocumentBuf,
    pub(crate) effect: Effect,
}

/// What the edits of one document come to.
pub(crate) struct Effect {
    /// Whether the document itself is changed.
    pub(crate) changes: bool,
    /// Whether it is deleted.
    pub(crate) deletes: bool,
    pub(crate) counts: Counts,
    pub(crate) inserts: Inserts,
    /// What edits the document on the server; `None` if it is not itself to be written, or not by one
    /// statement.
    pub(crate) statement: Option<RawDocumentBuf>,
    /// The new values of its fields, where one statement cannot hold these and the old ones.
    pub(crate) large: Option<Touched>,
    /// What deletes it there; `None` if it stays.
    pub(crate) deletion: Option<RawDocumentBuf>,
    /// The bytes of the document before or after, whichever are more, as far as its size was asked for, and
    /// of those that it adds.
    pub(crate) bytes: usize,
    /// What the document becomes, where that is asked for.
    pub(crate) output: Option<RawDocumentBuf>,
}

impl Batch {
    /// The first documents of the batch, as many as one transaction may change after `tried` failed attempts, and the
    /// `_id` after which the next batch then begins.
    pub(crate) fn part(&self, tried: u32) -> (&[Edited], Option<Bson>) {
        let most = self.edited.len().checked_shr(tried).unwrap_or_default();
        let mut bytes = 0;
        let fits = self.edited.iter().take(most).take_while(|edited| {
            bytes += edited.bytes();
            bytes <= TRANSACTION_BYTES
        });
        let part = &self.edited[..fits.count().max(1).min(self.edited.len())];
        match part.last() {
            Some(last) if part.len() < self.edited.len() => (part, last.id()),
            _ => (part, self.last.clone()),
        }
    }

    /// Leaves what is too much for one transaction to the next batch.
    pub(crate) fn cut(&mut self) {
        let (part, last) = self.part(0);
        let keep = part.len();
        self.edited.truncate(keep);
        self.last = last;
    }

    /// Whether it takes so much memory that nothing else should be held at the same time.
    pub(crate) fn is_large(&self) -> bool {
        let bytes = |edited: &Edited| edited.document.as_bytes().len() + edited.bytes_besides();
        self.edited.iter().map(bytes).sum::<usize>() > HELD_BYTES
    }

    /// What writing the batch does.
    pub(crate) fn done(&self) -> Done {
        done(&self.edited)
    }
}

/// What writing these does.
pub(crate) fn done<'a>(edited: impl IntoIterator<Item = &'a Edited>) -> Done {
    let mut done = Done::default();
    edited.into_iter().for_each(|edited| edited.count(&mut done));
    done
}

impl Edited {
    pub(crate) fn count(&self, done: &mut Done) {
        done.documents += 1;
        let mut count = |name: &str, n: u64| match done.counts.get_mut(name) {
            Some(count) => *count = count.saturating_add(n),
            None => {
                done.counts.insert(name.to_owned(), n);
            }
        };
        let Effect { counts, inserts, changes, deletes, .. } = &self.effect;
        counts.iter().for_each(|(name, n)| count(name, *n));
        if counts.iter().all(|(_, n)| *n == 0) {
            if *changes {
                count(CHANGED, 1);
            }
            if *deletes {
                count(DELETED, 1);
            }
            if !inserts.is_empty() {
                count(ADDED, inserts.len() as u64);
            }
        }
    }

    /// The bytes that are held of it besides the document.
    pub(crate) fn bytes_besides(&self) -> usize {
        let inserts = self.effect.inserts.iter().map(|(_, document)| document);
        let own = self.effect.statement.iter().chain(&self.effect.deletion);
        let bytes: usize = inserts.chain(own).map(|document| document.as_bytes().len()).sum();
        bytes + self.effect.large.as_ref().map_or(0, Touched::bytes)
    }

    /// The new values of its fields, where they are too large for one statement.
    pub(crate) fn large(&self) -> Option<&Touched> {
        self.effect.large.as_ref()
    }

    /// The bytes that are held of it.
    pub(crate) fn bytes_held(&self) -> usize {
        let output = self.output().map_or(0, |output| output.as_bytes().len());
        self.document.as_bytes().len() + self.bytes_besides() + output
    }

    /// The most bytes that are changed.
    pub(crate) fn bytes(&self) -> usize {
        self.effect.bytes
    }

    /// The documents that it adds, by collection.
    pub(crate) fn inserts(&self) -> impl Iterator<Item = (&str, &RawDocumentBuf)> {
        self.effect.inserts.iter().map(|(collection, document)| (&**collection, document))
    }

    /// What the document becomes, where that was to be kept and differs.
    pub(crate) fn output(&self) -> Option<&RawDocument> {
        self.effect.output.as_deref()
    }

    /// Whether the document is deleted.
    pub(crate) fn deletes(&self) -> bool {
        self.effect.deletes
    }

    pub(crate) fn id(&self) -> Option<Bson> {
        self.document.get("_id").ok().flatten()?.try_into().ok()
    }
}

/// The `_id` of the last of these documents.
pub(crate) fn last(documents: &[RawDocumentBuf]) -> Result<Option<Bson>, Error> {
    match documents.last() {
        Some(document) => Ok(document.get("_id")?.map(Bson::try_from).transpose()?),
        None => Ok(None),
    }
}

/// A document by its collection and `_id`, and nothing of its contents.
pub(crate) fn place(transform: &Transform, document: &RawDocument) -> String {
    let id = author::id(document).unwrap_or_else(|| "without a readable _id".to_owned());
    format!("document {id} of {}", transform.collection)
}

pub(crate) fn id_bytes(document: &RawDocument) -> Vec<u8> {
    match document.get("_id") {
        Ok(Some(id)) => rawdoc! { "_id": id }.into_bytes(),
        _ => vec![],
    }
}

/// Whether a document is the one that was sent, byte for byte: the server moves the `_id` to the front.
pub(crate) fn is_same(sent: &RawDocument, stored: &RawDocument) -> bool {
    let rest = |document: &RawDocument| -> Result<RawDocumentBuf, Error> {
        let mut rest = RawDocumentBuf::new();
        for field in document {
            let (name, value) = field?;
            if name.as_str() != "_id" {
                rest.append(name, value);
            }
        }
        Ok(rest)
    };
    matches!((rest(sent), rest(stored)), (Ok(sent), Ok(stored)) if sent.as_bytes() == stored.as_bytes())
}

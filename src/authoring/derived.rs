//! Ids that are derived from what they stand for, and so are the same at every run.

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{RawArrayBuf, RawBsonRef};
use sha2::{Digest, Sha256};

/// An `_id` for a document that an upgrade adds, computed from what the document is made of: the same
/// whenever it is computed from the same `namespace` and `parts`.
///
/// An upgrade may compute a document several times, in a plan, in a retry and after a crash; a random
/// `_id` would add it several times. The namespace keeps apart ids that are derived for different
/// purposes from the same parts; the collection's name is a good choice. Anything in the document
/// that users may change in the meantime must be among the parts, too.
///
/// The algorithm is part of the public interface and stays: the first 12 bytes of the SHA-256 of the BSON
/// document `{ "0": namespace, "1": first part, "2": second part, … }`. The type of a part matters: the int
/// 7, the long 7 and the double 7.0 give three ids. In Python, with pymongo's `bson` and a
/// document's `_id` as the only part:
///
/// ```python
/// ObjectId(hashlib.sha256(bson.encode({"0": "blocks", "1": document["_id"]})).digest()[:12])
/// ```
///
/// ```
/// use upgrade_gate::bson::RawBsonRef;
/// use upgrade_gate::derived_object_id;
///
/// let id = derived_object_id("blocks", [RawBsonRef::Int32(7), RawBsonRef::String("first")]);
/// assert_eq!(id.to_hex(), "8910700815ea54dcc33650bd");
/// ```
///
/// Unlike an ordinary ObjectId, it holds no timestamp, and its sort order means nothing.
pub fn derived_object_id<'a>(
    namespace: &str,
    parts: impl IntoIterator<Item = impl Into<RawBsonRef<'a>>>,
) -> ObjectId {
    let mut all = RawArrayBuf::new();
    all.push(namespace);
    for part in parts {
        all.push(part.into());
    }
    let mut id = [0; 12];
    id.copy_from_slice(&Sha256::digest(all.as_bytes())[..12]);
    ObjectId::from_bytes(id)
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime, RawDocumentBuf, rawdoc};

    use super::*;

    /// The vectors were computed by Python's `hashlib` and pymongo's `bson`.
    #[test]
    fn ids_are_those_of_the_test_vectors() {
        let id = |namespace: &str, parts: &[RawBsonRef<'_>]| {
            derived_object_id(namespace, parts.iter().copied()).to_hex()
        };
        let whole: RawDocumentBuf = rawdoc! { "a": [1, "é"], "b": null };
        let object = ObjectId::from_bytes([7; 12]);
        for (found, expected) in [
            (id("", &[]), "da5a7753cd825326305825b7"),
            (id("blocks", &[RawBsonRef::Int32(7)]), "f669cdffe139ab15ab2f8461"),
            (id("blocks", &[RawBsonRef::Int64(7)]), "4ab080c7564404f9828de833"),
            (id("blocks", &[RawBsonRef::Double(7.0)]), "6332ea52298ed8403749f671"),
            (
                id("blocks", &[RawBsonRef::Int32(7), RawBsonRef::String("first")]),
                "8910700815ea54dcc33650bd",
            ),
            (
                id("files", &[RawBsonRef::ObjectId(object), RawBsonRef::Document(&whole)]),
                "7a138a4aa8293f04fc1bc285",
            ),
            (
                id("files", &[RawBsonRef::DateTime(DateTime::from_millis(0))]),
                "566262c28a926e69efe45587",
            ),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn parts_are_never_taken_for_one_another() {
        let id = |parts: &[&str]| derived_object_id("n", parts.iter().copied());
        assert_ne!(id(&["ab", "c"]), id(&["a", "bc"]));
        assert_ne!(id(&["a", ""]), id(&["a"]));
        assert_ne!(derived_object_id("na", ["b"]), derived_object_id("n", ["a", "b"]));
        assert_eq!(id(&["a", "b"]), id(&["a", "b"]));
    }
}

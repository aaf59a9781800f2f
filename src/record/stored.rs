//! What a stored document says, as far as its bytes tell.

use mongodb::bson::{Bson, RawDocument};

use crate::record::raw::{self, Builder, Element};

/// The id of a stored journal, or `unreadable` where it has none.
pub(crate) fn journal_id(document: &RawDocument) -> Option<String> {
    let mut journals = named(document, "journal").into_iter();
    let (journal, more) = (journals.next()?, journals.next());
    let journal = journal.document().filter(|_| more.is_none());
    let id = journal.and_then(|journal| journal.get_str("id").ok());
    Some(id.unwrap_or("unreadable").to_owned())
}

/// The fields of this name, however many.
pub(super) fn named<'a>(document: &'a RawDocument, name: &str) -> Vec<Element<'a>> {
    let elements = raw::elements(document.as_bytes()).unwrap_or_default();
    elements.into_iter().filter(|element| element.name == name.as_bytes()).collect()
}

/// A value as text that is short enough to be shown: a string as it is, anything else as JSON.
pub(super) fn as_text(element: &Element<'_>) -> String {
    short(&version_text(element))
}

/// The stored version as text: a string as it is, anything else as JSON, or `missing`; all of them where there
/// are several.
pub(super) fn stored_version(document: &RawDocument) -> String {
    let texts: Vec<String> = named(document, "version").iter().map(version_text).collect();
    if texts.is_empty() { "missing".to_owned() } else { short(&texts.join("|")) }
}

fn version_text(element: &Element<'_>) -> String {
    let json = || {
        let mut document = Builder::new();
        document.push(element.kind, b"version", element.value);
        let document = document.document()?;
        let value = Bson::try_from(document.get("version").ok()??).ok()?;
        serde_json::to_string(&value).ok()
    };
    match element.text() {
        // no setting can be empty, or hold a NUL
        Some(b"") => "empty".to_owned(),
        Some(text) if text.contains(&0) && std::str::from_utf8(text).is_ok() => {
            json().unwrap_or_else(|| raw::readable(text))
        }
        Some(text) => raw::readable(text),
        None => json().unwrap_or_else(|| "invalid".to_owned()),
    }
}

/// Why a document with these fields cannot be read reliably: one of them is repeated, and other programs may read
/// another occurrence, or a field's name is not UTF-8.
pub(super) fn ambiguous(document: &RawDocument, fields: &[&str]) -> Option<String> {
    let Some(elements) = raw::elements(document.as_bytes()) else {
        return Some("its bytes cannot be read".to_owned());
    };
    let repeated = |name: &&&str| {
        elements.iter().filter(|element| element.name == name.as_bytes()).count() > 1
    };
    if let Some(name) = fields.iter().find(repeated) {
        return Some(format!("it has the field {name} more than once"));
    }
    let unnameable = elements.iter().any(|element| !element.has_name());
    unnameable.then(|| "it has a field whose name is not UTF-8".to_owned())
}

/// A text that an operator can repeat: a long one by its beginning, its length and a number made of all of
/// it (FNV-1a).
fn short(text: &str) -> String {
    if text.len() <= LONGEST_TEXT {
        return text.to_owned();
    }
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut start = text.to_owned();
    crate::visible::cut(&mut start, 60);
    format!("{start} ({} bytes, {hash:016x})", text.len())
}

/// More bytes of a stored version are not repeated.
const LONGEST_TEXT: usize = 200;

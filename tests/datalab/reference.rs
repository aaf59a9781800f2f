//! The rule of datalab's 0.8.0 upgrade, written down once more in the plainest way.

use mongodb::bson::raw::CString;
use mongodb::bson::{RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

/// What the upgrade makes of a collection.
#[derive(Debug, PartialEq)]
pub struct Upgraded {
    pub items: Vec<RawDocumentBuf>,
    pub pinned: u64,
    pub deprecated: u64,
}

/// Upgrades items, given in natural order.
pub fn upgrade(items: &[RawDocumentBuf]) -> Upgraded {
    let mut dictionary = Vec::new();
    for item in items {
        let item = decode(item);
        let refcode = get(&item, "refcode").cloned().unwrap_or(RawBson::Null);
        if let Some(item_id) = get(&item, "item_id")
            && !matches!(refcode, RawBson::Null | RawBson::Undefined)
        {
            dictionary.push((item_id.clone(), refcode));
        }
    }

    let mut upgraded = Upgraded { items: Vec::new(), pinned: 0, deprecated: 0 };
    for item in items {
        let mut item = decode(item);
        if let Some(RawBson::Array(entries)) = get(&item, "relationships") {
            let mut new_entries = RawArrayBuf::new();
            for entry in entries {
                new_entries.push(match entry.unwrap() {
                    RawBsonRef::Document(entry) => {
                        let mut entry = decode(entry);
                        upgrade_entry(&mut entry, &dictionary, &mut upgraded);
                        RawBson::Document(encode(&entry))
                    }
                    other => other.into(),
                });
            }
            set(&mut item, "relationships", RawBson::Array(new_entries));
        }
        upgraded.items.push(encode(&item));
    }
    upgraded
}

fn upgrade_entry(entry: &mut Fields, dictionary: &[(RawBson, RawBson)], upgraded: &mut Upgraded) {
    if get(entry, "refcode").is_some_and(truthy) {
        return;
    }
    let Some(item_id) = get(entry, "item_id").filter(|value| truthy(value)).cloned() else {
        return;
    };
    let mut found = None;
    for (known, refcode) in dictionary {
        if same(known, &item_id) {
            found = Some(refcode.clone());
        }
    }
    match found {
        Some(refcode) if get(entry, "refcode") == Some(&refcode) => {}
        Some(refcode) => {
            set(entry, "refcode", refcode);
            upgraded.pinned += 1;
        }
        None if get(entry, "deprecated") == Some(&RawBson::Boolean(true)) => {}
        None => {
            set(entry, "deprecated", RawBson::Boolean(true));
            upgraded.deprecated += 1;
        }
    }
}

fn truthy(value: &RawBson) -> bool {
    let falsy = match value {
        RawBson::Null | RawBson::Undefined | RawBson::Boolean(false) => true,
        RawBson::Int32(number) => *number == 0,
        RawBson::Int64(number) => *number == 0,
        RawBson::Double(number) => *number == 0.0,
        RawBson::String(text) | RawBson::Symbol(text) | RawBson::JavaScriptCode(text) => {
            text.is_empty()
        }
        RawBson::JavaScriptCodeWithScope(code) => code.code.is_empty(),
        RawBson::Binary(binary) => binary.bytes.is_empty(),
        RawBson::Array(array) => array.is_empty(),
        RawBson::Document(document) => document.is_empty(),
        _ => false,
    };
    !falsy
}

fn same(a: &RawBson, b: &RawBson) -> bool {
    let int = |value: &RawBson| match value {
        RawBson::Int32(number) => Some(i64::from(*number)),
        RawBson::Int64(number) => Some(*number),
        _ => None,
    };
    let double = RawBson::as_f64;
    let int_is_double =
        |int: i64, double: f64| double.fract() == 0.0 && int as i128 == double as i128;
    match (int(a), double(a), int(b), double(b)) {
        (Some(a), _, Some(b), _) => a == b,
        (_, Some(a), _, Some(b)) => a == b,
        (Some(int), _, _, Some(double)) | (_, Some(double), Some(int), _) => {
            int_is_double(int, double)
        }
        _ => {
            let never = matches!(
                a,
                RawBson::Array(_)
                    | RawBson::Document(_)
                    | RawBson::RegularExpression(_)
                    | RawBson::Undefined
            );
            !never && a == b
        }
    }
}

type Fields = Vec<(CString, RawBson)>;

fn decode(document: &RawDocument) -> Fields {
    document.iter().flatten().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

fn encode(fields: &Fields) -> RawDocumentBuf {
    fields.iter().map(|(name, value)| (name, value.as_raw_bson_ref())).collect()
}

/// The first field of this name.
fn get<'a>(fields: &'a Fields, name: &str) -> Option<&'a RawBson> {
    fields.iter().find(|(other, _)| other.as_str() == name).map(|(_, value)| value)
}

/// Changes the first field of this name where it stands, or adds it at the end.
fn set(fields: &mut Fields, name: &str, value: RawBson) {
    match fields.iter_mut().find(|(other, _)| other.as_str() == name) {
        Some((_, old)) => *old = value,
        None => fields.push((CString::try_from(name).unwrap(), value)),
    }
}

//! `validator`: what every document of a collection must match from then on.

use crate::authoring::command::Command;
use crate::authoring::step::Step;
use crate::files::language;
use crate::files::reader::Reader;
use crate::files::steps::kind::{Kind, Written};

pub(super) const KIND: Kind = Kind { key: "validator", read };

fn read(reader: &mut Reader<'_, '_>, step: &mut Written<'_>) -> Option<Step> {
    let collection = step.collection(reader);
    let expected =
        "what documents must match: `match: { $jsonSchema: { … } }`; {} removes the validator";
    let validator = step.required(reader, "match", expected);
    let validator = validator.and_then(|node| {
        language::filter(reader, node);
        reader.document(node)
    });
    let name = step.name(reader);
    Some(Command::set_validator(collection?, validator?).named(name?).into())
}

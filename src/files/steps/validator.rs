//! `validator`: what every document of a collection must match from then on.

use crate::authoring::command::Command;
use crate::authoring::pipeline_mistakes::of_validator;
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
        let filter = reader.document(node)?;
        reader.of_server(node, of_validator(&filter)).map(|()| filter)
    });
    let name = step.name(reader);
    Some(Command::set_validator(collection?, validator?).named(name?).into())
}

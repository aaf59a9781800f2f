//! `drop_index`.

use crate::authoring::command::Command;
use crate::authoring::step::Step;
use crate::files::reader::Reader;
use crate::files::steps::kind::{Kind, Written};

pub(super) const KIND: Kind = Kind { key: "drop_index", read };

fn read(reader: &mut Reader<'_, '_>, step: &mut Written<'_>) -> Option<Step> {
    let collection = step.collection(reader);
    let name = step.required(reader, "name", "the index's name: `name: board_position`");
    let name = name.and_then(|node| reader.line(node).map(str::to_owned));
    Some(Command::drop_index(collection?, name?).named(step.default_name()).into())
}

//! `drop`: a collection goes.

use crate::authoring::command::Command;
use crate::authoring::step::Step;
use crate::files::reader::Reader;
use crate::files::steps::kind::{Kind, Written};

pub(super) const KIND: Kind = Kind { key: "drop", read };

fn read(reader: &mut Reader<'_, '_>, step: &mut Written<'_>) -> Option<Step> {
    let collection = step.collection(reader);
    let name = step.name(reader);
    Some(Command::drop_collection(collection?).named(name?).into())
}

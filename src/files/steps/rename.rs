//! `rename`: a collection gets another name.

use crate::authoring::command::Command;
use crate::authoring::step::Step;
use crate::files::reader::Reader;
use crate::files::steps::kind::{Kind, Written};

pub(super) const KIND: Kind = Kind { key: "rename", read };

fn read(reader: &mut Reader<'_, '_>, step: &mut Written<'_>) -> Option<Step> {
    let from = step.collection(reader);
    let to = step.required(reader, "to", "the collection's new name: `to: cards`");
    let to = to.and_then(|node| reader.collection(node));
    let name = step.name(reader);
    Some(Command::rename(from?, to?).named(name?).into())
}
